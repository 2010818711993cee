"""Channels of symmetry functions: one per species of a neighbour, or per unordered pair of species of two."""

from typing import List

import torch
from torch import Tensor


def species_pair_index(n_types: int) -> Tensor:
    """Number the unordered pairs of species as (0, 0), (0, 1), ... (0, n - 1), (1, 1), ...

    Parameters
    ----------
    n_types : number of species

    Returns
    -------
    index : (n_types, n_types) int64, symmetric, from 0 to n_types (n_types + 1) / 2 - 1
    """
    first, second = torch.triu_indices(n_types, n_types).unbind()
    index = torch.zeros((n_types, n_types), dtype=torch.int64)
    index[first, second] = torch.arange(first.shape[0])
    index[second, first] = torch.arange(first.shape[0])
    return index


def functions_of_features(n_types: int, n_radial: int, n_angular: int) -> List[int]:
    """Return the index of the function behind each feature, for features ordered by channel.

    Parameters
    ----------
    n_types : number of species
    n_radial, n_angular : functions per channel of one species (first), and of a pair of species

    Returns
    -------
    functions : (n_features,), from 0 to n_radial + n_angular - 1
    """
    radial = list(range(n_radial)) * n_types
    angular = list(range(n_radial, n_radial + n_angular)) * (n_types * (n_types + 1) // 2)
    return radial + angular


def kept_features(n_before: int, n_types: int, n_radial: int, n_angular: int) -> List[int]:
    """Return the index of each feature after further species were added behind the present ones.

    Parameters
    ----------
    n_before, n_types : number of species before and after
    n_radial, n_angular : functions per channel of one species, and of a pair of species

    Returns
    -------
    index : of each feature of `n_before` species among those of `n_types`
    """
    kept = list(range(n_before * n_radial))
    pairs = species_pair_index(n_types)[:n_before, :n_before]
    for first in range(n_before):
        for second in range(first, n_before):
            start = n_types * n_radial + int(pairs[first, second]) * n_angular
            kept += range(start, start + n_angular)
    return kept
