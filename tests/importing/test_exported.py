"""Files of scripts/export_for_import.py: what is read, what is refused, and that nothing in them is run."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hiphop_train.errors import ConfigError, DataError
from hiphop_train.importing.exported import irreps
from hiphop_train.nn.couplings import TensorType
from hiphop_train.readout.element_scales import ElementScales
from hiphop_train.readout.scaled import ScaledEnergy
from tests.importing.exported import SCRIPT, run_script

LIBRARIES = ("mace", "nequip", "allegro")
SCRIPT_NAME = "scripts/export_for_import.py"
GOOD: dict[str, Any] = {
    "format": "hiphop-import", "version": 1, "library": "mace", "library_version": "0", "settings": {},
    "parameters": {}, "buffers": {},
}  # fmt: skip


@pytest.mark.parametrize("library", LIBRARIES)
def test_files_of_the_libraries_are_refused_with_what_to_do(library: str, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "library.model")
    program = "nequip" if library == "allegro" else library
    with pytest.raises(DataError, match=f"environment with {program}, python {SCRIPT_NAME} {program} MODEL FILE"):
        import_module(f"hiphop_train.importing.{library}").read(tmp_path / "library.model")


CRAFTED: dict[str, tuple[Any, str]] = {
    "a list": ([1], "is not a file of scripts/export"),
    "other format": ({**GOOD, "format": "x"}, "is not a file of scripts/export"),
    "other version": ({**GOOD, "version": 2}, "written by another version of scripts/export"),
    "other library": ({**GOOD, "library": "nequip"}, "contains a model of nequip, not of mace"),
    "no tensors": ({**GOOD, "parameters": {"a": 1}}, "lacks settings or tensors"),
    "no settings": ({**GOOD, "settings": None}, "lacks settings or tensors"),
    "empty settings": (GOOD, "architecture is missing; atomic_numbers is missing"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_other_contents_are_refused(name: str, tmp_path: Path) -> None:
    content, message = CRAFTED[name]
    torch.save(content, tmp_path / "plain.pt")
    with pytest.raises(DataError, match=message):
        import_module("hiphop_train.importing.mace").read(tmp_path / "plain.pt")


@pytest.mark.parametrize("length", [0, 100, 70_000])
def test_damaged_files_are_refused(length: int, tmp_path: Path) -> None:
    (tmp_path / "plain.pt").write_bytes(np.random.default_rng(length).bytes(length))
    with pytest.raises(DataError, match="cannot be read as plain values and tensors"):
        import_module("hiphop_train.importing.nequip").read(tmp_path / "plain.pt")


def test_the_script_says_what_it_needs(tmp_path: Path) -> None:
    assert "usage: python export_for_import.py mace MODEL OUTPUT" in run_script("mace").stderr
    torch.save({"model": {}, "optimizer": {}}, tmp_path / "checkpoint.pt")
    done = run_script("mace", tmp_path / "checkpoint.pt", tmp_path / "out.pt")
    assert done.returncode == 1
    assert "contains no module of mace-torch, but a dict; give the *.model file" in done.stderr
    torch.save(torch.nn.Linear(2, 2), tmp_path / "other.model")
    done = run_script("mace", tmp_path / "other.model", tmp_path / "out.pt")
    assert "contains a Linear that this script does not know" in done.stderr
    assert not (tmp_path / "out.pt").exists()


def test_the_script_needs_nothing_of_this_package() -> None:
    code = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}); print(any('hiphop' in name for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def test_notation_of_features() -> None:
    assert irreps("8x0e+2x1o") == [(8, TensorType(0, 1)), (2, TensorType(1, -1))]
    with pytest.raises(DataError, match="are not written as 8x0e"):
        irreps("8")


def test_scales_of_elements(make_molecule: Callable[..., Any], graph_of: Callable[..., Any]) -> None:
    graph = graph_of([make_molecule(5, seed=1)])
    plain = ScaledEnergy([3], []).double()
    scaled = ElementScales(plain, ["H", "C", "N", "O"], {"C": 3.0, "N": -2.0}).double()
    levels = [torch.randn(5, 3, dtype=torch.float64)]
    factor = torch.tensor([1.0, 3.0, -2.0, 1.0], dtype=torch.float64)[graph.species]
    assert torch.equal(scaled(levels, graph)["energies"][:, 0], plain(levels, graph)["energies"][:, 0] * factor)
    assert scaled.state_dict().keys() == {"energy.network.layers.0.weight"}
    with pytest.raises(ConfigError, match="'Si' is not an element of the model; allowed: H, C"):
        ElementScales(plain, ["H", "C"], {"Si": 1.0})
