"""Irreducible tensors by a compiled program, and by cached matrices, equal those of the recurrence, derivatives too."""

import pytest
import torch

from hiphop_train.accelerate.compiled_tensors import CompiledTensors
from hiphop_train.accelerate.table_convolution import tensors_on_device
from hiphop_train.nn.tensors import irreducible_tensors
from tests.accelerate.conftest import MakeSetting


@pytest.mark.parametrize("l_max", range(6))
def test_compiled_tensors_and_their_derivatives(l_max: int, make_setting: MakeSetting) -> None:
    """Derivatives along the sphere: off it the two differ, since only one of them uses |u| = 1."""
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(50, 3, dtype=torch.float64, generator=generator)
    grad_output = torch.randn(50, (l_max + 1) ** 2, dtype=torch.float64, generator=generator)
    compiled = CompiledTensors(l_max, make_setting())
    assert compiled(vectors[:0]).shape == (0, (l_max + 1) ** 2)
    assert (compiled.kernels is not None) == (l_max > 0)
    results = []
    for function in (compiled, lambda unit: irreducible_tensors(unit, l_max)):
        given = vectors.clone().requires_grad_(True)
        tensors = function(given / given.norm(dim=1, keepdim=True))
        gradient = torch.autograd.grad((tensors * grad_output).sum() + given.sum(), given)[0]
        results.append((tensors, gradient))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("l_max", range(6))
def test_cached_matrices_change_nothing(l_max: int) -> None:
    unit = torch.nn.functional.normalize(torch.randn(9, 3, dtype=torch.float64), dim=1)
    assert torch.equal(tensors_on_device(unit, l_max), irreducible_tensors(unit, l_max))
