"""hiphop-data pack on small files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hiphop_train import cli
from hiphop_train.data.store.layout import open_packed
from hiphop_train.errors import DataError

MakeConformers = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path, make_conformers: MakeConformers) -> Path:
    """Two molecules in ANI-1x's layout; one energy in four is missing, charges of one molecule are zero."""
    path = tmp_path / "my set.h5"
    with h5py.File(path, "w") as handle:
        for seed, name in enumerate(["CH4", "H2O"]):
            numbers, positions, energy, forces = make_conformers(name, 8, seed=seed, spread=0.05)
            energy[:2] = np.nan
            handle[f"{name}/atomic_numbers"] = numbers.astype(np.uint8)
            handle[f"{name}/coordinates"] = positions.astype(np.float32)
            handle[f"{name}/wb97x_dz.energy"] = energy / 27.211386245988
            handle[f"{name}/wb97x_dz.forces"] = (forces / 27.211386245988).astype(np.float32)
            handle[f"{name}/charges"] = np.full((8, len(numbers)), float(seed), np.float32)
    return path


def test_pack(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my packed"
    assert cli.call("data", ["pack", str(file), "--output", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "12 structures, 48 atoms" in told
    assert "MB/s of input" in told
    assert f"train from it: hiphop-train data=packed 'data.path=\"{folder}\"'" in told
    assert len(open_packed(folder).structures) == 12
    assert cli.call("data", ["pack", str(file), "--output", str(folder)]) == 0
    assert "packed already" in capsys.readouterr().out
    with pytest.raises(DataError, match="is packed already; train from it: data=packed"):
        cli.call("data", ["pack", str(folder)])
    assert cli.call("data", ["inspect", str(folder)]) == 0
    assert "read by data=packed" in capsys.readouterr().out


def test_default_place_is_where_training_looks(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call("data", ["pack", str(file)]) == 0
    (folder,) = file.parent.glob("my set-*.packed")
    assert str(folder) in capsys.readouterr().out


def test_stopped_packing_says_that_it_goes_on(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hiphop_train.data.store.pack._append_all", stop)
        with pytest.raises(KeyboardInterrupt):
            cli.call("data", ["pack", str(file), "--output", str(tmp_path / "p")])
    assert "the same command resumes" in capsys.readouterr().out
    assert cli.call("data", ["pack", str(file), "--output", str(tmp_path / "p")]) == 0
