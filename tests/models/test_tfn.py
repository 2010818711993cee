"""Tensor field network: its tensors turn with the structure."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from hiphop_train.models.tfn import TFN
from hiphop_train.types import Graph
from tests.references.common import turning
from tests.references.tfn import CONFIGURATIONS, make


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_tensors_turn_with_the_structure(
    handedness: int, make_molecule: Callable[..., Atoms], graph_of: Callable[..., Graph]
) -> None:
    """Every rank and parity, after every layer."""
    matrix = torch.from_numpy(handedness * Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix())
    representation = make(CONFIGURATIONS["second rank"])[0].terms[0].representation
    assert isinstance(representation, TFN)
    atoms = make_molecule(7, seed=3)
    turned = atoms.copy()
    turned.positions = atoms.positions @ matrix.numpy().T
    found = set()
    before, after = (representation.tensors(graph_of([each])) for each in (atoms, turned))
    for types, tensors, others in zip(representation.types, before, after, strict=True):
        for each, tensor, other in zip(types, tensors, others, strict=True):
            sign = each.parity * (-1) ** each.rank if handedness < 0 else 1
            assert (other - sign * turning(each.rank, matrix) @ tensor).abs().max() < 1e-10 * tensor.abs().max()
            found.add(each)
    assert len(found) == 3  # nothing would follow from pseudotensors after the second of three layers


def test_layers_are_those_of_the_original_code(graph_of: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    """The code has no cutoff; its couplings and harmonics differ from ours by constants."""
    golden = json.loads((Path(__file__).parents[1] / "golden" / "tfn_2018.json").read_text())
    monkeypatch.setattr("hiphop_train.models.tfn.cosine_cutoff", lambda distance, cutoff: torch.ones_like(distance))
    elements, cutoff = ["H", "C", "N"], golden["largest_centre"]
    network = TFN(elements, cutoff, golden["width"], 3, 1, golden["n_gaussians"], "relu").double()
    weights = {name: torch.tensor(value, dtype=torch.float64) for name, value in golden["weights"].items()}
    radial_of = {(0, 0): "F0_to_L/F_0", (0, 1): "F1_to_1/F_1", (1, 0): "F0_to_L/F_0", (1, 1): "F1_to_0/F_1"}
    with torch.no_grad():
        network.embedding.weight.copy_(torch.tensor(golden["embedding"], dtype=torch.float64))
        for k, layer in enumerate(network.layers):
            suffix = f"_{k}" if k else ""
            for path, radial in zip(layer.convolution.paths, layer.radial.networks, strict=True):
                source = layer.sent[path.source]
                name = f"convolution{suffix}/L{source}/tensor_0/{radial_of[source, path.rank]}/radial_function/"
                factor = math.sqrt(3.0) if (source, path.rank) == (0, 1) else 1.0
                radial[0].weight.copy_(weights[name + "weights1"])
                radial[0].bias.copy_(weights[name + "biases1"])
                radial[2].weight.copy_(weights[name + "weights2"] / factor)
                radial[2].bias.copy_(weights[name + "biases2"] / factor)
            for rank, mixing in enumerate(layer.mixing):
                name = f"self_interaction{suffix}/L{rank}/tensor_0/self_interaction_layer/"
                mixing.weight.copy_(weights[name + "weights"][:, : mixing.in_features])
                if rank == 0:
                    mixing.bias.copy_(weights[name + "biases"])
                else:
                    layer.activation.biases[0].copy_(weights[f"nonlinearity{suffix}/L1/tensor_0/biases"])
            layer.activation.smallest_norm = 0.0
    symbols = [elements[k] for k in golden["species"]]
    graph = graph_of([Atoms(symbols, golden["positions"])], elements=elements, cutoff=cutoff)
    graph.pair_vectors.requires_grad_(True)
    (scalars,) = network(graph)
    sum_of_scalars = (scalars @ torch.tensor(golden["direction"], dtype=torch.float64)).sum()
    (slope,) = torch.autograd.grad(sum_of_scalars, graph.pair_vectors)
    gradient = torch.zeros(len(symbols), 3, dtype=torch.float64)
    gradient = gradient.index_add(0, graph.pair_j, slope).index_add(0, graph.pair_i, -slope)
    for found, expected in ((scalars, golden["scalars"]), (gradient, golden["gradient"])):
        wanted = torch.tensor(expected, dtype=torch.float64)
        assert wanted.abs().max() > 0.1
        assert (found - wanted).abs().max() < 1e-9 * wanted.abs().max()


def test_forces_of_symmetric_structures_in_float32(graph_of: Callable[..., Graph]) -> None:
    """Vectors on the atoms vanish by symmetry; what rounding leaves of them must not decide about forces."""
    potential = make({**CONFIGURATIONS["second rank"], "cutoff": 5.0})[0]
    positions = 1.1 * torch.tensor([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    structure = Atoms("CHHHHHH", positions.numpy())
    expected = potential(graph_of([structure], cutoff=5.0))["forces"]
    found = potential.to(torch.float32)(graph_of([structure], cutoff=5.0, dtype=torch.float32))["forces"]
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
