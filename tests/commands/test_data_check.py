"""hiphop-data check and inspect: correct labels pass, every deliberate error is found and named."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from hiphop_train import cli
from hiphop_train.data.formats.recognise import recognise
from hiphop_train.errors import DataError

HARTREE, BOHR = 27.211386245988, 0.529177210903
Run = Callable[..., tuple[int, str, str]]
MakeConformers = Callable[..., Any]

REAL = {
    "s66x8": (["comp6/s66x8_wb97x6-31gd.h5"], "comp6", "gradient"),
    "ani1x": (["formats/ani1_n5.hdf5"], "ani1x", "force"),
    "ani1x tz": (["formats/ani1_n5.hdf5", "data.level=tz"], "ani1x", "force"),
    "ani2x": (["formats/ani2x_minimal.hdf5"], "ani2x", "force"),
    "spice": (["formats/SPICE-1.1.4_n2.hdf5", "data.charged=true"], "spice", "gradient"),
    "ethanol": (["extxyz/ethanol_train.xyz"], "extxyz", "force"),
}


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run hiphop-data in this process; returns exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "250")

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.run("data", [str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def ani1x(tmp_path: Path, make_conformers: MakeConformers) -> Path:
    """Write 3 formulas with 40 conformers each, in the layout of ANI-1x."""
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        for seed, name in enumerate(["CH4", "H2O", "NH3"]):
            numbers, positions, energy, forces = make_conformers(name, 40, seed=seed)
            group = file.create_group(name)
            group["atomic_numbers"] = numbers.astype("u1")
            group["coordinates"] = positions.astype("f4")
            group["wb97x_dz.energy"] = energy / HARTREE
            group["wb97x_dz.forces"] = (forces / HARTREE).astype("f4")
    return path


def change(path: Path, group: str, key: str, what: Callable[[np.ndarray], None]) -> None:
    with h5py.File(path, "a") as file:
        values = file[group][key][:]
        what(values)
        file[group][key][:] = values


def checks(folder: Path) -> dict[str, Any]:
    return {check["check"]: check for check in json.loads((folder / "check.json").read_text())["checks"]}


def flagged(folder: Path, name: str) -> list[tuple[str, int]]:
    return [(one["group"], one["conformation"]) for one in checks(folder)[name]["flagged"]]


@pytest.mark.parametrize("name", list(REAL))
def test_real_files_pass_as_declared_and_are_caught_with_the_sign_flipped(
    run: Run, shared: Path, tmp_path: Path, name: str
) -> None:
    (file, *settings), choice, sign = REAL[name]
    code, out, err = run("check", shared / "data" / file, *settings, "--output", tmp_path)
    assert (code, err) == (0, "")
    assert f"read by data={choice}" in out
    assert f"force_sign: {sign}" in out
    assert not [check for check in checks(tmp_path).values() if check["status"] == "contradiction"]
    other = {"force": "gradient", "gradient": "force"}[sign]
    code, out, _ = run("check", shared / "data" / file, *settings, f"data.reader.force_sign={other}")
    assert code == 3
    assert "opposite sign" in out
    assert "data.reader" in out


def test_all_dimers_of_s66x8_agree_on_gradients(run: Run, shared: Path, tmp_path: Path) -> None:
    """The reference found 66 of 66 by finite differences after alignment, 64 without."""
    code, _, _ = run("check", shared / "data" / REAL["s66x8"][0][0], "--output", tmp_path)
    numbers = checks(tmp_path)["sign by energies"]["numbers"]
    assert code == 0
    assert (numbers["n_groups_agreeing"], numbers["n_groups"]) == (66, 66)
    assert numbers["correlation"] > 0.99


@pytest.mark.parametrize(("unit", "word"), [("energy_unit=eV", "of their atoms"), ("length_unit=bohr", "length")])
def test_real_files_in_another_unit_are_caught(run: Run, shared: Path, unit: str, word: str) -> None:
    code, out, _ = run("check", shared / "data" / "formats" / "ani1_n5.hdf5", f"data.reader.{unit}")
    assert code == 3
    assert word in out


def test_energies_alone_show_their_unit(run: Run, shared: Path) -> None:
    file = shared / "data" / "formats" / "ani1_n5.hdf5"
    assert run("check", file, "data.level=ccx")[0] == 0
    code, out, _ = run("check", file, "data.level=ccx", "data.reader.energy_unit=kcal/mol")
    assert code == 3
    assert "total energies in a unit other than the declared one" in out


def test_correct_labels_pass(run: Run, ani1x: Path, tmp_path: Path) -> None:
    code, out, err = run("check", ani1x, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "scanned    120 structures in 3 groups" in out
    for name in (
        "duplicates",
        "near duplicates",
        "close contacts",
        "outliers in energy",
        "outliers in forces",
        "elements",
    ):
        assert checks(tmp_path / "out")[name]["status"] == "ok", name
    assert not (tmp_path / "out" / "worst.xyz").exists()


def test_deliberate_errors_are_found_and_named(run: Run, ani1x: Path, tmp_path: Path) -> None:
    def energy(values: np.ndarray) -> None:
        values[5] += 2.0  # hartree
        values[20] = values[19]

    def places(values: np.ndarray) -> None:
        values[20] = values[19]  # duplicate
        turned = values[30] @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], "f4")
        values[31] = turned + np.float32(2.0)  # near duplicate
        values[7, 1] = values[7, 0] + np.array([0.4, 0, 0], "f4")  # too close

    def forces(values: np.ndarray) -> None:
        values[9, 0, 0] += 5.0  # hartree/Angstrom
        values[11] = np.nan

    change(ani1x, "CH4", "wb97x_dz.energy", energy)
    change(ani1x, "CH4", "coordinates", places)
    change(ani1x, "CH4", "wb97x_dz.forces", forces)
    code, out, _ = run("check", ani1x, "--output", tmp_path / "out", "--elements", "H,C,O")
    assert code == 0
    folder = tmp_path / "out"
    assert flagged(folder, "outliers in energy") == [("CH4", 5)]
    assert flagged(folder, "outliers in forces")[0] == ("CH4", 9)
    assert flagged(folder, "net forces and torques")[0] == ("CH4", 9)
    assert flagged(folder, "close contacts") == [("CH4", 7)]
    assert flagged(folder, "duplicates") == [("CH4", 20)]
    assert flagged(folder, "near duplicates") == [("CH4", 31)]
    assert flagged(folder, "missing labels") == [("CH4", 11)]
    assert {group for group, _ in flagged(folder, "elements")} == {"NH3"}
    assert checks(folder)["elements"]["n_flagged"] == 40
    one = checks(folder)["close contacts"]["flagged"][0]
    assert one["file"] == str(ani1x)
    assert "outliers in energy: set.h5, group CH4, conformation 5" in out
    frames = ase.io.read(folder / "worst.xyz", ":")
    problems = {(atoms.info["group"], int(atoms.info["conformation"])): atoms.info["problem"] for atoms in frames}
    assert "close contacts" in problems["CH4", 7]
    assert "outliers in energy" in problems["CH4", 5]
    (atoms,) = [a for a in frames if (a.info["group"], int(a.info["conformation"])) == ("CH4", 5)]
    with h5py.File(ani1x) as file:
        np.testing.assert_allclose(atoms.positions, file["CH4/coordinates"][5], atol=1e-6)
        assert atoms.get_potential_energy() == pytest.approx(file["CH4/wb97x_dz.energy"][5] * HARTREE, abs=1e-4)


def test_duplicates_with_other_labels_are_reported(run: Run, ani1x: Path, tmp_path: Path) -> None:
    change(ani1x, "H2O", "coordinates", lambda values: values.__setitem__(3, values[2]))
    run("check", ani1x, "--output", tmp_path / "out")
    found = checks(tmp_path / "out")["duplicates"]
    assert found["numbers"] == {"n": 1, "n_conflicting": 1}
    assert "them differ, by up to" in found["text"]


def test_zeros_that_stand_for_missing_forces(run: Run, tmp_path: Path, make_conformers: MakeConformers) -> None:
    numbers, positions, energy, forces = make_conformers("CH4", 40)

    def write(n_zero: int) -> Path:
        frames = []
        for k in range(40):
            atoms = Atoms(numbers, positions[k])
            atoms.calc = SinglePointCalculator(atoms, energy=energy[k], forces=forces[k] * (k >= n_zero))
            frames.append(atoms)
        ase.io.write(tmp_path / "set.xyz", frames, format="extxyz")
        return tmp_path / "set.xyz"

    assert run("check", write(2), "--output", tmp_path / "out")[0] == 0
    assert sorted(flagged(tmp_path / "out", "labels of zero")) == [("CH4", 0), ("CH4", 1)]
    code, out, _ = run("check", write(30))
    assert code == 3
    assert "zeros apparently mark missing forces" in out


def test_mistakes_are_reported(run: Run, ani1x: Path, tmp_path: Path) -> None:
    code, _, err = run("check", tmp_path / "none.h5")
    assert (code, "none.h5 does not exist" in err, "hiphop-data download" in err) == (3, True, True)
    code, _, err = run("check", ani1x, "data=ani3x")
    assert (code, "'ani3x' is not one of the files of data" in err) == (2, True)
    code, _, err = run("check", ani1x, "model=hipnn")
    assert (code, "'model=hipnn': settings are data=NAME and data.KEY=VALUE" in err) == (2, True)
    code, _, err = run("check", ani1x, "strange")
    assert (code, "KEY=VALUE" in err) == (2, True)
    code, _, err = run("check", ani1x, "data.reader.energy_unit=Ry")
    assert (code, "hartree" in err) == (2, True)
    (tmp_path / "file").write_text("")
    code, _, err = run("check", ani1x, "--output", tmp_path / "file")
    assert (code, "choose another: --output DIR" in err) == (2, True)


def test_inspect_lists_all_arrays_and_missing_labels(run: Run, ani1x: Path, tmp_path: Path) -> None:
    with h5py.File(ani1x, "a") as file:
        for group in file.values():
            n, n_atoms = group["coordinates"].shape[:2]
            group["wb97x_tz.energy"] = group["wb97x_dz.energy"][:] - 0.1
            group["wb97x_tz.energy"][: n // 4] = np.nan
            group["wb97x_tz.forces"] = np.where(np.arange(n)[:, None, None] < n // 4, np.nan, 0.1) * np.ones(
                (n_atoms, 3)
            )
            group["wb97x_dz.cm5_charges"] = np.where(np.arange(n)[:, None] < n // 2, 0.0, 0.1) * np.ones(n_atoms)
    code, out, err = run("inspect", ani1x, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    content = json.loads((tmp_path / "out" / "inspect.json").read_text())
    assert (content["n_conformations"], content["n_groups"], content["n_atoms"]) == (120, 3, 40 * (5 + 3 + 4))
    assert content["atoms"] == {"H": 40 * 9, "C": 40, "N": 40, "O": 40}
    assert content["size"] == {"smallest": 3, "median": 4.0, "largest": 5}
    assert (content["levels"]["dz"]["n_energy"], content["levels"]["tz"]["n_energy"]) == (120, 90)
    with h5py.File(ani1x) as file:
        energies = np.concatenate([group["wb97x_dz.energy"][:] for group in file.values()]) * HARTREE
    assert content["levels"]["dz"]["energy"]["lowest"] == pytest.approx(energies.min())
    assert content["levels"]["tz"]["largest_forces"]["median"] == pytest.approx(0.1 * HARTREE * 3**0.5, rel=1e-5)
    shares = {
        kind["name"]: (kind["n_nan"] / kind["n_read"], kind["n_zero"] / kind["n_read"]) for kind in content["arrays"]
    }
    assert shares["wb97x_tz.forces"] == (0.25, 0.0)
    assert shares["wb97x_dz.cm5_charges"] == (0.0, 0.5)
    assert "25.0 %" in out
    picture = (tmp_path / "out" / "distributions.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


@pytest.mark.parametrize("name", list(REAL))
def test_inspect_reads_real_files(run: Run, shared: Path, tmp_path: Path, name: str) -> None:
    (file, *settings), choice, _ = REAL[name]
    settings = [setting for setting in settings if "level" not in setting]
    code, out, err = run("inspect", shared / "data" / file, *settings, "--output", tmp_path)
    assert (code, err) == (0, "")
    content = json.loads((tmp_path / "inspect.json").read_text())
    counts = {"s66x8": 528, "ani1x": 8, "ani1x tz": 8, "ani2x": 5706, "spice": 55, "ethanol": 1000}
    assert (content["data"], content["n_conformations"]) == (choice, counts[name])
    assert f"read by data={choice}" in out


def test_recognised_layouts(tmp_path: Path) -> None:
    """The names and shapes that distinguish the published layouts."""

    def hdf5(name: str, group: str, **arrays: Any) -> Path:
        with h5py.File(tmp_path / name, "w") as file:
            for key, value in arrays.items():
                file[f"{group}/{key}"] = value
        return tmp_path / name

    x, e, symbols = np.zeros((2, 3, 3), "f4"), np.zeros(2), np.array([b"O", b"H", b"H"])
    numbers = np.array([[8, 1, 1]] * 2)
    found = {
        "ani1": hdf5("a.h5", "gdb11_s01/gdb11_s01-0", coordinates=x, energies=e, species=symbols),
        "comp6": hdf5("b.h5", "s66x8/mol00", coordinates=x, energies=e, species=symbols, forces=x),
        "ani2x": hdf5("c.h5", "003", coordinates=x, energies=e, species=numbers, forces=x),
        "comp6v2": hdf5("d.h5", "003", coordinates=x, energies=e, species=numbers, cm5_atomic_charges=x),
        "spice": hdf5("e.h5", "water", conformations=x, dft_total_energy=e),
        "transition1x": hdf5("f.h5", "data/H2O/rxn0", **{"positions": x, "wB97x_6-31G(d).energy": e}),
        "methane": hdf5("g.h5", "CH4", **{"atomic_numbers": [6], "coordinates": x, "gfn2_xtb.energy": e}),
    }
    np.savez(tmp_path / "h.npz", nuclear_charges=[1], coords=x, energies=e)
    np.savez(tmp_path / "i.npz", z=[1], R=x, E=e, F=x)
    found |= {"rmd17": tmp_path / "h.npz", "md17": tmp_path / "i.npz"}
    (tmp_path / "j.xyz").write_text("1\ngdb 1\t2.0\nH 0 0 0 0\n")
    (tmp_path / "k.dat").write_text('1\nProperties=species:S:1:pos:R:3 energy=1 pbc="F F F"\nH 0 0 0\n')
    found |= {"qm9": tmp_path / "j.xyz", "extxyz": tmp_path / "k.dat"}
    for choice, path in found.items():
        assert recognise(path).choice == choice
    with closing(sqlite3.connect(tmp_path / "gems.db")) as base:
        base.execute("CREATE TABLE data (id INTEGER PRIMARY KEY, E FLOAT)")
        base.commit()
    for path, words in [
        (hdf5("l.h5", "g", something=x), ["l.h5", "group /g contains something", "data=NAME"]),
        (tmp_path / "empty", ["is a folder without data files"]),
        (tmp_path / "gems.db", ["gems.db", "SQLite", "not an ASE database", "data=NAME"]),
    ]:
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError) as caught:
            recognise(path)
        assert all(word in str(caught.value) for word in words)


def test_help_lists_options() -> None:
    command = [sys.executable, "-c", "from hiphop_train.cli import data_main; data_main()"]
    done = subprocess.run([*command, "check", "--help"], capture_output=True, text=True, check=True)
    assert "--elements" in done.stdout


def test_download_lists_and_refuses(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("download")
    assert code == 0
    assert re.search(r"^ani1x +5\.6 GB +ANI-1x and ANI-1ccx", out, flags=re.M)
    code, _, err = run("download", "ani3x")
    assert (code, "'ani3x' is not a data set that can be fetched" in err) == (3, True)
    (tmp_path / "ani1x-release.h5").write_bytes(b"another file")
    code, _, err = run("download", "ani1x", "--root", tmp_path)
    assert (code, "has 12 bytes, expected 5,590,846,027" in err) == (3, True)
