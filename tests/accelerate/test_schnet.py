"""Filters with their slopes, of frozen weights, and filters of one direction of each pair give the same numbers."""

import pytest
import torch
from ase import Atoms
from torch import Tensor

from hiphop_train.accelerate import accelerate, blocks, pairs
from hiphop_train.accelerate.slopes import cosine_cutoff_slope, gaussian_expansion_with_slope
from hiphop_train.graph.assemble import with_pair_vectors
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian_expansion
from hiphop_train.potential import Potential
from tests.conftest import GraphOf, PotentialOf

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def test_slopes() -> None:
    distance = torch.linspace(0.3, 4.5, 43, dtype=torch.float64)
    slope = torch.func.jacfwd(lambda r: cosine_cutoff(r, 4.0))(distance).diagonal()
    torch.testing.assert_close(cosine_cutoff_slope(distance, 4.0), slope, **EXACT)
    expansion, slopes = gaussian_expansion_with_slope(distance, -0.5, 4.0, 7)
    torch.testing.assert_close(expansion, gaussian_expansion(distance, -0.5, 4.0, 7), rtol=0, atol=0)
    expected = torch.func.jacfwd(lambda r: gaussian_expansion(r, -0.5, 4.0, 7).sum(0))(distance).T
    torch.testing.assert_close(slopes, expected, **EXACT)


def test_frozen_weights(
    mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First derivatives in blocks; second ones, whose half neighbour list is divided differently, as in training."""
    monkeypatch.setattr(blocks, "ROWS", 16)
    plain, frozen, graph = potential_of("schnet"), potential_of("schnet"), graph_of(mixed_structures)
    accelerate(frozen, torch.float64, torch.device("cpu"), "inference")
    expected, found = plain(graph, virial=True), frozen(graph, virial=True)
    for key in ("energy", "forces", "virial"):
        torch.testing.assert_close(found[key], expected[key], **EXACT)

    direction = torch.randn(graph.pair_vectors.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def curvature(potential: Potential) -> Tensor:
        vectors = graph.pair_vectors.clone().requires_grad_()
        energy = potential(with_pair_vectors(graph, vectors), forces=False)["energy"].sum()
        (slope,) = torch.autograd.grad(energy, vectors, create_graph=True)
        return torch.autograd.grad((slope * direction).sum(), vectors)[0]

    accelerate(plain, torch.float64, torch.device("cpu"), "training")
    torch.testing.assert_close(curvature(frozen), curvature(plain), **EXACT)


def test_one_direction_is_both(
    mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential, graph = potential_of("schnet"), graph_of(mixed_structures)
    accelerate(potential, torch.float64, torch.device("cpu"), "training")
    found = potential(graph, virial=True)
    monkeypatch.setattr(pairs, "half_list", lambda graph: None)
    expected = potential(graph, virial=True)
    for key in ("energy", "forces", "virial"):
        torch.testing.assert_close(found[key], expected[key], **EXACT)
    assert not torch.equal(found["forces"], expected["forces"])  # it was another sum
