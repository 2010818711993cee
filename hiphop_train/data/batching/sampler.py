"""Composition and order of the batches, and the share of each process."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import SequentialSampler

from hiphop_train.data.batching.dataset import Share
from hiphop_train.data.structures import Structures

Measure = Literal["structures", "atoms", "pairs"]
"""Unit of the size of a batch."""


def costs(structures: Structures, index: NDArray[np.int64], measure: Measure, cutoff: float) -> NDArray[np.float64]:
    """Cost of each structure (n,), of which the size of a batch is the sum.

    Pairs are estimated without a search: as n (n - 1) ordered pairs of n atoms, which is exact for molecules smaller
    than the cutoff, and in periodic systems from the mean number of atoms in a sphere around each.

    Parameters
    ----------
    structures, index : a data set, and indices of structures (n,)
    measure : unit of the cost
    cutoff : Angstrom
    """
    if measure == "structures":
        return np.ones(len(index))
    n_atoms = (structures.offsets[index + 1] - structures.offsets[index]).astype(np.float64)
    if measure == "atoms":
        return n_atoms
    pairs = n_atoms * (n_atoms - 1)
    periodic = np.flatnonzero(structures.pbc[index].all(axis=1))
    volume = np.abs(np.linalg.det(structures.cell[index[periodic]]))
    pairs[periodic] = n_atoms[periodic] ** 2 / volume * (4 / 3 * math.pi * cutoff**3)
    return pairs


class BatchSampler(SequentialSampler):
    """Order of the structures as a pure function of seed and epoch, and each rank's share of every batch.

    Every structure appears once per epoch, and all epochs have the same number of batches. A random order is cut where
    the cost reaches the size of a batch: batches cost `batch_size` on average, and exceed it by at most one structure.
    With `bucket` > 1 the random order is first sorted by size within windows of that many batches, alternately
    ascending and descending, and the batches are shuffled after the cut: structures of similar size are then batched
    together, while batches come in random order. Since numbers of structures and atoms then differ between batches,
    each batch carries their ratios to the mean over batches; losses, which are means over a batch, are multiplied by
    them, so that over an epoch all structures and atoms have equal weight.

    A batch does not depend on the number of ranks; they divide it. A rank without a share gets one structure of weight
    zero, so that all ranks make the same number of steps.

    It derives from `SequentialSampler` only because Lightning's overfit_batches would replace any other sampler.

    Parameters
    ----------
    index : (n,) structures to iterate over
    batch_size : cost per batch, over all ranks
    seed : of the order; None keeps the given order, without buckets
    rank, n_ranks : rank of this process and number of ranks
    cost : (n,) of each structure; 1 by default
    n_atoms : (n,) of each structure; needed with `cost` or `bucket`
    bucket : number of batches whose structures are sorted together
    n_pool, n_drawn : the last `n_pool` of `index` are a pool from which each epoch draws `n_drawn`, by its number
    """

    def __init__(
        self,
        index: NDArray[np.int64],
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        n_ranks: int = 1,
        cost: NDArray[np.float64] | None = None,
        n_atoms: NDArray[np.int64] | None = None,
        bucket: int = 1,
        n_pool: int = 0,
        n_drawn: int = 0,
    ) -> None:
        super().__init__(index)
        self.index = index
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.n_ranks = n_ranks
        self.cost = cost
        self.n_atoms = n_atoms
        self.bucket = bucket
        self.epoch = 0
        self.start = 0
        self.n_own, self.n_drawn = len(index) - n_pool, n_drawn
        n = self.n_own + n_drawn
        total = n if cost is None else cost[: self.n_own].sum() + n_drawn * (cost[self.n_own :].mean() if n_pool else 0)
        self.n_batches = min(n, math.ceil(total / batch_size))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next order (called by Lightning)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Share]:  # type: ignore[override]
        """Yield the shares of an epoch's batches, from batch `start` on."""
        order = self._members()
        numbers = np.arange(self.n_batches)
        if self.seed is not None:
            random = np.random.default_rng([self.seed, self.epoch])
            order = random.permutation(order)
            if self.bucket > 1:
                order = self._sorted_in_windows(order)
                random.shuffle(numbers)
        n_atoms = None if self.n_atoms is None else float(self.n_atoms[order].sum())
        ends = self._cut(order)
        starts = np.concatenate([[0], ends[:-1]])
        for number in numbers[self.start :].tolist():
            members = order[starts[number] : ends[number]]
            if self.seed is not None:
                members.sort()  # neighbours in the file are read together
            batch = self.index[members]
            share = batch[self.rank :: self.n_ranks]
            scales = self._scales(members, len(order), n_atoms)
            if len(share):
                yield Share(share, np.ones(len(share)), *scales)
            else:
                yield Share(batch[:1], np.zeros(1), *scales)

    def _members(self) -> NDArray[Any]:
        """Positions in `index` of the structures of the epoch, ascending."""
        own = np.arange(self.n_own, dtype=np.int32 if len(self.index) < 2**31 else np.int64)  # half the memory
        if not self.n_drawn:
            return own
        random = np.random.default_rng([0 if self.seed is None else self.seed, self.epoch, 1])
        pool = np.arange(self.n_own, len(self.index), dtype=own.dtype)
        return np.concatenate([own, np.sort(random.choice(pool, self.n_drawn, replace=False))])

    def _sorted_in_windows(self, order: NDArray[Any]) -> NDArray[Any]:
        """Sort a random order by size within windows, stably."""
        assert self.n_atoms is not None
        window = -(-self.bucket * len(order) // max(1, self.n_batches))
        number = np.arange(len(order)) // window
        size = self.n_atoms[order]
        rising = np.where(number % 2 == 0, size, -size)
        by_size: NDArray[Any] = order[np.lexsort((rising, number))]
        return by_size

    def _cut(self, order: NDArray[Any]) -> NDArray[np.int64]:
        """End of each batch (n_batches,); none is empty."""
        n, n_batches = len(order), self.n_batches
        if self.cost is None:
            ends: NDArray[np.int64] = np.minimum(np.arange(1, n_batches + 1) * self.batch_size, n)
            return ends
        total = np.cumsum(self.cost[order])
        shares = np.arange(1, n_batches + 1) * (total[-1] / n_batches) if n else np.zeros(0)
        ends = (
            np.searchsorted(total, shares * (1 - 1e-12), side="left").astype(np.int64) + 1
        )  # including the structure that reaches the size
        number = np.arange(1, n_batches + 1)
        ends = np.maximum.accumulate(ends - number) + number  # at least one structure each
        ends = np.minimum(ends, n - n_batches + number)  # and one left for each later batch
        if n:
            ends[-1] = n
        return ends

    def _scales(self, members: NDArray[Any], n_structures: int, n_atoms: float | None) -> tuple[float, float]:
        """Numbers of structures and atoms in a batch, relative to the mean over batches; 1 if batches are equal."""
        if self.n_atoms is None or n_atoms is None or (self.cost is None and self.bucket == 1):
            return 1.0, 1.0
        n_here = float(self.n_atoms[members].sum())
        return len(members) / (n_structures / self.n_batches), n_here / (n_atoms / self.n_batches)
