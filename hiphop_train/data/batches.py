"""Batches: gathered, collated and paired without a loop over structures."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hiphop_train.data.budgets import dealt, in_order, n_batches
from hiphop_train.data.mapped import lighten, restore
from hiphop_train.data.pairs import open_pairs_and_vectors
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.graph.assemble import make_graph, pair_vectors
from hiphop_train.graph.neighbours import batch_neighbours
from hiphop_train.types import Batch

Share = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Indices of structures, and for each its weight in sums."""

BRUTE_FORCE_UP_TO = 80
"""Mean number of partners up to which all pairs of open systems are looked at."""


def check_elements(structures: Structures, elements: list[str]) -> None:
    """Raise `DataError` naming the first element that the model does not know, and where it stands."""
    known = np.zeros(256, np.bool_)
    known[[chemical_symbols.index(symbol) for symbol in elements]] = True
    for piece in structures.pieces():
        strange = np.flatnonzero(~known[piece.numbers])
        if len(strange):
            atom = int(strange[0])
            symbol = chemical_symbols[piece.numbers[atom]]
            where = piece.name(int(np.searchsorted(piece.offsets, atom, side="right")) - 1)
            raise DataError(
                f"{structures.source}: {where} holds {symbol}, but model.elements is [{', '.join(elements)}]; "
                f"add it when training: 'model.elements=[{','.join([*elements, symbol])}]'"
            )


class BatchDataset(Dataset[Batch]):
    """Structures as batches: an item is asked for by many indices at once.

    Workers that are forked share its memory; where it is pickled for one that is started anew, arrays that are mapped
    from files are named, not copied.

    Parameters
    ----------
    structures : what batches are cut from
    elements : the model's type names
    cutoff : Angstrom; 0 builds no pairs
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

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "structures": lighten(self.structures)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, structures=restore(state["structures"]))

    def __getitem__(self, share: Share) -> Batch:
        """Cut one batch: indices (n,) and weights (n,)."""
        index, weight = share
        found = self.structures
        sizes = found.offsets[index + 1] - found.offsets[index]
        atoms = found.atoms_of(index)
        positions = np.asarray(found.positions)[atoms].astype(np.float64, copy=False)
        cell, pbc = torch.from_numpy(found.cell[index]), torch.from_numpy(found.pbc[index])
        pair_i, pair_j, pair_shift, vectors = self._pairs(positions, np.asarray(sizes), cell, pbc)
        graph = make_graph(
            torch.from_numpy(self.species_of[np.asarray(found.numbers)[atoms]]),
            torch.from_numpy(positions),
            cell,
            pbc,
            torch.from_numpy(np.repeat(np.arange(len(index)), sizes)),
            len(index),
            pair_i,
            pair_j,
            pair_shift,
            self.dtype,
            torch.from_numpy(found.level[index].astype(np.int64, copy=False)),
            vectors,
        )
        energy, has_forces = found.energy[index], found.has_forces[index]
        has_energy = np.isfinite(energy)
        forces = np.asarray(found.forces)[atoms].astype(np.float64, copy=False)
        if not has_forces.all():
            forces[np.repeat(~has_forces, sizes)] = 0.0
        labels = {
            "weight": torch.from_numpy(weight),
            "energy": torch.from_numpy(np.where(has_energy, energy, 0.0)),
            "energy_weight": torch.from_numpy(weight * has_energy),
            "forces": torch.from_numpy(forces),
            "forces_weight": torch.from_numpy(np.repeat(weight * has_forces, sizes)),
        }
        return Batch(graph, labels, torch.from_numpy(index))

    def _pairs(
        self, positions: NDArray[np.float64], sizes: NDArray[np.int64], cell: Tensor, pbc: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pairs, their shifts and vectors."""
        if self.cutoff == 0.0:
            nobody = torch.zeros(0, dtype=torch.int64)
            return nobody, nobody, nobody.reshape(0, 3), torch.zeros((0, 3), dtype=torch.float64)
        if bool(pbc.any()) or int((sizes * sizes).sum()) > BRUTE_FORCE_UP_TO * len(positions):
            places, counts = torch.from_numpy(positions), torch.from_numpy(sizes)
            i, j, shift = batch_neighbours(places, counts, cell, pbc, self.cutoff, BRUTE_FORCE_UP_TO)
            system = torch.repeat_interleave(torch.arange(len(counts)), counts)
            return i, j, shift, pair_vectors(places, cell, system, i, j, shift)
        pair_i, pair_j, vectors = open_pairs_and_vectors(positions, sizes, self.cutoff)
        none = torch.zeros((1, 3), dtype=torch.int64).expand(len(pair_i), 3)
        return torch.from_numpy(pair_i), torch.from_numpy(pair_j), none, torch.from_numpy(vectors)


class BatchSampler(Sampler[Share]):
    """Order of the structures as a pure function of seed and epoch, and each rank's share of every batch.

    A batch is the same whatever the number of ranks and workers; ranks divide it. A rank without a share gets one
    structure of weight zero, so that all ranks make the same number of steps. Batches have so many structures, or so
    much of what `cost` counts (`data.budgets` says how they are made then).

    Parameters
    ----------
    index : (n,) structures to go through
    batch_size : structures per batch, over all ranks; with `cost`, the most that a batch may cost
    seed : of the order; None keeps the given order
    rank, n_ranks : this process and how many there are
    cost : (n,) of each structure of `index`
    resume : epoch, and how many of its first batches are left out because they were used before
    """

    def __init__(
        self,
        index: NDArray[np.int64],
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        n_ranks: int = 1,
        cost: NDArray[np.int64] | None = None,
        resume: tuple[int, int] = (0, 0),
    ) -> None:
        self.index = index
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.n_ranks = n_ranks
        self.cost = cost
        self.resume = resume
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        if self.cost is None:
            return -(-len(self.index) // self.batch_size)
        return len(in_order(self.cost, self.batch_size)) if self.seed is None else n_batches(self.cost, self.batch_size)

    def __iter__(self) -> Iterator[Share]:
        rng = None if self.seed is None else np.random.default_rng([self.seed, self.epoch])
        if self.cost is None:
            order = self.index if rng is None else rng.permutation(self.index)
            cuts = np.arange(0, len(order), self.batch_size)
        elif rng is None:
            order, cuts = self.index, in_order(self.cost, self.batch_size)
        else:
            chosen, cuts = dealt(self.cost, self.batch_size, rng)
            order = self.index[chosen]
        first = self.resume[1] if self.epoch == self.resume[0] else 0
        for start, stop in zip(cuts[first:], [*cuts[1:], len(order)][first:], strict=True):
            batch = order[start:stop]
            share = batch[self.rank :: self.n_ranks]
            yield (share, np.ones(len(share))) if len(share) else (batch[:1], np.zeros(1))
