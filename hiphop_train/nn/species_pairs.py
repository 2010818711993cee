"""Numbers of unordered pairs of species, by which angular functions are sorted into channels."""

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
