"""Sums over groups of rows, and tables in which the rows of one group stand side by side; TorchScript-safe."""

from typing import Tuple

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


def table_slots(index: Tensor, n_segments: int) -> Tuple[Tensor, int]:
    """Give each row a place in a table with one line per segment, as wide as the largest segment.

    With such a table a sum over neighbours becomes a batched matrix product.

    Parameters
    ----------
    index : (n_rows,) int64, in [0, n_segments)
    n_segments : number of lines

    Returns
    -------
    slot : (n_rows,) int64, place in the flattened table of n_segments x width places, all different
    width : number of places in a line
    """
    counts = torch.bincount(index, minlength=n_segments)
    width = int(counts.max()) if n_segments > 0 else 0
    order = torch.argsort(index, stable=True)
    line = index[order]
    first = (torch.cumsum(counts, 0) - counts)[line]
    place = torch.arange(index.shape[0], device=index.device) - first
    slot = torch.empty_like(index)
    slot[order] = line * width + place
    return slot, width


def fill_table(values: Tensor, slot: Tensor, n_segments: int, width: int) -> Tensor:
    """Lay rows out in a table, zero where no row is.

    Parameters
    ----------
    values : (n_rows, n_columns)
    slot, width : from `table_slots`

    Returns
    -------
    table : (n_segments, width, n_columns)
    """
    empty = torch.zeros((n_segments * width, values.shape[1]), dtype=values.dtype, device=values.device)
    return empty.index_copy(0, slot, values).reshape(n_segments, width, values.shape[1])
