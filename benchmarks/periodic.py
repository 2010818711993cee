"""Crystals of aluminium and copper, labelled by effective-medium theory: what training on stresses gains.

The structures are fcc, bcc and hcp lattices, randomly occupied, strained and rattled. ASE's EMT labels them with
energies, forces and stresses. The same network is trained twice, without stresses in the loss and with them, through
the same command and files as any other. Besides the errors on unseen structures, bulk moduli of perfect crystals are
compared with EMT's, and pressures at the volumes where EMT's vanish.

usage: python benchmarks/periodic.py [--structures N] [--epochs N] [--output FILE]
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.eos import EquationOfState

from hiphop_train import cli
from hiphop_train.interfaces.ase import HipHopCalculator

LOSSES = {"energies and forces": [], "energies, forces and stresses": ["loss.stress.mae=1", "loss.stress.rmse=1"]}
MODEL = [
    *("model=hiphop", "model.elements=[Al,Cu]", "model.cutoff=5.5", "model.soft_min=2.0", "model.soft_max=5.0"),
    *("model.n_features=32", "model.n_interactions=1", "model.n_atom_layers=2", "model.l_max=2", "model.n_max=3"),
]
CRYSTALS = {
    "Al": bulk("Al", "fcc", a=4.0),
    "Cu": bulk("Cu", "fcc", a=3.6),
    "AlCu3 (L1_2)": Atoms("AlCu3", 3.7 * np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2, cell=3 * [3.7]),
}
"""Crystals whose bulk moduli are compared, near their equilibrium."""


def make_structures(count: int, seed: int) -> list[Atoms]:
    """Make labelled structures of four to eight atoms, at densities from tension to compression."""
    rng = np.random.default_rng(seed)
    lattices = [
        bulk("Cu", "fcc", a=3.8, cubic=True),
        bulk("Cu", "bcc", a=3.05, cubic=True).repeat((2, 2, 1)),
        bulk("Cu", "hcp", a=2.7, c=4.4).repeat((2, 2, 1)),
    ]
    made = []
    for k in range(count):
        atoms = lattices[k % len(lattices)].copy()
        atoms.symbols = rng.permutation(np.where(np.arange(len(atoms)) < rng.integers(len(atoms) + 1), "Al", "Cu"))
        strain = rng.uniform(-0.05, 0.05, (3, 3)) + rng.uniform(-0.05, 0.05) * np.eye(3)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        made.append(atoms)
    return made


def pressure_and_modulus(crystal: Atoms, calculator: Calculator, step: float = 0.02) -> tuple[float, float]:
    """Pressure -dE/dV and bulk modulus V d2E/dV2 at a crystal's volume, GPa, by finite differences of the energy."""
    atoms, energies = crystal.copy(), []
    atoms.calc = calculator
    volume, cell = atoms.get_volume(), atoms.cell.array.copy()
    for change in (-step, 0.0, step):
        atoms.set_cell((1 + change) ** (1 / 3) * cell, scale_atoms=True)
        energies.append(atoms.get_potential_energy() / volume)
    below, here, above = energies
    return (below - above) / (2 * step) / units.GPa, (above - 2 * here + below) / step**2 / units.GPa


def relaxed(crystal: Atoms) -> Atoms:
    """Return a crystal at EMT's equilibrium volume."""
    atoms = crystal.copy()
    atoms.pbc = True
    atoms.calc = EMT()
    volumes, energies, cell = [], [], atoms.cell.array.copy()
    for scale in np.linspace(0.97, 1.03, 7):
        atoms.set_cell(scale * cell, scale_atoms=True)
        volumes.append(atoms.get_volume())
        energies.append(atoms.get_potential_energy())
    volume, _, _ = EquationOfState(volumes, energies).fit()
    atoms.set_cell((volume / abs(np.linalg.det(cell))) ** (1 / 3) * cell, scale_atoms=True)
    return atoms


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train with each loss and compare."""
    counts = {"train": options.structures, "val": max(4, options.structures // 5), "test": options.structures}
    for seed, (name, count) in enumerate(counts.items()):
        ase.io.write(folder / f"{name}.xyz", make_structures(count, seed), format="extxyz")
    files = [f"data.path={folder}/train.xyz", f"data.val_path={folder}/val.xyz", f"data.test_path={folder}/test.xyz"]
    settings = ["data=extxyz", *files, *MODEL, f"trainer.max_epochs={options.epochs}", "trainer.accelerator=cpu"]
    results: dict[str, Any] = {}
    crystals = {name: relaxed(atoms) for name, atoms in CRYSTALS.items()}
    moduli: dict[str, Any] = {name: {"EMT": pressure_and_modulus(atoms, EMT())} for name, atoms in crystals.items()}
    for k, (name, loss) in enumerate(LOSSES.items()):
        if cli.run("train", [*settings, *loss, f"run_dir={folder}/{k}"]) != 0:
            raise SystemExit("the training failed, see above")
        results[name] = json.loads((folder / str(k) / "metrics.json").read_text())["errors"]["test"]
        for crystal, atoms in crystals.items():
            moduli[crystal][name] = pressure_and_modulus(atoms, HipHopCalculator(folder / str(k) / "model.pt"))
    return {"structures": counts, "epochs": options.epochs, "errors": results, "pressure_and_bulk_modulus": moduli}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=400, help="training structures (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=60, help="(default: %(default)s)")
    default = Path(__file__).parent / "results" / "periodic.json"
    parser.add_argument("--output", type=Path, default=default, help="JSON file (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    for name, errors in found["errors"].items():
        stress, forces = errors["stress"], errors["forces"]
        print(f"{name}: stress {stress['mae']:.3f} / {stress['rmse']:.3f} GPa, forces {forces['mae']:.3f} kcal/mol/Å")
    for crystal, values in found["pressure_and_bulk_modulus"].items():
        told = (
            f"{name} {modulus:.1f} (at a pressure of {pressure:.2f})" for name, (pressure, modulus) in values.items()
        )
        print(f"bulk modulus of {crystal}, GPa: {'; '.join(told)}")


if __name__ == "__main__":
    main()
