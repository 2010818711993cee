"""What the tests of models from scripts/export_for_import.py share."""

import contextlib
import importlib.util
import io
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator

from hiphop_train import HipHopCalculator, checkpoint, cli
from hiphop_train.types import Graph
from tests.conftest import ROOT

SCRIPT = ROOT / "scripts" / "export_for_import.py"


def script() -> ModuleType:
    """Import our script."""
    spec = importlib.util.spec_from_file_location("export_for_import", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run our script as a user would."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@contextlib.contextmanager
def library_defaults() -> Iterator[None]:
    """Let a library warn, print, and change defaults, in a mode of e3nn in which models can be saved."""
    import e3nn

    default, of_e3nn = torch.get_default_dtype(), e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_mode="eager")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            torch.set_default_dtype(default)
            e3nn.set_optimization_defaults(jit_mode=of_e3nn["jit_mode"])


def by_library(calculator: Calculator, structures: Sequence[Atoms]) -> list[tuple[float, np.ndarray]]:
    """Evaluate with the library's own calculator, its neighbour search included."""
    found = []
    for atoms in structures:
        copy = atoms.copy()
        copy.calc = calculator
        with library_defaults():
            torch.set_default_dtype(torch.float64)
            found.append((float(copy.get_potential_energy()), np.array(copy.get_forces())))
    return found


def check_same(
    file: Path, structures: Sequence[Atoms], expected: Sequence[tuple[float, np.ndarray]], graphs: Sequence[Graph]
) -> None:
    """Check energies, E0 included, to 1e-9 eV, and forces to 1e-9 of the largest."""
    potential = checkpoint.load(str(file)).potential
    for (energy, forces), atoms, graph in zip(expected, structures, graphs, strict=True):
        found = {name: value.detach().numpy() for name, value in potential(graph).items()}
        _check(found["energy"][0], found["forces"], energy, forces, atoms)


def check_exported(file: Path, structures: Sequence[Atoms], expected: Sequence[tuple[float, np.ndarray]]) -> None:
    """Check the same of the TorchScript file, in ASE."""
    output = file.with_suffix(".pt")
    assert cli.run("export", [f"checkpoint={file}", f"output={output}"]) == 0
    for (energy, forces), atoms in zip(expected, structures, strict=True):
        copy = atoms.copy()
        copy.calc = HipHopCalculator(output)
        _check(copy.get_potential_energy(), copy.get_forces(), energy, forces, atoms)


def _check(energy: float, forces: np.ndarray, by_them: float, their_forces: np.ndarray, atoms: Atoms) -> None:
    largest = np.abs(their_forces).max()
    assert largest > 1e-2, atoms
    assert abs(energy - by_them) < 1e-9, atoms
    assert np.abs(forces - their_forces).max() < 1e-9 * largest, atoms


def write(content: dict[str, Any], path: Path, **changes: Any) -> Path:
    """Write a file with changed settings."""
    torch.save({**content, "settings": {**content["settings"], **changes}}, path)
    return path
