"""NewtonNet: its latent forces and displacements turn with the structure."""

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from hiphop_train.models.newtonnet import NewtonNet
from hiphop_train.types import Graph
from tests.references.newtonnet import CONFIGURATIONS, make


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_vectors_turn_with_the_structure(
    handedness: int, make_molecule: Callable[..., Atoms], graph_of: Callable[..., Graph]
) -> None:
    matrix = torch.from_numpy(handedness * Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix())
    representation = make(CONFIGURATIONS["three layers"])[0].terms[0].representation
    assert isinstance(representation, NewtonNet)
    atoms = make_molecule(7, seed=3)
    turned = atoms.copy()
    turned.positions = atoms.positions @ matrix.numpy().T
    for before, after in zip(*(representation.states(graph_of([each])) for each in (atoms, turned)), strict=True):
        for vectors, others in zip(before[1:], after[1:], strict=True):
            expected = torch.einsum("xy,nyf->nxf", matrix, vectors)
            assert vectors.abs().max() > 1e-3
            assert (others - expected).abs().max() < 1e-10 * vectors.abs().max()
        assert (after[0] - before[0]).abs().max() < 1e-10 * before[0].abs().max()
