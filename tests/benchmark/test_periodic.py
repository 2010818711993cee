"""benchmarks/periodic.py, with the smallest of trainings."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.emt import EMT

from tests.conftest import ROOT


def test_crystals_are_trained_with_and_without_stress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "periodic.py"))
    script["main"](["--structures", "16", "--epochs", "1", "--output", str(tmp_path / "periodic.json")])
    found = json.loads((tmp_path / "periodic.json").read_text())
    assert list(found["errors"]) == ["energies and forces", "energies, forces and stresses"]
    first, second = (errors["stress"]["rmse"] for errors in found["errors"].values())
    assert 0 < first != second > 0
    assert found["errors"]["energies and forces"]["stress"]["n"] == 16 * 6
    assert "bulk modulus of Cu, GPa: EMT" in capsys.readouterr().out
    pressure, modulus = found["pressure_and_bulk_modulus"]["Cu"]["EMT"]
    assert abs(pressure) < 0.2
    assert modulus == pytest.approx(134, abs=5)  # Jacobsen, Stoltze and Norskov, Surf. Sci. 366, 394 (1996)


def test_labels_are_those_of_emt() -> None:
    make = runpy.run_path(str(ROOT / "benchmarks" / "periodic.py"))["make_structures"]
    for atoms in make(3, seed=0):
        again = atoms.copy()
        again.calc = EMT()
        np.testing.assert_allclose(atoms.get_stress(), again.get_stress(), rtol=1e-12)
        assert 0.05 < 160 * np.abs(atoms.get_stress()).max() < 100
