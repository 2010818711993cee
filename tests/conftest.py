"""Tiny structures, graphs and potentials for all tests, made here: nothing is downloaded."""

import itertools
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from omegaconf import DictConfig, OmegaConf

from hiphop_train.build import make_potential
from hiphop_train.graph.assemble import make_graph
from hiphop_train.graph.neighbours import batch_neighbours
from hiphop_train.potential import Potential
from hiphop_train.types import Graph

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("HIPHOP_SHARED", ROOT / ".." / "shared")).resolve()
MODEL_FILES = sorted((ROOT / "conf" / "model").glob("*.yaml"))

SMALL = {
    "elements": ["H", "C", "N", "O"],
    "cutoff": 4.0,
    "n_features": 16,
    "n_sensitivities": 6,
    "n_atom_layers": 2,
    "soft_min": 0.8,
    "soft_max": 3.5,
    "n_gaussians": 12,
    "n_factors": 16,
    "gaussian_max": 4.0,
    "n_interactions": 2,
    "n_line_interactions": 1,
    "n_embedding": 14,
    "n_angle_gaussians": 4,
    "radial_hidden": [16],
    "n_attributes": 6,
    "n_tensors": 4,
    "two_body_hidden": [16],
    "latent_hidden": [16],
    "n_radial_by_order": [4, 2, 1, 1],
    "l_max_by_order": [0, 2, 1, 1],
    "hidden": [24, 16],
    "hidden_of": {"C": [12]},
}
"""What is shrunk in a model's configuration and its readout's, where they have the key."""

WEIGHT_FACTORS = {"newtonnet": 0.75, "tfn": 1.6, "tensornet": 1.5}
"""What random weights are multiplied by: in a dense cell the products of NewtonNet's unnormalised sums reach 1e17, and
finite differences cannot follow; forces of TFN and TensorNet are small, and TFN's norms sharply curved near zero."""

COSTLY_MODULES = ["test_nequip.py", "test_mace.py", "test_recovery.py", "test_compare.py", "test_peers.py"]
"""Files whose tests share something that takes long to make."""

COSTLY_FIXTURES = {"trained": "model_name", "exported": "exported"}
"""Fixtures that take long to make, and the parameter that decides what they are."""

ATOM_ENERGY = -10.0 * np.arange(119.0) - 3.0
"""Energy of an isolated atom in the labels, eV, by atomic number."""


class Conformers(NamedTuple):
    """Conformers of one molecule with labels in eV and eV/Angstrom."""

    numbers: np.ndarray  # (n_atoms,)
    positions: np.ndarray  # (n, n_atoms, 3)
    energy: np.ndarray  # (n,)
    forces: np.ndarray  # (n, n_atoms, 3)


MakeAtoms = Callable[..., Atoms]
GraphOf = Callable[..., Graph]
PotentialOf = Callable[..., Potential]


@cache
def _composed_model(name: str) -> DictConfig:
    from hiphop_train.config import load_config

    section: DictConfig = load_config("train", [f"model={name}"]).model
    return section


def model_section(name: str) -> dict[str, Any]:
    """Return the section that model=NAME composes, as plain data of its own."""
    section: Any = OmegaConf.to_container(_composed_model(name), resolve=True)
    return section


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run tests that share something costly in one process; leave out those without their folder `shared`."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        for fixture, parameter in COSTLY_FIXTURES.items():
            if fixture in getattr(item, "fixturenames", ()) and parameter in parameters:
                item.add_marker(pytest.mark.xdist_group(f"{fixture}-{parameters[parameter]}"))
        if item.path.name in COSTLY_MODULES:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    if SHARED.is_dir():
        return
    needs_files = [item for item in items if "shared" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=needs_files)
    items[:] = [item for item in items if item not in needs_files]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that tests are left out."""
    if not SHARED.is_dir():
        terminalreporter.write_line(f"left out: tests on real files, since {SHARED} does not exist (HIPHOP_SHARED)")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with material that is not part of the project; tests that need it are left out without it."""
    return SHARED


@pytest.fixture(scope="session")
def torchani() -> ModuleType:
    """Import torchani, which would warn that its compiled extensions are missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHANI_NO_WARN_EXTENSIONS", "1")
        import torchani.aev
        import torchani.models
        import torchani.neurochem
        import torchani.nn
    return torchani


@pytest.fixture(params=[file.stem for file in MODEL_FILES])
def model_name(request: pytest.FixtureRequest) -> str:
    """Each model of conf/model in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def make_molecule() -> MakeAtoms:
    """Make an open, connected random molecule whose atoms keep a minimum distance."""

    def make(n_atoms: int, seed: int, symbols: str = "HCNO", shortest: float = 0.95) -> Atoms:
        rng = np.random.default_rng(seed)
        positions = [np.zeros(3)]
        while len(positions) < n_atoms:
            step = rng.normal(size=3)
            candidate = positions[rng.integers(len(positions))] + step / np.linalg.norm(step) * rng.uniform(1.0, 1.6)
            if min(np.linalg.norm(candidate - other) for other in positions) > shortest:
                positions.append(candidate)
        return Atoms(rng.choice(list(symbols), n_atoms), np.array(positions))

    return make


@pytest.fixture(scope="session")
def make_box() -> MakeAtoms:
    """Make a random triclinic cell, periodic where asked, whose atoms keep a minimum distance to all images."""

    def make(n_atoms: int, seed: int, length: float = 3.0, pbc: Sequence[bool] = (True, True, True)) -> Atoms:
        rng = np.random.default_rng(seed)
        cell = length * (np.diag(rng.uniform(0.9, 1.2, 3)) + rng.uniform(-0.3, 0.3, (3, 3)) * (1 - np.eye(3)))
        while True:
            atoms = Atoms(rng.choice(list("HCNO"), n_atoms), cell=cell, pbc=pbc)
            atoms.set_scaled_positions(rng.uniform(size=(n_atoms, 3)))
            if len(neighbor_list("d", atoms, 0.9)) == 0:
                return atoms

    return make


@pytest.fixture(scope="session")
def diatomic() -> MakeAtoms:
    """Make two atoms, in general orientation, at a distance."""

    def make(distance: float, symbols: str = "CO") -> Atoms:
        direction = np.array([0.36, -0.48, 0.8])  # of length 1
        return Atoms(symbols, [np.full(3, 0.3), np.full(3, 0.3) + distance * direction])

    return make


@pytest.fixture(scope="session")
def isolated_atom() -> Atoms:
    """One open atom away from the origin."""
    return Atoms("N", [[0.3, -0.2, 5.0]])


@pytest.fixture(scope="session")
def mixed_structures(make_molecule: MakeAtoms, make_box: MakeAtoms, diatomic: MakeAtoms) -> list[Atoms]:
    """Open and periodic structures of all kinds, an isolated atom among them, for batches."""
    return [
        make_molecule(7, seed=1),
        make_box(4, seed=2),
        Atoms("N", [[0.3, -0.2, 5.0]]),
        make_box(3, seed=3, pbc=(True, False, True)),
        diatomic(1.2),
        make_box(1, seed=4, length=2.0),
        make_molecule(5, seed=5),
    ]


@pytest.fixture(scope="session")
def graph_of() -> GraphOf:
    """Make the graph of a batch of structures."""

    def make(
        structures: Sequence[Atoms],
        elements: Sequence[str] = ("H", "C", "N", "O"),
        cutoff: float = 4.0,
        dtype: torch.dtype = torch.float64,
    ) -> Graph:
        sizes = torch.tensor([len(atoms) for atoms in structures])
        positions = torch.from_numpy(np.concatenate([atoms.positions for atoms in structures]))
        cell = torch.from_numpy(np.stack([atoms.cell.array for atoms in structures]))
        pbc = torch.from_numpy(np.stack([atoms.pbc for atoms in structures]))
        species = torch.tensor([list(elements).index(symbol) for atoms in structures for symbol in atoms.symbols])
        system = torch.repeat_interleave(torch.arange(len(structures)), sizes)
        pairs = batch_neighbours(positions, sizes, cell, pbc, cutoff)
        return make_graph(species, positions, cell, pbc, system, len(structures), *pairs, dtype)

    return make


@pytest.fixture(scope="session")
def potential_of() -> PotentialOf:
    """Build a small potential from a model's configuration, its numbers away from their defaults."""

    def make(name: str, dtype: torch.dtype = torch.float64, seed: int = 0, **changes: object) -> Potential:
        section = model_section(name)
        for key, value in {**SMALL, **changes}.items():
            for part in (section, section["readout"]):
                if key in part:
                    part[key] = value
        if section["readout"].get("activation") == "celu":
            section["readout"]["activation"] = "tanh"  # finite differences see where celu's second derivative jumps
        torch.manual_seed(seed)
        potential = make_potential(section, dtype)
        with torch.no_grad():
            for parameter in potential.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter)).mul_(WEIGHT_FACTORS.get(name, 1.0))
            potential.e0.copy_(-10.0 * torch.rand_like(potential.e0))
            for term in potential.terms:
                term.scale.fill_(1.7)
        return potential.eval()

    return make


@pytest.fixture(scope="session")
def pair_labels() -> Callable[..., tuple[float, np.ndarray]]:
    """Evaluate a pair Morse potential with its minimum at the sum of covalent radii, in eV and Angstrom."""

    def evaluate(numbers: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray]:
        depth, slope, energy, forces = 4.0, 1.5, 0.0, np.zeros_like(positions)
        for i, j in itertools.combinations(range(len(numbers)), 2):
            vector = positions[j] - positions[i]
            distance = np.linalg.norm(vector)
            decay = np.exp(-slope * (distance - covalent_radii[numbers[i]] - covalent_radii[numbers[j]]))
            energy += depth * (decay**2 - 2 * decay)
            force = depth * slope * 2 * (decay - decay**2) * vector / distance
            forces[i] += force
            forces[j] -= force
        return energy + float(ATOM_ENERGY[numbers].sum()), forces

    return evaluate


@pytest.fixture(scope="session")
def make_conformers(pair_labels: Callable[..., tuple[float, np.ndarray]]) -> Callable[..., Conformers]:
    """Make conformers of a molecule of ASE's collection, labelled by the pair potential at float32 positions."""

    def make(name: str, count: int, seed: int = 0, spread: float = 0.03) -> Conformers:
        rng = np.random.default_rng(seed)
        reference = molecule(name)
        shape = (count, len(reference), 3)
        positions = (reference.positions + rng.normal(scale=spread, size=shape)).astype(np.float32).astype(np.float64)
        labels = [pair_labels(reference.numbers, x) for x in positions]
        energy, forces = np.array([e for e, _ in labels]), np.array([f for _, f in labels])
        return Conformers(reference.numbers.astype(np.int64), positions, energy, forces)

    return make
