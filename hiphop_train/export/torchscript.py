"""Export as TorchScript, in this one file: torch.jit is deprecated, and may be replaced one day.

An exported file is one scripted module with everything that an engine needs: network, neighbour search, forces and
virial, names and units, and golden structures with their outputs, with which any reader can check its own installation.
``torch.jit.load`` reads it in Python or C++ where hiphop-train is not installed.

The first calls of a loaded file are slow, because TorchScript profiles and optimises the graph on the way, which then
gains little. ``torch.jit.optimized_execution(False)`` around the calls, in C++
``torch::jit::setGraphExecutorOptimize(false)``, avoids this; `verify` and the ASE calculator do it.
"""

import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from ase.data import atomic_numbers as number_of_symbol
from ase.data import chemical_symbols
from torch import Tensor, nn

from hiphop_train import __version__, files
from hiphop_train.accelerate import accelerate, restore
from hiphop_train.errors import CheckpointError
from hiphop_train.export.golden import AtomicStructure, GoldenReport, TypedStructure, deviation, golden_structures
from hiphop_train.graph.assemble import make_graph
from hiphop_train.graph.neighbours import neighbours
from hiphop_train.potential import Potential
from hiphop_train.targets import TARGETS

FORMAT_VERSION = 1
"""Raised when a reader of older files would misunderstand newer ones."""

TOLERANCE = {"float32": 2e-5, "float64": 1e-10}
"""Largest relative deviation from the golden outputs by floating-point type of the network, see `GoldenReport`."""

ROUNDING_FACTOR = 4.0
"""What a deviation may be in units of the potential's own rounding, where that is more: barely trained potentials can
have forces of thousands of eV/Angstrom in the golden crystal, as differences of larger numbers."""


class ExportedPotential(nn.Module):
    """A potential in the form in which it is scripted: evaluation only, with all that a reader of the file needs.

    Only the first level of theory is exported: of E0 (n_levels_of_theory, n_elements) row 0 alone goes into the file.

    Parameters
    ----------
    potential : is copied to the CPU; the original is left as it is
    metadata : JSON, an object
    golden : structures whose outputs are stored; None makes some from the elements (see `golden_structures`)

    Attributes
    ----------
    format_version : int
    elements : list of str, type names; species are indices into this list
    atomic_numbers : list of int, of the elements; 0 for a type that is not a chemical element
    cutoff : float, Angstrom
    e0 : (n_elements,) float64, eV
    dtype : str, floating-point type of the network; positions are taken and energies and forces returned in float64
    energy_unit, length_unit, forces_unit : str
    units : dict, of the targets among the outputs
    metadata : str, JSON
    rounding : float, how far the golden outputs are from those in double precision, relative as in `GoldenReport`
    golden : list of dict with species, positions, cell, pbc and the outputs of `energy_forces`: energy, forces, virial,
        and further targets that the readout has
    """

    e0: Tensor
    network_type: Tensor

    def __init__(self, potential: Potential, metadata: str, golden: Optional[List[AtomicStructure]] = None) -> None:
        super().__init__()
        first_theory = deepcopy(potential).cpu().eval().requires_grad_(False)
        restore(first_theory)
        first_theory.e0 = first_theory.e0[:1].clone()
        dtype = next((parameter.dtype for parameter in potential.parameters()), torch.float64)
        self.potential = first_theory
        self.format_version = FORMAT_VERSION
        self.elements = list(potential.elements)
        self.atomic_numbers = [int(number_of_symbol.get(element, 0)) for element in potential.elements]
        self.symbols = list(chemical_symbols)
        self.cutoff = float(potential.cutoff)
        self.dtype = str(dtype).removeprefix("torch.")
        self.energy_unit = "eV"
        self.length_unit = "angstrom"
        self.forces_unit = "eV/angstrom"
        self.units = {key: TARGETS[key].unit for key in potential.targets}
        self.metadata = metadata
        self.of_structures = ["virial", "hierarchicality"] + [t.key for t in TARGETS.values() if t.per != "atom"]
        self.register_buffer("e0", first_theory.e0[0].clone())
        self.register_buffer("network_type", torch.zeros((), dtype=dtype))  # TorchScript has no dtype attributes
        if golden is None:
            structures = golden_structures(self.atomic_numbers)
        else:
            structures = [self._typed(structure) for structure in golden]
        self.golden = [self._answer(structure) for structure in structures]  # by the plain modules
        self.rounding = 0.0  # `export` measures it
        accelerate(first_theory, dtype, torch.device("cpu"), "export")

    def forward(
        self,
        species: Tensor,
        positions: Tensor,
        cell: Tensor,
        pbc: Tensor,
        system: Tensor,
        n_systems: int,
        pair_i: Tensor,
        pair_j: Tensor,
        pair_shift: Tensor,
        n_owned: int,
        forces: bool = True,
        virial: bool = False,
    ) -> Dict[str, Tensor]:
        """Evaluate structures whose pairs are known.

        Parameters
        ----------
        species : (n_atoms,) int64, indices into `elements`
        positions : (n_atoms, 3) Angstrom; float64, other types are cast
        cell : (n_systems, 3, 3) Angstrom, rows are lattice vectors
        pbc : (n_systems, 3) bool
        system : (n_atoms,) int64, ascending
        n_systems : number of structures
        pair_i, pair_j : (n_pairs,) int64, all ordered pairs closer than `cutoff`, by receiving atom i
        pair_shift : (n_pairs, 3) int64, the vector of a pair being r_j + shift . cell - r_i
        n_owned : atoms from this index on are ghosts: they send messages and have forces, but carry no energy
        forces, virial : whether to differentiate

        Returns
        -------
        outputs : dict
            ``energy`` (n_systems,), ``atomic_energy`` (n_atoms,), ``level_energies`` (n_atoms, n_levels) eV;
            ``hierarchicality`` (n_systems,); if requested, ``forces`` (n_atoms, 3) eV/Angstrom, and ``virial``
            (n_systems, 3, 3) eV, the negative derivative with respect to a strain, with ``stress`` (n_systems, 3, 3)
            eV/Angstrom^3, see `hiphop_train.potential.stress`; all detached
        """
        graph = make_graph(
            species, positions.detach().to(torch.float64), cell.detach().to(torch.float64), pbc, system, n_systems,
            pair_i, pair_j, pair_shift, self.network_type.dtype, None, None, n_owned,
        )  # fmt: skip
        # Engines like to call without gradients, but forces need them; TorchScript knows no `with enable_grad()`.
        grad_before = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        outputs: Dict[str, Tensor] = self.potential(graph, forces, virial)
        torch.set_grad_enabled(grad_before)
        detached: Dict[str, Tensor] = {}
        for key, value in outputs.items():
            detached[key] = value.detach().to(torch.float64)
        return detached

    @torch.jit.export
    def energy_forces(self, species: Tensor, positions: Tensor, cell: Tensor, pbc: Tensor) -> Dict[str, Tensor]:
        """Evaluate one structure; the pairs are found in linear time.

        Parameters
        ----------
        species : (n_atoms,) int64, indices into `elements`, from `species_of`
        positions : (n_atoms, 3) Angstrom, inside or outside of the cell
        cell : (3, 3) Angstrom, rows are lattice vectors; anything in open directions
        pbc : (3,) bool

        Returns
        -------
        outputs : dict
            ``energy`` (), ``atomic_energy`` (n_atoms,), ``level_energies`` (n_atoms, n_levels) eV; ``forces``
            (n_atoms, 3) eV/Angstrom; ``virial`` (3, 3) eV; ``stress`` (3, 3) eV/Angstrom^3, zero where not periodic in
            all three directions; ``hierarchicality`` ()
        """
        positions = positions.detach().to(torch.float64)
        cell = cell.detach().to(torch.float64)
        pair_i, pair_j, pair_shift = neighbours(positions, cell, pbc, self.cutoff)
        system = torch.zeros_like(species)
        outputs = self.forward(
            species, positions, cell.unsqueeze(0), pbc.unsqueeze(0), system, 1, pair_i, pair_j, pair_shift,
            positions.shape[0], True, True,
        )  # fmt: skip
        for key in self.of_structures:
            if key in outputs:
                outputs[key] = outputs[key][0]
        return outputs

    @torch.jit.export
    def species_of(self, atomic_numbers: Tensor) -> Tensor:
        """Translate atomic numbers (n_atoms,) into species (n_atoms,) int64.

        Raises
        ------
        RuntimeError
            for an element that the model does not know, naming it; Python readers of a file get ``torch.jit.Error``
        """
        known = torch.tensor(self.atomic_numbers, dtype=torch.int64, device=atomic_numbers.device)
        matches = (atomic_numbers[:, None] == known) & (atomic_numbers[:, None] > 0)  # (n_atoms, n_elements)
        unknown = atomic_numbers[~matches.any(1)]
        if unknown.shape[0] > 0:
            number = int(unknown[0])
            name = self.symbols[number] if 0 < number < len(self.symbols) else "?"
            raise RuntimeError(
                f"element {name} (atomic number {number}) is unknown to this model, which knows "
                + ", ".join(self.elements)
            )
        return matches.to(torch.int64).argmax(1)

    def _typed(self, structure: AtomicStructure) -> TypedStructure:
        numbers, positions, cell, pbc = structure
        return (
            self.species_of(torch.as_tensor(np.asarray(numbers, dtype=np.int64))),
            torch.as_tensor(np.asarray(positions, dtype=np.float64)),
            torch.as_tensor(np.asarray(cell, dtype=np.float64)),
            torch.as_tensor(np.asarray(pbc, dtype=np.bool_)),
        )

    def deviation(self) -> float:
        """Return how far the form that is exported is from the golden outputs, relative as in `GoldenReport`."""
        structures = [(each["species"], each["positions"], each["cell"], each["pbc"]) for each in self.golden]
        outputs = [self.energy_forces(*structure) for structure in structures]
        return _largest([deviation(*pair, self.e0) for pair in zip(outputs, self.golden, strict=True)])

    def _answer(self, structure: TypedStructure) -> Dict[str, Tensor]:
        species, positions, cell, pbc = structure
        outputs = self.energy_forces(species, positions, cell, pbc)
        given = {"species": species, "positions": positions, "cell": cell, "pbc": pbc}
        further = [key for key in self.potential.targets if key not in ("energy", "forces", "stress")]
        return given | {key: outputs[key] for key in ["energy", "forces", "virial"] + further}  # virial implies stress


def export(
    potential: Potential, path: Path, metadata: dict[str, Any], golden: Optional[List[AtomicStructure]] = None
) -> None:
    """Write a potential as TorchScript, after checking that the file read back gives the outputs of the potential.

    The file appears under its name only when it is right, and until then an older one stays.

    Parameters
    ----------
    potential : in training or evaluation mode; only the first level of theory is exported
    path : file to write, usually ``*.pt``
    metadata : plain data that JSON can hold: configuration, data fingerprint, validation errors ...; the versions of
        hiphop-train (``code_version``) and torch (``torch_version``) are added
    golden : structures with which readers will check the file; None makes some from the elements

    Raises
    ------
    CheckpointError
        when the directory does not exist, the potential returns numbers that are not finite, or the file disagrees
        with it: more than 2e-5 (float32) or 1e-10 (float64), relative as in `GoldenReport`. In float32 it may be up to
        four times the potential's own rounding, if in double precision the same forms agree to 1e-10
    RuntimeError
        when a golden structure has an unknown element
    TypeError
        when JSON cannot hold the metadata
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: the directory {path.parent} does not exist; make it, or choose another path")
    versions = {"code_version": __version__, "torch_version": str(torch.__version__)}
    module = ExportedPotential(potential, json.dumps(versions | metadata, sort_keys=True), golden)
    for number, answer in enumerate(module.golden):
        if not (answer["energy"].isfinite() and answer["forces"].isfinite().all()):
            problem = f"energy or forces of golden structure {number} are not finite; did the training diverge?"
            raise CheckpointError(f"{path}: not written, because {problem}")
    exact = ExportedPotential(deepcopy(potential).double(), "{}", golden) if module.dtype != "float64" else module
    module.rounding = _largest([deviation(*pair, module.e0) for pair in zip(module.golden, exact.golden, strict=True)])
    with files.replacing(path) as temporary:
        with _without_deprecation():
            archive = io.BytesIO()  # written by us: where a disk is full, torch ends the process
            try:
                torch.jit.save(torch.jit.script(module), archive)
            except Exception as error:  # of many kinds
                why = str(error).strip().splitlines()[0].rstrip(":")
                raise CheckpointError(
                    f"{path}: not written, because TorchScript cannot take the model: {why}"
                ) from error
        temporary.write_bytes(files.seal(archive.getbuffer()))
        report = verify(temporary)
        is_large = report.relative > TOLERANCE[module.dtype]  # then rounding must be all that differs
        if not report.agrees or (is_large and exact.deviation() > TOLERANCE["float64"]):
            raise CheckpointError(
                f"{path}: not written, because the exported file disagrees with the potential: energy by "
                f"{report.energy:.3g} eV/atom, forces by {report.forces:.3g} eV/Angstrom (relative "
                f"{report.relative:.3g}, allowed {report.tolerance:.3g}). This is an error in hiphop-train or torch; "
                "please report it"
            )


def load(path: Path, device: str = "cpu") -> torch.jit.ScriptModule:
    """Read an exported file.

    Raises
    ------
    CheckpointError
        when the file is missing, is not an exported potential, or has a newer format
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; write one with hiphop-export")
    try:
        with _without_deprecation():
            module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
        version = int(module.format_version)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not an exported potential, or damaged; write one with hiphop-export") from error
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format {version}, but this hiphop-train knows formats up to {FORMAT_VERSION}; "
            "update it, or export the checkpoint again"
        )
    return module


def verify(path: Path, device: str = "cpu") -> GoldenReport:
    """Compute the golden outputs of a file again and report how far they are from the stored ones.

    Raises
    ------
    CheckpointError
        as `load`
    """
    module = load(path, device)
    deviations = []  # (n_golden, 4)
    for answer in module.golden:
        answer = {key: value.to(device) for key, value in answer.items()}
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            outputs = module.energy_forces(answer["species"], answer["positions"], answer["cell"], answer["pbc"])
        deviations.append(deviation(outputs, answer, module.e0))
    energy, forces, virial, relative_deviation = torch.stack(deviations).max(0).values.tolist()
    rounding = float(getattr(module, "rounding", 0.0))  # older files do not say
    tolerance = max(TOLERANCE[module.dtype], ROUNDING_FACTOR * rounding)
    return GoldenReport(energy, forces, virial, relative_deviation, tolerance)


def _largest(deviations: List[Tensor]) -> float:
    """Return the largest relative one of `golden.deviation`, infinite where it is not a number."""
    return float(torch.stack(deviations)[:, 3].max().nan_to_num(torch.inf))


@contextmanager
def _without_deprecation() -> Iterator[None]:
    """Silence torch.jit's own deprecation warning, here only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=DeprecationWarning)
        yield
