"""Bucketed neighbour tables, and products of them.

A table has one row per segment (a receiving atom, say), so that sums over segments become batched matrix products.
If all rows were as wide as the longest, half of a table could be empty; here rows of similar length form contiguous
blocks, each as wide as its longest row.
"""

from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.types import ON_HOST

Blocks = List[Tuple[int, int, int, int]]
"""For each block of a table: first row, number of rows, first entry, entries per row."""


class Table(NamedTuple):
    """Positions of values in a table with one row per segment."""

    entry: Tensor
    """(n_values,) int64: entry of each value, all different."""
    n_entries: int
    segment: Tensor
    """(n_segments,) int64: segment of each row."""
    row: Tensor
    """(n_segments,) int64: row of each segment."""
    blocks: Blocks


def to_extras(name: str, table: Table) -> Dict[str, Tensor]:
    """Return a table as extras of a graph."""
    tensors = {f"{name}.entry": table.entry, f"{name}.segment": table.segment, f"{name}.row": table.row}
    return {**tensors, f"{ON_HOST}{name}.blocks": torch.tensor(table.blocks, dtype=torch.int64).reshape(-1, 4)}


def from_extras(name: str, extras: Dict[str, Tensor]) -> Table:
    """Return the table that `to_extras` stored."""
    blocks: Blocks = [tuple(block) for block in extras[f"{ON_HOST}{name}.blocks"].tolist()]
    n_entries = sum(n_rows * width for _, n_rows, _, width in blocks)
    tensors = [extras[f"{name}.{field}"] for field in ("entry", "segment", "row")]
    return Table(tensors[0], n_entries, tensors[1], tensors[2], blocks)


def make_table(index: Tensor, n_segments: int, entries: int = 4096, window: int = 4096) -> Table:
    """Assign an entry of a table to each value; TorchScript-safe.

    Parameters
    ----------
    index : (n_values,) int64, in [0, n_segments): segment of each value
    n_segments : number of rows
    entries : approximate number per block; large enough to amortise the call of a product, small enough to leave few
        entries empty
    window : rows are sorted by length within windows of this size, so that neighbours in the given order stay close
    """
    counts = torch.bincount(index, minlength=n_segments)
    n_values = index.shape[0]
    height = max(1, min(window, entries * n_segments // max(n_values, 1)))  # rows in a block
    window = window // height * height
    number = torch.arange(n_segments, device=index.device)
    segment = torch.argsort(torch.div(number, window, rounding_mode="floor") * (n_values + 1) - counts, stable=True)
    row = torch.empty_like(segment).scatter(0, segment, number)
    width = counts.index_select(0, segment[::height])  # the first row of a block is its longest
    block = torch.div(number, height, rounding_mode="floor")
    length = width.index_select(0, block)
    row_start = torch.cumsum(length, 0) - length  # first entry of each row
    blocks: List[Tuple[int, int, int, int]] = []
    n_entries = 0
    widths: List[int] = width.tolist()
    for k, longest in enumerate(widths):
        n_rows = min(height, n_segments - k * height)
        blocks.append((k * height, n_rows, n_entries, longest))
        n_entries += n_rows * longest
    # first entry of a segment's row, relative to its first value when all are sorted
    gap = row_start.index_select(0, row) - (torch.cumsum(counts, 0) - counts)
    rank = torch.arange(n_values, device=index.device)
    if bool((index[1:] >= index[:-1]).all()):  # true of receivers; sorting is slow
        entry = rank + gap.index_select(0, index)
    else:
        order = torch.argsort(index.to(torch.int32), stable=True)  # int32 takes half the time
        entry = torch.empty_like(index).scatter(0, order, rank + gap.index_select(0, index.index_select(0, order)))
    return Table(entry, n_entries, segment, row, blocks)


def fill(values: Tensor, table: Table, empty: float = 0.0) -> Tensor:
    """Write values (n_values, n_columns) to their entries of a table (n_entries, n_columns), `empty` elsewhere."""
    filled: Tensor = _Fill.apply(values, table.entry, table.n_entries, empty)  # type: ignore[no-untyped-call]
    return filled


def rows_of_products(left: Tensor, right: Tensor, blocks: Blocks) -> Tensor:
    """Multiply each entry by the matrix of its row.

    Parameters
    ----------
    left : (n_entries, k)
    right : (n_rows, k, n)

    Returns
    -------
    products : (n_entries, n)
    """
    products: Tensor = _Rows.apply(left, right, blocks)  # type: ignore[no-untyped-call]
    return products


def sums_of_products(left: Tensor, right: Tensor, blocks: Blocks, column_first: bool = True) -> Tensor:
    """Multiply the entries of two tables, and sum over each row.

    Parameters
    ----------
    left : (n_entries, k)
    right : (n_entries, n)
    column_first : whether memory is laid out as (k, n_rows, n)

    Returns
    -------
    sums : (n_rows, k, n)
    """
    sums: Tensor = _Sums.apply(left, right, blocks, column_first)  # type: ignore[no-untyped-call]
    return sums


def split_sizes(blocks: List[Tuple[int, int, int, int]]) -> Tuple[List[int], List[int]]:
    """Return the numbers of entries and of rows of the blocks."""
    return [block[1] * block[3] for block in blocks], [block[1] for block in blocks]


def multiply_rows(left: Tensor, right: Tensor, blocks: Blocks, out: Tensor, add: bool = False) -> Tensor:
    """Compute `rows_of_products` without derivatives, writing or adding to `out` (n_entries, n)."""
    k, n = right.shape[1:]
    for row, n_rows, start, width in blocks:
        entries = slice(start, start + n_rows * width)
        target = out[entries].view(n_rows, width, n)
        a, b = left[entries].view(n_rows, width, k), right[row : row + n_rows]
        if add:
            target.baddbmm_(a, b)
        else:
            torch.bmm(a, b, out=target)
    return out


def multiply_sums(left: Tensor, right: Tensor, blocks: Blocks, out: Tensor) -> Tensor:
    """Compute `sums_of_products` without derivatives, writing to `out` (n_rows, k, n)."""
    k, n = left.shape[1], right.shape[1]
    for row, n_rows, start, width in blocks:
        entries = slice(start, start + n_rows * width)
        transposed = left[entries].view(n_rows, width, k).transpose(1, 2)
        target, b = out[row : row + n_rows], right[entries].view(n_rows, width, n)
        if target.is_contiguous():
            torch.bmm(transposed, b, out=target)
        else:
            target.copy_(torch.bmm(transposed, b, out=b.new_empty(target.shape)))  # not autocast, due to `out`
    return out


def _sums_like(matrices: Tensor, left: Tensor, right: Tensor, blocks: Blocks) -> Tensor:
    """Compute sums in the memory layout of `matrices`, to whose gradient they are added."""
    if matrices.stride(2) != 1:
        return _sums_like(matrices.transpose(1, 2), right, left, blocks).transpose(1, 2)
    return sums_of_products(left, right, blocks, matrices.stride(0) < matrices.stride(1))


class _Fill(Function):
    """Write values to their entries; the derivative gathers them. Autograd would copy the table once more."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, entry: Tensor, n_entries: int, empty: float) -> Tensor:
        ctx.save_for_backward(entry)
        return values.new_full((n_entries, values.shape[1]), empty).index_copy_(0, entry, values)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor, None, None, None]:
        (entry,) = ctx.saved_tensors
        grad_values: Tensor = _Take.apply(grad_output, entry)  # type: ignore[no-untyped-call]
        return grad_values, None, None, None


class _Take(Function):
    """Gather values from their entries; the derivative fills a table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, entry: Tensor) -> Tensor:
        ctx.save_for_backward(entry)
        ctx.n_entries = len(table)
        return table.index_select(0, entry)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor, None]:
        (entry,) = ctx.saved_tensors
        grad_table: Tensor = _Fill.apply(grad_output, entry, ctx.n_entries, 0.0)  # type: ignore[no-untyped-call]
        return grad_table, None


class _Rows(Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, blocks: Blocks) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.blocks = blocks
        return multiply_rows(left.contiguous(), right, blocks, left.new_empty((len(left), right.shape[2])))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor | None, Tensor | None, None]:
        left, right = ctx.saved_tensors
        needs_left, needs_right = ctx.needs_input_grad[:2]
        return (
            rows_of_products(grad_output, right.transpose(1, 2), ctx.blocks) if needs_left else None,
            _sums_like(right, left, grad_output, ctx.blocks) if needs_right else None,
            None,
        )


class _Sums(Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, blocks: Blocks, column_first: bool) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.blocks = blocks
        n_rows = sum(split_sizes(blocks)[1])
        if column_first:
            out = left.new_empty((left.shape[1], n_rows, right.shape[1])).transpose(0, 1)
        else:
            out = left.new_empty((n_rows, left.shape[1], right.shape[1]))
        return multiply_sums(left.contiguous(), right.contiguous(), blocks, out)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor | None, Tensor | None, None, None]:
        left, right = ctx.saved_tensors
        needs_left, needs_right = ctx.needs_input_grad[:2]
        return (
            rows_of_products(right, grad_output.transpose(1, 2), ctx.blocks) if needs_left else None,
            rows_of_products(left, grad_output, ctx.blocks) if needs_right else None,
            None,
            None,
        )
