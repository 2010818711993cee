"""Errors of two published methods on the sets that hiphop-train reports: GFN2-xTB and the ANI-1x network.

- GFN2-xTB (tblite) is the method that the geometries of the tiny set were made with; it is another level of theory, so
  only relative energies and forces can be compared.
- ANI-1x is one published network (NeuroChem format, read with torchani, evaluated in float64), trained on the ANI-1x
  set at the same level of theory as the labels here, so total energies can be compared too.

Sets: `test` and `test_unseen` of the embedded tiny set, and S66x8 of COMP6v1. Relative energies are taken over all
pairs i < j of conformations of one molecule (tiny: `molecule` of split.json; S66x8: one dimer) and pooled; forces over
all components. The known errors of this network on S66x8 are checked.

usage: python benchmarks/baselines.py [--shared DIR] [--output FILE]
Needs tblite and torchani: pip install "hiphop-train[test]".
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = REPOSITORY / "hiphop_train" / "data" / "tiny"
HARTREE = 627.5094740631  # kcal/mol, CODATA 2018
BOHR = 0.529177210903  # Angstrom, CODATA 2018
KNOWN_ANI_S66X8 = {
    "total_energy": (2.1495, 3.5776),
    "relative_energy": (1.9166, 3.2518),
    "force": (2.1349, 3.9963),
}  # MAE and RMSE, kcal/mol and kcal/mol/Angstrom

Array = NDArray[np.float64]


class Conformers(NamedTuple):
    """Conformations of one molecule, labels at wB97X/6-31G(d)."""

    numbers: NDArray[np.int64]  # (n_atoms,)
    positions: Array  # (n_conformers, n_atoms, 3) Angstrom
    energies: Array  # (n_conformers,) Hartree
    forces: Array  # (n_conformers, n_atoms, 3) Hartree/Angstrom


Method = Callable[[NDArray[np.int64], Array], tuple[Array, Array]]
"""(numbers (n_atoms,), positions (n_conformers, n_atoms, 3) Angstrom) -> energies Hartree, forces Hartree/Angstrom."""


def read_tiny(split: str) -> list[Conformers]:
    """Read one split of the embedded tiny set, one entry per molecule (per pair of molecules for dimers)."""
    content = json.loads((TINY / "split.json").read_text(encoding="utf-8"))
    wanted = set(content["splits"][split])
    rows: dict[str, list[tuple[NDArray[np.int64], Array, float, Array]]] = defaultdict(list)
    index = 0
    with h5py.File(TINY / "tiny.h5", "r") as file:
        for group in file.values():
            numbers = group["atomic_numbers"][:].astype(np.int64)
            labels = zip(group["coordinates"][:], group["wb97x_dz.energy"][:], group["wb97x_dz.forces"][:], strict=True)
            for positions, energy, forces in labels:
                if index in wanted:
                    rows[content["molecule"][index]].append((numbers, positions, energy, forces))
                index += 1
    return [
        Conformers(
            entries[0][0],
            np.array([entry[1] for entry in entries], np.float64),
            np.array([entry[2] for entry in entries], np.float64),
            np.array([entry[3] for entry in entries], np.float64),
        )
        for entries in rows.values()
    ]


def read_s66x8(path: Path) -> list[Conformers]:
    """Read S66x8 of COMP6v1: 66 dimers at 8 separations. Its `forces` are gradients, so they are negated here."""
    with h5py.File(path, "r") as file:
        return [
            Conformers(
                np.array([atomic_numbers[symbol.decode()] for symbol in group["species"][:]]),
                group["coordinates"][:].astype(np.float64),
                group["energies"][:].astype(np.float64),
                -group["forces"][:].astype(np.float64),
            )
            for group in file["s66x8"].values()
        ]


def gfn2_xtb() -> Method:
    """Return GFN2-xTB by tblite."""
    from tblite.interface import Calculator

    def compute(numbers: NDArray[np.int64], positions: Array) -> tuple[Array, Array]:
        energies, forces = [], []
        for points in positions:
            calculator = Calculator("GFN2-xTB", numbers, points / BOHR)
            calculator.set("verbosity", 0)
            result = calculator.singlepoint()
            energies.append(float(np.asarray(result.get("energy")).sum()))
            forces.append(-np.asarray(result.get("gradient")) / BOHR)
        return np.array(energies), np.array(forces)

    return compute


def ani_1x(directory: Path) -> Method:
    """Return one network of ANI-1x, read from NeuroChem files by torchani and cast to float64."""
    os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
    import torch
    from torchani import neurochem
    from torchani.arch import ANI

    torch.set_num_threads(1)
    computer, symbols = neurochem.load_aev_computer_and_symbols(directory / "rHCNO-5.2R_16-3.5A_a4-8.params")
    self_energies = neurochem.load_sae(directory / "sae_linfit.dat")
    networks = neurochem.load_member(symbols, directory / "train0" / "networks")
    model = ANI(symbols, computer, networks, self_energies, periodic_table_index=True).double()

    def compute(numbers: NDArray[np.int64], positions: Array) -> tuple[Array, Array]:
        points = torch.tensor(positions, requires_grad=True)
        energies = model((torch.tensor(numbers).expand(len(positions), -1), points)).energies
        (gradient,) = torch.autograd.grad(energies.sum(), points)
        return energies.detach().numpy(), -gradient.numpy()

    return compute


def mae_rmse(errors: Sequence[Array]) -> dict[str, float]:
    """Pool errors; MAE and RMSE in their unit."""
    pooled = np.concatenate([error.ravel() for error in errors])
    return {"mae": float(np.abs(pooled).mean()), "rmse": float(np.sqrt((pooled**2).mean())), "n": len(pooled)}


def evaluate(method: Method, molecules: Sequence[Conformers], total_energy: bool) -> dict[str, dict[str, float]]:
    """Compare a method with the labels: MAE, RMSE (kcal/mol, kcal/mol/Angstrom) and numbers of values.

    Parameters
    ----------
    method
        What to test.
    molecules
        Conformers of one molecule each.
    total_energy
        Whether the method has the level of theory of the labels, so that total energies can be compared.
    """
    energy_errors: list[Array] = []
    force_errors: list[Array] = []
    for molecule in molecules:
        energies, forces = method(molecule.numbers, molecule.positions)
        energy_errors.append((energies - molecule.energies) * HARTREE)
        force_errors.append((forces - molecule.forces) * HARTREE)
    pairs = [np.triu_indices(len(errors), 1) for errors in energy_errors]
    relative = [errors[i] - errors[j] for errors, (i, j) in zip(energy_errors, pairs, strict=True)]
    result = {"relative_energy": mae_rmse(relative), "force": mae_rmse(force_errors)}
    return {"total_energy": mae_rmse(energy_errors), **result} if total_energy else result


def check_known(result: dict[str, dict[str, float]]) -> None:
    """Exit if the network does not have its known errors on S66x8."""
    for quantity, known in KNOWN_ANI_S66X8.items():
        found = (result[quantity]["mae"], result[quantity]["rmse"])
        if not np.allclose(found, known, rtol=0, atol=1e-4):
            raise SystemExit(
                f"error: ANI-1x on S66x8: {quantity} MAE/RMSE {found[0]:.4f}/{found[1]:.4f} kcal/mol(/Angstrom), known "
                f"{known[0]}/{known[1]}; the files differ from the published ones, or a unit or the force sign is wrong"
            )


def table(results: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """Return all results as a Markdown table, MAE/RMSE in kcal/mol and kcal/mol/Angstrom."""
    lines = ["| set | method | relative energy | force component | total energy |", "|---|---|---|---|---|"]
    for name, methods in results.items():
        for method, result in methods.items():
            cells = [
                f"{result[quantity]['mae']:.3f} / {result[quantity]['rmse']:.3f}" if quantity in result else "-"
                for quantity in ("relative_energy", "force", "total_energy")
            ]
            lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    shared = Path(os.environ.get("HIPHOP_SHARED", REPOSITORY.parent / "shared"))
    parser = argparse.ArgumentParser(description="Errors of GFN2-xTB and ANI-1x on tiny and S66x8.")
    parser.add_argument("--shared", type=Path, default=shared, help="directory of the reference data ($HIPHOP_SHARED)")
    parser.add_argument("--s66x8", type=Path, help="S66x8 file (default SHARED/data/comp6/s66x8_wb97x6-31gd.h5)")
    parser.add_argument(
        "--neurochem", type=Path, help="directory of the ANI-1x network (default SHARED/data/neurochem)"
    )
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results" / "baselines.json")
    arguments = parser.parse_args()
    arguments.s66x8 = arguments.s66x8 or arguments.shared / "data" / "comp6" / "s66x8_wb97x6-31gd.h5"
    arguments.neurochem = arguments.neurochem or arguments.shared / "data" / "neurochem"
    for option, path in (("--s66x8", arguments.s66x8), ("--neurochem", arguments.neurochem)):
        if not path.exists():
            raise SystemExit(f"error: {option} {path}: no such file or directory; set it, --shared or HIPHOP_SHARED")
    return arguments


def main() -> None:
    """Evaluate both methods on all sets, check known errors, print the table and write the JSON file."""
    arguments = parse_arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when tblite is loaded
    sets = {
        "tiny test_unseen": read_tiny("test_unseen"),
        "tiny test": read_tiny("test"),
        "S66x8": read_s66x8(arguments.s66x8),
    }
    methods = {"GFN2-xTB": (gfn2_xtb(), False), "ANI-1x, one network": (ani_1x(arguments.neurochem), True)}
    start = time.monotonic()
    results = {
        name: {method: evaluate(compute, molecules, total) for method, (compute, total) in methods.items()}
        for name, molecules in sets.items()
    }
    check_known(results["S66x8"]["ANI-1x, one network"])
    record = {
        "units": {"energy": "kcal/mol", "force": "kcal/mol/Angstrom"},
        "labels": "wB97X/6-31G(d)",
        "data_sha256": {
            "tiny.h5": hashlib.sha256((TINY / "tiny.h5").read_bytes()).hexdigest(),
            "split.json": hashlib.sha256((TINY / "split.json").read_bytes()).hexdigest(),
            arguments.s66x8.name: hashlib.sha256(arguments.s66x8.read_bytes()).hexdigest(),
        },
        "versions": {package: importlib.metadata.version(package) for package in ("tblite", "torchani", "torch")},
        "seconds": round(time.monotonic() - start, 1),
        "n_conformations": {name: sum(len(m.energies) for m in molecules) for name, molecules in sets.items()},
        "results": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    print(f"MAE / RMSE, kcal/mol and kcal/mol/Angstrom; wrote {arguments.output}")


if __name__ == "__main__":
    main()
