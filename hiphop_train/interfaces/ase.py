"""Calculator for the Atomic Simulation Environment (Larsen et al., J. Phys.: Condens. Matter 29, 273002 (2017))."""

from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from hiphop_train import checkpoint
from hiphop_train.accelerate import accelerate
from hiphop_train.errors import DataError
from hiphop_train.export.torchscript import ExportedPotential, load


class HipHopCalculator(Calculator):
    """ASE calculator of an exported potential or, in less time on CPUs, of a checkpoint.

    Properties are energy and free_energy (equal), forces, energies (of the atoms); stress, of structures that are
    periodic in all three directions; and where the model has them, charges, and dipole of structures that are periodic
    in none. Units (eV, Angstrom, elementary charge), order and sign are ASE's.

    Parameters
    ----------
    path : exported file (``hiphop-export``), or run directory or checkpoint (``.ckpt``), whose potential is compiled
        where there is a C compiler, which no exported file can hold
    device : where torch computes, ``cpu`` or ``cuda``

    Raises
    ------
    CheckpointError
        when the file is missing, is not a potential, or has a newer format

    Notes
    -----
    The neighbour search is repeated for each structure, in time and memory linear in the number of atoms.

    TorchScript's optimisation is switched off during calls: it makes the first calls slow and gains little.

    Examples
    --------
    >>> atoms = ase.build.molecule("CH3CH2OH")
    >>> atoms.calc = HipHopCalculator("RUN/model.pt")  # or "RUN"
    >>> atoms.get_potential_energy()
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress", "energies", "charges", "dipole"]  # noqa: RUF012

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        path = Path(path)
        self.potential = _of_checkpoint(path, device) if path.is_dir() or path.suffix == ".ckpt" else load(path, device)
        self.elements: list[str] = self.potential.elements
        self.cutoff: float = self.potential.cutoff  # Angstrom

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Calculate all properties, whichever are requested.

        Raises
        ------
        DataError
            when the structure has an element that the model does not know, or no lattice vector in a periodic direction
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        structure = self.atoms
        assert structure is not None
        flat = structure.pbc & ~structure.cell.array.any(axis=1)
        if flat.any():
            raise DataError(f"atoms.pbc is {structure.pbc.tolist()}, but lattice vector {int(flat.argmax())} is zero")
        numbers = structure.numbers.astype(np.int64)
        unknown = sorted(set(numbers.tolist()) - set(self.potential.atomic_numbers))
        if unknown:
            names = ", ".join(chemical_symbols[number] for number in unknown)
            raise DataError(f"elements not known to this model: {names}; it knows {', '.join(self.elements)}")
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            outputs = self.potential.energy_forces(
                self.potential.species_of(torch.as_tensor(numbers, device=self.device)),
                torch.as_tensor(structure.positions, device=self.device),
                torch.as_tensor(structure.cell.array, device=self.device),
                torch.as_tensor(structure.pbc, device=self.device),
            )
        energy = float(outputs["energy"])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": outputs["atomic_energy"].cpu().numpy(),
            "forces": outputs["forces"].cpu().numpy(),
        }
        if structure.pbc.all():
            virial = outputs["virial"] / -structure.cell.volume  # files of older versions have no stress
            stress = outputs.get("stress", virial).cpu().numpy()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)  # type: ignore[no-untyped-call]
        if "charges" in outputs:
            self.results["charges"] = outputs["charges"].cpu().numpy()
        if "dipole" in outputs and not structure.pbc.any():
            self.results["dipole"] = outputs["dipole"].cpu().numpy()


def _of_checkpoint(path: Path, device: str) -> ExportedPotential:
    """Return what would be exported, in Python."""
    loaded = checkpoint.load(str(path))
    potential = ExportedPotential(loaded.potential, "{}", golden=[]).to(device)
    accelerate(potential.potential, potential.network_type.dtype, torch.device(device), "inference")
    return potential
