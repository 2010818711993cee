"""Batches: gathered, collated and paired without a loop over structures."""

from collections.abc import Iterator

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.graph.assemble import make_graph
from hiphop_train.graph.neighbours import batch_neighbours
from hiphop_train.types import Batch

Share = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Indices of structures, and for each its weight in sums."""


def check_elements(structures: Structures, elements: list[str]) -> None:
    """Raise `DataError` naming the first element that the model does not know, and where it stands."""
    known = np.isin(chemical_symbols, elements)  # by atomic number
    for piece in structures.pieces():
        counts = np.bincount(piece.numbers, minlength=len(known))
        strange = np.flatnonzero((counts > 0) & ~known)
        if len(strange):
            atom = int(np.flatnonzero(~known[piece.numbers])[0])
            symbol = chemical_symbols[piece.numbers[atom]]
            where = piece.name(int(np.searchsorted(piece.offsets, atom, side="right")) - 1)
            raise DataError(
                f"{structures.source}: {where} holds {symbol}, but model.elements is [{', '.join(elements)}]; "
                f"add it when training: 'model.elements=[{','.join([*elements, symbol])}]'"
            )


class BatchDataset(Dataset[Batch]):
    """Structures as batches: an item is asked for by many indices at once.

    Parameters
    ----------
    structures : what batches are cut from
    elements : the model's type names
    cutoff : Angstrom
    dtype : floating-point type of the network
    """

    def __init__(self, structures: Structures, elements: list[str], cutoff: float, dtype: torch.dtype) -> None:
        check_elements(structures, elements)
        self.structures = structures
        self.cutoff = cutoff
        self.dtype = dtype
        self.species_of = np.full(119, -1, np.int64)
        for k, symbol in enumerate(elements):
            self.species_of[chemical_symbols.index(symbol)] = k

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, share: Share) -> Batch:
        """Cut one batch: indices (n,) and weights (n,)."""
        index, weight = share
        chosen = self.structures.take(index)
        sizes = torch.from_numpy(chosen.sizes)
        positions = torch.from_numpy(chosen.positions.astype(np.float64, copy=False))
        cell, pbc = torch.from_numpy(chosen.cell), torch.from_numpy(chosen.pbc)
        system = torch.repeat_interleave(torch.arange(len(index)), sizes)
        pair_i, pair_j, pair_shift = batch_neighbours(positions, sizes, cell, pbc, self.cutoff)
        graph = make_graph(
            torch.from_numpy(self.species_of[chosen.numbers]),
            positions,
            cell,
            pbc,
            system,
            len(index),
            pair_i,
            pair_j,
            pair_shift,
            self.dtype,
            torch.from_numpy(chosen.level.astype(np.int64, copy=False)),
        )
        has_energy, has_forces = chosen.has_energy, chosen.has_forces
        labels = {
            "weight": torch.from_numpy(weight),
            "energy": torch.from_numpy(np.where(has_energy, chosen.energy, 0.0)),
            "energy_weight": torch.from_numpy(weight * has_energy),
            "forces": torch.from_numpy(np.nan_to_num(chosen.forces.astype(np.float64, copy=False), nan=0.0)),
            "forces_weight": torch.from_numpy(np.repeat(weight * has_forces, chosen.sizes)),
        }
        return Batch(graph, labels, torch.from_numpy(index))


class BatchSampler(Sampler[Share]):
    """Order of the structures as a pure function of seed and epoch, and each rank's share of every batch.

    A batch is the same whatever the number of ranks; they divide it. A rank without a share gets one structure of
    weight zero, so that all ranks make the same number of steps.

    Parameters
    ----------
    index : (n,) structures to go through
    batch_size : structures per batch, over all ranks
    seed : of the order; None keeps the given order
    rank, n_ranks : this process and how many there are
    """

    def __init__(
        self, index: NDArray[np.int64], batch_size: int, seed: int | None = None, rank: int = 0, n_ranks: int = 1
    ) -> None:
        self.index = index
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.n_ranks = n_ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[Share]:
        order = self.index
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.index)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            share = batch[self.rank :: self.n_ranks]
            yield (share, np.ones(len(share))) if len(share) else (batch[:1], np.zeros(1))
