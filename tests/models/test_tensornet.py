"""TensorNet: its tensors turn with the structure; matrices and their parts."""

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from hiphop_train.models.tensornet import TensorNet
from hiphop_train.nn.matrices import MatrixProduct, full_matrices, parts_of, squares
from hiphop_train.types import Graph
from tests.references.tensornet import CONFIGURATIONS, make


@pytest.mark.parametrize(("case", "handedness"), [("two layers", 1), ("two layers", -1), ("rotations only", 1)])
def test_tensors_turn_with_the_structure(
    case: str, handedness: int, make_molecule: Callable[..., Atoms], graph_of: Callable[..., Graph]
) -> None:
    """X -> R X R^T; under reflections the symmetric parts do, and the vector changes sign besides."""
    rotation = torch.from_numpy(Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix())
    representation = make(CONFIGURATIONS[case])[0].terms[0].representation
    assert isinstance(representation, TensorNet)
    atoms = make_molecule(7, seed=3)
    turned = atoms.copy()
    turned.positions = handedness * atoms.positions @ rotation.numpy().T
    before, after = (representation.tensors(graph_of([each])) for each in (atoms, turned))
    for parts, others in zip(before, after, strict=True):
        signed = [parts[0], handedness * parts[1], parts[2]]
        expected = torch.einsum("xa,nabf,yb->nxyf", rotation, full_matrices(signed), rotation)
        found = full_matrices(others)
        assert all(part.abs().max() > 1e-4 for part in parts)
        assert (found - expected).abs().max() < 1e-10 * expected.abs().max()


def test_matrices_and_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(4, 3, 3, 5, dtype=torch.float64, generator=generator)
    parts = parts_of(matrices)
    torch.testing.assert_close(full_matrices(parts), matrices)
    torch.testing.assert_close(sum(squares(parts)), matrices.square().sum((1, 2)))
    others = torch.randn(4, 3, 3, 5, dtype=torch.float64, generator=generator)
    product = torch.einsum("nxkf,nkyf->nxyf", matrices, others)
    torch.testing.assert_close(full_matrices(MatrixProduct(False)(parts, parts_of(others))), product)
    both = product + torch.einsum("nxkf,nkyf->nxyf", others, matrices)
    torch.testing.assert_close(full_matrices(MatrixProduct(True)(parts, parts_of(others))), both)
