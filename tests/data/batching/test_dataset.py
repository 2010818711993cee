"""A batch contains what its single structures contain, and their labels."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms

from hiphop_train.data.batching.dataset import BatchDataset, Share, check_elements
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.types import Graph

ELEMENTS = ["H", "O", "C", "N"]
GraphOf = Callable[..., Graph]


def pair_lines(graph: Graph, chosen: slice, start: int) -> list[tuple[float, ...]]:
    """Pairs with shift and vector, sorted; the neighbours of one atom come in any order."""
    parts = (graph.pair_i[:, None] - start, graph.pair_j[:, None] - start, graph.pair_shift, graph.pair_vectors)
    return sorted(tuple(line) for line in torch.cat([part[chosen].double() for part in parts], 1).tolist())


def ones(index: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(index), np.ones(len(index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_collated_graph_equals_single_structures(
    structures: Structures, mixed_structures: list[Atoms], graph_of: GraphOf, dtype: torch.dtype
) -> None:
    """In the requested order, with repetition."""
    index = [5, 0, 3, 2, 0, 6, 1, 4]
    batch = BatchDataset(structures, ELEMENTS, 4.0, dtype)[ones(index)]
    singles = [graph_of([mixed_structures[k]], elements=ELEMENTS, dtype=dtype) for k in index]
    start = 0
    graph, pairs = batch.graph, 0
    assert graph.n_systems == len(index)
    assert graph.n_owned == sum(len(mixed_structures[k]) for k in index)
    assert graph.pair_vectors.dtype == dtype
    assert graph.positions.dtype == torch.float64
    for system, single in enumerate(singles):
        atoms = slice(start, start + len(single.species))
        of_pairs = slice(pairs, pairs + len(single.pair_i))
        assert (graph.system[atoms] == system).all()
        assert torch.equal(graph.species[atoms], single.species)
        assert torch.equal(graph.positions[atoms], single.positions)
        assert torch.equal(graph.cell[system], single.cell[0])
        assert torch.equal(graph.pbc[system], single.pbc[0])
        assert torch.equal(graph.pair_i[of_pairs], single.pair_i + start)
        assert pair_lines(graph, of_pairs, start) == pair_lines(single, slice(None), 0)
        start, pairs = atoms.stop, of_pairs.stop
    assert (start, pairs) == (len(graph.species), len(graph.pair_i))
    assert batch.sample.tolist() == index


def test_labels_and_their_weights(structures: Structures) -> None:
    """Missing labels have weight zero and a finite value; weights of structures multiply."""
    index, weight = np.array([3, 1, 0]), np.array([1.0, 0.5, 0.0])
    labels = BatchDataset(structures, ELEMENTS, 4.0, torch.float32)[index, weight].labels
    assert labels["weight"].tolist() == [1.0, 0.5, 0.0]
    assert labels["energy_weight"].tolist() == [1.0, 0.0, 0.0]
    sizes = structures.sizes[index]
    assert labels["forces_weight"].tolist() == [0.0] * sizes[0] + [0.5] * sizes[1] + [0.0] * sizes[2]
    assert labels["energy"].dtype == labels["forces"].dtype == torch.float64
    assert labels["energy"].tolist() == [structures.energy[3], 0.0, structures.energy[0]]
    expected = np.concatenate([np.zeros((sizes[0], 3)), *(structures.take(index[k : k + 1]).forces for k in (1, 2))])
    np.testing.assert_array_equal(labels["forces"].numpy(), expected)


def test_any_target_is_a_label(structures: Structures) -> None:
    """Per structure, per cell or per atom, with its own weights and the scale of what it counts by."""
    rng = np.random.default_rng(0)
    n = len(structures)
    stress, dipole = rng.normal(size=(n, 3, 3)), rng.normal(size=(n, 3))
    stress[[1, 2]], dipole[3] = np.nan, np.nan
    dataset = BatchDataset(structures.with_labels(stress=stress, dipole=dipole), ELEMENTS, 4.0, torch.float32)
    index, weight = np.array([3, 1, 0]), np.array([1.0, 0.5, 0.25])
    labels = dataset[Share(index, weight, 2.0, 3.0)].labels
    np.testing.assert_array_equal(labels["stress"].numpy(), [stress[3], np.zeros((3, 3)), stress[0]])
    np.testing.assert_array_equal(labels["dipole"].numpy(), [np.zeros(3), dipole[1], dipole[0]])
    assert labels["stress_weight"].tolist() == [1.0, 0.0, 0.25]
    assert labels["dipole_weight"].tolist() == [0.0, 0.5, 0.25]
    scales = {key: labels[f"{key}_scale"].item() for key in ("energy", "forces", "stress", "dipole")}
    assert scales == {"energy": 2.0, "forces": 3.0, "stress": 2.0, "dipole": 2.0}
    plain = BatchDataset(structures, ELEMENTS, 4.0, torch.float32)[Share(index, weight, 2.0, 3.0)].labels
    assert set(labels) - set(plain) == {"stress", "stress_weight", "stress_scale"} | {
        "dipole",
        "dipole_weight",
        "dipole_scale",
    }
    assert all(torch.equal(labels[key], plain[key]) for key in plain)


def test_unknown_element_is_named_with_its_structure(structures: Structures) -> None:
    numbers = structures.numbers.copy()
    numbers[structures.offsets[4]] = 16
    with pytest.raises(DataError) as caught:
        BatchDataset(replace(structures, numbers=numbers), ELEMENTS, 4.0, torch.float32)
    message = str(caught.value)
    for words in ("set.xyz", "group4, conformation 4", "contains S", "[H, O, C, N]", "model.elements=[H,O,C,N,S]"):
        assert words in message
    check_elements(structures, ELEMENTS)
