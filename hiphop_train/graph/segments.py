"""Sums over groups of rows; TorchScript-safe."""

import torch
from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, n_segments: int) -> Tensor:
    """Sum rows that share an index.

    Parameters
    ----------
    values : (n_rows, ...)
    index : (n_rows,) int64, in [0, n_segments)
    n_segments : number of sums

    Returns
    -------
    sums : (n_segments, ...)
    """
    shape = [n_segments] + list(values.shape[1:])
    return torch.zeros(shape, dtype=values.dtype, device=values.device).index_add(0, index, values)


def segment_sum_of_columns(values: Tensor, index: Tensor, n_segments: int) -> Tensor:
    """Sum columns that share an index.

    Parameters
    ----------
    values : (n_rows, n_columns)
    index : (n_columns,) int64, in [0, n_segments)
    n_segments : number of sums

    Returns
    -------
    sums : (n_rows, n_segments)
    """
    return torch.zeros((values.shape[0], n_segments), dtype=values.dtype, device=values.device).index_add(
        1, index, values
    )
