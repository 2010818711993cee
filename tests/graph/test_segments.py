"""Segment sums do what a loop would."""

import numpy as np
import pytest
import torch

from hiphop_train.graph.segments import segment_sum, segment_sum_of_columns

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


def test_scripted_equals_eager(case: tuple[torch.Tensor, int]) -> None:
    index, n_segments = case
    values = torch.randn(len(index), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.jit.script(segment_sum)(values, index, n_segments), segment_sum(values, index, n_segments))


def test_columns_are_summed_as_rows_are() -> None:
    values = torch.randn(3, 6, dtype=torch.float64)
    index = torch.tensor([2, 0, 2, 2, 3, 0])
    assert torch.equal(segment_sum_of_columns(values, index, 5), segment_sum(values.T, index, 5).T)
