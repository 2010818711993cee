"""Atomic cluster expansion: its functions are python-ace's, its tensors turn with the structure; its configuration."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from hiphop_train.accelerate import accelerate
from hiphop_train.build import make_potential
from hiphop_train.config import load_config
from hiphop_train.errors import ConfigError
from hiphop_train.models.ace import ACE
from hiphop_train.potential import Potential
from hiphop_train.types import Graph
from tests.references.ace import CONFIGURATIONS, ONE_ELEMENT, Reference, expand, make
from tests.references.common import turning

GraphOf = Callable[..., Graph]


@pytest.fixture(scope="module")
def one_element() -> tuple[Potential, Reference]:
    """Up to four factors."""
    return make(ONE_ELEMENT)


def test_functions_are_the_librarys(one_element: tuple[Potential, Reference]) -> None:
    """As many with the same factors, and sums of ours; up to sign the same where there is one with these factors."""
    potential, reference = one_element
    representation = potential.terms[0].representation
    assert isinstance(representation, ACE)
    assert representation.feature_sizes == [len(reference.functions(0))] == [268]
    found = expand(representation, reference, 0)
    assert found.deviation < 1e-12
    assert {order: len(factors) for order, factors in found.single.items()} == {1: 6, 2: 50, 3: 137, 4: 51}
    for factors in found.single.values():
        np.testing.assert_allclose(np.abs(factors), 1.0, rtol=1e-11)


def test_energies_and_forces_of_one_element(
    one_element: tuple[Potential, Reference], make_molecule: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    potential, reference = one_element
    cell = Atoms("C3", cell=[[3.1, 0.2, 0.0], [-0.4, 2.8, 0.3], [0.5, 0.1, 3.3]], pbc=True)
    cell.set_scaled_positions([[0.0, 0.0, 0.0], [0.45, 0.52, 0.1], [0.1, 0.6, 0.55]])
    structures = [make_molecule(7, seed=1, symbols="C"), cell, make_molecule(5, seed=2, symbols="C")]
    graph = graph_of(structures, elements=["C"])
    expected = reference(graph)
    assert expected["forces"].abs().max() > 0.1
    for purpose in ("plain", "training", "inference"):
        if purpose != "plain":
            accelerate(potential, torch.float64, torch.device("cpu"), purpose)  # type: ignore[arg-type]
        outputs = potential(graph)
        for key in ("energy", "forces"):
            error = (outputs[key].detach() - expected[key]).abs().max() / expected[key].abs().max()
            assert error < 1e-9, (purpose, key)


def test_numbers_of_functions() -> None:
    """Two elements: 2 n functions of one factor; of two, one for each rank and pair of the 2 n channels."""
    two = ACE(["H", "C"], 4.0, [5, 3], [0, 2])
    assert two.feature_sizes == [2 * 5 + 3 * (6 * 7 // 2)]
    assert ACE(["H", "C"], 4.0, [4, 3, 2, 2], [0, 3, 2, 2]).feature_sizes == [1093]  # python-ace's number


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_tensors_turn_with_the_structure(
    handedness: int, make_molecule: Callable[..., Atoms], graph_of: GraphOf
) -> None:
    matrix = torch.from_numpy(handedness * Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix())
    representation = ACE(["H", "C", "N", "O"], 4.0, [4, 3], [0, 4])
    atoms = make_molecule(7, seed=3)
    turned = atoms.copy()
    turned.positions = atoms.positions @ matrix.numpy().T
    before, after = (representation.environments(graph_of([each])) for each in (atoms, turned))
    assert len(before) == 5
    for rank, (tensors, others) in enumerate(zip(before, after, strict=True)):
        expected = torch.tensordot(turning(rank, matrix), tensors, dims=1)
        assert (others - expected).abs().max() < 1e-10 * tensors.abs().max()


def test_radial_functions_are_orthonormal_and_end_smoothly() -> None:
    representation = ACE(["C"], 5.0, [12], [0])
    distance = torch.linspace(0, 5.0, 20001, dtype=torch.float64)[1:]
    values = representation.radial(distance)
    products = (values * distance[:, None].square() * (distance[1] - distance[0])).T @ values
    torch.testing.assert_close(products, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-10)
    end = torch.tensor([5.0 - 1e-4, 5.0 + 1e-4], dtype=torch.float64)
    near, beyond = representation.radial(end)
    assert near.abs().max() < 1e-5 * values.abs().max()
    assert not beyond.any()


def test_standardisation_shares_functions_between_species() -> None:
    representation = ACE(["H", "C"], 4.0, [2, 1], [0, 1])
    assert representation.standardised_functions == [0, 1, 0, 1, 2, 2, 2, 3, 3, 3]
    assert not ACE(["H", "C"], 4.0, [2, 1], [0, 1], standardise=False).standardised_functions


def test_coefficients_start_at_zero() -> None:
    potential = make_potential(load_config("train", ["model=ace"]).model, torch.float32)
    assert not any(parameter.any() for parameter in potential.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_radial_by_order": [4, 2]}, r"n_radial_by_order=\[4, 2\].*2 and 4 orders"),
        ({"l_max_by_order": [1, 3, 2, 1]}, r"l_max_by_order=\[1, 3, 2, 1\]: begins with 1.*begin with 0"),
        ({"l_max_by_order": [0, 9, 2, 1]}, r"l_max_by_order"),
        ({"n_radial_by_order": [4, 0, 1, 1]}, r"n_radial_by_order"),
    ],
)
def test_meaningless_truncations_are_refused(changes: dict[str, Any], message: str) -> None:
    settings = [f"model.{key}={value}".replace(" ", "") for key, value in changes.items()]
    with pytest.raises(ConfigError, match=message):
        make_potential(load_config("train", ["model=ace", *settings]).model, torch.float32)


def test_configurations_differ_in_what_matters() -> None:
    """Products of three and of four factors."""
    assert [len(each["n_radial_by_order"]) for each in CONFIGURATIONS.values()] == [3, 4]
