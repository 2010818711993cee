"""A model of mace-torch, written by the library, exported by our script and imported, gives the library's numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from hiphop_train import checkpoint, cli
from hiphop_train.errors import DataError
from hiphop_train.importing.mace import read
from hiphop_train.types import Graph
from hiphop_train.units import ENERGY
from tests.commands.conftest import FAST
from tests.importing.exported import (
    by_library,
    check_exported,
    check_same,
    library_defaults,
    run_script,
    script,
    write,
)

E0 = np.array([-13.6, -1029.0, -1484.0, -2042.0])


def library_model(name: str = "ScaleShiftMACE", **changes: Any) -> torch.nn.Module:
    with library_defaults():
        from e3nn import o3
        from mace import modules

        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        for key in ("interaction_cls_first", "interaction_cls", "readout_cls"):
            if key in changes:
                changes[key] = getattr(modules, changes[key], None) or getattr(modules.blocks, changes[key])
        for key in ("hidden_irreps", "edge_irreps"):
            if key in changes:
                changes[key] = o3.Irreps(changes[key])
        settings = {
            "interaction_cls_first": modules.blocks.RealAgnosticInteractionBlock,
            "interaction_cls": modules.blocks.RealAgnosticResidualInteractionBlock,
            "hidden_irreps": o3.Irreps("5x0e+5x1o"),
            "correlation": 3,
            "num_interactions": 2,
            "max_ell": 2,
            "gate": torch.nn.functional.silu,
            "atomic_energies": E0,
            **({"atomic_inter_scale": 0.8, "atomic_inter_shift": 0.3} if name == "ScaleShiftMACE" else {}),
            **changes,
        }
        model = getattr(modules, name)(
            r_max=4.0, num_bessel=6, num_polynomial_cutoff=5, num_elements=4, MLP_irreps=o3.Irreps("7x0e"),
            avg_num_neighbors=9.5, atomic_numbers=[1, 6, 7, 8], radial_MLP=[12, 8], **settings,
        )  # fmt: skip
    return model


def exported(**changes: Any) -> dict[str, Any]:
    """Run the functions of our script on a small model of the library."""
    with library_defaults():
        return script().plain(library_model(**changes), "mace")


@pytest.fixture(scope="module")
def structures(make_molecule: Callable[..., Atoms], make_box: Callable[..., Atoms]) -> list[Atoms]:
    return [make_molecule(7, seed=1), make_box(4, seed=2)]


@pytest.fixture(scope="module")
def expected(structures: list[Atoms]) -> list[tuple[float, np.ndarray]]:
    from mace.calculators import MACECalculator

    with library_defaults():
        calculator = MACECalculator(models=[library_model()], device="cpu", default_dtype="float64")
    return by_library(calculator, structures)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a model that the library saved and our script read in a process of its own."""
    folder = tmp_path_factory.mktemp("mace")
    torch.save(library_model(), folder / "library.model")
    done = run_script("mace", folder / "library.model", folder / "plain.pt")
    assert done.returncode == 0, done.stderr
    assert f"hiphop-import mace {folder / 'plain.pt'}" in done.stdout
    assert cli.run("import", ["mace", str(folder / "plain.pt"), str(folder / "mace.ckpt")]) == 0
    return folder / "mace.ckpt"


def test_energies_and_forces_are_those_of_the_library(
    imported: Path,
    structures: list[Atoms],
    expected: list[tuple[float, np.ndarray]],
    graph_of: Callable[..., Graph],
) -> None:
    check_same(imported, structures, expected, [graph_of([atoms]) for atoms in structures])
    loaded = checkpoint.load(str(imported))
    assert loaded.record["config"]["dtype"] == "float64"
    assert loaded.record["origin"].startswith("mace 0.3.16, ")
    assert np.allclose(loaded.potential.e0[0], E0 + 0.3, rtol=1e-15)
    check_exported(imported, structures, expected)


def test_fine_tuning_starts_from_an_imported_model(imported: Path, tmp_path: Path) -> None:
    arguments = [f"init_weights={imported}", f"run_dir={tmp_path / 'run'}", "dtype=float64", *FAST[:2]]
    assert cli.run("train", [*arguments, "trainer.limit_train_batches=1"]) == 0
    before, after = (checkpoint.load(str(path)).potential for path in (imported, tmp_path / "run"))
    assert torch.equal(before.e0, after.e0)
    first, second = (potential.terms[0].representation for potential in (before, after))
    assert torch.equal(first.average_neighbours, second.average_neighbours)
    assert not torch.equal(first.embedding.weight, second.embedding.weight)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "MACE"},
        {"num_interactions": 1, "correlation": 2},
        {"interaction_cls_first": "RealAgnosticResidualInteractionBlock"},
        {
            "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
            "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
        },
        {
            "interaction_cls_first": "RealAgnosticDensityResidualInteractionBlock",
            "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
            "num_interactions": 3,
            "correlation": 2,
            "max_ell": 1,
        },
        {"num_interactions": 3, "correlation": 2, "max_ell": 1, "hidden_irreps": "8x0e"},
        {"heads": ["one"], "atomic_energies": E0[None], "atomic_inter_scale": [0.8], "atomic_inter_shift": [0.3]},
    ],
)
def test_other_models_of_the_library(
    changes: dict[str, Any], tmp_path: Path, structures: list[Atoms], graph_of: Callable[..., Graph]
) -> None:
    from mace.calculators import MACECalculator

    with library_defaults():
        calculator = MACECalculator(models=[library_model(**changes)], device="cpu", default_dtype="float64")
    torch.save(exported(**changes), tmp_path / "plain.pt")
    assert cli.run("import", ["mace", str(tmp_path / "plain.pt"), str(tmp_path / "m.ckpt")]) == 0
    graphs = [graph_of([atoms]) for atoms in structures]
    check_same(tmp_path / "m.ckpt", structures, by_library(calculator, structures), graphs)


def test_energies_in_other_units(tmp_path: Path) -> None:
    torch.save(exported(), tmp_path / "plain.pt")
    (ours,), (other,) = read(tmp_path / "plain.pt"), read(tmp_path / "plain.pt", energy_unit="kcal/mol")
    for name in ("e0", "terms.0.scale"):
        assert torch.equal(other.weights[name], ours.weights[name] * ENERGY["kcal/mol"])


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"interaction_cls": "RealAgnosticAttResidualInteractionBlock"},
        "interaction block 1 is 'RealAgnosticAttResidualInteractionBlock'; supported: "
        "RealAgnosticResidualInteractionBlock after RealAgnosticInteractionBlock",
    ),
    (
        {"interaction_cls_first": "RealAgnosticDensityInteractionBlock"},
        "interaction block 1 is 'RealAgnosticResidualInteractionBlock'; supported: "
        "RealAgnosticDensityResidualInteractionBlock after RealAgnosticDensityInteractionBlock",
    ),
    ({"pair_repulsion": True}, "pair_repulsion is 'True'; supported: False"),
    ({"distance_transform": "Agnesi"}, "distance_transform is 'AgnesiTransform'; supported: None"),
    ({"radial_type": "gaussian"}, "radial_type is 'GaussianBasis'; supported: 'BesselBasis'"),
    ({"gate": torch.tanh}, r"activations\.\d is 'tanh'; supported: 'silu'"),
    ({"use_agnostic_product": True}, "use_agnostic_product is 'True'"),
    ({"use_so3": True}, "use_so3 is 'True'"),
    ({"apply_cutoff": False}, "apply_cutoff is 'False'; supported: True"),
    ({"use_last_readout_only": True}, r"readouts is \['NonLinearReadoutBlock'\]; supported"),
    ({"readout_cls": "NonLinearBiasReadoutBlock"}, "readouts is .*NonLinearBiasReadoutBlock"),
    ({"correlation": [2, 1]}, r"correlation differs between layers, \[2, 2, 1\]"),
    ({"edge_irreps": "3x0e+3x1o"}, "edge_irreps is '3x0e"),
    (
        {
            "heads": ["a", "b"],
            "atomic_energies": np.stack([E0, E0]),
            "atomic_inter_scale": [1.0, 1.0],
            "atomic_inter_shift": [0.0, 0.0],
        },
        r"heads is \['a', 'b'\]; supported: one; mace_select_head --head_name",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: str(next(iter(value)))[:40])
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save(exported(**{"max_ell": 1, "correlation": 2, **changes}), tmp_path / "plain.pt")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "plain.pt")


def test_settings_of_newer_models_are_refused_by_name(tmp_path: Path) -> None:
    content = exported()
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "architecture": ({"architecture": "PolarMACE"}, "architecture is 'PolarMACE'; supported: 'ScaleShiftMACE' or"),
        "products": ({"products": ["cuequivariance_torch.SymmetricContraction"]}, "products.0 is 'cuequivariance"),
        "factor": ({"activation_factors": {"silu": [1.7]}}, "factor of silu is 1.7; supported: 1.679"),
        "several": ({"pair_repulsion": True, "use_so3": True}, "pair_repulsion is .*; use_so3 is"),
        "widths": ({"hidden_irreps": ["5x0e+4x1o", "5x0e"]}, "features after layer 0 is '5x0e.4x1o'"),
        "elements": ({"atomic_numbers": [1, 6, 7, 119]}, "atomic_numbers.3 is '119'"),
    }
    for name, (change, message) in changes.items():
        with pytest.raises(DataError, match=message):
            read(write(content, tmp_path / f"{name}.pt", **change))
    content["parameters"]["lora.weight"] = torch.ones(3)
    with pytest.raises(DataError, match=r"parameters of an unsupported part of a model: lora\.weight"):
        read(write(content, tmp_path / "more.pt"))
    content["parameters"].pop("lora.weight")
    content["buffers"]["radial_embedding.bessel_fn.bessel_weights"] *= 1.01
    with pytest.raises(DataError, match="frequencies of the Bessel functions were trained"):
        read(write(content, tmp_path / "bessel.pt"))
