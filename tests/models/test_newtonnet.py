"""NewtonNet: its latent vectors turn with the structure, energies are smooth at the cutoff; weights before training."""

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from hiphop_train.models.newtonnet import NewtonNet
from hiphop_train.types import Graph
from tests.references.newtonnet import CONFIGURATIONS, NETWORKS, make


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


def test_energies_are_smooth_at_the_cutoff(diatomic: Callable[..., Atoms], graph_of: Callable[..., Graph]) -> None:
    """Energies beyond are those of two atoms, and what is left within falls with the third power of the distance."""
    potential = make(CONFIGURATIONS["three layers"])[0]
    cutoff = potential.cutoff
    distances = [cutoff - 0.002, cutoff - 0.001, cutoff + 1e-9]
    outputs = potential(graph_of([diatomic(distance) for distance in distances], cutoff=cutoff + 0.1))
    inside, nearer, outside = (outputs["energy"] - outputs["energy"][2]).tolist()
    apart = potential(graph_of([diatomic(cutoff + 1.0)], cutoff=cutoff))["energy"]
    assert float(apart.detach()) == pytest.approx(float(outputs["energy"][2].detach()), rel=1e-14)
    assert outside == 0.0
    assert inside / nearer == pytest.approx(8.0, rel=0.1)
    assert not outputs["forces"][4:].any()


def test_weights_before_training_are_spread_as_those_of_the_library() -> None:
    from newtonnet.layers.activations import get_activation_by_string
    from newtonnet.models import NewtonNet as Theirs

    torch.manual_seed(0)
    theirs = Theirs(resolution=20, n_features=64, activation=get_activation_by_string("swish"), n_interactions=2)
    ours = NewtonNet(["H", "C", "N", "O"], 5.0, 64, 2, 20, 9)
    names = {"radial": "phi_rbf", "size": "phi_f"}
    names |= {f"{mine}.{2 * n}": f"{other}.{n}" for mine, other in NETWORKS.items() for n in (0, 1)}
    for mine, other in names.items():
        for kind in ("weight", "bias"):
            found = dict(ours.layers[1].named_parameters()).get(f"{mine}.{kind}")
            expected = dict(theirs.dycalc[1].named_parameters()).get(f"{other}.{kind}")
            assert (found is None) == (expected is None)
            if found is not None and expected is not None and kind == "weight":
                assert float(found.detach().std()) == pytest.approx(float(expected.detach().std()), rel=0.2)
            elif found is not None and expected is not None:
                assert not found.any()
                assert not expected.any()
    spread = float(theirs.embedding.weight[[1, 6, 7, 8]].detach().std())
    assert float(ours.embedding.weight.detach().std()) == pytest.approx(spread, rel=0.2)
