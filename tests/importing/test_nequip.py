"""Models that nequip trained and packaged, exported by our script and imported, give the library's numbers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write as write_structures

from hiphop_train import checkpoint, cli
from hiphop_train.errors import DataError
from hiphop_train.importing.nequip import read
from hiphop_train.types import Graph
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

ELEMENTS = ["H", "C", "N", "O"]
SCALES = {"H": 0.5, "C": 1.5, "N": 0.9, "O": 2.0}
SHIFTS = {"H": -13.6, "C": -1029.0, "N": -1484.0, "O": -2042.0}
MODEL: dict[str, Any] = {
    "seed": 1, "model_dtype": "float64", "type_names": ELEMENTS, "r_max": 4.0, "num_layers": 3, "l_max": 2,
    "parity": True, "num_features": [6, 4, 3], "radial_mlp_depth": 2, "radial_mlp_width": 9, "num_bessels": 6,
    "type_embed_num_features": 5, "avg_num_neighbors": 5.5, "per_type_energy_scales": SCALES,
    "per_type_energy_shifts": SHIFTS,
}  # fmt: skip
TRAIN_AND_PACKAGE = """
import sys
from nequip.scripts import package, train
sys.argv[1:] = ["-cp", sys.argv[1], "-cn", "train.yaml", "hydra.run.dir=."]
train.main()
package.main(["build", "last.ckpt", "model.nequip.zip"])
"""


def configuration(elements: list[str]) -> dict[str, Any]:
    """Make what nequip-train reads."""
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 1}
    to_types = {
        "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
        "model_type_names": elements,
        "chemical_species_to_atom_type_map": {name: name for name in elements},
    }
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            "split_dataset": {"file_path": "data.xyz", "train": 2, "val": 1},
            "transforms": [to_types, {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 4.0}],
            "train_dataloader": loader,
            "val_dataloader": loader,
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [
                {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": ".", "save_last": True}
            ],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "ema_decay": 0.5,
            "loss": {"_target_": "nequip.train.EnergyForceLoss", "coeffs": {"total_energy": 1.0, "forces": 1.0}},
            "val_metrics": {"_target_": "nequip.train.EnergyForceMetrics", "coeffs": {"total_energy_mae": 1.0}},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.03},
            "model": {"_target_": "nequip.model.NequIPGNNModel", **MODEL},
        },
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_molecule: Callable[..., Atoms]) -> Path:
    """Folder with a checkpoint and a package of the library, of averaged weights."""
    path = tmp_path_factory.mktemp("nequip")
    structures = [make_molecule(5, seed=seed) for seed in range(3)]
    for atoms in structures:
        energy = sum(SHIFTS[symbol] for symbol in atoms.symbols)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.ones((len(atoms), 3)))
    write_structures(path / "data.xyz", structures)
    (path / "train.yaml").write_text(json.dumps(configuration(ELEMENTS)))
    command = [sys.executable, "-W", "ignore", "-c", TRAIN_AND_PACKAGE, str(path)]
    done = subprocess.run(command, cwd=path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def structures(make_molecule: Callable[..., Atoms], make_box: Callable[..., Atoms]) -> list[Atoms]:
    return [make_molecule(7, seed=1), make_box(4, seed=2)]


@pytest.fixture(scope="module")
def expected(folder: Path, structures: list[Atoms]) -> list[tuple[float, np.ndarray]]:
    with library_defaults():
        from nequip.integrations.ase import NequIPCalculator

        calculator = NequIPCalculator._from_saved_model(
            folder / "last.ckpt", chemical_species_to_atom_type_map={name: name for name in ELEMENTS}
        )
    return by_library(calculator, structures)


@pytest.fixture(scope="module")
def imported(folder: Path) -> Path:
    """Checkpoint of the packaged model that our script read in a process of its own."""
    done = run_script("nequip", folder / "model.nequip.zip", folder / "plain.pt")
    assert done.returncode == 0, done.stderr
    assert f"hiphop-import nequip {folder / 'plain.pt'}" in done.stdout
    assert cli.run("import", ["nequip", str(folder / "plain.pt"), str(folder / "ours.ckpt")]) == 0
    return folder / "ours.ckpt"


def library_model(**changes: Any) -> torch.nn.Module:
    with library_defaults():
        from nequip.model import FullNequIPGNNModel, NequIPGNNModel
        from nequip.utils.global_state import set_global_state

        set_global_state()
        small = {**MODEL, "l_max": 1, "num_features": 4, "num_layers": 2, "radial_mlp_depth": 1}
        if "feature_irreps_hidden" in changes:
            names = ("l_max", "parity", "num_features", "num_layers")
            small = {name: value for name, value in small.items() if name not in names}
            n_layers = len(changes["feature_irreps_hidden"])
            small |= {"irreps_edge_sh": "1x0e+1x1o"}
            small |= {name: [small[name]] * n_layers for name in ("radial_mlp_depth", "radial_mlp_width")}
            return FullNequIPGNNModel(**{**small, **changes})
        return NequIPGNNModel(**{**small, **changes})


def exported(**changes: Any) -> dict[str, Any]:
    """Run the functions of our script on a small model of the library."""
    return script().plain(library_model(**changes), "nequip")


def test_energies_and_forces_are_those_of_the_library(
    imported: Path,
    structures: list[Atoms],
    expected: list[tuple[float, np.ndarray]],
    graph_of: Callable[..., Graph],
) -> None:
    check_same(imported, structures, expected, [graph_of([atoms]) for atoms in structures])
    loaded = checkpoint.load(str(imported))
    assert loaded.record["origin"].startswith("nequip 0.19.1, ")
    assert loaded.potential.e0[0].tolist() == list(SHIFTS.values())
    assert loaded.record["config"]["model"]["readout"]["scale_of"] == SCALES
    check_exported(imported, structures, expected)


def test_a_checkpoint_is_the_model_that_was_packaged(imported: Path, folder: Path) -> None:
    with library_defaults():
        content = script().plain(script().load_nequip(str(folder / "last.ckpt")), "nequip")
    torch.save(content, folder / "from-ckpt.pt")
    (found,) = read(folder / "from-ckpt.pt")
    expected = checkpoint.load(str(imported)).potential.state_dict()
    assert found.weights.keys() == expected.keys()
    for name, value in found.weights.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-15, atol=0)
    raw = torch.load(folder / "last.ckpt", weights_only=False)["state_dict"]  # our own file; not the averaged weights
    name = "type_embed.embed_module.weight"
    assert not torch.equal(raw[f"model.sole_model.model.func.{name}"], content["parameters"][name])


def test_fine_tuning_starts_from_an_imported_model(imported: Path, tmp_path: Path) -> None:
    arguments = [f"init_weights={imported}", f"run_dir={tmp_path / 'run'}", "dtype=float64", *FAST[:2]]
    assert cli.run("train", [*arguments, "trainer.limit_train_batches=1"]) == 0
    before, after = (checkpoint.load(str(path)).potential for path in (imported, tmp_path / "run"))
    assert torch.equal(before.e0, after.e0)
    first, second = (potential.terms[0] for potential in (before, after))
    assert torch.equal(first.readout.scales, second.readout.scales)
    assert torch.equal(first.representation.average_neighbours, second.representation.average_neighbours)
    assert not torch.equal(first.representation.embedding.weight, second.representation.embedding.weight)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"readout_mlp_hidden_layers_depth": 1, "readout_mlp_hidden_layers_width": 5}, {}),
        ({"num_layers": 1, "parity": False, "per_type_energy_scales": 1.7}, {"n_interactions": 1, "parity": False}),
        ({"per_type_energy_shifts": None, "per_type_energy_scales": None}, {"n_features": 4}),
        ({"bessel_trainable": True, "per_type_energy_scales_trainable": True}, {"n_radial": 6}),
    ],
)
def test_other_models_of_the_library(
    changes: dict[str, Any],
    part: dict[str, Any],
    tmp_path: Path,
    structures: list[Atoms],
    graph_of: Callable[..., Graph],
) -> None:
    from tests.references.nequip import Reference

    torch.save(exported(**changes), tmp_path / "plain.pt")
    assert cli.run("import", ["nequip", str(tmp_path / "plain.pt"), str(tmp_path / "m.ckpt")]) == 0
    assert part.items() <= checkpoint.load(str(tmp_path / "m.ckpt")).record["config"]["model"].items()
    graphs = [graph_of([atoms]) for atoms in structures]
    outputs = [Reference(library_model(**changes))(graph) for graph in graphs]
    theirs = [(float(each["energy"].detach()), each["forces"].detach().numpy()) for each in outputs]
    check_same(tmp_path / "m.ckpt", structures, theirs, graphs)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {
            "pair_potential": {
                "_target_": "nequip.nn.pair_potential.ZBL",
                "units": "metal",
                "chemical_species": ELEMENTS,
            }
        },
        "part pair_potential is 'ZBL'; supported: none of this name",
    ),
    ({"per_edge_type_cutoff": {"H": 3.0}}, "per_edge_type_cutoff is 'True'; supported: False"),
    ({"avg_num_neighbors": {"H": 3.0, "C": 4.0, "N": 4.0, "O": 4.0}}, "avg_num_neighbors is .*one number for all"),
    ({"type_names": ["H", "C1"]}, r"type_names is \['H', 'C1'\]; supported: names of elements"),
    ({"convnet_nonlinearity_scalars": {"e": "ssp", "o": "tanh"}}, "nonlinearity_scalars.e is .*; supported: silu"),
    ({"convnet_nonlinearity_gates": {"e": "abs", "o": "tanh"}}, "convnet_nonlinearity_gates.0 is 'abs'"),
    ({"convnet_nonlinearity_type": "norm"}, "convnet_nonlinearity_type.0 is 'NormActivation'; supported: 'Gate'"),
    ({"convnet_resnet": True, "feature_irreps_hidden": ["4x0e"] * 3}, "convnet_resnet.1 is 'True'"),
    ({"convnet_sc": False}, r"convnet_sc is \[False, False\]; supported"),
    ({"readout_mlp_hidden_layers_depth": 1, "readout_mlp_nonlinearity": "gelu"}, "readout.nonlinearity.0 is 'gelu'"),
    ({"readout_mlp_hidden_layers_depth": 1, "readout_mlp_nonlinearity": None}, "readout.layers is 'DeepLinearMLP'"),
    ({"polynomial_cutoff_p": 5.5}, "polynomial_cutoff_p is 5.5; supported: integers"),
    ({"feature_irreps_hidden": ["4x0e+3x1o", "4x0e+2x1o", "4x0e"]}, "feature_irreps_hidden differs between layers"),
    ({"feature_irreps_hidden": ["4x0e+3x1o", "5x0e"]}, "feature_irreps_hidden is .*as many scalars in the last layer"),
    ({"feature_irreps_hidden": ["4x0e+3x1o+2x1e", "4x0e"]}, "feature_irreps_hidden is .*as many features of both"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: str(next(iter(value)))[:40])
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    names = changes.get("type_names", ELEMENTS)
    energies = {"per_type_energy_scales": 1.0, "per_type_energy_shifts": 0.0} if names != ELEMENTS else {}
    if "convnet_resnet" in changes or "convnet_sc" in changes or any("nonlinearity" in name for name in changes):
        changes = {"feature_irreps_hidden": ["4x0e+4x1o", "4x0e"], **changes}
    torch.save(exported(**{**energies, **changes}), tmp_path / "plain.pt")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "plain.pt")


def test_trained_frequencies_are_refused(tmp_path: Path) -> None:
    content = exported()
    with pytest.raises(DataError, match="frequencies of the Bessel functions were trained"):
        read(write(content, tmp_path / "bessel.pt", bessel=[1.0, 2.01, 3.0]))
    with pytest.raises(DataError, match=r"its tensors do not fit its settings"):
        read(write(content, tmp_path / "widths.pt", hidden_irreps=["6x0e+6x1o", "6x0e"]))
    with pytest.raises(DataError, match=r"colour is 'red'; supported: extra inputs are not permitted"):
        read(write(content, tmp_path / "colour.pt", colour="red"))
