"""A TensorNet whose checkpoint torchmd-net's own training module wrote gives that library's numbers."""

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from hiphop_train import cli
from hiphop_train.errors import ConfigError, DataError
from hiphop_train.importing.tensornet import read
from hiphop_train.units import ENERGY
from tests.commands.conftest import FAST
from tests.importing.exported import check_exported, check_same
from tests.references.common import perturb
from tests.references.tensornet import torch_operations

ELEMENTS = ["H", "C", "N", "O"]
WORDS = (
    "--model tensornet --embedding-dimension 6 --num-layers 2 --num-rbf 8 --cutoff-upper 4.0 --max-z 10 --precision 64 "
    "--derivative true --equivariance-invariance-group O(3)"
)


def library_file(path: Path, prior: bool = True, std: float = 1.0, mean: float = 0.0, **changes: Any) -> Path:
    """Write a checkpoint by torchmd-net's LNNP and Lightning, random weights in it."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import lightning
        from torchmdnet.module import LNNP
        from torchmdnet.priors import Atomref
        from torchmdnet.scripts.train import get_argparse

        arguments = {**vars(get_argparse().parse_args(WORDS.split())), **changes}
        energies = None
        if prior:
            arguments["prior_model"], arguments["prior_args"] = ["Atomref"], [{"max_z": 10}]
            energies = Atomref(max_z=10)
            energies.atomref.weight.data[[1, 6, 7, 8], 0] = torch.tensor([-0.5, -38.0, -54.6, -75.2])
        torch.manual_seed(0)
        moments = [torch.tensor(value) for value in (mean, std)]
        module = LNNP(arguments, None if energies is None else [energies], *moments)
        perturb(module.model.representation_model, 0)
        perturb(module.model.output_model, 0)
        trainer = lightning.Trainer(logger=False, enable_checkpointing=False, barebones=True, accelerator="cpu")
        trainer.strategy.connect(module)
        trainer.save_checkpoint(path)
    return path


def by_library(path: Path, structures: list[Atoms]) -> list[tuple[float, np.ndarray]]:
    """Evaluate by the library, its neighbour search included; hartree to eV."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from torchmdnet.models.model import load_model

        model = load_model(str(path))
        found = []
        for atoms in structures:
            with torch_operations(model):
                energy, forces = model(torch.tensor(atoms.numbers), torch.tensor(atoms.positions))
            found.append((float(energy) * ENERGY["hartree"], forces.detach().numpy() * ENERGY["hartree"]))
    return found


@pytest.fixture(scope="module")
def structures(make_molecule: Callable[..., Atoms]) -> list[Atoms]:
    return [make_molecule(7, seed=1), make_molecule(12, seed=2)]


def in_old_layout(content: dict[str, Any]) -> dict[str, Any]:
    """Change to that of files before torchmd-net 3, in which the three functions of a feature followed one another."""
    content["hyper_parameters"]["check_errors"] = True
    for name, value in content["state_dict"].items():
        if any(part in name for part in ("linears_scalar.2.", "tensor_embedding.linears_scalar.1.")):
            content["state_dict"][name] = value.reshape(3, -1, *value.shape[1:]).transpose(0, 1).reshape(value.shape)
    for name in [name for name in content["state_dict"] if "output_network.layers" in name]:
        content["state_dict"][name.replace(".layers", "")] = content["state_dict"].pop(name)
    return content


@pytest.mark.parametrize(
    "changes",
    [{}, {"prior": False, "equivariance_invariance_group": "SO(3)", "num_layers": 1}, {"std": 2.5}, {"old": True}],
    ids=["reference energies", "rotations only", "standard deviation", "old"],
)
def test_numbers_are_those_of_the_library(
    changes: dict[str, Any], structures: list[Atoms], graph_of: Callable[..., Any], tmp_path: Path
) -> None:
    is_old = changes.pop("old", False)
    source = library_file(tmp_path / "epoch=9.ckpt", **changes)
    if is_old:
        torch.save(in_old_layout(torch.load(source, weights_only=True)), source)
    target = tmp_path / "tensornet.ckpt"
    words = ["tensornet", str(source), str(target), "--elements", "H,C,N,O", "--energy-unit", "hartree"]
    assert cli.run("import", words) == 0
    expected = by_library(source, structures)
    check_same(target, structures, expected, [graph_of([atoms], cutoff=4.0) for atoms in structures])
    if not changes:
        check_exported(target, structures, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "equivariant-transformer", "num_heads": 2}, ["model", "tensornet"]),
        ({"rbf_type": "gauss"}, ["rbf_type", "expnorm"]),
        ({"activation": "tanh"}, ["activation", "silu"]),
        ({"mean": 3.0}, ["mean is 3.0"]),
        ({"cutoff_lower": 0.5}, ["cutoff_lower"]),
    ],
    ids=["model", "functions", "activation", "mean", "lower cutoff"],
)
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    source = library_file(tmp_path / "file.ckpt", **changes)
    with pytest.raises(DataError) as caught:
        read(source, "eV", ELEMENTS)
    assert all(word in str(caught.value) for word in [*words, "file.ckpt"])


def test_elements_must_be_given(tmp_path: Path) -> None:
    source = library_file(tmp_path / "file.ckpt")
    with pytest.raises(ConfigError, match=r"H,C,N,O; give --elements"):
        read(source)
    with pytest.raises(DataError, match="max_z"):
        read(source, "eV", ["H", "Cl"])


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    source = library_file(tmp_path / "file.ckpt")
    content = torch.load(source, weights_only=True)
    del content["state_dict"]["model.representation_model.out_norm.weight"]
    torch.save(content, source)
    with pytest.raises(DataError, match="do not fit"):
        read(source, "eV", ELEMENTS)
    source.write_bytes(source.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        read(source, "eV", ELEMENTS)
    torch.save({"some": "thing"}, source)
    with pytest.raises(DataError, match="not a checkpoint of torchmd-net"):
        read(source, "eV", ELEMENTS)


def test_an_imported_model_is_fine_tuned(tmp_path: Path) -> None:
    target = tmp_path / "tensornet.ckpt"
    source = library_file(tmp_path / "file.ckpt", precision=32)
    assert cli.run("import", ["tensornet", str(source), str(target), "--elements", "H,C,N,O"]) == 0
    settings = [f"init_weights={target}", f"run_dir={tmp_path}/run", *FAST[:2], "trainer.limit_train_batches=1"]
    assert cli.run("train", settings) == 0
