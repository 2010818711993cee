"""DTNN against the paper's equations (Nat. Commun. 8, 13890, Methods), written down in numpy with loops over atoms."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import nn

from hiphop_train.errors import ConfigError
from hiphop_train.models.dtnn import DTNN
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.atomwise import AtomwiseEnergy
from hiphop_train.types import Graph

MakeAtoms = Callable[..., Atoms]
GraphOf = Callable[..., Graph]

ELEMENTS = ["H", "C", "N", "O"]
SIZES = {"n_features": 7, "n_factors": 9, "n_gaussians": 26, "gaussian_min": -1.0, "gaussian_max": 4.0}
SPACING = 0.2  # of these Gaussians, Angstrom
INFINITY = 1e9  # Angstrom; f_c is 1 to the last digit at molecular distances


def make_potential(cutoff: float, n_interactions: int) -> Potential:
    """Make a potential with every parameter away from its default."""
    torch.manual_seed(n_interactions)
    representation = DTNN(ELEMENTS, cutoff, n_interactions=n_interactions, **SIZES)
    readout = AtomwiseEnergy(representation.feature_sizes, [5], "tanh")
    potential = Potential([Network(representation.double(), readout.double())], ELEMENTS, cutoff)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return potential.eval()


def paper(potential: Potential, atoms: Atoms, n_passes: int, cutoff: float | None = None) -> float:
    """Energy by the equations; without a cutoff the sum runs over all atoms of an open molecule, as in the paper."""
    network = potential.terms[0]
    weights = {name: value.detach().numpy() for name, value in network.representation.state_dict().items()}
    layers = [layer for layer in network.readout.network if isinstance(layer, nn.Linear)]
    (w_out1, b_out1), (w_out2, b_out2) = ((x.weight.detach().numpy(), x.bias.detach().numpy()) for x in layers)
    centres = [SIZES["gaussian_min"] + k * SPACING for k in range(SIZES["n_gaussians"])]
    n_atoms = len(atoms)
    n_images = [5 if periodic and cutoff else 0 for periodic in atoms.pbc]
    images = list(itertools.product(*(range(-n, n + 1) for n in n_images)))

    c = [weights["embedding.weight"][ELEMENTS.index(symbol)] for symbol in atoms.symbols]
    for _ in range(n_passes):
        corrected = []
        for i in range(n_atoms):
            c_i = c[i].copy()
            for j, image in itertools.product(range(n_atoms), images):
                if i == j and not any(image):
                    continue
                distance = np.linalg.norm(atoms.positions[j] + np.array(image) @ atoms.cell.array - atoms.positions[i])
                if cutoff and distance >= cutoff:
                    continue
                d = np.array([np.exp(-((distance - mu) ** 2) / (2 * SPACING**2)) for mu in centres])
                by_atom = weights["feature_factors.weight"] @ c[j] + weights["feature_factors.bias"]
                by_distance = weights["distance_factors.weight"] @ d + weights["distance_factors.bias"]
                v = np.tanh(weights["recombination.weight"] @ (by_atom * by_distance))
                c_i += v * (0.5 * (1 + np.cos(np.pi * distance / cutoff)) if cutoff else 1.0)
            corrected.append(c_i)
        c = corrected
    return float(sum((w_out2 @ np.tanh(w_out1 @ c_i + b_out1) + b_out2).item() for c_i in c))


def paper_forces(potential: Potential, atoms: Atoms, n_passes: int, cutoff: float | None = None) -> np.ndarray:
    """Forces as fourth-order finite differences of the equations."""
    step, forces = 4e-4, np.zeros((len(atoms), 3))
    for index in np.ndindex(*forces.shape):
        energies = []
        for count in (-2, -1, 1, 2):
            moved = atoms.copy()
            moved.positions[index] += count * step
            energies.append(paper(potential, moved, n_passes, cutoff))
        forces[index] = -np.array(energies) @ np.array([1.0, -8.0, 8.0, -1.0]) / (12 * step)
    return forces


@pytest.mark.parametrize("n_passes", [1, 2, 3])
def test_equations_of_the_paper(make_molecule: MakeAtoms, graph_of: GraphOf, n_passes: int) -> None:
    """All atoms see all others."""
    potential, atoms = make_potential(INFINITY, n_passes), make_molecule(6, seed=31)
    outputs = potential(graph_of([atoms], cutoff=INFINITY))
    assert float(outputs["energy"].detach()) == pytest.approx(paper(potential, atoms, n_passes), rel=1e-13)
    expected = paper_forces(potential, atoms, n_passes)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(outputs["forces"].detach().numpy(), expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("n_passes", [1, 2])
def test_messages_times_the_cutoff_function(make_box: MakeAtoms, graph_of: GraphOf, n_passes: int) -> None:
    """In a cell smaller than the cutoff, where atoms meet their own images."""
    cutoff, atoms = 3.5, make_box(2, seed=32, length=2.4)
    assert atoms.cell.lengths().min() < cutoff
    potential = make_potential(cutoff, n_passes)
    outputs = potential(graph_of([atoms], cutoff=cutoff))
    assert float(outputs["energy"].detach()) == pytest.approx(paper(potential, atoms, n_passes, cutoff), rel=1e-13)
    expected = paper_forces(potential, atoms, n_passes, cutoff)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(outputs["forces"].detach().numpy(), expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_passes_share_their_weights() -> None:
    one, three = (DTNN(ELEMENTS, 5.0, n_interactions=n, **SIZES) for n in (1, 3))
    assert sum(p.numel() for p in one.parameters()) == sum(p.numel() for p in three.parameters())


def test_weights_before_training() -> None:
    """Coefficients of variance B^(-1/2); uniform weights of variance 2 / (n_in + n_out); biases zero."""
    torch.manual_seed(0)
    model = DTNN([f"bead{n}" for n in range(50)], 5.0, 30, 60, 3, 31, -1.0, 5.0)
    assert float(model.embedding.weight.detach().var()) == pytest.approx(30**-0.5, rel=0.1)
    for layer in (model.feature_factors, model.distance_factors, model.recombination):
        n_out, n_in = layer.weight.shape
        assert float(layer.weight.detach().var()) == pytest.approx(2 / (n_in + n_out), rel=0.1)
        assert float(layer.weight.detach().abs().max()) <= (6 / (n_in + n_out)) ** 0.5
    assert not model.feature_factors.bias.any()
    assert not model.distance_factors.bias.any()
    assert model.recombination.bias is None


def test_gaussians_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.gaussian_min=5\.0.*gaussian_min < gaussian_max"):
        DTNN(ELEMENTS, 5.0, 30, 60, 3, 31, 5.0, 5.0)
