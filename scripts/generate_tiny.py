"""Make molecules and dimers of H, C, N, O with energies and forces at wB97X/6-31G(d), in the ANI-1x release layout.

Geometries are end points of short GFN2-xTB Langevin runs from G2 molecules (ASE's table) and from random dimers of
them; labels are PySCF density-functional calculations. One core takes about 15 s per structure.

    python scripts/generate_tiny.py sample parts/ --count 2000 --seed 0 --processes 8    # may be stopped and restarted
    python scripts/generate_tiny.py merge mine.h5 parts/
    python scripts/generate_tiny.py verify mine.h5 --count 20 --output labels.json

Structure k of seed s depends on (s, k) alone: not on the number of processes, on time, or on what was made before.
Coordinates are rounded to the stored float32 before they are labelled, and atoms are sorted by symbol, so that a
label belongs exactly to the stored geometry. (The embedded tiny.h5 came from an earlier script with the same recipe,
which rounded after labelling.) Needs tblite and PySCF: pip install "hiphop-train[generate]".
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import CalculatorError
from ase.collections import g2
from ase.data import chemical_symbols
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from numpy.typing import NDArray

EXCLUDED = {"O2", "CH2_s1A1d", "CH2_s3B1d", "NH", "O3", "N2O"}  # open shells and hard cases
LARGEST_MONOMER, LARGEST_IN_DIMER, LARGEST_HEAVY = 13, 6, 4  # atoms
DIMER, DIMER_FRACTION = "dimer", 0.2
MONOMER_TEMPERATURES, DIMER_TEMPERATURES = (300, 600, 1000), (150, 300, 500)  # K
TIME_STEP, FRICTION = 0.5, 0.02  # fs, 1/fs
SHORTEST_RUN, LONGEST_RUN = 100, 400  # steps, the last excluded
LARGEST_FORCE = 1.2  # Hartree/Angstrom; structures beyond it are drawn again
MAXIMUM_ATTEMPTS, PROGRESS_SECONDS = 20, 10
ENERGY_TOLERANCE, FORCE_TOLERANCE = 1e-6, 1e-5  # Hartree, Hartree/Angstrom; what verify accepts
LEVEL = "wB97X/6-31G(d), 6 Cartesian d functions, density fitting, grid level 3, SCF to 1e-9 Hartree (PySCF RKS)"
INSTALL = 'pip install "hiphop-train[generate]"'
RECIPE = 1  # raise when a change above or below would give other structures


class RejectedError(RuntimeError):
    """A structure that is to be drawn again: dynamics or SCF failed, or its forces are too large."""


class Structure(NamedTuple):
    """One labelled conformation, atoms sorted by symbol."""

    numbers: NDArray[np.uint8]  # (n_atoms,)
    positions: NDArray[np.float32]  # (n_atoms, 3) Angstrom
    energy: float  # Hartree
    forces: NDArray[np.float32]  # (n_atoms, 3) Hartree/Angstrom
    path: str  # name of the molecule, or `dimer`
    temperature: float  # K


def require(*packages: str) -> None:
    """Stop with an install line if a package that a command needs is missing."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise SystemExit(f"error: this command needs {package}, which is not installed: {INSTALL}") from error


def monomers() -> dict[str, Atoms]:
    """Return the closed-shell G2 molecules of the chosen elements with 2 to 13 atoms, at most 4 of them heavy."""
    found: dict[str, Atoms] = {}
    for name in sorted(g2.names):
        atoms = molecule(name)
        symbols = atoms.get_chemical_symbols()
        heavy = sum(symbol != "H" for symbol in symbols)
        closed = sum(atoms.numbers) % 2 == 0 and abs(atoms.get_initial_magnetic_moments().sum()) < 1e-6
        small = 1 < len(atoms) <= LARGEST_MONOMER and 1 <= heavy <= LARGEST_HEAVY
        if set(symbols) <= {"H", "C", "N", "O"} and closed and small and name not in EXCLUDED:
            atoms.set_initial_magnetic_moments(None)
            found[name] = atoms
    return found


def random_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a rotation matrix (3, 3) uniformly, from a unit quaternion."""
    w, *axis = (q := rng.normal(size=4)) / np.linalg.norm(q)
    cross: NDArray[np.float64] = np.cross(np.eye(3), axis)  # (3, 3), v -> v x axis
    rotation: NDArray[np.float64] = np.eye(3) + 2 * w * cross + 2 * cross @ cross
    return rotation


def random_dimer(molecules: dict[str, Atoms], rng: np.random.Generator) -> Atoms:
    """Place two random small molecules, randomly rotated, with a closest contact of 1.7 to 2.2 Angstrom."""
    small = [name for name, atoms in molecules.items() if len(atoms) <= LARGEST_IN_DIMER]
    pair = [molecules[small[k]] for k in rng.integers(len(small), size=2)]
    first, second = ((a.positions - a.positions.mean(axis=0)) @ random_rotation(rng).T for a in pair)
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    contact = rng.uniform(1.7, 2.2)
    distance = 1.5
    while np.linalg.norm(first[:, None] - second[None] - distance * direction, axis=-1).min() < contact:
        distance += 0.1
    numbers = np.concatenate([a.numbers for a in pair])
    return Atoms(numbers, np.concatenate([first, second + distance * direction]))


def run_dynamics(atoms: Atoms, temperature: float, steps: int, rng: np.random.Generator) -> Atoms:
    """Return the end point of a GFN2-xTB Langevin run; temperature in K."""
    from tblite.ase import TBLite

    moving: Atoms = atoms.copy()
    moving.calc = TBLite(method="GFN2-xTB", verbosity=0)
    velocities, noise = (np.random.RandomState(int(s)) for s in rng.integers(2**31, size=2))
    MaxwellBoltzmannDistribution(moving, temperature_K=temperature, rng=velocities)
    step, friction = TIME_STEP * units.fs, FRICTION / units.fs
    try:
        Langevin(moving, step, temperature_K=temperature, friction=friction, rng=noise, fixcm=False).run(steps)
    except CalculatorError as error:
        raise RejectedError(f"GFN2-xTB failed: {error}") from error
    if not np.isfinite(moving.positions).all():
        raise RejectedError("dynamics gave coordinates that are not finite")
    moving.positions -= moving.positions.mean(axis=0)
    return moving


def label(numbers: NDArray[np.uint8], positions: NDArray[Any]) -> tuple[float, NDArray[np.float64]]:
    """Compute energy and forces of one structure at wB97X/6-31G(d).

    Parameters
    ----------
    numbers
        Atomic numbers (n_atoms,).
    positions
        Cartesian coordinates in Angstrom (n_atoms, 3).

    Returns
    -------
    Energy in Hartree and forces (minus the gradient) in Hartree/Angstrom (n_atoms, 3); RejectedError without SCF.
    """
    from pyscf import dft, gto, lib

    lib.num_threads(1)
    geometry = [(chemical_symbols[z], tuple(map(float, x))) for z, x in zip(numbers, positions, strict=True)]
    solver = dft.RKS(gto.M(atom=geometry, unit="Angstrom", basis="6-31g*", cart=True, verbose=0)).density_fit()
    solver.xc = "wb97x"
    solver.grids.level = 3
    solver.conv_tol = 1e-9
    energy = float(solver.kernel())
    if not solver.converged:
        raise RejectedError("the SCF did not converge")
    return energy, -np.asarray(solver.nuc_grad_method().kernel()) / lib.param.BOHR


def make_structure(seed: int, k: int) -> Structure:
    """Make structure k of a seed; a rejected one is drawn again from the same (seed, k)."""
    molecules = monomers()
    names = list(molecules)
    weights = np.array([1.0 if len(molecules[name]) > 4 else 0.5 for name in names])
    reasons: list[str] = []
    for attempt in range(MAXIMUM_ATTEMPTS):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([RECIPE, seed, k, attempt])))
        path = DIMER if rng.random() < DIMER_FRACTION else names[rng.choice(len(names), p=weights / weights.sum())]
        start = random_dimer(molecules, rng) if path == DIMER else molecules[path]
        temperature = float(rng.choice(DIMER_TEMPERATURES if path == DIMER else MONOMER_TEMPERATURES))
        try:
            atoms = run_dynamics(start, temperature, int(rng.integers(SHORTEST_RUN, LONGEST_RUN)), rng)
            atoms = atoms[np.argsort(atoms.get_chemical_symbols(), kind="stable")]
            numbers, positions = atoms.numbers.astype(np.uint8), atoms.positions.astype(np.float32)
            energy, forces = label(numbers, positions)
            if np.abs(forces).max() > LARGEST_FORCE:
                raise RejectedError(f"a force component of {np.abs(forces).max():.2f} Hartree/Angstrom")
        except RejectedError as rejected:
            reasons.append(f"{path} at {temperature:.0f} K: {rejected}")
            continue
        return Structure(numbers, positions, energy, forces.astype(np.float32), path, temperature)
    raise RuntimeError(f"structure {k} of seed {seed}: {MAXIMUM_ATTEMPTS} attempts rejected, last: {reasons[-1]}")


@contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """Write an HDF5 file under a temporary name and give it its own name only when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with h5py.File(partial, "w") as file:
            yield file
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def part_path(directory: Path, seed: int, k: int) -> Path:
    """Name the file that holds structure k of a seed."""
    return directory / f"seed{seed}-{k:07d}.h5"


def make_part(directory: Path, seed: int, k: int) -> None:
    """Make one structure and write it to its part file (runs in a worker process)."""
    structure = make_structure(seed, k)
    with new_file(part_path(directory, seed, k)) as file:
        file["atomic_numbers"] = structure.numbers
        file["coordinates"] = structure.positions
        file["wb97x_dz.energy"] = structure.energy
        file["wb97x_dz.forces"] = structure.forces
        file.attrs.update(path=structure.path, temperature=structure.temperature, seed=seed, k=k, recipe=RECIPE)


def show_progress(done: int, total: int, started_with: int, seconds: float) -> None:
    """Print how many structures there are, the rate, and the time that the rest will take."""
    rate = (done - started_with) / max(seconds, 1e-9)  # structures per second
    rest = f"{(total - done) / rate / 60:.1f} min left" if rate > 0 else "time left unknown"
    print(f"{done}/{total} structures, {60 * rate:.1f} per minute, {rest}", file=sys.stderr, flush=True)


def sample(arguments: argparse.Namespace) -> int:
    """Make the structures of a seed that are still missing in the directory of parts."""
    require("pyscf", "tblite")
    directory, seed, total = arguments.directory, arguments.seed, arguments.count
    directory.mkdir(parents=True, exist_ok=True)
    missing = [k for k in range(total) if not part_path(directory, seed, k).exists()]
    started_with = total - len(missing)
    print(f"{directory}: {started_with} of {total} structures of seed {seed} exist, {len(missing)} to make")
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # processes, not threads: the result must not depend on the number of cores
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the signal of batch systems acts as Ctrl-C
    start, shown, context = time.monotonic(), float("-inf"), multiprocessing.get_context("spawn")
    # Ctrl-C reaches all processes; it is left to the main one.
    pool = ProcessPoolExecutor(arguments.processes, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        futures = [pool.submit(make_part, directory, seed, k) for k in missing]
        for done, future in enumerate(as_completed(futures), start=started_with + 1):
            future.result()
            now = time.monotonic()
            if now - shown > PROGRESS_SECONDS or done == total:
                show_progress(done, total, started_with, now - start)
                shown = now
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():
            worker.terminate()  # parts are complete or absent: only the structures under way are lost
        n_there = sum(part_path(directory, seed, k).exists() for k in range(total))
        print(f"stopped at {n_there} of {total}; run the same command to continue", file=sys.stderr)
        return 130
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return 0


def read_part(path: Path) -> Structure:
    """Read one part file."""
    with h5py.File(path, "r") as file:
        if file.attrs.get("recipe") != RECIPE:
            found = f"recipe {file.attrs.get('recipe')}, expected {RECIPE}"
            raise SystemExit(f"error: {path}: {found}: made by another version of this script; sample elsewhere")
        return Structure(
            file["atomic_numbers"][:],
            file["coordinates"][:],
            float(file["wb97x_dz.energy"][()]),
            file["wb97x_dz.forces"][:],
            str(file.attrs["path"]),
            float(file.attrs["temperature"]),
        )


def merge(arguments: argparse.Namespace) -> int:
    """Write all part files of the directories into one file, grouped by formula; the order of parts is irrelevant."""
    paths = [path for directory in arguments.directories for path in sorted(directory.glob("seed*.h5"))]
    if not paths:
        raise SystemExit(f"error: no part files seed*.h5 in {', '.join(map(str, arguments.directories))}; sample first")
    groups: dict[str, list[Structure]] = defaultdict(list)
    for path in paths:
        structure = read_part(path)
        counts = Counter(chemical_symbols[z] for z in structure.numbers)
        groups["".join(f"{symbol}{counts[symbol]}" for symbol in sorted(counts))].append(structure)
    with new_file(arguments.output) as file:
        for formula in sorted(groups):
            rows = sorted(groups[formula], key=lambda row: (row.path, row.temperature, row.energy))
            group = file.create_group(formula)
            group["atomic_numbers"] = rows[0].numbers
            group["coordinates"] = np.array([row.positions for row in rows], np.float32)
            group["wb97x_dz.energy"] = np.array([row.energy for row in rows], np.float64)
            group["wb97x_dz.forces"] = np.array([row.forces for row in rows], np.float32)
            group["path"] = np.array([row.path.encode() for row in rows])
            group["temperature"] = np.array([row.temperature for row in rows], np.float32)
    print(f"wrote {arguments.output}: {len(paths)} structures, {len(groups)} formulas")
    return 0


def compare(group: h5py.Group, row: int) -> dict[str, Any]:
    """Compute the labels of one stored structure again; differences in Hartree and Hartree/Angstrom.

    `rounding_bound` is the largest energy difference that storing coordinates as float32 can make to first order:
    each moves by up to half of its spacing, and dE = F dx.
    """
    positions, forces = group["coordinates"][row], group["wb97x_dz.forces"][row]  # (n_atoms, 3)
    energy_again, forces_again = label(group["atomic_numbers"][:], positions)
    return {
        "group": group.name.strip("/"),
        "row": row,
        "path": group["path"][row].decode(),
        "energy_difference": energy_again - float(group["wb97x_dz.energy"][row]),
        "force_difference": float(np.abs(forces_again - forces).max()),
        "rounding_bound": float((np.abs(forces) * 0.5 * np.spacing(np.abs(positions))).sum()),
    }


def verify(arguments: argparse.Namespace) -> int:
    """Compute labels of randomly chosen stored structures again and compare; 1 if they differ by too much."""
    if not arguments.file.is_file():
        raise SystemExit(f"error: {arguments.file}: no such file; give one in the ANI-1x release layout")
    require("pyscf")
    start = time.monotonic()
    rows: list[dict[str, Any]] = []
    with h5py.File(arguments.file, "r") as file:
        places = [(formula, row) for formula in file for row in range(len(file[formula]["wb97x_dz.energy"]))]
        chosen = np.random.default_rng(arguments.seed).permutation(len(places))[: arguments.count]
        for index in sorted(int(i) for i in chosen):
            formula, row = places[index]
            entry = {"index": index, **compare(file[formula], row)}
            rows.append(entry)
            line = "{index:6d} {path:22s} dE {energy_difference:9.1e} dF {force_difference:8.1e}"
            print(line.format(**entry), flush=True)
    energy, force = (max(abs(entry[f"{kind}_difference"]) for entry in rows) for kind in ("energy", "force"))
    passed = energy <= ENERGY_TOLERANCE and force <= FORCE_TOLERANCE
    print(f"largest difference: energy {energy:.1e} Hartree, force component {force:.1e} Hartree/Angstrom")
    print(f"tolerance {ENERGY_TOLERANCE:.0e} and {FORCE_TOLERANCE:.0e}: {'met' if passed else 'NOT met'}")
    if arguments.output:
        record = {
            "file": arguments.file.name,
            "sha256": hashlib.sha256(arguments.file.read_bytes()).hexdigest(),
            "level_of_theory": LEVEL,
            "units": {"energy": "Hartree", "force": "Hartree/Angstrom"},
            "seed": arguments.seed,
            "largest_energy_difference": energy,
            "largest_force_difference": force,
            "largest_rounding_bound": max(entry["rounding_bound"] for entry in rows),
            "tolerances": [ENERGY_TOLERANCE, FORCE_TOLERANCE],
            "passed": passed,
            "pyscf": importlib.metadata.version("pyscf"),
            "seconds": round(time.monotonic() - start, 1),
            "structures": rows,
        }
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if passed else 1


def natural(text: str, least: int = 0) -> int:
    """Read an integer that is not too small from the command line."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
    return int(text)


def command_line() -> argparse.ArgumentParser:
    """Describe the commands and their arguments."""
    positive = functools.partial(natural, least=1)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="sample|merge|verify")
    command = commands.add_parser("sample", help="make structures, one part file each; continues where it stopped")
    command.add_argument("directory", type=Path, help="directory of the part files")
    command.add_argument("--count", type=positive, required=True, help="structures in all, including those that exist")
    command.add_argument("--seed", type=natural, default=0, help="seed (default 0)")
    command.add_argument("--processes", type=positive, default=1, help="processes of one thread each (default 1)")
    command.set_defaults(run=sample)
    command = commands.add_parser("merge", help="write all part files into one file in the ANI-1x release layout")
    command.add_argument("output", type=Path, help="HDF5 file to write")
    command.add_argument("directories", type=Path, nargs="+", help="directories of part files")
    command.set_defaults(run=merge)
    command = commands.add_parser("verify", help="compute labels of stored structures again and compare")
    command.add_argument("file", type=Path, help="HDF5 file in the ANI-1x release layout")
    command.add_argument("--count", type=positive, default=20, help="structures to check (default 20)")
    command.add_argument("--seed", type=natural, default=0, help="seed of their choice (default 0)")
    command.add_argument("--output", type=Path, help="JSON file for the result")
    command.set_defaults(run=verify)
    return parser


if __name__ == "__main__":
    given = command_line().parse_args()
    sys.exit(given.run(given))
