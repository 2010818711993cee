"""Tensor field network: its tensors turn with the structure."""

from collections.abc import Callable

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
