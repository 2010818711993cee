"""Tables hold each value once; products of them do what loops over the segments would, and so do their derivatives."""

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate.tables import (
    Table,
    fill,
    from_extras,
    make_table,
    rows_of_products,
    sums_of_products,
    to_extras,
)

CASES = {
    "unsorted, with empty segments": ([4, 0, 4, 2, 2, 4, 0], 6),
    "sorted": ([0, 0, 1, 2, 2, 2], 3),
    "one segment": ([0, 0, 0], 1),
    "no rows": ([], 3),
    "no segments": ([], 0),
    "many of very different sizes": ([k for k in range(40) for _ in range(k * k % 17)], 41),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def index(request: pytest.FixtureRequest) -> tuple[Tensor, int]:
    rows, n_segments = request.param
    return torch.tensor(rows, dtype=torch.int64), n_segments


@pytest.fixture(params=[4096, 8, 1], ids=lambda entries: f"{entries} entries")
def table(request: pytest.FixtureRequest, index: tuple[Tensor, int]) -> Table:
    return make_table(*index, entries=request.param, window=16)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_each_value_is_in_the_row_of_its_segment(index: tuple[Tensor, int], table: Table) -> None:
    rows, n_segments = index
    assert len(set(table.entry.tolist())) == len(rows)
    assert sorted(table.segment.tolist()) == list(range(n_segments))
    assert torch.equal(table.row[table.segment], torch.arange(n_segments))
    row_of_entry: dict[int, int] = {}
    for first, n_rows, entry, width in table.blocks:
        for k in range(n_rows * width):
            row_of_entry[entry + k] = first + k // width
    assert sorted(row_of_entry) == list(range(table.n_entries))
    assert [row_of_entry[k] for k in table.entry.tolist()] == table.row[rows].tolist()


def test_blocks_are_as_wide_as_their_longest_row(index: tuple[Tensor, int], table: Table) -> None:
    rows, n_segments = index
    counts = torch.bincount(rows, minlength=n_segments)[table.segment].tolist()
    assert [width for *_, width in table.blocks] == [max(counts[a : a + n]) for a, n, *_ in table.blocks]
    assert sum(n for _, n, *_ in table.blocks) == n_segments


def test_sorting_leaves_little_empty() -> None:
    """Of 500 atoms with 20 to 140 neighbours a plain table would be nearly half empty."""
    counts = torch.randint(20, 141, (500,), generator=torch.Generator().manual_seed(0))
    table = make_table(torch.repeat_interleave(torch.arange(500), counts), 500)
    assert 500 * int(counts.max()) > 1.6 * int(counts.sum())
    assert table.n_entries < 1.1 * int(counts.sum())


def test_sorted_values_need_no_sorting() -> None:
    """The shortcut gives the entries that sorting gives."""
    index = torch.tensor([0, 0, 2, 2, 2, 3])
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    table, shuffled = make_table(index, 5), make_table(index[order], 5)
    assert sorted(shuffled.entry.tolist()) == sorted(table.entry.tolist())
    assert shuffled.blocks == table.blocks
    row = torch.div(shuffled.entry, table.blocks[0][3], rounding_mode="floor")
    assert torch.equal(row, shuffled.row[index[order]])


def test_filled_table_holds_each_value_and_the_given_one_elsewhere(index: tuple[Tensor, int], table: Table) -> None:
    values = random(len(index[0]), 3)
    filled = fill(values, table, 7.0)
    assert torch.equal(filled[table.entry], values)
    empty = torch.ones(table.n_entries, dtype=torch.bool)
    empty[table.entry] = False
    assert (filled[empty] == 7.0).all()


def test_products_equal_loops(index: tuple[Tensor, int], table: Table) -> None:
    rows, n_segments = index
    left, right, matrices = random(len(rows), 3), random(len(rows), 4, seed=1), random(n_segments, 3, 4, seed=2)
    sums = torch.zeros(n_segments, 3, 4, dtype=torch.float64)
    for k, segment in enumerate(rows.tolist()):
        sums[segment] += torch.outer(left[k], right[k])
    found = sums_of_products(fill(left, table), fill(right, table), table.blocks)
    torch.testing.assert_close(found[table.row], sums, rtol=1e-13, atol=1e-13)
    products = rows_of_products(fill(left, table), matrices[table.segment], table.blocks)
    expected = torch.stack([left[k] @ matrices[s] for k, s in enumerate(rows.tolist())]) if len(rows) else right
    torch.testing.assert_close(products[table.entry], expected, rtol=1e-13, atol=1e-13)


def test_scripted_table_is_the_same(index: tuple[Tensor, int]) -> None:
    values, n_segments = index
    scripted, eager = torch.jit.script(make_table)(values, n_segments), make_table(values, n_segments)
    assert (scripted.entry.tolist(), scripted.blocks) == (eager.entry.tolist(), eager.blocks)


def test_extras_hold_the_table(table: Table) -> None:
    again = from_extras("name", to_extras("name", table))
    assert again.n_entries == table.n_entries
    assert again.blocks == [tuple(block) for block in table.blocks]
    for field in ("entry", "segment", "row"):
        assert torch.equal(getattr(again, field), getattr(table, field))


@pytest.mark.parametrize("transposed", [False, True])
def test_derivatives_of_products(transposed: bool) -> None:
    """First and second, also of matrices that lie transposed in memory."""
    table = make_table(torch.tensor([4, 0, 4, 2, 2, 4, 0]), 5, entries=4)
    left, right = fill(random(7, 2), table).requires_grad_(), fill(random(7, 3, seed=1), table).requires_grad_()
    matrices = random(5, 3, 2, seed=2).transpose(1, 2) if transposed else random(5, 2, 3, seed=2)
    matrices.requires_grad_()
    for function, given in ((sums_of_products, (left, right)), (rows_of_products, (left, matrices))):

        def call(a: Tensor, b: Tensor, function=function) -> Tensor:
            return function(a, b, table.blocks)

        assert torch.autograd.gradcheck(call, given)
        assert torch.autograd.gradgradcheck(call, given)
