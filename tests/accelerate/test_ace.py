"""The compiled atomic cluster expansion equals the plain one, with first and second derivatives."""

import copy

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate.ace import TWINS, CompiledACE
from hiphop_train.graph.assemble import with_pair_vectors
from hiphop_train.models.ace import ACE
from hiphop_train.types import Graph
from tests.accelerate.conftest import MakeSetting

CASES = [
    ([3], [0]),
    ([6, 3], [0, 3]),
    ([4, 2, 1], [0, 2, 2]),
    ([2, 2, 1, 1], [0, 4, 3, 1]),
    ([1, 1, 1, 1, 1], [0, 1, 1, 1, 1]),
]
"""Truncations: radial functions and ranks by order."""


def derivatives(representation: torch.nn.Module, graph: Graph, is_once: bool = False) -> list[Tensor]:
    """Features, and their first and, unless `is_once`, second derivatives with respect to vectors and gradients."""
    generator = torch.Generator().manual_seed(1)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(tuple(like.shape), dtype=torch.float64, generator=generator).to(like.dtype)

    vectors = graph.pair_vectors.clone().requires_grad_(True)
    features = representation(with_pair_vectors(graph, vectors))[0]
    weights = noise(features).requires_grad_(True)
    first = torch.autograd.grad((weights * features).sum(), vectors, create_graph=True)[0]
    if is_once:
        return [features.detach(), first.detach()]
    second = torch.autograd.grad((noise(first) * first).sum(), [vectors, weights])
    return [features.detach(), first.detach(), *second]


@pytest.mark.parametrize(("n_radial", "l_max"), CASES)
def test_values_and_derivatives(
    n_radial: list[int], l_max: list[int], varied: Graph, make_setting: MakeSetting
) -> None:
    """Atoms without neighbours among others, in blocks of several sizes."""
    plain = ACE(["H", "C", "N", "O"], 4.0, n_radial, l_max)
    twin = TWINS[0].make(plain, make_setting(purpose="training"))
    assert isinstance(twin, CompiledACE)
    for found, expected in zip(derivatives(twin, varied), derivatives(plain, varied), strict=True):
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize(("n_radial", "l_max"), CASES)
def test_frozen_weights(n_radial: list[int], l_max: list[int], varied: Graph, make_setting: MakeSetting) -> None:
    """Values and first derivatives, from the vectors in one loop."""
    plain = ACE(["H", "C", "N", "O"], 4.0, n_radial, l_max)
    twin = TWINS[0].make(plain, make_setting())
    vectors = varied.pair_vectors.clone()
    vectors[3] *= 4.5 / vectors[3].norm()  # beyond the cutoff
    found, expected = (derivatives(each, with_pair_vectors(varied, vectors), is_once=True) for each in (twin, plain))
    assert len(found) == 2
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()
    assert not found[1][3].any()


def test_single_precision(varied: Graph, make_setting: MakeSetting) -> None:
    plain = ACE(["H", "C", "N", "O"], 4.0, [4, 2, 1], [0, 3, 1])
    twin = TWINS[0].make(copy.deepcopy(plain).float(), make_setting(torch.float32, "training"))
    single = varied._replace(pair_vectors=varied.pair_vectors.float())
    for found, expected in zip(derivatives(twin, single), derivatives(plain, varied), strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() <= 2e-4 * expected.abs().max()


def test_pairs_that_are_not_sorted(varied: Graph, make_setting: MakeSetting) -> None:
    """The plain module evaluates them."""
    plain = ACE(["H", "C", "N", "O"], 4.0, [3, 2], [0, 2])
    twin = TWINS[0].make(plain, make_setting())
    order = torch.randperm(len(varied.pair_i), generator=torch.Generator().manual_seed(0))
    mixed = varied._replace(
        pair_i=varied.pair_i[order], pair_j=varied.pair_j[order], pair_vectors=varied.pair_vectors[order]
    )
    torch.testing.assert_close(twin(mixed)[0], plain(varied)[0], rtol=1e-12, atol=1e-14)
