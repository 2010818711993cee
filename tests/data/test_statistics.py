"""Statistics find E0 and the scale of energies."""

import numpy as np
import pytest

from hiphop_train.data.formats.collector import Collector
from hiphop_train.data.statistics import fit_statistics
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError

ATOMS = {1: -13.587222780835477, 6: -1029.4889999855063, 8: -2041.9816003861047}
FORMULAS = [{6: 1, 1: 4}, {8: 1, 1: 2}, {6: 1, 8: 2}, {6: 2, 1: 6, 8: 1}]


def labelled(formulas: list[dict[int, int]], energy_of: dict[int, float], noise: float = 0.0) -> Structures:
    rng = np.random.default_rng(0)
    found = Collector("set.h5")
    for k, formula in enumerate(formulas):
        numbers = np.repeat(list(formula), list(formula.values()))
        energy = sum(energy_of[z] * count for z, count in formula.items()) + noise * rng.normal()
        found.add(str(k), numbers, rng.normal(size=(1, len(numbers), 3)), {"energy": np.array([energy])})
    return found.finish("train")


def test_e0_is_recovered_exactly() -> None:
    statistics = fit_statistics(labelled(FORMULAS, ATOMS), [1, 6, 8])
    np.testing.assert_allclose(statistics.e0[0], list(ATOMS.values()), rtol=1e-12)
    assert statistics.rank == 3
    assert statistics.residual < 1e-9


def test_e0_of_an_element_that_does_not_occur_is_zero() -> None:
    statistics = fit_statistics(labelled(FORMULAS, ATOMS), [6, 7, 1, 8])
    np.testing.assert_allclose(statistics.e0[0], [ATOMS[6], 0.0, ATOMS[1], ATOMS[8]], rtol=1e-12, atol=1e-9)
    assert statistics.rank == 3


def test_one_formula_only_gives_the_smallest_fit() -> None:
    """The composition matrix has rank one: energies are matched, and E0 is spread as least squares does."""
    statistics = fit_statistics(labelled([{6: 1, 1: 4}] * 5, ATOMS), [1, 6, 8])
    assert statistics.rank == 1
    total = ATOMS[6] + 4 * ATOMS[1]
    np.testing.assert_allclose(statistics.e0[0], total * np.array([4, 1, 0]) / 17, rtol=1e-12, atol=1e-9)
    assert statistics.residual < 1e-9
    assert statistics.scale > 0


def test_scale_is_that_of_the_forces_or_else_of_the_residual(structures: Structures) -> None:
    statistics = fit_statistics(structures, [1, 6, 7, 8])
    known = np.isfinite(structures.forces).all(axis=1)
    assert not known.all()
    assert statistics.scale == pytest.approx(float(np.sqrt((structures.forces[known] ** 2).mean())), rel=1e-12)

    noisy = labelled(FORMULAS * 20, ATOMS, noise=0.3)
    fitted = fit_statistics(noisy, [1, 6, 8])
    counts = np.array([[formula.get(z, 0) for z in (1, 6, 8)] for formula in FORMULAS * 20], float)
    left = noisy.energy - counts @ np.linalg.solve(counts.T @ counts, counts.T @ noisy.energy)
    assert 0.1 < left.std() < 0.5
    assert fitted.residual == pytest.approx(left.std(), rel=1e-6)
    assert fitted.scale == pytest.approx(float(np.sqrt((left**2 / noisy.sizes).mean())), rel=1e-6)


def test_missing_energies_do_not_enter(structures: Structures) -> None:
    known = structures.has_energy
    assert not known.all()
    without = structures.take(np.flatnonzero(known))
    np.testing.assert_array_equal(fit_statistics(structures, [1, 6, 7, 8]).e0, fit_statistics(without, [1, 6, 7, 8]).e0)


def test_forces_alone_are_enough_and_nothing_is_not(structures: Structures) -> None:
    forces_only = structures.with_labels(energy=np.full(len(structures), np.nan))
    statistics = fit_statistics(forces_only, [1, 6, 7, 8])
    assert not statistics.e0.any()
    assert statistics.scale > 0
    nothing = forces_only.with_labels(forces=np.full(structures.forces.shape, np.nan))
    with pytest.raises(DataError, match=r"set\.xyz.*neither energies nor forces"):
        fit_statistics(nothing, [1, 6, 7, 8])
