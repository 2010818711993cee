"""Golden structures: with their outputs in an exported file, its readers can check what they compute."""

from typing import Dict, List, NamedTuple, Tuple

import numpy as np
import torch
from ase.data import covalent_radii
from numpy.typing import ArrayLike
from torch import Tensor

from hiphop_train.targets import TARGETS

AtomicStructure = Tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]
"""Atomic numbers (n_atoms,), positions (n_atoms, 3) Angstrom, cell (3, 3) Angstrom, pbc (3,)."""

TypedStructure = Tuple[Tensor, Tensor, Tensor, Tensor]
"""The same as tensors, with species (n_atoms,), indices into the model's elements, instead of atomic numbers."""


def golden_structures(atomic_numbers: List[int]) -> List[TypedStructure]:
    """Make a few structures from the elements, always the same: an atom, a chain, a crystal and a slab.

    The chain is a helix with bonds as long as the sum of covalent radii, and holds every element; the others are
    pieces of it, the crystal's cell as small as the atoms allow.

    Parameters
    ----------
    atomic_numbers : of the model's elements, 0 for a type that is not an element
    """
    n_elements = len(atomic_numbers)
    species = np.arange(max(6, n_elements)) % n_elements
    radius = np.maximum(covalent_radii[np.asarray(atomic_numbers)], 0.31)[species]  # Angstrom
    angle = 1.9 * np.arange(len(species) - 1)
    direction = np.stack([0.8 * np.cos(angle), 0.8 * np.sin(angle), np.full_like(angle, 0.6)], axis=1)
    bonds = direction * (radius[1:] + radius[:-1])[:, None]
    positions = np.concatenate([np.zeros((1, 3)), np.cumsum(bonds, axis=0)])  # (n_atoms, 3)

    def piece(n_atoms: int, *pbc: bool) -> TypedStructure:
        chosen = torch.from_numpy(positions[:n_atoms].copy())
        extent = chosen.max(0).values - chosen.min(0).values + 2.0
        shear = torch.tensor([[0.0, 0.2, 0.0], [0.0, 0.0, 0.3], [-0.1, 0.0, 0.0]], dtype=torch.float64)
        periodic = torch.tensor(pbc)
        cell = (torch.diag(extent) + shear) * periodic[:, None]
        return torch.from_numpy(species[:n_atoms].astype(np.int64)), chosen, cell, periodic

    return [
        piece(1, False, False, False),
        piece(len(species), False, False, False),
        piece(3, True, True, True),
        piece(4, True, True, False),
    ]


class GoldenReport(NamedTuple):
    """How far outputs are from the golden ones, the largest deviations over all golden structures."""

    energy: float
    """eV per atom."""
    forces: float
    """eV/Angstrom, of a component."""
    virial: float
    """eV per atom, of a component."""
    relative: float
    """The largest of the three and those of further targets, each divided by the structure's largest value of its kind,
    or by 1 of its unit where that is larger; energies are compared with their part beyond E0."""
    tolerance: float
    """What `relative` may be."""

    @property
    def agrees(self) -> bool:
        """Whether the file gives the outputs stored in it; never where a deviation is not a number."""
        return self.relative <= self.tolerance


def deviation(outputs: Dict[str, Tensor], answer: Dict[str, Tensor], e0: Tensor) -> Tensor:
    """Return how far outputs are from the golden ones of a structure: the first four numbers of `GoldenReport` (4,).

    Parameters
    ----------
    outputs, answer : as `ExportedPotential.energy_forces` returns them; the answer with its structure
    e0 : (n_elements,) eV
    """
    n_atoms = answer["species"].shape[0]
    learned = (answer["energy"] - e0[answer["species"]].sum()).abs() / n_atoms
    pairs = [
        ((outputs["energy"] - answer["energy"]).abs() / n_atoms, learned),
        ((outputs["forces"] - answer["forces"]).abs().max(), answer["forces"].abs().max()),
        ((outputs["virial"] - answer["virial"]).abs().max() / n_atoms, answer["virial"].abs().max() / n_atoms),
    ]
    for key in answer.keys() & TARGETS.keys() - {"energy", "forces"}:
        pairs.append(((outputs[key] - answer[key]).abs().max(), answer[key].abs().max()))
    relative = torch.stack([difference / size.clamp(min=1.0) for difference, size in pairs]).max()
    return torch.stack([difference for difference, _ in pairs[:3]] + [relative])
