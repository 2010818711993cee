"""Large systems go through the layers in pieces; the numbers are those of the whole."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hiphop_train.models import hiphop
from hiphop_train.nn import messages, pairs, sensitivity
from hiphop_train.types import Graph
from tests.conftest import GraphOf, MakeAtoms, PotentialOf

HIP = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "model").glob("hip*.yaml"))


@pytest.fixture(scope="module")
def graph(make_molecule: MakeAtoms, make_box: MakeAtoms, graph_of: GraphOf) -> Graph:
    return graph_of(
        [make_molecule(12, seed=1), make_box(6, seed=2), make_molecule(9, seed=3), make_molecule(1, seed=4)]
    )


def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "LARGE", 0)
    monkeypatch.setattr(messages, "FEATURES_AT_A_TIME", 5)
    monkeypatch.setattr(pairs, "PAIRS", 16)
    monkeypatch.setattr(sensitivity, "PAIRS", 16)
    monkeypatch.setattr(hiphop, "ATOMS_AT_A_TIME", 4)


@pytest.mark.parametrize("name", HIP)
def test_energy_and_forces(name: str, graph: Graph, potential_of: PotentialOf, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = potential_of(name).eval().requires_grad_(False)
    whole = potential(graph, virial=True)
    in_pieces(monkeypatch)
    pieces = potential(graph, virial=True)
    for key in ("energy", "forces", "virial"):
        torch.testing.assert_close(pieces[key], whole[key], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", HIP)
def test_derivatives_of_a_loss(
    name: str, graph: Graph, potential_of: PotentialOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential = potential_of(name).train()

    def gradients() -> list[Tensor]:
        outputs = potential(graph)
        loss = outputs["energy"].square().mean() + (outputs["forces"] - 0.1).square().sum()
        return list(torch.autograd.grad(loss, [p for p in potential.parameters() if p.requires_grad]))

    whole = gradients()
    in_pieces(monkeypatch)
    for piece, expected in zip(gradients(), whole, strict=True):
        scale = max(1.0, float(expected.abs().max()))
        assert float((piece - expected).abs().max()) <= 1e-9 * scale
