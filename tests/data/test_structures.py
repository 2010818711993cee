"""Labels by target: known or not, selected, cut and joined like everything else in a set."""

import numpy as np
import pytest

from hiphop_train.data.formats.collector import Collector, Factors
from hiphop_train.data.structures import Structures, concatenate
from hiphop_train.errors import DataError


def water(n: int, **labels: np.ndarray) -> Structures:
    rng = np.random.default_rng(n)
    found = Collector("set.xyz")
    found.add("water", np.array([8, 1, 1]), rng.normal(size=(n, 3, 3)), labels)
    return found.finish("all")


def test_energy_and_forces_are_always_labels_and_others_where_known() -> None:
    nothing = water(2, stress=np.full((2, 3, 3), np.nan))
    assert nothing.labels.keys() == {"energy", "forces"}
    assert nothing.forces.shape == (6, 3)
    for key in ("energy", "forces", "stress"):
        assert not nothing.has(key).any()
    some = water(2, energy=np.array([1.0, np.nan]), dipole=np.array([[np.nan] * 3, [1.0, 2.0, 3.0]]))
    assert some.labels.keys() == {"energy", "forces", "dipole"}
    assert some.has_energy.tolist() == [True, False]
    assert some.has("dipole").tolist() == [False, True]


def test_sets_with_different_labels_are_joined() -> None:
    first = water(2, energy=np.ones(2), stress=np.arange(18.0).reshape(2, 3, 3))
    second = water(3, forces=np.ones((3, 3, 3)))
    joined = concatenate([first, second, first], "all")
    assert joined.has("stress").tolist() == [True, True, False, False, False, True, True]
    assert joined.has_forces.tolist() == [False, False, True, True, True, False, False]
    np.testing.assert_array_equal(joined.labels["stress"][5:], first.labels["stress"])
    chosen = joined.take(np.array([6, 2, 0]))
    np.testing.assert_array_equal(chosen.labels["stress"][[0, 2]], first.labels["stress"][::-1])
    assert np.isfinite(chosen.forces[3:6]).all()
    assert chosen.has("stress").tolist() == [True, False, True]
    again = concatenate(list(joined.blocks(3)), "all")
    for key, array in joined.labels.items():
        np.testing.assert_array_equal(again.labels[key], array)
    other = joined.with_labels(energy=np.zeros(7))
    assert other.has_energy.all()
    assert joined.has_energy.sum() == 4


def test_empty_sets_have_no_labels_that_are_known() -> None:
    empty = water(2, energy=np.ones(2)).take(np.zeros(0, np.int64))
    assert empty.has_energy.shape == empty.has_forces.shape == empty.has("dipole").shape == (0,)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            {"stress": np.zeros((2, 6))},
            ["stress has shape (2, 6)", "(2, 3, 3) is expected for 2 conformations of 3 atoms"],
        ),
        ({"energy": np.zeros((2, 1))}, ["energy has shape (2, 1)", "coordinates (2, 3, 3)"]),
        ({"forces": np.zeros((2, 2, 3))}, ["forces has shape (2, 2, 3)", "(2, 3, 3) is expected"]),
        ({"dipole": np.array([[1.0, np.nan, 1.0], [0.0, 0.0, 0.0]])}, ["dipole of conformation 0 is NaN"]),
        ({"stress": np.full((2, 3, 3), np.inf)}, ["stress: infinite or impossibly large values"]),
    ],
)
def test_wrong_labels_are_refused(labels: dict[str, np.ndarray], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        water(2, **labels)
    for word in ["set.xyz, group water", *words]:
        assert word in str(caught.value), str(caught.value)


def test_factors_convert_every_label() -> None:
    found = Collector("set.xyz", Factors(0.5, {"energy": 2.0, "forces": -4.0, "dipole": 3.0}))
    labels = {
        "energy": np.ones(1),
        "forces": np.ones((1, 2, 3)),
        "dipole": np.ones((1, 3)),
        "stress": np.ones((1, 3, 3)),
    }
    found.add("H2", np.array([1, 1]), np.array([[[0.0, 0, 0], [0, 0, 1.4]]]), labels)
    structures = found.finish("all")
    assert structures.positions[1, 2] == 0.7
    for key, factor in (("energy", 2.0), ("forces", -4.0), ("dipole", 3.0), ("stress", 1.0)):
        assert (structures.labels[key] == factor).all()
