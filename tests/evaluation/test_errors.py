"""Error tables against a plain calculation."""

import itertools
import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from hiphop_train.data.structures import Structures
from hiphop_train.evaluation import plots, report
from hiphop_train.evaluation.errors import (
    Predictions,
    error_table,
    quantiles_by_hierarchicality,
    summarise,
    summarise_differences,
)
from hiphop_train.evaluation.references import POOLED, REFERENCES, references
from hiphop_train.units import KCAL_PER_MOL

ROOT = Path(__file__).resolve().parents[2]


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
        labels={"energy": energy, "forces": forces},
        group=np.array([0, 0, 0, 1, 1, 1, 2]),
        group_names=("a", "b", "c"),
        subset=np.zeros(7, np.int64),
        subset_names=("all",),
        theory=np.zeros(7, np.int64),
        theory_names=("only",),
        conformation=np.arange(7),
        geometry=np.arange(7, dtype=np.uint64),
    )
    predictions = Predictions(
        {"energy": rng.normal(size=7), "forces": rng.normal(size=(n_atoms, 3))}, rng.uniform(size=7)
    )
    return structures, predictions


def test_table_against_loops(labelled: tuple[Structures, Predictions]) -> None:
    structures, predictions = labelled
    table = error_table(structures, predictions)
    error = (predictions.targets["energy"] - structures.energy) / KCAL_PER_MOL
    known = [k for k in range(7) if k != 1]
    assert table["energy"]["n"] == 6
    assert table["energy"]["mae"] == pytest.approx(np.mean([abs(error[k]) for k in known]))
    pairs = [error[j] - error[i] for i in known for j in known if i < j and structures.group[i] == structures.group[j]]
    assert table["relative_energy"]["n"] == len(pairs) == 4
    assert table["relative_energy"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(pairs))))
    force = [
        (predictions.targets["forces"][a] - structures.forces[a]) / KCAL_PER_MOL
        for a in range(len(structures.numbers))
        if a not in (6, 7, 8)
    ]
    assert table["forces"]["n"] == 3 * len(force)
    assert table["forces"]["mae"] == pytest.approx(np.abs(force).mean())
    assert table["forces"]["mae_meV"] == pytest.approx(1000 * np.abs(force).mean() * KCAL_PER_MOL)


@pytest.fixture
def with_further_targets(labelled: tuple[Structures, Predictions]) -> tuple[Structures, Predictions]:
    """Stresses of four of the structures, dipoles of all."""
    structures, predictions = labelled
    rng = np.random.default_rng(1)
    stress, error = (x + x.swapaxes(1, 2) for x in rng.normal(scale=0.01, size=(2, 7, 3, 3)))
    predicted = {"stress": stress + error, "dipole": rng.normal(size=(7, 3))}
    stress[[0, 3, 4]] = np.nan
    structures = structures.with_labels(stress=stress, dipole=rng.normal(size=(7, 3)))
    return structures, Predictions({**predictions.targets, **predicted}, predictions.hierarchicality)


def test_further_targets_are_in_the_table(with_further_targets: tuple[Structures, Predictions]) -> None:
    """A stress has six components, and GPa and meV/Angstrom^3; a dipole has debye alone."""
    structures, predictions = with_further_targets
    table = error_table(structures, predictions)
    assert list(table) == ["n_structures", "energy", "relative_energy", "forces", "stress", "dipole"]
    error = [
        predictions.targets["stress"][k, i, j] - structures.labels["stress"][k, i, j]
        for k in (1, 2, 5, 6)
        for i, j in itertools.combinations_with_replacement(range(3), 2)
    ]
    assert table["stress"]["n"] == len(error) == 24
    assert table["stress"]["mae"] == pytest.approx(160.2176634 * np.abs(error).mean())
    assert table["stress"]["rmse_meV"] == pytest.approx(1000 * np.sqrt(np.square(error).mean()))
    dipole = 4.803204712 * (predictions.targets["dipole"] - structures.labels["dipole"])
    assert table["dipole"]["rmse"] == pytest.approx(np.sqrt(np.square(dipole).mean()))
    assert "rmse_meV" not in table["dipole"]
    none = Predictions({"energy": predictions.targets["energy"]}, predictions.hierarchicality)
    assert list(error_table(structures, none)) == ["n_structures", "energy", "relative_energy"]


def test_report_has_columns_of_further_targets_where_there_are_any(
    labelled: tuple[Structures, Predictions],
    with_further_targets: tuple[Structures, Predictions],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables = {"plain": error_table(*labelled), "all": error_table(*with_further_targets)}
    report.print_errors({"plain": tables["plain"]}, "errors", "none")
    printed = capsys.readouterr().out
    assert "stress" not in printed
    assert f"{tables['plain']['forces']['mae']:.2f} / {tables['plain']['forces']['rmse']:.2f}" in printed
    report.print_errors(tables, "errors", "none")
    printed = capsys.readouterr().out
    for words in ("stress, GPa", "meV/angstrom^3", "dipole, debye"):
        assert words in printed
    for kind in ("stress", "dipole"):
        assert f"{tables['all'][kind]['mae']:.3f} / {tables['all'][kind]['rmse']:.3f}" in printed
    plain = next(line for line in printed.splitlines() if line.strip(" │").startswith("plain"))
    assert plain.count("-") == 3


def test_predictions_of_a_range(with_further_targets: tuple[Structures, Predictions]) -> None:
    structures, predictions = with_further_targets
    part = predictions.cut(structures, 2, 5)
    assert error_table(structures.take(np.arange(2, 5)), part)["stress"]["n"] == 6
    np.testing.assert_array_equal(part.targets["forces"], predictions.targets["forces"][4:12])


def test_levels_of_theory_are_not_compared_with_one_another(labelled: tuple[Structures, Predictions]) -> None:
    """Another level of theory counts as another group."""
    structures, predictions = labelled
    level, group = np.array([0, 1, 0, 1, 0, 1, 0]), np.array([0, 3, 0, 4, 1, 4, 2])
    of_levels = replace(structures, theory=level, theory_names=("low", "high"))
    of_groups = replace(structures, group=group, group_names=("a", "b", "c", "d", "e"))
    found, expected = (error_table(each, predictions)["relative_energy"] for each in (of_levels, of_groups))
    assert found == expected
    assert 0 < found["n"] < error_table(structures, predictions)["relative_energy"]["n"]


@pytest.mark.parametrize("sizes", [(2,), (3,), (2, 7, 40), (5, 5)])
def test_differences_are_summarised_without_being_listed(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(sum(sizes))
    groups = [np.sort(rng.normal(loc=100.0, size=size)) for size in sizes]
    groups[-1][:2] = groups[-1][0]  # equal errors
    made = np.concatenate([(x[None, :] - x[:, None])[np.triu_indices(len(x), k=1)] for x in groups])
    assert summarise_differences(groups) == pytest.approx(summarise(made), rel=1e-10)
    assert summarise_differences([]) == summarise(np.zeros(0)) == {}


def test_differences_of_a_large_group_take_no_memory_for_pairs() -> None:
    tracemalloc.start()
    found = summarise_differences([np.sort(np.random.default_rng(0).normal(size=100_000))])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["n"] == 4_999_950_000
    assert found["rmse"] == pytest.approx(math.sqrt(2), rel=0.01)
    assert found["mae"] == pytest.approx(2 / math.sqrt(math.pi), rel=0.01)
    assert found["median"] == pytest.approx(0.6745 * math.sqrt(2), rel=0.01)
    assert peak < 20e6


def test_quantiles_are_sorted_by_r(labelled: tuple[Structures, Predictions]) -> None:
    rows = quantiles_by_hierarchicality(*labelled, n_bins=3)
    assert sum(row["n"] for row in rows) == 6
    assert all(row["q50"] <= row["q90"] <= row["q95"] for row in rows)
    assert all(low["r_high"] <= high["r_low"] for low, high in itertools.pairwise(rows))


def test_references_are_shown_for_the_same_structures_only() -> None:
    assert references("comp6", POOLED, 528) == []
    assert {found.method for found in references("comp6", POOLED, 101_352)} >= {"ANI-1x", "HIP-HOP-NN"}
    assert {found.method for found in references("comp6", "S66x8", 528)} == {"GFN2-xTB", "ANI-1x, 1 network"}
    assert references("comp6", "DrugBank", 13_379) == []
    assert references("tiny", "test", 240) == []


def test_measured_references_are_those_of_the_benchmark() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "baselines.json").read_text())["results"]
    ours = [found for found in REFERENCES if found.source == "benchmarks/baselines.py"]
    assert len(ours) == 6
    for found in ours:
        name = found.set_name if found.data == "comp6" else f"tiny {found.set_name}"
        (stored,) = (value for key, value in measured[name].items() if found.method.split(",")[0] in key)
        for kind, key in (("energy", "total_energy"), ("relative_energy", "relative_energy"), ("forces", "force")):
            mae, rmse = getattr(found, kind)
            if mae is not None:
                assert (mae, rmse) == pytest.approx((stored[key]["mae"], stored[key]["rmse"]), abs=6e-4)


def test_pictures_are_drawn(
    labelled: tuple[Structures, Predictions],
    with_further_targets: tuple[Structures, Predictions],
    tmp_path: Path,
) -> None:
    """A row of the parity plot for each target, and a panel of the learning curves."""
    plots.parity(tmp_path / "parity.png", {"a": labelled, "b": labelled}, np.array([0.0]), [6])
    plots.parity(tmp_path / "further.png", {"a": labelled, "b": with_further_targets}, np.array([0.0]), [6])
    heights = [imread(tmp_path / f"{name}.png").shape[0] for name in ("parity", "further")]
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.01)
    plots.error_by_hierarchicality(tmp_path / "r.png", {"a": labelled})
    (tmp_path / "metrics.csv").write_text("epoch,val/energy_mae,val/forces_mae\n0,3.0,4.0\n1,2.0,3.0\n")
    plots.learning_curves(tmp_path / "curves.png", tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_text("epoch,val/energy_mae,val/stress_mae\n0,3.0,4.0\n1,2.0,3.0\n")
    plots.learning_curves(tmp_path / "further.png", tmp_path / "metrics.csv")
    assert imread(tmp_path / "further.png").shape[1] > 1.4 * imread(tmp_path / "curves.png").shape[1]
    for name in ("parity", "r", "curves"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
