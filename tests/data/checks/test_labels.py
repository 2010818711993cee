"""The physical heuristics accept correct labels and find a wrong sign or unit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hiphop_train.data.checks.atom_energies import GSAE, reference_sums
from hiphop_train.data.checks.label_statistics import label_statistics
from hiphop_train.data.checks.labels import check_labels
from hiphop_train.data.formats.collector import Collector, Factors
from hiphop_train.data.structures import Structures, concatenate
from hiphop_train.errors import DataError

BOHR = 0.529177210903
HARTREE = 27.211386245988
MakeConformers = Callable[..., Any]


@pytest.fixture
def collect(make_conformers: MakeConformers) -> Callable[..., Structures]:
    """Collect conformers of several molecules, as a reader does."""

    def make(
        count: int = 12,
        spread: float = 0.03,
        turned: bool = False,
        energy_factor: float = 1.0,
        length_factor: float = 1.0,
        force_factor: float = 1.0,
        with_forces: bool = True,
    ) -> Structures:
        found = Collector("set.h5", Factors(length_factor, {"energy": energy_factor, "forces": force_factor}))
        for seed, name in enumerate(["CH3OH", "CH4", "H2O", "NH3", "C2H6"]):
            numbers, positions, energy, forces = make_conformers(name, count, seed=seed, spread=spread)
            if turned:
                turns = Rotation.random(count, random_state=np.random.RandomState(seed)).as_matrix()
                positions, forces = (np.einsum("nax,nyx->nay", array, turns) for array in (positions, forces))
                positions = positions + np.random.default_rng(seed).normal(scale=5.0, size=(count, 1, 3))
            found.add(name, numbers, positions, {"energy": energy, "forces": forces if with_forces else None})
        return found.finish("all")

    return make


@pytest.mark.parametrize("turned", [False, True], ids=["aligned", "turned and moved at random"])
def test_correct_labels_pass(collect: Callable[..., Structures], turned: bool) -> None:
    statistics = check_labels(collect(turned=turned))
    assert 0.9 < statistics.bond_ratio < 1.1
    assert statistics.n_neighbours >= 40
    assert statistics.work_correlation > 0.99
    assert statistics.work_slope == pytest.approx(1.0, abs=0.05)
    assert statistics.n_bonds >= 100
    assert statistics.bond_correlation < -0.8


def test_correct_labels_of_unrelated_conformers_pass(collect: Callable[..., Structures]) -> None:
    statistics = check_labels(collect(count=1))
    assert statistics.n_neighbours == 0


def test_energies_without_forces_pass(collect: Callable[..., Structures]) -> None:
    statistics = check_labels(collect(with_forces=False))
    assert statistics.n_neighbours == statistics.n_bonds == 0
    assert 0.9 < statistics.bond_ratio < 1.1


@pytest.mark.parametrize("turned", [False, True])
def test_wrong_sign_of_neighbouring_conformers(collect: Callable[..., Structures], turned: bool) -> None:
    with pytest.raises(DataError, match=r"(?s)set\.h5.*opposite sign.*force_sign"):
        check_labels(collect(turned=turned, force_factor=-1.0))


def test_wrong_sign_where_conformers_are_far_apart(collect: Callable[..., Structures]) -> None:
    structures = collect(spread=0.15)
    assert label_statistics(structures).n_neighbours < 10
    assert check_labels(structures).bond_correlation < -0.5
    with pytest.raises(DataError, match=r"(?s)set\.h5.*opposite sign.*force_sign"):
        check_labels(collect(spread=0.15, force_factor=-1.0))


def test_wrong_sign_without_energies(collect: Callable[..., Structures]) -> None:
    structures = collect(force_factor=-1.0)
    without = structures.with_labels(energy=np.full(len(structures), np.nan))
    with pytest.raises(DataError, match="opposite sign"):
        check_labels(without)


@pytest.mark.parametrize("factor", [HARTREE, 1 / HARTREE, 23.06, 1 / 23.06])
def test_energies_in_another_unit_than_forces(collect: Callable[..., Structures], factor: float) -> None:
    with pytest.raises(
        DataError, match=r"(?s)set\.h5.*units of energies and forces do not match.*energy_unit"
    ) as caught:
        check_labels(collect(energy_factor=factor))
    assert f"{factor:.2g}"[:2] in str(caught.value)


@pytest.mark.parametrize("factor", [HARTREE, 1 / HARTREE, 23.06, 1 / 23.06, 1e3])
@pytest.mark.parametrize("with_energies", [True, False])
def test_energies_and_forces_in_the_same_wrong_unit(
    collect: Callable[..., Structures], factor: float, with_energies: bool
) -> None:
    """Energies and forces agree with one another then; only the stiffness of bonds shows it."""
    right, wrong = collect(), collect(energy_factor=factor, force_factor=factor)
    if not with_energies:
        right, wrong = (set_.with_labels(energy=np.full(len(set_), np.nan)) for set_ in (right, wrong))
    stiffness = check_labels(right).hydrogen_stiffness
    assert label_statistics(wrong).hydrogen_stiffness == pytest.approx(factor * stiffness, rel=1e-9)
    with pytest.raises(DataError, match=r"(?s)set\.h5.*stiffness.*energy_unit"):
        check_labels(wrong)


@pytest.mark.parametrize("factor", [BOHR, 1 / BOHR])
def test_wrong_unit_of_length(collect: Callable[..., Structures], factor: float) -> None:
    """Angstrom declared as bohr, and the other way round."""
    with pytest.raises(DataError, match=r"(?s)set\.h5.*unit of length is wrong.*length_unit"):
        check_labels(collect(length_factor=factor, force_factor=1 / factor))


def test_sample_is_a_function_of_the_seed(collect: Callable[..., Structures]) -> None:
    structures = collect()
    first, again, other = (check_labels(structures, sample=24, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first.n_neighbours < label_statistics(structures).n_neighbours


def test_wrong_sign_is_caught_in_a_sample(collect: Callable[..., Structures]) -> None:
    with pytest.raises(DataError, match="opposite sign"):
        check_labels(collect(force_factor=-1.0), sample=24)


def test_isolated_atoms_and_periodic_structures_are_not_compared() -> None:
    found = Collector("set.h5")
    found.add("H", np.array([1]), np.zeros((3, 1, 3)), {"energy": np.zeros(3), "forces": np.zeros((3, 1, 3))})
    dense = np.array([[[0.0, 0.0, 0.0], [0.3, 0.0, 0.0]]])
    cell, pbc = np.eye(3)[None], np.ones((1, 3), np.bool_)
    found.add("H2", np.array([1, 1]), dense, {"energy": np.zeros(1), "forces": np.zeros((1, 2, 3))}, cell, pbc)
    statistics = check_labels(found.finish("all"))
    assert statistics.n_bonds == statistics.n_neighbours == 0


def total(structures: Structures, factor: float) -> Structures:
    """Give a set total energies of all electrons, times a factor, and no forces."""
    compositions = np.zeros((len(structures), 119), np.int32)
    elements = np.unique(structures.numbers).tolist()
    compositions[:, elements] = structures.composition(elements)
    energy = 1.005 * reference_sums(GSAE, compositions) + 0.001 * structures.energy
    return structures.with_labels(energy=factor * energy, forces=np.full_like(structures.forces, np.nan))


@pytest.mark.parametrize("factor", [HARTREE, 1 / HARTREE, 23.06, 1 / 23.06, 96.485, 1e-3])
def test_energies_alone_in_another_unit(collect: Callable[..., Structures], factor: float) -> None:
    assert check_labels(total(collect(), 1.0)).energy_ratio == pytest.approx(1.005, abs=0.002)
    with pytest.raises(DataError, match=r"(?s)set\.h5.*total energies in a unit other than.*energy_unit"):
        check_labels(total(collect(), factor))


@pytest.mark.parametrize("factor", [0.5, 0.98 * HARTREE**2, -1.0])
def test_energies_that_are_not_total_energies_pass(collect: Callable[..., Structures], factor: float) -> None:
    """Formation energies and those of pseudopotentials are not mistakes."""
    check_labels(total(collect(), factor))


def test_zeros_instead_of_missing_forces(collect: Callable[..., Structures]) -> None:
    structures = collect()
    forces = structures.forces.copy()
    forces[: len(forces) * 2 // 3] = 0.0
    with pytest.raises(DataError, match=r"(?s)set\.h5.*exactly zero in .* of 60 structures.*missing forces"):
        check_labels(structures.with_labels(forces=forces))
    forces[:] = structures.forces
    forces[:10] = 0.0
    assert check_labels(structures.with_labels(forces=forces)).n_zero["forces"] == 1


def test_each_level_of_theory_is_checked_by_itself(collect: Callable[..., Structures]) -> None:
    right, wrong = collect(), collect(force_factor=-1.0)
    named = [replace(s, theory_names=(name,)) for s, name in ((right, "dz"), (wrong, "tz"))]
    with pytest.raises(DataError, match=r"level of theory tz: .*opposite sign"):
        check_labels(concatenate(named, "set.h5"))
    check_labels(
        concatenate([right, replace(right.with_labels(energy=right.energy + 50.0), theory_names=("tz",))], "set.h5")
    )


def test_groups_vote(collect: Callable[..., Structures]) -> None:
    statistics = label_statistics(collect())
    assert (statistics.n_groups_agreeing, statistics.n_neighbour_groups) == (5, 5)
