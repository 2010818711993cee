"""Large systems go through the layers in blocks; the numbers are those of the whole."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate import accelerate, compiled_tensors, hip, sensitivity, table_convolution
from hiphop_train.accelerate.twin import Choice
from hiphop_train.types import Graph
from tests.conftest import GraphOf, MakeAtoms, PotentialOf

HIP = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "model").glob("hip*.yaml"))


@pytest.fixture(scope="module")
def graph(make_molecule: MakeAtoms, make_box: MakeAtoms, graph_of: GraphOf) -> Graph:
    return graph_of(
        [make_molecule(12, seed=1), make_box(6, seed=2), make_molecule(9, seed=3), make_molecule(1, seed=4)]
    )


def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_convolution, "LARGE", 0)
    monkeypatch.setattr(table_convolution, "FEATURES_PER_BLOCK", 5)
    for module in (table_convolution, compiled_tensors, sensitivity):
        monkeypatch.setattr(module, "PAIRS", 16)
    monkeypatch.setattr(hip, "ATOMS_PER_BLOCK", 4)


@pytest.mark.parametrize("choice", [True, False], ids=["C", "no C"])
@pytest.mark.parametrize("name", HIP)
def test_energy_and_forces(
    name: str, choice: Choice, graph: Graph, potential_of: PotentialOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential = potential_of(name)
    accelerate(potential, torch.float64, torch.device("cpu"), "inference", choice)
    whole = potential(graph, virial=True)
    in_blocks(monkeypatch)
    found = potential(graph, virial=True)
    for key in ("energy", "forces", "virial"):
        torch.testing.assert_close(found[key], whole[key], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("choice", [True, False], ids=["C", "no C"])
@pytest.mark.parametrize("name", HIP)
def test_derivatives_of_a_loss(
    name: str, choice: Choice, graph: Graph, potential_of: PotentialOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential = potential_of(name).train()
    accelerate(potential, torch.float64, torch.device("cpu"), "training", choice)

    def gradients() -> list[Tensor]:
        outputs = potential(graph)
        loss = outputs["energy"].square().mean() + (outputs["forces"] - 0.1).square().sum()
        return list(torch.autograd.grad(loss, list(potential.parameters()), materialize_grads=True))

    whole = gradients()
    in_blocks(monkeypatch)
    for found, expected in zip(gradients(), whole, strict=True):
        scale = max(1.0, float(expected.abs().max()))
        assert float((found - expected).abs().max()) <= 1e-9 * scale
