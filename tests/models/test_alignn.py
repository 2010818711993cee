"""ALIGNN: its line graph, invariance of all its features, both cuts, and its configuration."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation
from torch import Tensor

from hiphop_train.config import load_config
from hiphop_train.errors import ConfigError
from hiphop_train.graph.triples import line_graph_within
from hiphop_train.models.alignn import ALIGNN, EdgeGatedConvolution, LineGraph, cosines
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.atomwise import AtomwiseEnergy
from hiphop_train.types import Graph
from tests.pair_lists import PAIR_LISTS
from tests.references.alignn import CONFIGURATIONS, make
from tests.references.common import ELEMENTS, perturb

MakeAtoms = Callable[..., Atoms]
GraphOf = Callable[..., Graph]

CUTOFF, THREE_BODY_CUTOFF = 4.0, 3.0


def small(cut: str = "smooth", three_body_cutoff: float = THREE_BODY_CUTOFF, n_line_interactions: int = 2) -> Potential:
    """Return a small potential with every parameter away from its default."""
    torch.manual_seed(1)
    sizes = {"n_features": 8, "n_interactions": 3, "n_embedding": 6, "n_gaussians": 20, "n_angle_gaussians": 8}
    representation = ALIGNN(
        ELEMENTS, CUTOFF, three_body_cutoff, n_line_interactions=n_line_interactions, gaussian_max=4.0,
        cut=cut, **sizes,  # type: ignore[arg-type]
    ).double()  # fmt: skip
    readout = AtomwiseEnergy(representation.feature_sizes, [], "silu").double()
    potential = Potential([Network(representation, readout)], ELEMENTS, CUTOFF)
    perturb(potential, seed=1)
    return potential.eval()


def model_of(potential: Potential) -> ALIGNN:
    representation = potential.terms[0].representation
    assert isinstance(representation, ALIGNN)
    return representation


def chain(distances: list[float]) -> Atoms:
    """A bent chain of atoms."""
    turn = np.array([[1.0, 0.0, 0.0], [-0.28, 0.96, 0.0], [-0.48, -0.6, 0.64]])
    steps = np.array(distances)[:, None] * turn[: len(distances)]
    return Atoms("OCNH"[: len(distances) + 1], np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)]))


@pytest.mark.parametrize("change", [None, *PAIR_LISTS])
def test_line_graph_is_all_pairs_that_follow_each_other(
    change: Callable[[Graph], Graph] | None, make_box: MakeAtoms, make_molecule: MakeAtoms, graph_of: GraphOf
) -> None:
    """Against two loops: the pairs that lead back included, also of an atom with its own images."""
    graph = graph_of([make_box(4, seed=3)] if change else [make_box(3, seed=6), make_molecule(5, seed=2)])
    graph = change(graph) if change else graph
    near = (torch.linalg.norm(graph.pair_vectors, dim=1) < THREE_BODY_CUTOFF).tolist()
    i, j = graph.pair_i.tolist(), graph.pair_j.tolist()
    expected = [(a, b) for b, a in itertools.product(range(len(i)), repeat=2) if near[a] and near[b] and i[a] == j[b]]
    assert expected
    assert line_graph_within(graph, THREE_BODY_CUTOFF).T.tolist() == [list(each) for each in expected]


def test_line_graph_of_no_pairs(isolated_atom: Atoms, graph_of: GraphOf) -> None:
    assert line_graph_within(graph_of([isolated_atom]), THREE_BODY_CUTOFF).shape == (2, 0)


def test_angle_is_that_between_two_neighbours(graph_of: GraphOf) -> None:
    atoms = chain([1.2, 1.3])
    graph = graph_of([atoms])
    before, after = line_graph_within(graph, 1.5)  # without the pair of the two ends
    none = graph.pair_vectors[:0, 0]
    units = torch.nn.functional.normalize(graph.pair_vectors, dim=1)
    found = cosines(units, LineGraph(before, after, none))
    angle = np.cos(np.radians(atoms.get_angle(0, 1, 2)))
    expected = [
        1.0 if graph.pair_j[a] == graph.pair_i[b] else angle
        for a, b in zip(before.tolist(), after.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)
    assert len(set(expected)) == 2


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_single_structures_are_those_of_the_library(case: str, make_box: MakeAtoms, graph_of: GraphOf) -> None:
    """Which the library evaluates by other code than batches."""
    potential, reference = make(CONFIGURATIONS[case])
    graph = graph_of([make_box(4, seed=2)], cutoff=potential.cutoff)
    found, expected = potential(graph), reference(graph)
    for key in ("energy", "forces"):
        error = (found[key] - expected[key]).detach().abs().max() / expected[key].abs().max()
        assert error < 1e-9, key


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_features_do_not_change_when_the_structure_turns(
    handedness: int, make_molecule: MakeAtoms, make_box: MakeAtoms, graph_of: GraphOf
) -> None:
    """Of atoms, pairs and triples."""
    matrix = handedness * Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    model = model_of(small())
    for atoms in (make_molecule(7, seed=3), make_box(3, seed=4)):
        graph = graph_of([atoms])
        turned = graph._replace(pair_vectors=graph.pair_vectors @ torch.from_numpy(matrix).T)
        before, after = (model.features(each, model.triples(each)) for each in (graph, turned))
        for feature, other in zip(before, after, strict=True):
            assert feature.abs().max() > 1e-3
            assert (other - feature).abs().max() < 1e-10 * feature.abs().max()


def jump(potential: Potential, graph_of: GraphOf, rest: list[float], at: float, gap: float) -> Tensor:
    """Largest changes of energy and of forces where the first bond of a chain passes a distance."""
    outputs = [potential(graph_of([chain([at + sign * gap, *rest])])) for sign in (-1, 1)]
    return torch.stack([(outputs[0][key] - outputs[1][key]).detach().abs().max() for key in ("energy", "forces")])


@pytest.mark.parametrize("at", ["cutoff", "three_body_cutoff", "both"])
def test_smooth_cut(at: str, graph_of: GraphOf) -> None:
    """A pair, and the triples that it is part of, leave smoothly; also the last triple of a pair."""
    potential = small(three_body_cutoff=CUTOFF if at == "both" else THREE_BODY_CUTOFF)
    distance = THREE_BODY_CUTOFF if at == "three_body_cutoff" else CUTOFF
    for rest in ([], [1.2], [1.2, 1.4]):
        sizes = [jump(potential, graph_of, rest, distance, gap) for gap in (1e-3, 1e-4, 1e-5)]
        for near, nearer in itertools.pairwise(sizes):
            assert (near > 0).all()
            assert (nearer < 0.2 * near).all()  # a jump would stay


def test_nothing_happens_just_inside_of_the_cutoff(graph_of: GraphOf) -> None:
    """The message of an only neighbour vanishes over Angstroms, not where its weight is as small as a denominator."""
    smooth = small()
    steps = torch.linspace(3.0, 4.0, 41)
    forces = torch.stack([smooth(graph_of([chain([float(r)])]))["forces"].detach().abs().max() for r in steps])
    assert (forces[1:] - forces[:-1]).abs().max() < 0.2 * forces.max()
    assert (forces[-5:] < 0.05 * forces.max()).all()


@pytest.mark.parametrize("at", ["cutoff", "three_body_cutoff"])
def test_published_cut_jumps(at: str, graph_of: GraphOf) -> None:
    potential = small(cut="published")
    distance = THREE_BODY_CUTOFF if at == "three_body_cutoff" else CUTOFF
    sizes = jump(potential, graph_of, [1.2, 1.4], distance, 1e-7)
    assert (sizes > 1e-4).all()


@pytest.mark.parametrize("updates_edges", [True, False])
def test_open_gates_average(updates_edges: bool) -> None:
    """The convolution is its equation."""
    torch.manual_seed(0)
    convolution = EdgeGatedConvolution(4, 1.0, updates_edges).double()
    perturb(convolution, seed=0)
    nodes, edges, weights = torch.randn(3, 4).double(), torch.randn(4, 4).double(), torch.rand(4).double()
    sender, receiver = torch.tensor([1, 2, 0, 1]), torch.tensor([0, 0, 1, 2])
    found = convolution(nodes, edges, sender, receiver, weights)
    silu = torch.nn.functional.silu
    for i in range(3):
        into = [e for e in range(4) if receiver[e] == i]
        mixed = {
            e: convolution.sender_gate(nodes[sender[e]]) + convolution.receiver_gate(nodes[i])
            + convolution.edge_gate(edges[e])
            for e in into
        }  # fmt: skip
        gates = {e: weights[e] / (1 + torch.exp(-mixed[e])) for e in into}
        mean = sum(gates[e] * convolution.message(nodes[sender[e]]) for e in into) / (1 + sum(gates.values()))
        expected = nodes[i] + silu(convolution.node_norm(convolution.own(nodes[i]) + mean))
        torch.testing.assert_close(found[0][i], expected, rtol=1e-12, atol=1e-12)
        for e in into:
            expected = edges[e] + (silu(convolution.edge_norm[0](mixed[e])) if updates_edges else 0)
            torch.testing.assert_close(found[1][e], expected, rtol=1e-12, atol=1e-12)


def test_every_parameter_acts(make_molecule: MakeAtoms, graph_of: GraphOf) -> None:
    """None is without effect, however many layers there are."""
    for n_line_interactions in range(4):
        potential = small(n_line_interactions=n_line_interactions)
        outputs = potential.train()(graph_of([make_molecule(6, seed=1)]))
        outputs["energy"].sum().backward()
        for name, parameter in potential.named_parameters():
            assert parameter.grad is not None, (n_line_interactions, name)
            assert parameter.grad.any(), (n_line_interactions, name)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.three_body_cutoff=6.0", r"model.three_body_cutoff=6.0, model.cutoff=5.0: must satisfy"),
        ("model.n_line_interactions=5", r"model.n_line_interactions=5, model.n_interactions=4: must satisfy"),
    ],
)
def test_combinations_that_cannot_be(setting: str, message: str) -> None:
    from hiphop_train.build import make_potential

    config = load_config("train", ["model=alignn", setting])
    with pytest.raises(ConfigError, match=message):
        make_potential(config.model, torch.float32)


def test_cut_is_one_of_two_words() -> None:
    with pytest.raises(ConfigError, match=r"smooth.*published"):
        load_config("train", ["model=alignn", "model.cut=sharp"])
