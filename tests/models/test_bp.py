"""Our symmetry functions are DScribe's; straight lines have finite second derivatives; bad parameters are refused."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import atomic_numbers

from hiphop_train.accelerate import accelerate
from hiphop_train.errors import ConfigError
from hiphop_train.models.base import Representation
from hiphop_train.models.bp import BehlerParrinello
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.atomwise import AtomwiseEnergy
from hiphop_train.types import Graph

GraphOf = Callable[..., Graph]
MakeAtoms = Callable[..., Atoms]

ELEMENTS = ["O", "H", "N", "C"]  # not in the order of atomic numbers, in which DScribe has them
CUTOFF = 4.0
G2 = [[0.01, 0.0], [0.5, 1.3], [4.0, 2.0]]
G3 = [0.7, 1.9]
G4 = [[0.01, 1, 1], [0.02, 4, -1], [0.1, 16, 1], [0.0, 2, -1]]
G5 = [[0.05, 1, -1], [0.01, 3, 1]]
BOUND = 1e-12


@pytest.fixture(scope="module")
def acsf() -> type:
    """DScribe's class; its imports raise warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dscribe.descriptors import ACSF
    return ACSF


def functions(**changes: object) -> BehlerParrinello:
    parameters = {"g1": True, "g2": G2, "g3": G3, "g4": G4, "g5": G5, **changes}
    return BehlerParrinello(ELEMENTS, CUTOFF, **parameters).to(torch.float64)


def ways(plain: BehlerParrinello) -> Iterator[Representation]:
    """Yield the plain module, and the twins for training and inference."""
    readout = AtomwiseEnergy(plain.feature_sizes, [], "tanh")
    potential = Potential([Network(plain, readout)], ELEMENTS, CUTOFF)
    yield plain
    for purpose in ("training", "inference"):
        accelerate(potential, torch.float64, torch.device("cpu"), purpose)
        yield potential.terms[0].representation


def reference_columns(n_radial: int, n_angular: int) -> list[int]:
    """Index in DScribe, sorted by atomic number and lower triangle of pairs, of each of our columns."""
    by_number = sorted(ELEMENTS, key=atomic_numbers.__getitem__)
    place = [by_number.index(element) for element in ELEMENTS]
    columns = [place[a] * n_radial + m for a in range(4) for m in range(n_radial)]
    start = 4 * n_radial
    for a in range(4):
        for b in range(a, 4):
            high, low = max(place[a], place[b]), min(place[a], place[b])
            channel = high * (high + 1) // 2 + low
            columns += [start + channel * n_angular + m for m in range(n_angular)]
    return columns


def compare(acsf: type, ours: BehlerParrinello, atoms: Atoms, graph_of: GraphOf, **parameters: object) -> None:
    reference = acsf(r_cut=CUTOFF, species=ELEMENTS, periodic=bool(atoms.pbc.any()), **parameters)
    expected = reference.create(atoms)
    n_radial = 1 + len(parameters.get("g2_params", ())) + len(parameters.get("g3_params", ()))
    n_angular = len(parameters.get("g4_params", ())) + len(parameters.get("g5_params", ()))
    columns = reference_columns(n_radial, n_angular)
    assert sorted(columns) == list(range(expected.shape[1]))
    assert np.abs(expected).max() > 0.1
    for representation in ways(ours):
        found = representation(graph_of([atoms], elements=ELEMENTS, cutoff=CUTOFF))[0].numpy()
        assert found.shape == expected.shape == (len(atoms), ours.feature_sizes[0])
        np.testing.assert_allclose(found, expected[:, columns], rtol=0, atol=BOUND * np.abs(expected).max())


ALL = {"g2_params": G2, "g3_params": G3, "g4_params": G4, "g5_params": G5}


@pytest.mark.parametrize("seed", range(3))
def test_open_structures_equal_dscribe(acsf: type, make_molecule: MakeAtoms, graph_of: GraphOf, seed: int) -> None:
    compare(acsf, functions(), make_molecule(9, seed=seed), graph_of, **ALL)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, True, False)])
@pytest.mark.parametrize("length", [3.0, 6.0])
def test_periodic_structures_equal_dscribe(
    acsf: type, make_box: MakeAtoms, graph_of: GraphOf, length: float, pbc: tuple[bool, bool, bool]
) -> None:
    """Also where a cell is smaller than the cutoff, so that an atom meets several images of another and of itself."""
    compare(acsf, functions(), make_box(5, seed=7, length=length, pbc=pbc), graph_of, **ALL)


@pytest.mark.parametrize("left", ["g1", "g2", "g3", "g4", "g5"])
def test_each_form_alone_equals_dscribe(acsf: type, make_molecule: MakeAtoms, graph_of: GraphOf, left: str) -> None:
    """Lists may be empty; DScribe always has G1."""
    empty = {"g2": [], "g3": [], "g4": [], "g5": []}
    chosen = {} if left == "g1" else {left: {"g2": G2, "g3": G3, "g4": G4, "g5": G5}[left]}
    parameters = {f"{key}_params": value for key, value in chosen.items()}
    compare(acsf, functions(**{**empty, **chosen}), make_molecule(8, seed=4), graph_of, **parameters)


def test_without_g1(make_molecule: MakeAtoms, graph_of: GraphOf) -> None:
    graph = graph_of([make_molecule(8, seed=5)], elements=ELEMENTS, cutoff=CUTOFF)
    with_g1, without = functions()(graph)[0], functions(g1=False)(graph)[0]
    n_radial = 1 + len(G2) + len(G3)
    others = [column for column in range(with_g1.shape[1]) if column >= 4 * n_radial or column % n_radial]
    torch.testing.assert_close(without, with_g1[:, others], rtol=0, atol=0)


@pytest.mark.parametrize("left", ["g1", "g2", "g3", "g4", "g5"])
def test_scripts_with_empty_lists(mixed_structures: list[Atoms], graph_of: GraphOf, left: str) -> None:
    """In a batch with an isolated atom too."""
    chosen = {"g2": G2, "g3": G3, "g4": G4, "g5": G5}
    model = functions(**{"g1": left == "g1", **{key: value if key == left else [] for key, value in chosen.items()}})
    graph = graph_of(mixed_structures, elements=ELEMENTS, cutoff=CUTOFF)
    torch.testing.assert_close(torch.jit.script(model)(graph)[0], model(graph)[0], rtol=1e-13, atol=1e-13)


def test_second_derivatives_are_finite_in_straight_lines(graph_of: GraphOf) -> None:
    """At 180 and 0 degrees the base of the power is zero."""
    line = Atoms("OCON", [[-1.2, 0, 0], [0, 0, 0], [1.2, 0, 0], [2.4, 0, 0]])
    graph = graph_of([line], elements=ELEMENTS, cutoff=CUTOFF)
    vectors = graph.pair_vectors.clone().requires_grad_(True)
    angular = [[0.01, zeta, sign] for zeta in (1, 2, 3, 16) for sign in (1, -1)]
    features = functions(g4=angular, g5=angular)(graph._replace(pair_vectors=vectors))[0]
    weights = torch.randn(features.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((features * weights).sum(), vectors, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), vectors)
    assert gradient.isfinite().all()
    assert second.isfinite().all()
    assert second.abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"g2": [[-1.0, 0.0]]}, r"model\.g2: eta=-1\.0 is negative"),
        ({"g4": [[0.1, 1.5, 1]]}, r"model\.g4: zeta=1\.5; must be 1, 2, 3"),
        ({"g5": [[0.1, 0, 1]]}, r"model\.g5: zeta=0; must be 1, 2, 3"),
        ({"g5": [[0.1, 2, 0.5]]}, r"model\.g5: lambda=0\.5; must be 1 or -1"),
        ({"g1": False, "g2": [], "g3": [], "g4": [], "g5": []}, "give at least one function"),
    ],
)
def test_meaningless_parameters_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        functions(**changes)
