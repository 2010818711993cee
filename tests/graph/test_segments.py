"""Segment sums and neighbour tables do what a loop would."""

import numpy as np
import pytest
import torch

from hiphop_train.graph.segments import fill_table, segment_sum, table_slots

CASES = {
    "unsorted, with empty segments": ([4, 0, 4, 2, 2, 4, 0], 6),
    "sorted": ([0, 0, 1, 2, 2, 2], 3),
    "one segment": ([0, 0, 0], 1),
    "no rows": ([], 3),
    "no segments": ([], 0),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> tuple[torch.Tensor, int]:
    rows, n_segments = request.param
    return torch.tensor(rows, dtype=torch.int64), n_segments


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_sum_equals_a_loop(case: tuple[torch.Tensor, int], shape: tuple[int, ...]) -> None:
    index, n_segments = case
    values = np.random.default_rng(0).normal(size=(len(index), *shape))
    expected = np.zeros((n_segments, *shape))
    for row, segment in enumerate(index.tolist()):
        expected[segment] += values[row]
    found = segment_sum(torch.from_numpy(values), index, n_segments)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-14, atol=1e-14)


def test_gradient_of_a_sum_goes_back_to_its_rows() -> None:
    index = torch.tensor([2, 0, 2])
    values = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
    (segment_sum(values, index, 3) * weight).sum().backward()
    torch.testing.assert_close(values.grad, weight[index], rtol=0, atol=0)


def test_slots_are_different_and_stand_in_their_line(case: tuple[torch.Tensor, int]) -> None:
    index, n_segments = case
    slot, width = table_slots(index, n_segments)
    assert width == max((index.tolist().count(segment) for segment in range(n_segments)), default=0)
    assert len(set(slot.tolist())) == len(index)
    if len(index):
        assert torch.equal(torch.div(slot, width, rounding_mode="floor"), index)


def test_lines_are_filled_from_the_left_in_order_of_the_rows() -> None:
    slot, width = table_slots(torch.tensor([1, 0, 1, 1]), 3)
    assert width == 3
    assert slot.tolist() == [3, 0, 4, 5]


def test_rows_in_order_need_no_sorting() -> None:
    """The shortcut gives the places that sorting gives."""
    index = torch.tensor([0, 0, 2, 2, 2, 3])
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    slot, width = table_slots(index, 5)
    shuffled, _ = table_slots(index[order], 5)
    assert slot.tolist() == [0, 1, 6, 7, 8, 9]
    assert width == 3
    assert sorted(shuffled.tolist()) == slot.tolist()
    assert torch.equal(torch.div(shuffled, width, rounding_mode="floor"), index[order])


def test_table_holds_each_row_once_and_zeros_elsewhere(case: tuple[torch.Tensor, int]) -> None:
    index, n_segments = case
    values = torch.randn(len(index), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slot, width = table_slots(index, n_segments)
    table = fill_table(values, slot, n_segments, width)
    assert table.shape == (n_segments, width, 4)
    flat = table.reshape(n_segments * width, 4)
    assert torch.equal(flat[slot], values)
    empty = torch.ones(len(flat), dtype=torch.bool)
    empty[slot] = False
    assert not flat[empty].any()
    torch.testing.assert_close(table.sum(1), segment_sum(values, index, n_segments), rtol=1e-14, atol=1e-14)


def test_scripted_equals_eager(case: tuple[torch.Tensor, int]) -> None:
    index, n_segments = case
    values = torch.randn(len(index), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slot, width = table_slots(index, n_segments)
    scripted_slot, scripted_width = torch.jit.script(table_slots)(index, n_segments)
    assert (scripted_slot.tolist(), scripted_width) == (slot.tolist(), width)
    assert torch.equal(
        torch.jit.script(fill_table)(values, slot, n_segments, width), fill_table(values, slot, n_segments, width)
    )
    assert torch.equal(torch.jit.script(segment_sum)(values, index, n_segments), segment_sum(values, index, n_segments))
