"""Make random methane: a carbon and four hydrogens anywhere around it, with GFN2-xTB energies and forces.

There are no bonds: errors depend only on what a network makes of angles and distances, a test of architectures.
The carbon is at the centre, the hydrogens are uniform in a ball of 3 Angstrom, all distances are over 0.7 Angstrom, and
structures with forces over 40 eV/Angstrom (or without convergence) are left out, after Pozdnyakov et al., Phys. Rev.
Lett. 125, 166001 (2020), who labelled with density-functional theory.

    python scripts/generate_methane.py data/methane.h5 --count 12500 --processes 2    # a minute or two
    hiphop-train experiment=methane

Structure k of a seed depends on (seed, k) alone. Needs tblite: pip install "hiphop-train[generate]".
"""

# mypy: allow-untyped-calls

import argparse
import multiprocessing
import os
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from ase.units import Bohr, Hartree
from numpy.typing import NDArray

NUMBERS = np.array([6, 1, 1, 1, 1])
RADIUS, SHORTEST = 3.0, 0.7  # Angstrom
LARGEST_FORCE = 40.0  # eV/Angstrom


class Methane(NamedTuple):
    """One structure."""

    positions: NDArray[np.float64]  # (5, 3) Angstrom
    energy: float  # Hartree
    forces: NDArray[np.float64]  # (5, 3) Hartree/Angstrom


def draw(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw positions (5, 3) in Angstrom, the carbon at the origin."""
    while True:
        directions = rng.normal(size=(4, 3))
        directions /= np.linalg.norm(directions, axis=1)[:, None]
        hydrogens = directions * RADIUS * rng.random((4, 1)) ** (1 / 3)
        positions = np.concatenate([np.zeros((1, 3)), hydrogens])
        distances = np.linalg.norm(positions[:, None] - positions, axis=2)[np.triu_indices(5, 1)]
        if distances.min() > SHORTEST:
            return positions.astype(np.float32).astype(np.float64)  # the label belongs to what is stored


def make(k: int, seed: int) -> Methane:
    """Make structure k; a rejected one is drawn again."""
    from tblite.interface import Calculator

    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, k])))
    while True:
        positions = draw(rng)
        calculator = Calculator("GFN2-xTB", NUMBERS, positions / Bohr)
        calculator.set("verbosity", 0)
        try:
            result = calculator.singlepoint()
        except RuntimeError:  # the charges did not converge
            continue
        forces = -result.get("gradient") / Bohr
        if np.linalg.norm(forces, axis=1).max() * Hartree < LARGEST_FORCE:
            return Methane(positions, float(result.get("energy")), forces)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="HDF5 file to write, in the ANI-1x layout")
    parser.add_argument("--count", type=int, default=12500, help="structures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.output.exists():
        raise SystemExit(f"error: {options.output} exists; remove it or name another file")
    try:
        import tblite.interface  # noqa: F401
    except ImportError as error:
        raise SystemExit('error: tblite is not installed: pip install "hiphop-train[generate]"') from error
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    options.output.parent.mkdir(parents=True, exist_ok=True)
    structures: list[Methane] = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for structure in pool.imap(partial(make, seed=options.seed), range(options.count), chunksize=50):
            structures.append(structure)
            if len(structures) % 1000 == 0 or len(structures) == options.count:
                print(f"{len(structures)}/{options.count} structures", file=sys.stderr, flush=True)
    unfinished = options.output.with_name(f".{options.output.name}.partial")
    with h5py.File(unfinished, "w") as file:
        group = file.create_group("C1H4")
        group["atomic_numbers"] = NUMBERS.astype(np.uint8)
        group["coordinates"] = np.array([structure.positions for structure in structures], np.float32)
        group["gfn2_xtb.energy"] = np.array([structure.energy for structure in structures])
        group["gfn2_xtb.forces"] = np.array([structure.forces for structure in structures])
    unfinished.replace(options.output)
    print(f"wrote {options.output}: {options.count} structures of seed {options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
