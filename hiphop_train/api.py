"""The functions of the Python API: what the commands do, with results instead of exit codes.

Errors of the user's input are raised as `hiphop_train.HipHopError`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from ase import Atoms

from hiphop_train import checkpoint
from hiphop_train.accelerate import accelerate
from hiphop_train.build import DTYPES
from hiphop_train.commands.export import export_file
from hiphop_train.commands.quiet import quiet
from hiphop_train.config import load_config, quoted
from hiphop_train.data.batching.transfer import to_device
from hiphop_train.errors import DataError
from hiphop_train.graph.assemble import make_graph
from hiphop_train.graph.neighbours import batch_neighbours
from hiphop_train.potential import Potential
from hiphop_train.types import Graph

if TYPE_CHECKING:  # it takes seconds to import
    from hiphop_train.commands.train import TrainResult


def load(path: str | Path, purpose: Literal["inference", "training"] = "inference", device: str = "cpu") -> Potential:
    """Load a trained potential as a `torch.nn.Module`, accelerated.

    Parameters
    ----------
    path : run directory, of which the best checkpoint is taken, or checkpoint file. An exported file (``*.pt``) is not
        a `Potential`: use it by `HipHopCalculator` or ``torch.jit.load``
    purpose : inference: weights are frozen, and the potential is differentiated once, to forces and virial; training:
        weights can be trained and, in training mode, forces can be differentiated again
    device : ``cpu`` or ``cuda``

    Returns
    -------
    potential : with averaged weights, in evaluation mode and in the floating-point type of its training

    Raises
    ------
    CheckpointError
        when the path does not exist or is not a checkpoint

    Examples
    --------
    >>> potential = load("RUN")
    >>> outputs = potential(graph_from_atoms(ase.build.molecule("CH3CH2OH"), potential))
    >>> outputs["energy"], outputs["forces"]  # eV, eV/Angstrom
    """
    loaded = checkpoint.load(str(path))
    dtype = DTYPES[loaded.record["config"]["dtype"]]
    accelerate(loaded.potential, dtype, torch.device(device), purpose)
    return loaded.potential.to(device)


def graph_from_atoms(structures: Atoms | Sequence[Atoms], potential: Potential) -> Graph:
    """Find the neighbours of one structure, or of a batch of structures, for a potential.

    Parameters
    ----------
    structures : of ASE, periodic in any directions
    potential : whose elements, cutoff and floating-point type are used

    Returns
    -------
    graph : with ``n_systems`` structures, on the device of the potential

    Raises
    ------
    DataError
        when there is no structure, or one has an element that the potential does not know
    """
    batch = [structures] if isinstance(structures, Atoms) else list(structures)
    if not batch:
        raise DataError("no structures: a graph needs at least one")
    symbols = [symbol for atoms in batch for symbol in atoms.symbols]
    unknown = sorted(set(symbols) - set(potential.elements))
    if unknown:
        raise DataError(f"unknown elements: {', '.join(unknown)}; this potential has {', '.join(potential.elements)}")
    sizes = torch.tensor([len(atoms) for atoms in batch])
    positions = torch.from_numpy(np.concatenate([atoms.positions for atoms in batch]))  # (n_atoms, 3)
    cell = torch.from_numpy(np.stack([atoms.cell.array for atoms in batch]))  # (n_systems, 3, 3)
    pbc = torch.from_numpy(np.stack([atoms.pbc for atoms in batch]))  # (n_systems, 3)
    species = torch.tensor([potential.elements.index(symbol) for symbol in symbols])  # (n_atoms,)
    system = torch.repeat_interleave(torch.arange(len(batch)), sizes)  # (n_atoms,)
    pairs = batch_neighbours(positions, sizes, cell, pbc, potential.cutoff)
    parameter = next(potential.parameters())
    graph = make_graph(species, positions, cell, pbc, system, len(batch), *pairs, parameter.dtype)
    on_device: Graph = to_device(graph, parameter.device)
    return on_device


def train(overrides: Sequence[str] = ()) -> "TrainResult":
    """Train a potential, evaluate it and export it, as hiphop-train does.

    Parameters
    ----------
    overrides : settings as on the command line, ``["model=hipnn", "model.n_features=32", "run_dir=RUN"]``

    Returns
    -------
    result : run directory, test errors and exit code, which is not 0 when a signal stopped the training

    Raises
    ------
    ConfigError
        when a setting is unknown or has a value that is not allowed; nothing has been written then
    DataError, CheckpointError
        when data, or a checkpoint to start from, are missing or do not fit the settings
    """
    from hiphop_train.commands.train import train as training

    config = load_config("train", overrides)
    with quiet():
        return training(config)


def evaluate(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Evaluate a trained potential on its test splits or on other data, as hiphop-eval does.

    Parameters
    ----------
    path : run directory or checkpoint file
    overrides : settings as on the command line, ``["data=comp6", "data.root=FOLDER"]``

    Returns
    -------
    errors : set of structures -> target (energy, relative_energy, forces) -> mae, rmse, max ... in kcal/mol and
        kcal/mol/Angstrom. They are also written as JSON, with pictures, to ``RUN/eval`` or ``output_dir=FOLDER``

    Raises
    ------
    ConfigError, DataError, CheckpointError
        as `train`
    """
    from hiphop_train.commands.evaluate import evaluate as evaluating

    config = load_config("eval", [quoted("checkpoint", str(path)), *overrides])
    with quiet():
        return evaluating(config)


def export_potential(path: str | Path, output: str | Path | None = None) -> Path:
    """Write a trained potential as one TorchScript file that runs without this package, as hiphop-export does.

    Parameters
    ----------
    path : run directory or checkpoint file
    output : file to write; by default ``RUN/model.pt``

    Returns
    -------
    file : that was written

    Raises
    ------
    ConfigError
        when the file cannot be written
    CheckpointError
        when there is no potential at the path, or the file would disagree with it
    """
    outputs = [] if output is None else [quoted("output", str(output))]
    config = load_config("export", [quoted("checkpoint", str(path)), *outputs])
    with quiet():
        return export_file(config)
