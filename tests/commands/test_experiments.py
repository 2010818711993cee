"""Every experiment/ file trains; those for ANI-1x on a small file of the release's layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from ase.units import Hartree

from hiphop_train.checkpoint import load
from hiphop_train.config import config_directory
from tests.commands.conftest import Run

PROTOCOLS = sorted(file.stem for file in (config_directory() / "experiment").glob("ani1x_*.yaml"))
FIRST_STEPS = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def ani1x_file(make_conformers: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty formulas' worth of groups, so that each split gets some."""
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
    assert {"ani1x_hipnn", "ani1x_hipnn_ts", "ani1x_hiphop", "ani1x_hiphop_256"} <= set(PROTOCOLS)


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
