"""Batches by a budget of atoms or pairs.

In training, structures are sorted by cost, those of equal cost in random order, and cut into buckets of as many
structures as there are batches; each bucket is dealt out at random, one structure to every batch (the bucket of the
cheapest may be incomplete). So every batch holds small and large structures in the same proportion, as many structures
as any other or one less, and costs what any other does, up to one structure. A structure's batch says nothing about its
size, and the number of batches is the same in every epoch. Batches of similar sizes only would not save anything, since
nothing is padded, and would weigh the structures by their size.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
BatchBy = Literal["structures", "atoms", "pairs"]
"""What the size of a batch counts."""


def costs(sizes: Integers, batch_by: BatchBy) -> Integers | None:
    """Cost of structures in what the batch size counts; None where it counts structures.

    Parameters
    ----------
    sizes : (n,) numbers of atoms
    batch_by : atoms; or pairs, taken as all of a structure, however far apart
    """
    if batch_by == "structures":
        return None
    return sizes if batch_by == "atoms" else np.maximum(1, sizes * (sizes - 1))


def n_batches(cost: Integers, budget: int) -> int:
    """Smallest number of batches none of which can exceed the budget.

    Where a structure costs more than half of the budget, a batch may hold half of the budget and that structure.
    """
    if len(cost) == 0:
        return 0
    mean = max(budget - int(cost.max()), budget // 2, 1)
    return min(len(cost), -(-int(cost.sum()) // mean))


def dealt(cost: Integers, budget: int, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Deal structures out to batches of equal cost.

    Returns
    -------
    order : (n,) places of the structures, batch after batch
    cuts : (n_batches,) where each batch starts
    """
    count = n_batches(cost, budget)
    order = rng.permutation(len(cost))
    order = order[np.argsort(cost[order], kind="stable")]
    n_buckets = -(-len(cost) // max(1, count))
    batch = rng.permuted(np.tile(np.arange(count), (n_buckets, 1)), axis=1).reshape(-1)
    batch = batch[len(batch) - len(cost) :]  # without the places that the first bucket has no structures for
    sizes = np.bincount(batch, minlength=count)
    return order[np.argsort(batch, kind="stable")], np.cumsum(sizes) - sizes


def in_order(cost: Integers, budget: int) -> Integers:
    """Cut structures into batches without changing their order (n_batches,): where each batch starts."""
    if len(cost) == 0:
        return np.zeros(0, np.int64)
    before = np.cumsum(cost) - cost
    mean = max(budget - int(cost.max()), budget // 2, 1)
    return np.flatnonzero(np.diff(before // mean, prepend=-1)).astype(np.int64)
