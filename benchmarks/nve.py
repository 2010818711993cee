"""Energy conservation: molecular dynamics at constant energy, by an exported file or a run.

The structure is relaxed, equilibrated at the temperature with Langevin dynamics, and then propagated at constant energy
(velocity Verlet). A potential whose forces are the derivative of a smooth energy conserves the total energy: its drift
(slope of a straight line) should be far below 1 meV/atom/ps, and its fluctuation about that line decreases with the
square of the step.

usage: python benchmarks/nve.py MODEL [--structure FILE | --molecule NAME] [--step FS] [--time PS] [--output FILE]
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from numpy.typing import NDArray

from hiphop_train.errors import HipHopError
from hiphop_train.interfaces.ase import HipHopCalculator

PROGRESS_REPORTS = 10


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="exported file, or run directory or checkpoint")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--structure", type=Path, help="file that ASE reads (the last structure, if there are several)")
    what.add_argument("--molecule", default="CH3CH2OH", help="name in ase.build.molecule (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=300.0, help="kelvin (default: %(default)s)")
    parser.add_argument("--step", type=float, default=0.5, help="fs (default: %(default)s)")
    parser.add_argument("--time", type=float, default=1.0, help="ps at constant energy (default: %(default)s)")
    parser.add_argument("--equilibration", type=float, default=0.25, help="ps with thermostat (default: %(default)s)")
    parser.add_argument("--no-relaxation", action="store_true", help="start from the given structure")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file to write the result to")
    return parser.parse_args(arguments)


def read(file: Path) -> Atoms:
    """Return the last structure of a file; PDB files may end with one of no atoms."""
    structures: list[Atoms] = [atoms for atoms in ase.io.read(file, index=":") if len(atoms)]
    return structures[-1]


def prepare(atoms: Atoms, options: argparse.Namespace) -> None:
    """Relax and equilibrate."""
    if not options.no_relaxation:
        BFGS(atoms, logfile=None).run(fmax=0.05, steps=500)
    generator = np.random.default_rng(options.seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=options.temperature, rng=generator)
    n_steps = round(1000.0 * options.equilibration / options.step)
    thermostat = Langevin(
        atoms,
        options.step * units.fs,
        temperature_K=options.temperature,
        friction=0.02 / units.fs,
        fixcm=False,
        rng=generator,
    )
    thermostat.run(n_steps)
    Stationary(atoms)
    if not atoms.pbc.any():
        ZeroRotation(atoms)


def run(atoms: Atoms, step: float, n_steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return total energies (n_steps + 1,), eV, and temperatures, kelvin; progress is printed ten times."""
    dynamics = VelocityVerlet(atoms, step * units.fs)
    energies, temperatures = [atoms.get_total_energy()], [atoms.get_temperature()]
    for done in range(1, n_steps + 1):
        dynamics.run(1)
        energies.append(atoms.get_total_energy())
        temperatures.append(atoms.get_temperature())
        if done % max(1, n_steps // PROGRESS_REPORTS) == 0:
            change = 1000.0 * (energies[-1] - energies[0]) / len(atoms)
            print(f"{done:6d} of {n_steps} steps: {change:+.4f} meV/atom, {temperatures[-1]:.0f} K", file=sys.stderr)
    return np.array(energies), np.array(temperatures)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    try:
        calculator = HipHopCalculator(options.model, options.device)
        atoms = read(options.structure) if options.structure else molecule(options.molecule)
        atoms.calc = calculator
        prepare(atoms, options)
        n_steps = round(1000.0 * options.time / options.step)
        start = time.perf_counter()
        energies, temperatures = run(atoms, options.step, n_steps)
    except HipHopError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    seconds = time.perf_counter() - start
    times = 1e-3 * options.step * np.arange(n_steps + 1)  # ps
    per_atom = 1000.0 * (energies - energies[0]) / len(atoms)  # meV
    slope, offset = np.polyfit(times, per_atom, 1)
    result = {
        "model": str(options.model),
        "structure": str(options.structure or options.molecule),
        "formula": atoms.get_chemical_formula(),
        "n_atoms": len(atoms),
        "step_fs": options.step,
        "steps": n_steps,
        "temperature_start_K": float(temperatures[0]),
        "temperature_mean_K": float(temperatures.mean()),
        "drift_meV_per_atom_per_ps": float(slope),
        "fluctuation_rms_meV_per_atom": float(np.sqrt(np.mean((per_atom - offset - slope * times) ** 2))),
        "seed": options.seed,
        "threads": options.threads,
        "milliseconds_per_step": 1000.0 * seconds / n_steps,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
