"""Sums over groups of rows, and tables in which the rows of one group stand side by side; TorchScript-safe."""

from typing import Any, Tuple

import torch
from torch import Tensor
from torch.autograd import Function


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
    # where the rows of a segment begin among all, against where its line begins in the table
    gap = torch.arange(n_segments, device=index.device) * width - (torch.cumsum(counts, 0) - counts)
    number = torch.arange(index.shape[0], device=index.device)
    if bool((index[1:] >= index[:-1]).all()):  # receivers are; sorting takes its time
        return number + gap.index_select(0, index), width
    order = torch.argsort(index, stable=True)
    slot = torch.empty_like(index)
    slot[order] = number + gap.index_select(0, index.index_select(0, order))
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
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        empty = torch.zeros((n_segments * width, values.shape[1]), dtype=values.dtype, device=values.device)
        return empty.index_copy(0, slot, values).reshape(n_segments, width, values.shape[1])
    table: Tensor = _lay_out(values, slot, n_segments * width)
    return table.reshape(n_segments, width, values.shape[1])


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _lay_out(values: Tensor, slot: Tensor, n_slots: int) -> Tensor:
    table: Tensor = _LayOut.apply(values, slot, n_slots)  # type: ignore[no-untyped-call]
    return table


class _LayOut(Function):
    """Rows into a table; the derivative takes them out again. Autograd's own copies the table once more."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slot: Tensor, n_slots: int) -> Tensor:
        ctx.save_for_backward(slot)
        return values.new_zeros((n_slots, values.shape[1])).index_copy_(0, slot, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slot,) = ctx.saved_tensors
        taken: Tensor = _Take.apply(gradient, slot)  # type: ignore[no-untyped-call]
        return taken, None, None


class _Take(Function):
    """Rows out of a table; the derivative lays them out."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.n_slots = len(table)
        return table.index_select(0, slot)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slot,) = ctx.saved_tensors
        table: Tensor = _LayOut.apply(gradient, slot, ctx.n_slots)  # type: ignore[no-untyped-call]
        return table, None
