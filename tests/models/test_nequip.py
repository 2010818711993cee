"""NequIP: its tensors turn with the structure, and its configuration."""

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from hiphop_train.config import load_config
from hiphop_train.errors import ConfigError
from hiphop_train.models.nequip import InteractionBlock, NequIP
from hiphop_train.nn.couplings import TensorType
from hiphop_train.types import Graph
from tests.references.common import turning
from tests.references.nequip import CONFIGURATIONS, make


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
@pytest.mark.parametrize("case", ["parity", "widths"])
def test_tensors_turn_with_the_structure(
    case: str, handedness: int, make_molecule: Callable[..., Atoms], graph_of: Callable[..., Graph]
) -> None:
    """Every rank and parity, after every block."""
    matrix = torch.from_numpy(handedness * Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix())
    representation = make(CONFIGURATIONS[case])[0].terms[0].representation
    assert isinstance(representation, NequIP)
    atoms = make_molecule(7, seed=3)
    turned = atoms.copy()
    turned.positions = atoms.positions @ matrix.numpy().T
    found: set[TensorType] = set()
    before, after = (representation.tensors(graph_of([each])) for each in (atoms, turned))
    for block, tensors, others in zip(representation.blocks, before, after, strict=True):
        assert isinstance(block, InteractionBlock)
        for each, tensor, other in zip(block.types_out, tensors, others, strict=True):
            sign = each.parity * (-1) ** each.rank if handedness < 0 else 1
            expected = sign * turning(each.rank, matrix) @ tensor
            assert tensor.abs().max() > 1e-6
            assert (other - expected).abs().max() < 1e-10 * tensor.abs().max()
            found.add(each)
    assert len(found) == {"parity": 5, "widths": 4}[case]  # nothing would follow from the pseudoscalars


@pytest.mark.parametrize("parity", [True, False])
def test_every_parameter_matters(parity: bool, mixed_structures: list[Atoms], graph_of: Callable[..., Graph]) -> None:
    """As distributed training demands: types that nothing follows from are not made."""
    potential = make({**CONFIGURATIONS["parity"], "parity": parity})[0]
    energy = potential(graph_of(mixed_structures), forces=False)["energy"].sum()
    gradients = torch.autograd.grad(energy, list(potential.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_widths_must_fit_the_ranks() -> None:
    from hiphop_train.build import make_potential

    config = load_config("train", ["model=nequip", "model.n_features=[8,4]"])
    with pytest.raises(ConfigError, match=r"model.n_features=\[8, 4\]: .* 0 to l_max=2"):
        make_potential(config.model, torch.float32)
