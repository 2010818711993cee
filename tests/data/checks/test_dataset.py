"""Checks of a whole data set go target by target: what is missing, zero or far off is flagged."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from hiphop_train.data.checks.dataset import check_dataset
from hiphop_train.data.checks.results import CheckResult, deviations, robust
from hiphop_train.data.checks.scan import Source, scan
from tests.data.formats.layouts import make_reader


def frames() -> list[Atoms]:
    """40 waters with dipoles, and 40 crystals of them with stresses; all labels are random."""
    rng = np.random.default_rng(0)
    water = np.array([[0.0, 0.0, 0.1], [0.0, 0.76, -0.5], [0.0, -0.76, -0.5]])
    found = []
    for k in range(80):
        box = {"cell": [6.0, 6.0, 6.0], "pbc": True} if k >= 40 else {}
        atoms = Atoms("OH2", water + rng.normal(scale=0.05, size=(3, 3)), **box)
        forces = rng.normal(size=(3, 3))
        own = {"stress": rng.normal(scale=0.1, size=6)} if k >= 40 else {"dipole": rng.normal(size=3)}
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=forces - forces.mean(axis=0), **own)
        found.append(atoms)
    return found


def checked(atoms: list[Atoms], folder: Path) -> dict[str, CheckResult]:
    ase.io.write(folder / "set.xyz", atoms, format="extxyz")
    source = Source(make_reader("ase", folder / "set.xyz"))
    results = check_dataset(scan(source, lambda n: None), source, None, "")
    return {result.name: result for result in results}


def test_labels_that_are_not_defined_are_not_missing(tmp_path: Path) -> None:
    """Molecules have no stress, and crystals no dipole."""
    results = checked(frames(), tmp_path)
    missing = results["missing labels"]
    assert missing.status == "ok"
    assert missing.numbers == {"n": 80, "no_energy": 0, "no_forces": 0, "no_stress": 0, "no_dipole": 0}
    assert results["labels of zero"].status == "ok"
    assert {"outliers in energy", "outliers in forces", "outliers in stress", "outliers in dipole"} <= set(results)
    assert results["outliers in stress"].numbers["n"] == results["outliers in dipole"].numbers["n"] == 40


def test_errors_in_any_target_are_flagged(tmp_path: Path) -> None:
    atoms = frames()
    atoms[3].calc.results["dipole"] *= 1000.0
    atoms[4].calc.results["dipole"][:] = 0.0  # as in a symmetric molecule
    atoms[45].calc.results["stress"][:] = 0.0
    atoms[50].calc.results["stress"] *= 1000.0
    del atoms[60].calc.results["stress"]
    del atoms[10].calc.results["dipole"], atoms[10].calc.results["forces"]
    results = checked(atoms, tmp_path)
    flagged = {name: result.flagged.tolist() for name, result in results.items() if len(result.flagged)}
    assert flagged["missing labels"] == [10, 60]  # two labels, one label
    assert results["missing labels"].severity.tolist() == [2.0, 1.0]
    assert "0 lack energy, 1 lack forces, 1 lack stress, 1 lack dipole" in results["missing labels"].text
    assert flagged["labels of zero"] == [45]
    assert flagged["outliers in dipole"] == [3]
    assert flagged["outliers in stress"] == [50]
    assert "e*angstrom" in results["outliers in dipole"].text


def test_deviations_are_robust() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(2.0, 0.5, 10_001), [1e6]])
    centre, spread = robust(values)
    assert centre == pytest.approx(2.0, abs=0.02)
    assert spread == pytest.approx(0.5, abs=0.02)
    found = deviations(values)
    np.testing.assert_allclose(found, (values - centre) / spread)
    assert not deviations(np.ones(5)).any()
    assert robust(np.array([np.nan, 1.0, 2.0, 3.0])) == robust(np.array([1.0, 2.0, 3.0]))
