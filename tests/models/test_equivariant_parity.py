"""With the weights of its own library, each equivariant model gives its library's energies and forces."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from ase import Atoms

from hiphop_train.accelerate import accelerate
from hiphop_train.types import Graph

GraphOf = Callable[..., Graph]

FOLDER = Path(__file__).resolve().parents[1] / "references"
NAMES = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in ("__init__", "common"))
CASES = [(name, case) for name in NAMES for case in import_module(f"tests.references.{name}").CONFIGURATIONS]
BOUND = 1e-9
WITHOUT_IMAGES = ["tensornet"]
"""Libraries that err where an atom is its own neighbour: torchmd-net does not normalise the vector to the image."""


@pytest.mark.parametrize(("name", "case"), CASES)
def test_energies_and_forces_are_those_of_the_library(
    name: str, case: str, mixed_structures: list[Atoms], make_box: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    """Molecules, and triclinic cells, a slab among them, smaller than the cutoff; plain and accelerated."""
    module = import_module(f"tests.references.{name}")
    potential, reference = module.make(module.CONFIGURATIONS[case])
    structures = [atoms for atoms in mixed_structures if len(atoms) > 1]  # libraries differ on single atoms
    if name in WITHOUT_IMAGES:
        structures = [atoms for atoms in structures if not atoms.pbc.any()] + [make_box(20, seed=2, length=5.5)]
    graph = graph_of(structures, cutoff=potential.cutoff)
    expected = {key: value.detach() for key, value in reference(graph).items()}
    assert expected["forces"].abs().max() > 0.01
    for purpose in ("plain", "training", "inference"):
        if purpose != "plain":
            accelerate(potential, torch.float64, torch.device("cpu"), purpose)  # type: ignore[arg-type]
        found = potential(graph)
        for key in ("energy", "forces"):
            error = (found[key].detach() - expected[key]).abs().max() / expected[key].abs().max()
            assert error < BOUND, (purpose, key)


@pytest.mark.parametrize("name", NAMES)
def test_references_leave_the_default_precision(name: str) -> None:
    """Which decides what random numbers later tests draw."""
    module = import_module(f"tests.references.{name}")
    module.make(next(iter(module.CONFIGURATIONS.values())))
    assert torch.get_default_dtype() == torch.float32
