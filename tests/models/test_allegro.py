"""Allegro: tensors turn with the structure, pairs are strictly local and vanish at the cutoff; its configuration."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation
from torch import Tensor

from hiphop_train.build import make_potential
from hiphop_train.config import load_config
from hiphop_train.errors import ConfigError
from hiphop_train.models.allegro import Allegro, AllegroLayer, layer_types
from hiphop_train.nn.couplings import TensorType
from hiphop_train.types import Graph
from tests.models.test_nequip import turning
from tests.references.allegro import CONFIGURATIONS, make


def representation_of(case: str) -> Allegro:
    """Allegro with the library's weights."""
    representation = make(CONFIGURATIONS[case])[0].terms[0].representation
    assert isinstance(representation, Allegro)
    return representation


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
@pytest.mark.parametrize(("case", "n_types"), [("parity", 5), ("octupoles", 4)])
def test_tensors_turn_with_the_structure(
    case: str, n_types: int, handedness: int, make_molecule: Callable[..., Atoms], graph_of: Callable[..., Graph]
) -> None:
    """Every rank and parity, before the first layer and after each."""
    matrix = torch.from_numpy(handedness * Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix())
    representation = representation_of(case)
    atoms = make_molecule(7, seed=3)
    turned = atoms.copy()
    turned.positions = atoms.positions @ matrix.numpy().T
    found: set[TensorType] = set()
    before, after = (representation.features(graph_of([each]))[1] for each in (atoms, turned))
    types = [layer.types for layer in representation.layers if isinstance(layer, AllegroLayer)]
    for types_of_layer, tensors, others in zip([*types, [TensorType(0, 1)]], before, after, strict=True):
        sizes = [each.size() for each in types_of_layer]
        for each, tensor, other in zip(types_of_layer, tensors.split(sizes, 1), others.split(sizes, 1), strict=True):
            sign = each.parity * (-1) ** each.rank if handedness < 0 else 1
            expected = sign * turning(each.rank, matrix) @ tensor
            assert tensor.abs().max() > 1e-6
            assert (other - expected).abs().max() < 1e-10 * tensor.abs().max()
            found.add(each)
    assert len(found) == n_types


def test_types_that_lead_to_no_scalar_are_left_out() -> None:
    """Two layers have no pseudotensors; of three, the first has those from which the second makes true tensors."""
    true = [TensorType(0, 1), TensorType(1, -1), TensorType(2, 1)]
    assert layer_types(2, True, 2) == [true, true, true[:1]]
    first = [TensorType(0, 1), TensorType(1, 1), TensorType(1, -1), TensorType(2, 1), TensorType(2, -1)]
    assert layer_types(2, True, 3) == [true, first, true, true[:1]]


def scalars(representation: Allegro, graph: Graph) -> Tensor:
    return torch.cat(representation(graph), dim=1)


def test_pairs_are_strictly_local(graph_of: Callable[..., Graph]) -> None:
    """Three layers see no further than the neighbours of the receiving atom, unlike messages between atoms."""
    chain = Atoms("CONH", np.outer(np.arange(4), [1.8, 1.8, 1.8]))  # each 3.1 Angstrom from the next, within 4
    moved = chain.copy()
    moved.positions[3] += [0.3, -0.4, 0.2]
    representation = representation_of("parity")
    graphs = [graph_of([each]) for each in (chain, moved)]
    before, after = (scalars(representation, graph) for graph in graphs)
    near = graphs[0].pair_i < 2
    assert torch.equal(graphs[0].pair_i, graphs[1].pair_i)
    torch.testing.assert_close(after[near], before[near], rtol=0, atol=0)
    assert (after - before)[~near].abs().max() > 1e-3


def test_a_pair_vanishes_at_the_cutoff(diatomic: Callable[..., Atoms], graph_of: Callable[..., Graph]) -> None:
    """With its scalars and its weight in the environment, as the third power of the distance to the cutoff."""
    representation = representation_of("parity")
    sizes = []
    for gap in (0.2, 0.02, 0.002):
        atoms = diatomic(4.0 - gap) + Atoms("H", [[0.3, 0.3, 1.5]])
        graph = graph_of([atoms])
        far = torch.linalg.norm(graph.pair_vectors, dim=1) > 3.7
        assert int(far.sum()) == 2
        sizes.append(float(scalars(representation, graph)[far].detach().abs().max()))
    assert 0 < sizes[1] < 2e-3 * sizes[0]
    assert 0 < sizes[2] < 2e-3 * sizes[1]


def test_an_odd_number_of_features_is_refused() -> None:
    config = load_config("train", ["model=allegro", "model.n_features=7"])
    with pytest.raises(ConfigError, match=r"model.n_features=7: must be even, .*; 8, for instance"):
        make_potential(config.model, torch.float32)


def test_a_readout_of_atoms_is_refused() -> None:
    readout = "model.readout._target_=hiphop_train.readout.scaled.ScaledEnergy"
    config = load_config("train", ["model=allegro", readout])
    with pytest.raises(ConfigError, match="ScaledEnergy reads features of atoms, but the features of Allegro live on"):
        make_potential(config.model, torch.float32)
