"""Every experiment/ file trains; those for ANI-1x on a small file in the release's layout."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Hartree

from hiphop_train.checkpoint import load
from hiphop_train.config_files import config_directory
from tests.commands.conftest import Run

ROOT = Path(__file__).resolve().parents[2]
PROTOCOLS = sorted(file.stem for file in (config_directory() / "experiment").glob("ani1x_*.yaml"))
FIRST_STEPS = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def ani1x_file(make_conformers: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty groups of formulas, so that each split gets some."""
    path = tmp_path_factory.mktemp("ani1x") / "ani1x-release.h5"
    with h5py.File(path, "w") as file:
        for k in range(20):
            conformers = make_conformers(["CH4", "H2O", "NH3", "CH3OH"][k % 4], 6, seed=k)
            group = file.create_group(f"group{k}")
            group["atomic_numbers"] = conformers.numbers.astype("u1")
            group["coordinates"] = conformers.positions.astype("f4")
            group["wb97x_dz.energy"] = conformers.energy / Hartree
            group["wb97x_dz.forces"] = conformers.forces / Hartree
    return path


def test_there_are_protocols() -> None:
    assert {"ani1x_ani", "ani1x_schnet", "ani1x_hipnn", "ani1x_hipnn_ts", "ani1x_hiphop", "ani1x_hiphop_256"} <= set(
        PROTOCOLS
    )


@pytest.mark.parametrize("name", PROTOCOLS)
def test_published_protocol_takes_its_first_steps(name: str, ani1x_file: Path, tmp_path: Path, run: Run) -> None:
    code, out, err = run(
        "train", f"experiment={name}", f"data.path={ani1x_file}", f"run_dir={tmp_path / 'run'}", *FIRST_STEPS
    )
    assert code == 0, err
    assert "run directory" in out
    loaded = load(str(tmp_path / "run"))
    assert loaded.record["config"]["model"]["elements"] == ["H", "C", "N", "O"]
    assert (tmp_path / "run" / "model.pt").is_file()


@pytest.fixture(scope="module")
def methane_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("methane") / "methane.h5"
    command = [sys.executable, str(ROOT / "scripts" / "generate_methane.py"), str(path), "--count=60", "--processes=1"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path


def test_random_methane_is_as_described(methane_file: Path) -> None:
    with h5py.File(methane_file) as file:
        positions = file["C1H4/coordinates"][:]
        forces = file["C1H4/gfn2_xtb.forces"][:]
        energy = file["C1H4/gfn2_xtb.energy"][:]
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=3)[:, *np.triu_indices(5, 1)]
    assert positions.shape == (60, 5, 3)
    assert not positions[:, 0].any()
    assert distances.min() > 0.7
    assert 2.5 < distances[:, :4].max() < 3.0
    assert np.linalg.norm(forces, axis=2).max() * Hartree < 40
    assert len(np.unique(energy)) == 60
    np.testing.assert_allclose(forces.sum(axis=1), 0.0, atol=1e-8)


@pytest.mark.parametrize("model", ["hipnn", "hipnn_ts", "hiphop"])
def test_methane_takes_its_first_steps(model: str, methane_file: Path, tmp_path: Path, run: Run) -> None:
    code, _, err = run(
        "train",
        "experiment=methane",
        f"model={model}",
        f"data.path={methane_file}",
        f"run_dir={tmp_path / 'run'}",
        *FIRST_STEPS,
    )
    assert code == 0, err
    assert load(str(tmp_path / "run")).potential.elements == ["H", "C"]


@pytest.mark.parametrize("name", ["one_molecule_nequip", "one_molecule_mace"])
def test_one_molecule_takes_its_first_steps(
    name: str, make_conformers: Callable[..., Any], tmp_path: Path, run: Run
) -> None:
    conformers = make_conformers("CH3CH2OH", 20)
    frames = []
    for positions, energy, forces in zip(conformers.positions, conformers.energy, conformers.forces, strict=True):
        atoms = Atoms(conformers.numbers, positions)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    ase.io.write(tmp_path / "ethanol.xyz", frames, format="extxyz")
    given = (f"experiment={name}", f"data.path={tmp_path / 'ethanol.xyz'}", "model.elements=[H,C,O]")
    code, _, err = run("train", *given, f"run_dir={tmp_path / 'run'}", *FIRST_STEPS)
    assert code == 0, err
    assert load(str(tmp_path / "run")).potential.elements == ["H", "C", "O"]
