"""The same molecules in every layout on disk, with the quirks of the published files.

Labels are those of a pair potential at positions rounded to float32, so that forces are exactly -dE/dx.
"""

import bz2
import importlib
import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import yaml
from ase.build import molecule
from ase.data import chemical_symbols, covalent_radii

CONF = Path(__file__).resolve().parents[3] / "conf" / "data"
HARTREE, BOHR, KCAL = 27.211386245988, 0.529177210903, 27.211386245988 / 627.5094740631


class Molecule(NamedTuple):
    """Conformers of one molecule, in eV and Angstrom."""

    name: str
    numbers: np.ndarray  # (n_atoms,)
    positions: np.ndarray  # (n, n_atoms, 3)
    energy: np.ndarray  # (n,)
    forces: np.ndarray  # (n, n_atoms, 3)

    @property
    def symbols(self) -> np.ndarray:
        return np.array([chemical_symbols[z].encode() for z in self.numbers])


def label(numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy (n,) and forces of conformers (n, n_atoms, 3): Morse pairs, and about -0.5 Z^2.4 Hartree per atom."""
    vector = positions[:, None] - positions[:, :, None]  # from i to j: (n, i, j, 3)
    distance = np.linalg.norm(vector, axis=3) + np.eye(len(numbers))
    off = 1.0 - np.eye(len(numbers))
    best = covalent_radii[numbers][:, None] + covalent_radii[numbers]
    decay = np.exp(-1.5 * (distance - best))
    energy = 0.5 * (off * 4.0 * (decay**2 - 2 * decay)).sum(axis=(1, 2)) - 13.6 * (numbers**2.4).sum()
    slope = off * 4.0 * 3.0 * (decay - decay**2)
    return energy, ((slope / distance)[..., None] * vector).sum(axis=2)


def make(name: str, count: int, seed: int) -> Molecule:
    """Make conformers of a molecule that ASE knows."""
    atoms = molecule(name)
    rng = np.random.default_rng(seed)
    shape = (count, len(atoms), 3)
    positions = (atoms.positions + rng.normal(scale=0.05, size=shape)).astype("f4").astype("f8")
    return Molecule(name, atoms.numbers.astype(np.int64), positions, *label(atoms.numbers, positions))


def molecules(count: int = 4) -> list[Molecule]:
    """Molecules of several sizes, two of the same size, and one with an element of two letters."""
    return [make(name, count, k) for k, name in enumerate(("CH4", "H2O", "CH3Cl", "HF", "N2"))]


def write_ani1(folder: Path, given: list[Molecule]) -> Path:
    path = folder / "ANI-1_release" / "ani_gdb_s01.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        for k, m in enumerate(given):
            group = file.create_group(f"gdb11_s01/gdb11_s01-{k}")
            packed = {"coordinates": m.positions.astype("f4"), "energies": m.energy / HARTREE, "species": m.symbols}
            high = {"coordinatesHE": m.positions[:2].astype("f4") * 1.5, "energiesHE": m.energy[:2] / HARTREE + 0.5}
            for key, array in {**packed, **high, "smiles": np.array([c.encode() for c in "[H]O[H]"])}.items():
                group.create_dataset(key, data=array, compression="gzip")
    return path


def write_ani1x(folder: Path, given: list[Molecule]) -> Path:
    """Write one row more than there are labels: NaN in the first, whose charges are zero."""
    path = folder / "ani1x-release.h5"
    with h5py.File(path, "w") as file:
        for m in given:
            group = file.create_group(m.name)
            group["atomic_numbers"] = m.numbers.astype("u1")
            group["coordinates"] = np.concatenate([m.positions[:1] * 1.1, m.positions]).astype("f4")
            group["wb97x_dz.energy"] = np.concatenate([[np.nan], m.energy / HARTREE])
            group["wb97x_dz.forces"] = np.concatenate([m.forces[:1] * np.nan, m.forces / HARTREE]).astype("f4")
            group["ccsd(t)_cbs.energy"] = np.full(len(m.energy) + 1, np.nan)
            group["wb97x_dz.cm5_charges"] = np.zeros((len(m.energy) + 1, len(m.numbers)), "f4")
    return path


def by_atoms(path: Path, given: list[Molecule], comp6: bool) -> Path:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for size in sorted({len(m.numbers) for m in given}):
            here = [m for m in given if len(m.numbers) == size]
            group = file.create_group(f"{size:03d}")
            arrays = {
                "species": np.concatenate([np.tile(m.numbers, (len(m.energy), 1)) for m in here]),
                "coordinates": np.concatenate([m.positions for m in here]).astype("f4"),
                "energies": np.concatenate([m.energy for m in here]) / HARTREE,
                "forces": np.concatenate([m.forces for m in here]) / HARTREE,
            }
            if comp6:
                arrays["forces"] = arrays["forces"].astype("f4")
                arrays["cm5_atomic_charges"] = np.ones((len(arrays["energies"]), size + 1), "f4")  # the last is the sum
            for key, array in arrays.items():
                chunks = (3, *(1 for _ in array.shape[1:]))
                group.create_dataset(key, data=array, chunks=chunks, maxshape=(None, *array.shape[1:]))
    return path


def write_ani2x(folder: Path, given: list[Molecule]) -> Path:
    return by_atoms(folder / "final_h5" / "ANI-2x-wB97X-631Gd.h5", given, comp6=False)


def write_comp6v2(folder: Path, given: list[Molecule]) -> Path:
    return by_atoms(folder / "comp6v2_final_h5" / "COMP6v2_wB97X-631Gd.h5", given, comp6=True)


def write_comp6(folder: Path, given: list[Molecule]) -> Path:
    """Gradients under the name of forces."""
    path = folder / "s66x8_wb97x6-31gd.h5"
    with h5py.File(path, "w") as file:
        for k, m in enumerate(given):
            group = file.create_group(f"s66x8/mol{k:02d}")
            charges = np.ones((len(m.energy), len(m.numbers) + 1), "f4")
            arrays = {"coordinates": m.positions.astype("f4"), "energies": m.energy / HARTREE, "species": m.symbols}
            arrays |= {"forces": (-m.forces / HARTREE).astype("f4"), "cm5": charges, "lot": np.array([b"wb97x/6-31g*"])}
            for key, array in arrays.items():
                group.create_dataset(key, data=array, compression="gzip")
    return path


def write_spice(folder: Path, given: list[Molecule]) -> Path:
    """Gradients in bohr, a group that has lost its conformers, and a charged molecule."""
    path = folder / "SPICE-2.0.1.hdf5"
    empty, ion = given[0]._replace(name="EMPTY"), given[1]._replace(name="ION")
    with h5py.File(path, "w") as file:
        for m in [*given, empty, ion]:
            group = file.create_group(m.name)
            smiles = "[Na+].[O-][N+:3](=O)C" if m.name == "ION" else "[NH3+]CC(=O)[O-:2]"
            group.create_dataset("smiles", data=[smiles], dtype=h5py.string_dtype())
            group.create_dataset("subset", data=["A part"], dtype=h5py.string_dtype())
            group["atomic_numbers"] = m.numbers.astype("i2")
            for key, array, units in (
                ("conformations", m.positions.astype("f8") / BOHR, "bohr"),
                ("dft_total_energy", m.energy / HARTREE, "hartree"),
                ("dft_total_gradient", -m.forces / HARTREE * BOHR, "hartree/bohr"),
            ):
                single = array if key == "dft_total_energy" else array.astype("f4")
                group[key] = single.reshape(-1)[:0] if m is empty else single
                group[key].attrs["units"] = units
            if m.name == "CH4":
                group["mbis_charges"] = np.zeros((len(m.energy), 5, 1), "f4")
    return path


def write_transition1x(folder: Path, given: list[Molecule]) -> Path:
    """Write the last conformers of each molecule as groups of their own; `data` links to all of it."""
    path = folder / "Transition1x.h5"
    with h5py.File(path, "w") as file:
        for k, m in enumerate(given):
            reaction = file.create_group(f"{('train', 'val', 'test')[k % 3]}/{m.name}/rxn0000")
            ends = {"product": -1, "reactant": -2}  # the product is the last of the path once more
            for name, rows in {"": slice(0, -2), **ends, "transition_state": -1}.items():
                group = reaction.create_group(name) if name else reaction
                kept = np.arange(len(m.energy))[rows].reshape(-1)
                group["atomic_numbers"], group["positions"] = m.numbers, m.positions[kept]
                group["wB97x_6-31G(d).energy"], group["wB97x_6-31G(d).forces"] = m.energy[kept], m.forces[kept]
            del reaction["product"]["positions"], reaction["product"]["wB97x_6-31G(d).energy"]
            del reaction["product"]["wB97x_6-31G(d).forces"]
            product = reaction["product"]
            product["positions"], product["wB97x_6-31G(d).energy"] = m.positions[:1], m.energy[:1]
            product["wB97x_6-31G(d).forces"] = m.forces[:1]
            file[f"data/{m.name}/rxn0000"] = h5py.SoftLink(reaction.name)
    return path


def write_md17(folder: Path, given: list[Molecule]) -> Path:
    (m,) = given
    path = folder / "md17_toy.npz"
    column = (m.energy / KCAL)[:, None]
    np.savez(path, z=m.numbers.astype("u1"), R=m.positions, E=column, F=m.forces / KCAL, name=np.array("toy"))
    return path


def write_rmd17(folder: Path, given: list[Molecule]) -> Path:
    (m,) = given
    path = folder / "rmd17_toy.npz"
    labels = {"energies": m.energy / KCAL, "forces": m.forces / KCAL, "old_energies": m.energy * 0}
    np.savez_compressed(path, nuclear_charges=m.numbers.astype("u1"), coords=m.positions, **labels)
    return path


def qm9_texts(given: list[Molecule]) -> dict[str, str]:
    texts = {}
    for m in given:
        for x, energy in zip(m.positions, m.energy, strict=True):
            number = len(texts) + 1
            values = ["1.5"] * 10 + [f"{energy / HARTREE:.10f}"] + ["-2.5*^-3"] * 4
            atoms = [
                "\t".join([s.decode(), *(f"{v:.10e}".replace("e", "*^") for v in row), "-0.1"])
                for s, row in zip(m.symbols, x, strict=True)
            ]
            lines = [
                str(len(x)),
                f"gdb {number}\t" + "\t".join(values) + "\t",
                *atoms,
                "1341.3\t1562.1",
                "C\tC\t",
                "InChI",
            ]
            texts[f"dsgdb9nsd_{number:06d}.xyz"] = "\n".join(lines) + "\n"
    return texts


def write_qm9(folder: Path, given: list[Molecule]) -> Path:
    path = folder / "dsgdb9nsd.xyz.tar.bz2"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, text in qm9_texts(given).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    path.write_bytes(bz2.compress(content.getvalue()))
    return path


def write_qm7(folder: Path, given: list[Molecule]) -> Path:
    from scipy.io import savemat

    path = folder / "qm7.mat"
    all_numbers = [m.numbers for m in given for _ in m.energy]
    n, width = len(all_numbers), max(map(len, all_numbers))
    Z, R = np.zeros((n, width)), np.zeros((n, width, 3))
    for k, (numbers, x) in enumerate(zip(all_numbers, (x for m in given for x in m.positions), strict=True)):
        Z[k, : len(numbers)], R[k, : len(numbers)] = numbers, x / BOHR
    T = np.concatenate([m.energy for m in given])[None] / KCAL
    folds = np.arange(n, dtype="u2").reshape(-1, 5).T if n % 5 == 0 else np.arange(n)[None]
    savemat(path, {"Z": Z, "R": R, "T": T, "P": folds}, do_compression=True)
    return path


def write_extxyz(folder: Path, given: list[Molecule]) -> Path:
    path = folder / "train.xyz"
    lines = []
    for m in given:
        for x, e, f in zip(m.positions, m.energy, m.forces, strict=True):
            lines += [
                str(len(x)),
                'Lattice="50.0 0.0 0.0 0.0 50.0 0.0 0.0 0.0 50.0" Properties=species:S:1:pos:R:3:forces:R:3 '
                f'config_type=x energy={float(e)!r} dihedrals="_JSON [1.0, 2.0]" pbc="F F F"',
            ]
            for symbol, row, force in zip(m.symbols, x, f, strict=True):
                lines.append(" ".join([f"{symbol.decode():2}", *(f"{v:16.8f}" for v in (*row, *force))]))
    path.write_text("\n".join(lines) + "\n")
    return path


WRITERS: dict[str, Callable[[Path, list[Molecule]], Path]] = {
    name.removeprefix("write_"): function for name, function in list(globals().items()) if name.startswith("write_")
}
WITHOUT_FORCES = ("ani1", "qm7", "qm9")
ONE_MOLECULE = ("md17", "rmd17")
SETTINGS: dict[str, dict[str, Any]] = {"ani1": {"names": ["ani_gdb_s01.h5"]}, "qm7": {"test_fold": None}}


def given_to(layout: str, count: int = 4) -> list[Molecule]:
    """What a layout can contain of the molecules."""
    return molecules(count)[:1] if layout in ONE_MOLECULE else molecules(count)


def _section(layout: str) -> dict[str, Any]:
    """Content of a configuration, with that of the one that it starts from."""
    content = yaml.safe_load((CONF / f"{layout}.yaml").read_text())
    for base in content.pop("defaults"):
        if isinstance(base, str) and base != "_self_":
            other = _section(base)
            content = other | content | {"reader": other["reader"] | content.get("reader", {})}
    return dict(content)


def make_reader(layout: str, path: Path, data: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Build the reader as the shipped configuration describes it, for a file and with changes.

    Parameters
    ----------
    layout : name of the configuration
    path : of the file
    data : changes of its data section
    changes : of its reader section
    """
    section = _section(layout)
    section |= {"path": str(path), "root": str(path.parent), **(data or {})}

    def resolve(value: Any) -> Any:
        found = re.fullmatch(r"\$\{data\.(\w+)\}", value) if isinstance(value, str) else None
        return section[found.group(1)] if found else value

    arguments = {key: resolve(value) for key, value in section["reader"].items()}
    arguments |= {**SETTINGS.get(layout, {}), **changes}
    module, _, name = arguments.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name)(**arguments)
