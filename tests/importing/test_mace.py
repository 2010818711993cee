"""A model of mace-torch, written by the library, exported by our script and imported, gives the library's numbers."""

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from hiphop_train import checkpoint, cli
from hiphop_train.types import Graph
from tests.conftest import ROOT
from tests.references.mace import Reference

NUMBERS = [1, 6, 7, 8]
E0 = np.array([-13.6, -1029.0, -1484.0, -2042.0])


def library_model(**changes: Any) -> torch.nn.Module:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from e3nn import o3
        from mace import modules

        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        blocks = modules.interaction_classes
        settings = {
            "interaction_cls_first": blocks["RealAgnosticInteractionBlock"],
            "interaction_cls": blocks["RealAgnosticResidualInteractionBlock"],
            "hidden_irreps": o3.Irreps("5x0e+5x1o"),
            **changes,
        }
        model = modules.ScaleShiftMACE(
            r_max=4.0, num_bessel=6, num_polynomial_cutoff=5, max_ell=2, num_interactions=2, num_elements=4,
            MLP_irreps=o3.Irreps("7x0e"), atomic_energies=E0, avg_num_neighbors=9.5, atomic_numbers=NUMBERS,
            correlation=3, gate=torch.nn.functional.silu, radial_MLP=[12, 8], use_reduced_cg=False,
            atomic_inter_scale=0.8, atomic_inter_shift=0.3, **settings,
        )  # fmt: skip
        torch.set_default_dtype(default)
    return model


SAVE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from tests.importing.test_mace import library_model
torch.save(library_model(), sys.argv[2])
"""


def export(folder: Path) -> Path:
    """Save the model as the library does, and run our script as a user would, in processes without other libraries.

    Those change e3nn's defaults, with which models cannot be saved.
    """
    model, plain = str(folder / "library.model"), str(folder / "plain.pt")
    for command in (["-c", SAVE, str(ROOT), model], [str(ROOT / "scripts" / "export_mace.py"), model, plain]):
        given = [sys.executable, "-W", "ignore", *command]
        done = subprocess.run(given, capture_output=True, text=True, check=False, env=os.environ, timeout=200)
        assert done.returncode == 0, done.stderr
    return folder / "plain.pt"


def test_energies_and_forces_are_those_of_the_library(
    tmp_path: Path, mixed_structures: list[Atoms], graph_of: Callable[..., Graph]
) -> None:
    model = library_model()
    output = tmp_path / "mace.ckpt"
    assert cli.run("import", ["mace", str(export(tmp_path)), str(output)]) == 0
    potential = checkpoint.load(str(output)).potential.double().eval()
    graph = graph_of([atoms for atoms in mixed_structures if len(atoms) > 1])
    expected = Reference(model)(graph)
    found = potential(graph)
    for key in ("energy", "forces"):
        deviation = (found[key] - expected[key]).detach().abs().max()
        assert deviation < 1e-9 * expected[key].detach().abs().max()
    assert cli.run("export", [f"checkpoint={output}", f"output={tmp_path / 'model.pt'}"]) == 0


def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"some": "file"}, tmp_path / "other.pt")
    plain = torch.load(export(tmp_path), weights_only=True)
    (tmp_path / "library.model").rename(tmp_path / "pickle.pt")
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "heads": ({"heads": ["a", "b"]}, "heads is 2; supported is 1"),
        "radial": ({"radial_basis": "GaussianBasis"}, "radial_basis is GaussianBasis; supported is BesselBasis"),
        "blocks": ({"interactions": ["RealAgnosticDensityInteractionBlock"]}, "layer 0 is a RealAgnosticDensity"),
        "hidden": ({"hidden": [(5, 0, 1), (3, 1, -1)]}, "supported is one number for each rank"),
        "gate": ({"activations": ["tanh"]}, "activation tanh of the readout; supported is silu"),
        "zbl": ({"options": {**plain["options"], "pair_repulsion": True}}, "pair_repulsion is True"),
    }
    for name, (change, _) in changes.items():
        torch.save({**plain, **change}, tmp_path / f"{name}.pt")
    messages = {name: message for name, (_, message) in changes.items()}
    messages |= {"other": "is not a file of scripts/export_mace.py", "pickle": "python scripts/export_mace.py"}
    for name, message in messages.items():
        capfd.readouterr()
        assert cli.run("import", ["mace", str(tmp_path / f"{name}.pt"), str(tmp_path / "out.ckpt")]) != 0
        assert message in capfd.readouterr().err
        assert not (tmp_path / "out.ckpt").exists()
