"""MACE: its tensors turn with the structure, and its configuration."""

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from hiphop_train.build import make_potential
from hiphop_train.config import load_config
from hiphop_train.errors import ConfigError
from hiphop_train.models.mace import MACE
from hiphop_train.types import Graph
from tests.references.common import turning
from tests.references.mace import CONFIGURATIONS, make


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_tensors_turn_with_the_structure(
    handedness: int, make_molecule: Callable[..., Atoms], graph_of: Callable[..., Graph]
) -> None:
    matrix = torch.from_numpy(handedness * Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix())
    representation = make(CONFIGURATIONS["three layers"])[0].terms[0].representation
    assert isinstance(representation, MACE)
    atoms = make_molecule(7, seed=3)
    turned = atoms.copy()
    turned.positions = atoms.positions @ matrix.numpy().T
    before, after = (representation.tensors(graph_of([each])) for each in (atoms, turned))
    assert [len(tensors) for tensors in before] == [3, 3, 1]
    for tensors, others in zip(before, after, strict=True):
        for rank, (tensor, other) in enumerate(zip(tensors, others, strict=True)):
            assert (other - turning(rank, matrix) @ tensor).abs().max() < 1e-10 * tensor.abs().max()


def test_features_need_harmonics_of_their_rank() -> None:
    config = load_config("train", ["model=mace", "model.rank=2", "model.l_max=1"])
    with pytest.raises(ConfigError, match=r"model.rank=2 is above model.l_max=1.*rank from 0 to 1"):
        make_potential(config.model, torch.float32)
