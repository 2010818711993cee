"""Structures that a model was trained on before, beside those of the present training."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures, concatenate

LARGEST_POOL = 200_000
"""Old structures from which those of an epoch are drawn; held in memory."""

LARGEST_VALIDATION = 1_000
"""Old structures on which knowledge is watched."""


def spaced(index: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return an evenly spaced part of indices that has at most so many."""
    return index[:: max(1, -(-len(index) // most))]


@dataclass(frozen=True, eq=False)
class OldData:
    """What a training still has of the data before.

    Attributes
    ----------
    name : of the data
    validation : structures on which knowledge is watched
    pool : structures of which some are drawn for each epoch
    share : of them in an epoch; 0 for none
    """

    name: str
    validation: Structures
    pool: Structures
    share: float

    def n_replayed(self, n_train: int) -> int:
        """Return how many are drawn for an epoch with so many new structures."""
        return min(len(self.pool), round(self.share / (1 - self.share) * n_train))

    def behind(self, structures: Structures) -> Structures:
        """Return the structures with the pool behind them."""
        return concatenate([structures, self.pool], structures.source)
