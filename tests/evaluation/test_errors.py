"""Error tables against a plain calculation."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from hiphop_train.data.structures import Structures
from hiphop_train.evaluation import comp6, plots
from hiphop_train.evaluation.errors import Predictions, error_table, quantiles_by_hierarchicality
from hiphop_train.units import KCAL_PER_MOL


@pytest.fixture
def labelled() -> tuple[Structures, Predictions]:
    """Seven structures of 2 or 3 atoms in three groups, one energy and one set of forces missing."""
    rng = np.random.default_rng(0)
    sizes = np.array([2, 2, 2, 3, 3, 3, 2])
    n_atoms = int(sizes.sum())
    energy, forces = rng.normal(size=7), rng.normal(size=(n_atoms, 3))
    energy[1] = np.nan
    forces[6:9] = np.nan
    structures = Structures(
        source="test",
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        numbers=np.full(n_atoms, 6, np.uint8),
        positions=rng.normal(size=(n_atoms, 3)),
        cell=np.zeros((7, 3, 3)),
        pbc=np.zeros((7, 3), bool),
        energy=energy,
        forces=forces,
        group=np.array([0, 0, 0, 1, 1, 1, 2]),
        group_names=("a", "b", "c"),
        subset=np.zeros(7, np.int64),
        subset_names=("all",),
    )
    predictions = Predictions(rng.normal(size=7), rng.normal(size=(n_atoms, 3)), rng.uniform(size=7))
    return structures, predictions


def test_table_against_loops(labelled: tuple[Structures, Predictions]) -> None:
    structures, predictions = labelled
    table = error_table(structures, predictions)
    error = (predictions.energy - structures.energy) / KCAL_PER_MOL
    known = [k for k in range(7) if k != 1]
    assert table["energy"]["n"] == 6
    assert table["energy"]["mae"] == pytest.approx(np.mean([abs(error[k]) for k in known]))
    pairs = [error[j] - error[i] for i in known for j in known if i < j and structures.group[i] == structures.group[j]]
    assert table["relative_energy"]["n"] == len(pairs) == 4
    assert table["relative_energy"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(pairs))))
    force = [
        (predictions.forces[a] - structures.forces[a]) / KCAL_PER_MOL
        for a in range(len(structures.numbers))
        if a not in (6, 7, 8)
    ]
    assert table["forces"]["n"] == 3 * len(force)
    assert table["forces"]["mae"] == pytest.approx(np.abs(force).mean())
    assert table["forces"]["mae_meV"] == pytest.approx(1000 * np.abs(force).mean() * KCAL_PER_MOL)


def test_quantiles_are_sorted_by_r(labelled: tuple[Structures, Predictions]) -> None:
    rows = quantiles_by_hierarchicality(*labelled, n_bins=3)
    assert sum(row["n"] for row in rows) == 6
    assert all(row["q50"] <= row["q90"] <= row["q95"] for row in rows)
    assert all(low["r_high"] <= high["r_low"] for low, high in itertools.pairwise(rows))


def test_published_totals_stand_beside_the_complete_set_only() -> None:
    assert comp6.references(None, 528) == []
    assert {reference.model for reference in comp6.references(None, comp6.TOTAL)} >= {"ANI-1x", "HIP-HOP-NN"}
    assert [reference.model for reference in comp6.references("S66x8", 528)] == ["ANI-1x ensemble"]
    assert comp6.references("DrugBank", 13_379) == []


def test_pictures_are_drawn(labelled: tuple[Structures, Predictions], tmp_path: Path) -> None:
    plots.parity(tmp_path / "parity.png", {"a": labelled, "b": labelled}, np.array([0.0]), [6])
    plots.error_by_hierarchicality(tmp_path / "r.png", {"a": labelled})
    (tmp_path / "metrics.csv").write_text("epoch,val/energy_mae,val/forces_mae\n0,3.0,4.0\n1,2.0,3.0\n")
    plots.learning_curves(tmp_path / "curves.png", tmp_path / "metrics.csv")
    for name in ("parity", "r", "curves"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
