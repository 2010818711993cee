"""Batches: gathered and collated, with their pairs, without a loop over structures."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hiphop_train.data.structures import PER_ATOM, PER_STRUCTURE, Structures
from hiphop_train.errors import DataError
from hiphop_train.graph.assemble import make_graph
from hiphop_train.graph.neighbours import batch_neighbours, brute_force_pays
from hiphop_train.graph.open_batches import open_pair_vectors
from hiphop_train.targets import TARGETS
from hiphop_train.types import Batch, Outputs, Prepare


class Share(NamedTuple):
    """One process's part of a batch."""

    chosen: NDArray[np.int64]
    """(n,) structures."""
    weight: NDArray[np.float64]
    """(n,) of each structure in sums; 0 for padding."""
    structures_scale: float = 1.0
    """Number of structures in the whole batch, relative to the mean over batches."""
    atoms_scale: float = 1.0
    """Number of atoms in the whole batch, relative to the mean over batches."""


def check_elements(structures: Structures, elements: list[str]) -> None:
    """Raise `DataError` with the first element that the model lacks, and its structure."""
    known = np.isin([*chemical_symbols, *[""] * (256 - len(chemical_symbols))], elements)  # (256,) by atomic number
    size = 1 << 22  # in chunks, as there may be more atoms than memory
    for start in range(0, len(structures.numbers), size):
        unknown = ~known[structures.numbers[start : start + size]]
        if not unknown.any():
            continue
        atom = start + int(unknown.argmax())
        symbol = chemical_symbols[structures.numbers[atom]]
        where = structures.name(int(np.searchsorted(structures.offsets, atom, side="right")) - 1)
        raise DataError(
            f"{structures.source}: {where} contains {symbol}, but model.elements is [{', '.join(elements)}]; "
            f"add it when training: 'model.elements=[{','.join([*elements, symbol])}]'"
        )


class BatchDataset(Dataset[Batch]):
    """Structures as batches: one item is a whole batch, requested by a `Share`.

    Parameters
    ----------
    structures : the data set
    elements : the model's type names
    cutoff : Angstrom
    dtype : floating-point type of the network
    pairs : whether pairs are searched; otherwise graphs have none, for callers that find them elsewhere
    prepare : adds the extras that acceleration needs to each graph
    """

    def __init__(
        self,
        structures: Structures,
        elements: list[str],
        cutoff: float,
        dtype: torch.dtype,
        pairs: bool = True,
        prepare: Prepare | None = None,
    ) -> None:
        check_elements(structures, elements)
        names = ("offsets", *PER_ATOM, *PER_STRUCTURE)
        # plain views, as np.memmap indexes slowly
        arrays: dict[str, Any] = {name: np.asarray(getattr(structures, name)) for name in names}
        labels = {key: np.asarray(array) for key, array in structures.labels.items()}
        self.structures = replace(structures, labels=labels, **arrays)
        self.cutoff = cutoff
        self.dtype = dtype
        self.pairs = pairs
        self.prepare = prepare
        self.species_of = np.full(119, -1, np.int64)
        for k, symbol in enumerate(elements):
            self.species_of[chemical_symbols.index(symbol)] = k

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, share: Share | tuple[NDArray[np.int64], NDArray[np.float64]]) -> Batch:
        """Return the batch of a share: indices (n,) and weights (n,)."""
        share = Share(*share)
        index, structures = share.chosen, self.structures
        sizes = structures.offsets[index + 1] - structures.offsets[index]
        atoms = structures.atoms_of(index)
        positions = np.take(structures.positions, atoms, axis=0).astype(np.float64, copy=False)
        system = np.repeat(np.arange(len(index)), sizes)
        cell, pbc = structures.cell[index], structures.pbc[index]
        pair_i, pair_j, pair_shift, vectors = self._pairs(positions, sizes, cell, pbc)
        species = self.species_of[structures.numbers[atoms]]
        graph = make_graph(
            torch.from_numpy(species),
            torch.from_numpy(positions),
            torch.from_numpy(cell),
            torch.from_numpy(pbc),
            torch.from_numpy(system),
            len(index),
            pair_i,
            pair_j,
            pair_shift,
            self.dtype,
            torch.from_numpy(structures.theory[index].astype(np.int64, copy=False)),
            vectors,
        )
        if self.prepare is not None:
            graph = self.prepare(graph)
        return Batch(graph, self._labels(share, atoms, system), torch.from_numpy(index))

    def _labels(self, share: Share, atoms: NDArray[np.int64], system: NDArray[np.int64]) -> Outputs:
        """Labels of a batch, 0 where unknown, with their weights and scales."""
        index, weight, structures_scale, atoms_scale = share
        labels = {"weight": torch.from_numpy(weight)}
        for key, array in self.structures.labels.items():
            is_per_atom = TARGETS[key].per == "atom"
            values = np.take(array, atoms if is_per_atom else index, axis=0).astype(np.float64, copy=False)
            known = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
            if not known.all():
                values[~known] = 0.0
            labels[key] = torch.from_numpy(values)
            labels[f"{key}_weight"] = torch.from_numpy((weight[system] if is_per_atom else weight) * known)
            scale = atoms_scale if is_per_atom else structures_scale
            labels[f"{key}_scale"] = torch.tensor(scale, dtype=torch.float64)
        return labels

    def _pairs(
        self,
        positions: NDArray[np.float64],
        sizes: NDArray[np.int64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Find pairs, their shifts and, if the search computes them, their vectors."""
        if not self.pairs:
            none = torch.zeros(0, dtype=torch.int64)
            return none, none, none.reshape(0, 3), None
        if pbc.any() or not brute_force_pays(len(positions), int((sizes * sizes).sum())):
            given = [torch.from_numpy(array) for array in (positions, sizes, cell, pbc)]
            return *batch_neighbours(given[0], given[1], given[2], given[3], self.cutoff), None
        dtype = torch.zeros(0, dtype=self.dtype).numpy().dtype
        pair_i, pair_j, vectors = open_pair_vectors(positions, sizes, self.cutoff, dtype)
        no_shift = torch.zeros((1, 3), dtype=torch.int64).expand(len(pair_i), 3)  # takes no memory
        return torch.from_numpy(pair_i), torch.from_numpy(pair_j), no_shift, torch.from_numpy(vectors)
