"""Targets beyond energy and forces, from the file to the exported potential."""

import json
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from hiphop_train.commands.targets import _how_to_read
from hiphop_train.config import load_config
from hiphop_train.interfaces.ase import HipHopCalculator
from tests.commands.conftest import Run

NARROW = ["model.n_features=8", "model.n_sensitivities=8", "model.n_atom_layers=1", "model.n_interactions=1"]


class PointCharges(Calculator):
    """Charges +q on each hydrogen, neutralised evenly by the other atoms; energy and forces of springs."""

    implemented_properties = ("energy", "forces", "dipole")

    def calculate(self, atoms: Atoms, properties: object = None, system_changes: object = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        hydrogen = atoms.numbers == 1
        charges = np.where(hydrogen, 0.3, -0.3 * hydrogen.sum() / (~hydrogen).sum())
        self.results = {"energy": -10.0 * len(atoms), "forces": np.zeros((len(atoms), 3))}
        self.results["dipole"] = charges @ atoms.positions


def frozen(atoms: Atoms, *properties: str) -> Atoms:
    """Return the structure with labels that a file can contain."""
    labels = {name: atoms.calc.get_property(name, atoms) for name in properties}
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **labels)
    return copy


def crystals(count: int, seed: int) -> list[Atoms]:
    """Strained and rattled argon, its stress between -2 and 10 GPa."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = bulk("Ar", "fcc", a=5.0, cubic=True)
        strain = rng.uniform(-0.06, 0.06, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.08, size=(4, 3))
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.05, rc=6.0, ro=5.0, smooth=True)
        made.append(frozen(atoms, "energy", "forces", "stress"))
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of crystals with stresses, molecules with dipoles, and a crystal with a dipole."""
    folder = tmp_path_factory.mktemp("files")
    ase.io.write(folder / "crystals.xyz", crystals(60, 0), format="extxyz")
    rng, molecules = np.random.default_rng(1), []
    for name in 30 * ["H2O", "NH3", "CH3OH"]:
        atoms = molecule(name)
        atoms.rotate(360 * rng.uniform(), rng.normal(size=3))
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape) + 3.0
        atoms.calc = PointCharges()
        molecules.append(frozen(atoms, "energy", "forces", "dipole"))
    ase.io.write(folder / "molecules.xyz", molecules, format="extxyz")
    for atoms in molecules:
        atoms.set_cell(20 * np.eye(3))
        atoms.pbc = True
    ase.io.write(folder / "boxes.xyz", molecules, format="extxyz")
    return folder


def train(run: Run, files: Path, name: str, run_dir: Path, *more: str) -> tuple[int, str, str]:
    settings = [f"data.path={files / name}.xyz", "data=extxyz", "data.check=false", "trainer.accelerator=cpu"]
    return run("train", *settings, "logger=csv", *NARROW, f"run_dir={run_dir}", *more)


def errors(run_dir: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((run_dir / "metrics.json").read_text())["errors"]["test"]
    return found


def test_stress_is_trained_on_reported_and_exported(run: Run, files: Path, tmp_path: Path) -> None:
    """Trained on energies and stresses alone, the stress error falls, and ASE gives the file's stress."""
    settings = [
        *("model=hipnn", "model.elements=[Ar]", "model.cutoff=6.0", "model.soft_min=2.5", "model.soft_max=5.5"),
        *("loss.forces.mae=0", "loss.forces.rmse=0", "loss.stress.mae=20", "loss.stress.rmse=20", "callbacks=none"),
        *("optimizer.lr=1e-2", "data.batch_size=8"),
    ]
    found = {}
    for epochs in (1, 25):
        code, out, err = train(
            run, files, "crystals", tmp_path / str(epochs), *settings, f"trainer.max_epochs={epochs}"
        )
        assert code == 0, err
        assert "stress of 60 of 60" in out
        assert "stress, GPa" in out
        found[epochs] = errors(tmp_path / str(epochs))["stress"]["mae"]
    assert found[25] < 0.2 * found[1]
    columns = (tmp_path / "25" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val/stress_mae", "val/stress_rmse"} <= set(columns)

    (atoms, *_) = crystals(1, seed=2)
    expected = atoms.get_stress()
    atoms.calc = HipHopCalculator(tmp_path / "25" / "model.pt")
    assert 160.2 * np.abs(atoms.get_stress() - expected).max() < 0.3 * 160.2 * np.abs(expected).max()


def test_dipole_is_trained_on_reported_and_exported(run: Run, files: Path, tmp_path: Path) -> None:
    """The charges that made the dipoles of the file are found."""
    settings = ["model=hiphop_dipole", "model.l_max=1", "model.n_max=2", "model.readout.hidden=[8]", "callbacks=none"]
    settings += ["loss.dipole.rmse=10", "optimizer.lr=1e-2", "data.batch_size=16", "trainer.max_epochs=25"]
    code, out, err = train(run, files, "molecules", tmp_path / "run", *settings)
    assert code == 0, err
    assert "dipole, debye" in out
    assert "untrained" not in out
    assert errors(tmp_path / "run")["dipole"]["mae"] < 0.1
    atoms = molecule("H2O")
    atoms.calc = HipHopCalculator(tmp_path / "run" / "model.pt")
    np.testing.assert_allclose(atoms.get_charges(), [-0.6, 0.3, 0.3], atol=0.1)
    code, out, _ = run("eval", f"checkpoint={tmp_path / 'run'}")
    assert code == 0
    assert "dipole, debye" in out


def test_dipoles_of_ani1x_are_trained_on(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    with h5py.File(tmp_path / "release.h5", "w") as file:
        for name, formula in (("H2O", "H2O1"), ("CH4", "C1H4"), ("NH3", "H3N1")):
            group, atoms = file.create_group(formula), molecule(name)
            shape = (20, len(atoms), 3)
            group["atomic_numbers"] = atoms.numbers.astype("u1")
            group["coordinates"] = (atoms.positions + rng.normal(scale=0.05, size=shape)).astype("f4")
            group["wb97x_dz.energy"] = np.full(20, -1.0 * len(atoms))
            group["wb97x_dz.forces"] = rng.normal(scale=0.01, size=shape).astype("f4")
            group["wb97x_dz.dipole"] = rng.normal(size=(20, 3)).astype("f4")
    settings = [f"data.path={tmp_path / 'release.h5'}", "data=ani1x", "data.check=false", "data.num_workers=0"]
    settings += ["data.reader.levels.dz.dipole=wb97x_dz.dipole", "model=hiphop_dipole", "loss.dipole.mae=1"]
    settings += ["data.split.by=structure", "trainer.max_epochs=1", "trainer.accelerator=cpu", *NARROW]
    code, out, err = run("train", *settings, f"run_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert "dipole of 60 of 60" in out
    assert errors(tmp_path / "run")["dipole"]["mae"] > 0


def test_charges_that_the_loss_does_not_train_are_pointed_out(run: Run, tmp_path: Path) -> None:
    settings = ["debug=fast", "pictures=false", "model=hiphop_dipole", "trainer.accelerator=cpu", *NARROW]
    code, out, _ = run("train", *settings, f"run_dir={tmp_path / 'run'}")
    assert code == 0
    assert "untrained  dipole: loss.dipole has no weight" in out


def test_of_ani1x_the_array_of_the_dipoles_is_named() -> None:
    section = load_config("train", ["data=ani1x"]).data
    assert _how_to_read(section, "dipole").endswith("data.reader.levels.dz.dipole=NAME")
    assert _how_to_read(section, "stress") == "data=ani1x reads none; data=extxyz has data.stress_key=NAME"


@pytest.mark.parametrize(
    ("name", "settings", "code", "parts"),
    [
        ("crystals", ["model.elements=[Ar]", "loss.dipole.mae=1"], 2, ["loss.dipole", "model=hiphop_dipole"]),
        ("molecules", ["loss.stress.rmse=1"], 2, ["no training structure", "data.stress_key=NAME"]),
        ("boxes", ["model=hiphop_dipole", "loss.dipole.mae=1"], 2, ["no training structure", "data.dipole_key=NAME"]),
    ],
)
def test_losses_without_labels_or_outputs_are_refused(
    name: str, settings: list[str], code: int, parts: list[str], run: Run, files: Path, tmp_path: Path
) -> None:
    model = [] if any(setting.startswith("model=") for setting in settings) else ["model=hiphop"]
    found, _, err = train(run, files, name, tmp_path / "run", *model, *settings)
    assert found == code
    for part in parts:
        assert part in err
    assert not (tmp_path / "run").exists()
