"""Tables in which the rows of one segment stand side by side, and products of them; TorchScript-safe.

With such tables sums over neighbours become batched matrix products. A table as wide as its longest line would be half
empty where crowded and lonely atoms meet; here lines of similar length stand together in blocks, each block as wide as
its own longest line.
"""

from typing import Any, List, Tuple

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.types import Blocks, Table


def lay_out(index: Tensor, n_segments: int, places: int = 4096, window: int = 4096) -> Table:
    """Give each row a place in a table.

    Parameters
    ----------
    index : (n_rows,) int64, in [0, n_segments): segment of each row
    n_segments : number of lines
    places : in a block, about; large enough that a product takes longer than its call, small enough to waste little
    window : lines that are sorted by length among themselves; beyond that, what is near in the given order stays near
    """
    counts = torch.bincount(index, minlength=n_segments)
    n_rows = index.shape[0]
    height = max(1, min(window, places * n_segments // max(n_rows, 1)))  # lines in a block
    window = window // height * height
    number = torch.arange(n_segments, device=index.device)
    line = torch.argsort(torch.div(number, window, rounding_mode="floor") * (n_rows + 1) - counts, stable=True)
    segment_line = torch.empty_like(line).scatter(0, line, number)
    width = counts.index_select(0, line[::height])  # the first line of a block is its longest
    block = torch.div(number, height, rounding_mode="floor")
    length = width.index_select(0, block)
    line_slot = torch.cumsum(length, 0) - length  # where each line begins
    blocks: Blocks = []
    n_slots = 0
    widths: List[int] = width.tolist()
    for k, longest in enumerate(widths):
        n_lines = min(height, n_segments - k * height)
        blocks.append((k * height, n_lines, n_slots, longest))
        n_slots += n_lines * longest
    # where a segment's line begins in the table, against where its rows begin among all, sorted
    gap = line_slot.index_select(0, segment_line) - (torch.cumsum(counts, 0) - counts)
    rank = torch.arange(n_rows, device=index.device)
    if bool((index[1:] >= index[:-1]).all()):  # receivers are; sorting takes its time
        slot = rank + gap.index_select(0, index)
    else:
        order = torch.argsort(index.to(torch.int32), stable=True)  # in half the time
        slot = torch.empty_like(index).scatter(0, order, rank + gap.index_select(0, index.index_select(0, order)))
    return Table(slot, n_slots, line, segment_line, blocks)


def fill(values: Tensor, table: Table, empty: float = 0.0) -> Tensor:
    """Lay rows out in a table.

    Parameters
    ----------
    values : (n_rows, n_columns)
    empty : what stands where no row is

    Returns
    -------
    filled : (n_slots, n_columns)
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        filled = torch.full((table.n_slots, values.shape[1]), empty, dtype=values.dtype, device=values.device)
        return filled.index_copy(0, table.slot, values)
    table_of_rows: Tensor = _fill(values, table.slot, table.n_slots, empty)
    return table_of_rows


def rows_of_products(left: Tensor, right: Tensor, blocks: Blocks) -> Tensor:
    """Multiply each row with the matrix of its line.

    Parameters
    ----------
    left : (n_slots, k)
    right : (n_lines, k, n)

    Returns
    -------
    rows : (n_slots, n)
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        found: List[Tensor] = []
        of_rows, of_lines = split_sizes(blocks)
        for block, a, b in zip(blocks, torch.split(left, of_rows), torch.split(right, of_lines)):
            found.append(torch.bmm(a.reshape(block[1], block[3], left.shape[1]), b).flatten(0, 1))
        return torch.cat(found) if len(found) > 0 else left.new_zeros((0, right.shape[2]))
    rows: Tensor = _rows(left, right, blocks)
    return rows


def sums_of_products(left: Tensor, right: Tensor, blocks: Blocks) -> Tensor:
    """Multiply the rows of two tables and sum over each line.

    Parameters
    ----------
    left : (n_slots, k)
    right : (n_slots, n)

    Returns
    -------
    sums : (n_lines, k, n), in memory (k, n_lines, n)
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        found: List[Tensor] = []
        of_rows, _ = split_sizes(blocks)
        for block, a, b in zip(blocks, torch.split(left, of_rows), torch.split(right, of_rows)):
            transposed = a.reshape(block[1], block[3], left.shape[1]).transpose(1, 2)
            found.append(torch.bmm(transposed, b.reshape(block[1], block[3], right.shape[1])))
        return torch.cat(found) if len(found) > 0 else left.new_zeros((0, left.shape[1], right.shape[1]))
    sums: Tensor = _sums(left, right, blocks, True)
    return sums


def split_sizes(blocks: Blocks) -> Tuple[List[int], List[int]]:
    """Return the numbers of places and of lines of the blocks."""
    return [block[1] * block[3] for block in blocks], [block[1] for block in blocks]


def multiply_rows(left: Tensor, right: Tensor, blocks: Blocks, out: Tensor, add: bool = False) -> Tensor:
    """Do as `rows_of_products` without derivatives, into a given table (n_slots, n), or adding to it."""
    k, n = right.shape[1:]
    for line, n_lines, slot, width in blocks:
        places = slice(slot, slot + n_lines * width)
        target = out[places].view(n_lines, width, n)
        a, b = left[places].view(n_lines, width, k), right[line : line + n_lines]
        if add:
            target.baddbmm_(a, b)
        else:
            torch.bmm(a, b, out=target)
    return out


def multiply_sums(left: Tensor, right: Tensor, blocks: Blocks, out: Tensor) -> Tensor:
    """Do as `sums_of_products` without derivatives, into a given tensor (n_lines, k, n)."""
    k, n = left.shape[1], right.shape[1]
    for line, n_lines, slot, width in blocks:
        places = slice(slot, slot + n_lines * width)
        transposed = left[places].view(n_lines, width, k).transpose(1, 2)
        target, b = out[line : line + n_lines], right[places].view(n_lines, width, n)
        if target.is_contiguous():
            torch.bmm(transposed, b, out=target)
        else:
            target.copy_(torch.bmm(transposed, b, out=b.new_empty(target.shape)))  # autocast leaves `out` alone
    return out


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _fill(values: Tensor, slot: Tensor, n_slots: int, empty: float) -> Tensor:
    filled: Tensor = _Fill.apply(values, slot, n_slots, empty)  # type: ignore[no-untyped-call]
    return filled


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _rows(left: Tensor, right: Tensor, blocks: Blocks) -> Tensor:
    rows: Tensor = _Rows.apply(left, right, blocks)  # type: ignore[no-untyped-call]
    return rows


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _sums(left: Tensor, right: Tensor, blocks: Blocks, column_first: bool) -> Tensor:
    sums: Tensor = _Sums.apply(left, right, blocks, column_first)  # type: ignore[no-untyped-call]
    return sums


def _sums_like(matrices: Tensor, left: Tensor, right: Tensor, blocks: Blocks) -> Tensor:
    """Sum in the order in memory of other matrices, to which the sums will be added."""
    if matrices.stride(2) != 1:
        return _sums_like(matrices.transpose(1, 2), right, left, blocks).transpose(1, 2)
    sums: Tensor = _sums(left, right, blocks, matrices.stride(0) < matrices.stride(1))
    return sums


class _Fill(Function):
    """Rows into a table; the derivative takes them out again. Autograd's own copies the table once more."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slot: Tensor, n_slots: int, empty: float) -> Tensor:
        ctx.save_for_backward(slot)
        return values.new_full((n_slots, values.shape[1]), empty).index_copy_(0, slot, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None, None, None]:
        (slot,) = ctx.saved_tensors
        taken: Tensor = _Take.apply(gradient, slot)  # type: ignore[no-untyped-call]
        return taken, None, None, None


class _Take(Function):
    """Rows out of a table; the derivative lays them out."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.n_slots = len(table)
        return table.index_select(0, slot)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None]:
        (slot,) = ctx.saved_tensors
        table: Tensor = _Fill.apply(gradient, slot, ctx.n_slots, 0.0)  # type: ignore[no-untyped-call]
        return table, None


class _Rows(Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, blocks: Blocks) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.blocks = blocks
        return multiply_rows(left.contiguous(), right, blocks, left.new_empty((len(left), right.shape[2])))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor | None, Tensor | None, None]:
        left, right = ctx.saved_tensors
        of_left, of_right = ctx.needs_input_grad[:2]
        return (
            _rows(gradient, right.transpose(1, 2), ctx.blocks) if of_left else None,
            _sums_like(right, left, gradient, ctx.blocks) if of_right else None,
            None,
        )


class _Sums(Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, blocks: Blocks, column_first: bool) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.blocks = blocks
        n_lines = sum(split_sizes(blocks)[1])
        if column_first:
            out = left.new_empty((left.shape[1], n_lines, right.shape[1])).transpose(0, 1)
        else:
            out = left.new_empty((n_lines, left.shape[1], right.shape[1]))
        return multiply_sums(left.contiguous(), right.contiguous(), blocks, out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor | None, Tensor | None, None, None]:
        left, right = ctx.saved_tensors
        of_left, of_right = ctx.needs_input_grad[:2]
        return (
            _rows(right, gradient.transpose(1, 2), ctx.blocks) if of_left else None,
            _rows(left, gradient, ctx.blocks) if of_right else None,
            None,
            None,
        )
