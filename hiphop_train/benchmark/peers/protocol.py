"""What every timed program does; needs numpy and torch only, as other programs' environments have no more of ours.

Energies are in whatever unit a program has; forces are their negative derivative with respect to positions in Angstrom.
"""

import dataclasses
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Result = tuple[Tensor, Tensor]
"""Energies (n_systems,) and forces (n_atoms, 3)."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """One structure or a batch, with the pairs inside of a program's cutoff.

    Attributes
    ----------
    numbers : (n_atoms,) int64 atomic numbers
    positions : (n_atoms, 3) float64, Angstrom
    cell : (n_systems, 3, 3) float64, Angstrom, rows are lattice vectors; zero where open
    pbc : (n_systems, 3) bool
    system : (n_atoms,) int64, ascending
    pair_i, pair_j : (n_pairs,) int64, all ordered pairs by receiving atom i
    pair_shift : (n_pairs, 3) int64, the vector of a pair being r_j + shift . cell - r_i
    energy : (n_systems,) labels of a batch to train on, else zeros
    forces : (n_atoms, 3) labels
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    system: NDArray[np.int64]
    pair_i: NDArray[np.int64]
    pair_j: NDArray[np.int64]
    pair_shift: NDArray[np.int64]
    energy: NDArray[np.float64]
    forces: NDArray[np.float64]

    @property
    def n_systems(self) -> int:
        """Number of structures."""
        return len(self.cell)

    def translations(self) -> NDArray[np.float64]:
        """Return (n_pairs, 3) how far the sending atom's image is from the atom, Angstrom."""
        if not self.pair_shift.any():
            return np.zeros(self.pair_shift.shape)
        cells = self.cell[self.system[self.pair_i]]
        moved: NDArray[np.float64] = np.einsum("pk,pkx->px", self.pair_shift.astype(np.float64), cells)
        return moved

    def save(self, file: Path) -> None:
        """Write as arrays of numpy."""
        np.savez(file, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @classmethod
    def read(cls, file: Path) -> "Work":
        """Read what `save` wrote."""
        with np.load(file) as arrays:
            return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})


class Subject(ABC):
    """A program's potential.

    Parameters
    ----------
    settings : of the program, and ``elements`` (symbols) and ``atomic_numbers`` that the work may hold
    dtype : floating-point type of the network
    device : where it computes

    Attributes
    ----------
    takes_pairs : whether it can be given its pairs, so that `evaluate` finds none
    finds_pairs : whether it can find its pairs itself, which `search_and_evaluate` does
    trains : whether there are parameters to train
    model : module with the parameters
    cutoff : distance up to which pairs are needed, Angstrom
    """

    takes_pairs = True
    finds_pairs = False
    trains = True
    model: Any
    cutoff: float

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        self.settings = settings
        self.dtype = dtype
        self.device = device

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Say version and settings, for the record."""

    @abstractmethod
    def load(self, work: Work) -> None:
        """Take the work, so that evaluations need no more than what an engine would change: positions."""

    @abstractmethod
    def evaluate(self) -> Result:
        """Energy and forces with the given pairs; differentiable in training mode."""

    def search_and_evaluate(self) -> Result:
        """Find the pairs, then energy and forces; where `finds_pairs`."""
        raise NotImplementedError

    def special(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer what only this program can be asked."""
        raise NotImplementedError(str(request))

    def tensor(self, array: NDArray[Any], dtype: torch.dtype | None = None) -> Tensor:
        """Move an array to the device."""
        return torch.as_tensor(array).to(self.device, dtype)
