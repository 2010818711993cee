"""Our atomic environment vectors are torchani's; the yaml file has ANI-1x's constants; bad parameters are refused."""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from ase import Atoms
from omegaconf import OmegaConf
from torch import Tensor

from hiphop_train.accelerate import accelerate
from hiphop_train.build import make_potential
from hiphop_train.errors import ConfigError
from hiphop_train.models.ani import ANI
from hiphop_train.models.base import Representation
from hiphop_train.types import Graph

GraphOf = Callable[..., Graph]
MakeAtoms = Callable[..., Atoms]

ELEMENTS = ["H", "C", "N", "O"]
CUTOFF = 5.2
ANGULAR_CUTOFF = 3.5
YAML = Path(__file__).resolve().parents[2] / "conf" / "model" / "ani.yaml"
BOUND = 1e-12


@pytest.fixture(scope="module", params=[None, "training", "inference"], ids=["plain", "training", "inference"])
def ours(request: pytest.FixtureRequest) -> Representation:
    """The representation of the yaml file, in double precision, plain and accelerated."""
    potential = make_potential(OmegaConf.load(YAML), torch.float64)
    if request.param:
        accelerate(potential, torch.float64, torch.device("cpu"), request.param)
    representation: Representation = potential.terms[0].representation
    assert isinstance(representation, ANI) == (request.param is None)
    return representation


@pytest.fixture(scope="module")
def reference(torchani: ModuleType, ours: Representation) -> Callable[[Atoms], Tensor]:
    """torchani's vectors of a structure with the same constants, which it would round to single precision."""
    section = OmegaConf.load(YAML)
    lists = {key: list(section[key]) for key in ("radial_shifts", "angular_shifts", "angular_sections")}
    computer = torchani.aev.AEVComputer.from_constants(
        radial_cutoff=section.cutoff,
        radial_eta=section.radial_eta,
        radial_shifts=lists["radial_shifts"],
        angular_cutoff=section.angular_cutoff,
        angular_eta=section.angular_eta,
        angular_zeta=section.angular_zeta,
        angular_shifts=lists["angular_shifts"],
        sections=lists["angular_sections"],
        num_species=len(ELEMENTS),
    ).double()
    computer.radial.shifts.copy_(torch.tensor(lists["radial_shifts"], dtype=torch.float64))
    computer.angular.shifts.copy_(torch.tensor(lists["angular_shifts"], dtype=torch.float64))
    computer.angular.sections.copy_(torch.tensor(lists["angular_sections"], dtype=torch.float64))

    def vectors(atoms: Atoms) -> Tensor:
        species = torch.tensor([[ELEMENTS.index(symbol) for symbol in atoms.symbols]])
        periodic = (torch.from_numpy(atoms.cell.array), torch.from_numpy(atoms.pbc)) if atoms.pbc.any() else ()
        found: Tensor = computer(species, torch.from_numpy(atoms.positions)[None], *periodic)[0]
        return found

    return vectors


def compare(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape == (len(found), 384)
    assert expected[:, :64].abs().max() > 0.1
    assert expected[:, 64:].abs().max() > 0.1
    assert (found - expected).abs().max() < BOUND * expected.abs().max()


@pytest.mark.parametrize("seed", range(3))
def test_open_structures_equal_torchani(
    ours: Representation, reference: Callable[[Atoms], Tensor], make_molecule: MakeAtoms, graph_of: GraphOf, seed: int
) -> None:
    atoms = make_molecule(11, seed=seed)
    compare(ours(graph_of([atoms], cutoff=CUTOFF))[0].detach(), reference(atoms))


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, True, False)])
@pytest.mark.parametrize(("n_atoms", "length"), [(3, 2.5), (15, 6.0)])
def test_periodic_structures_equal_torchani(
    ours: Representation,
    reference: Callable[[Atoms], Tensor],
    make_box: MakeAtoms,
    graph_of: GraphOf,
    n_atoms: int,
    length: float,
    pbc: tuple[bool, bool, bool],
) -> None:
    """Also where a cell is smaller than both cutoffs, so that an atom meets several images of another and of itself."""
    atoms = make_box(n_atoms, seed=8, length=length, pbc=pbc)
    compare(ours(graph_of([atoms], cutoff=CUTOFF))[0].detach(), reference(atoms))


def test_constants_are_those_of_ani1x(torchani: ModuleType) -> None:
    """The same numbers as in torchani's own recipe, and the same layers."""
    section = OmegaConf.load(YAML)
    radial, angular = torchani.aev.ANIRadial.like_1x(), torchani.aev.ANIAngular.like_1x()
    single = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(section.radial_shifts, radial.shifts.numpy(), **single)
    np.testing.assert_allclose(section.angular_shifts, angular.shifts.numpy(), **single)
    np.testing.assert_allclose(section.angular_sections, angular.sections.numpy(), **single)
    assert (section.cutoff, section.angular_cutoff) == (radial.cutoff, angular.cutoff)
    assert (section.radial_eta, section.angular_eta) == (float(radial.eta), float(angular.eta))
    assert section.angular_zeta == float(angular.zeta)
    networks = torchani.nn.ANINetworks.like_1x()
    potential = make_potential(section, torch.float32)
    expected = sum(parameter.numel() for parameter in networks.parameters())
    assert sum(parameter.numel() for parameter in potential.parameters()) == expected
    for element, network in zip(ELEMENTS, potential.terms[0].readout.networks, strict=True):
        theirs = [layer.out_features for layer in networks.atomics[element].layers]
        assert [layer.out_features for layer in network[:-1:2]] == theirs


def test_continuous_at_the_angular_cutoff(ours: Representation, graph_of: GraphOf) -> None:
    """Vectors and their derivatives, where a neighbour leaves the angular cutoff."""

    def vectors(distance: float) -> tuple[Tensor, Tensor]:
        graph = graph_of([Atoms("CHO", [[0.0, 0.0, 0.0], [-0.3, 1.0, 0.1], [distance, 0.0, 0.0]])], cutoff=CUTOFF)
        pairs = graph.pair_vectors.clone().requires_grad_(True)
        features = ours(graph._replace(pair_vectors=pairs))[0][:, 64:]
        weights = torch.linspace(1.0, 2.0, features.numel(), dtype=torch.float64).reshape(features.shape)
        return features.detach(), torch.autograd.grad((features * weights).sum(), pairs)[0]

    jumps = []
    for gap in (1e-3, 1e-4, 1e-5):
        inside, outside = vectors(ANGULAR_CUTOFF - gap), vectors(ANGULAR_CUTOFF + gap)
        jumps.append([float((a - b).abs().max()) for a, b in zip(inside, outside, strict=True)])
    of_vectors, of_derivatives = np.array(jumps).T
    assert of_derivatives[0] > 0
    assert (of_vectors[1:] < 0.2 * of_vectors[:-1]).all()
    assert (of_derivatives[1:] < 0.2 * of_derivatives[:-1]).all()


def test_second_derivatives_are_finite_in_straight_lines(ours: Representation, graph_of: GraphOf) -> None:
    line = Atoms("OCON", [[-1.2, 0, 0], [0, 0, 0], [1.2, 0, 0], [2.4, 0, 0]])
    graph = graph_of([line], cutoff=CUTOFF)
    vectors = graph.pair_vectors.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(ours(graph._replace(pair_vectors=vectors))[0].sum(), vectors, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), vectors)
    assert gradient.isfinite().all()
    assert second.isfinite().all()
    assert second.abs().max() > 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "angular_cutoff",
            5.3,
            r"model\.angular_cutoff=5\.3, model\.cutoff=5\.2: must satisfy angular_cutoff <= cutoff",
        ),
        ("angular_sections", [0.2, math.pi + 0.1], r"model\.angular_sections contains 3\.24.*between 0 and pi"),
    ],
)
def test_meaningless_parameters_are_refused(key: str, value: object, message: str) -> None:
    section = OmegaConf.load(YAML)
    section[key] = value
    with pytest.raises(ConfigError, match=message):
        make_potential(section, torch.float32)
