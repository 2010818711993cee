"""Which structures come together, in which order, and which process takes which."""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import SequentialSampler

from hiphop_train.data.batching.dataset import Share
from hiphop_train.data.structures import Structures

Measure = Literal["structures", "atoms", "pairs"]
"""What the size of a batch counts."""


def costs(structures: Structures, index: NDArray[np.int64], measure: Measure, cutoff: float) -> NDArray[np.float64]:
    """What each structure (n,) counts in the size of a batch.

    Pairs are estimated, without a search: as n (n - 1) ordered pairs of n atoms, which is exact for molecules that are
    smaller than the cutoff, and in periodic systems as the mean number of atoms in a sphere around each.

    Parameters
    ----------
    structures, index : a data set, and which of its structures, (n,)
    measure : what is counted
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

    Every structure comes once in an epoch, and all epochs have the same number of batches. The order is a random one,
    cut where the cost reaches the size of a batch: a batch costs `batch_size` in the mean, and never more than one
    structure above it. With `bucket` > 1 the random order is first sorted by size within windows of so many batches,
    upwards and downwards in turns, and the batches are shuffled after the cut: structures of like sizes then come
    together, in a random order of sizes. As batches then differ in what they hold, each carries how its numbers of
    structures and atoms compare with those of a mean batch; losses, which are means over a batch, are multiplied by
    it, so that over an epoch every structure and every atom counts the same in whatever batch it comes.

    A batch is the same whatever the number of ranks; they divide it. A rank without a share gets one structure of
    weight zero, so that all ranks make the same number of steps.

    It is a `SequentialSampler` for Lightning only, which with overfit_batches puts one in the place of any other.

    Parameters
    ----------
    index : (n,) structures to go through
    batch_size : cost per batch, over all ranks
    seed : of the order; None keeps the given order, without buckets
    rank, n_ranks : this process and how many there are
    cost : (n,) what each structure counts; 1 by default
    n_atoms : (n,) of each structure; needed with `cost` or `bucket`
    bucket : number of batches whose structures are sorted together
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
        self._total_atoms = 0.0 if n_atoms is None else float(n_atoms.sum())
        total = len(index) if cost is None else cost.sum()
        self.n_batches = min(len(index), math.ceil(total / batch_size))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Share]:  # type: ignore[override]
        """Go through the shares of an epoch's batches, from number `start` on."""
        order = np.arange(len(self.index))
        numbers = np.arange(self.n_batches)
        if self.seed is not None:
            random = np.random.default_rng([self.seed, self.epoch])
            order = random.permutation(len(self.index))
            if self.bucket > 1:
                order = self._sorted_in_windows(order)
                random.shuffle(numbers)
        ends = self._cut(order)
        starts = np.concatenate([[0], ends[:-1]])
        for number in numbers[self.start :].tolist():
            members = order[starts[number] : ends[number]]
            if self.seed is not None:
                members.sort()  # neighbours in the file are read together
            batch = self.index[members]
            share = batch[self.rank :: self.n_ranks]
            scales = self._scales(members)
            if len(share):
                yield Share(share, np.ones(len(share)), *scales)
            else:
                yield Share(batch[:1], np.zeros(1), *scales)

    def _sorted_in_windows(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort a random order by size, within windows; of like sizes the random order stays."""
        assert self.n_atoms is not None
        window = -(-self.bucket * len(order) // max(1, self.n_batches))
        number = np.arange(len(order)) // window
        size = self.n_atoms[order]
        rising = np.where(number % 2 == 0, size, -size)
        by_size: NDArray[np.int64] = order[np.lexsort((rising, number))]
        return by_size

    def _cut(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each batch ends, (n_batches,); none is empty."""
        n, n_batches = len(order), self.n_batches
        if self.cost is None:
            ends: NDArray[np.int64] = np.minimum(np.arange(1, n_batches + 1) * self.batch_size, n)
            return ends
        total = np.cumsum(self.cost[order])
        shares = np.arange(1, n_batches + 1) * (total[-1] / n_batches) if n else np.zeros(0)
        ends = (
            np.searchsorted(total, shares * (1 - 1e-12), side="left").astype(np.int64) + 1
        )  # with the structure that reaches it
        number = np.arange(1, n_batches + 1)
        ends = np.maximum.accumulate(ends - number) + number  # at least one structure each
        ends = np.minimum(ends, n - n_batches + number)  # and for those that follow
        if n:
            ends[-1] = n
        return ends

    def _scales(self, members: NDArray[np.int64]) -> tuple[float, float]:
        """Numbers of structures and atoms in a batch, over those in a mean batch; 1 where batches are all alike."""
        if self.n_atoms is None or (self.cost is None and self.bucket == 1):
            return 1.0, 1.0
        n_atoms = float(self.n_atoms[members].sum())
        return len(members) / (len(self.index) / self.n_batches), n_atoms / (self._total_atoms / self.n_batches)
