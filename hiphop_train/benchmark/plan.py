"""Preparation of a benchmark: checks all settings and starts all programs before anything is measured."""

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers

from hiphop_train import build, checkpoint
from hiphop_train.accelerate import accelerate
from hiphop_train.benchmark import systems
from hiphop_train.benchmark.measure import OURS, Programs
from hiphop_train.benchmark.process import CannotImport, DoesNotFit, Failed, WorkerProcess
from hiphop_train.benchmark.settings import HERE, PEERS, Peer
from hiphop_train.data.batching.dataset import check_elements
from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError, HipHopError, did_you_mean
from hiphop_train.export.torchscript import export, load
from hiphop_train.memory import free_memory
from hiphop_train.potential import Potential

MEMORY_SHARE = 0.8
"""Fraction of the initially free memory that one process may use."""


@dataclass(frozen=True)
class Ours:
    """Our own potential.

    Attributes
    ----------
    name : for titles and file names
    elements : of the model
    dtype : of the network
    potential : None if only an exported file is given
    model : complete model section; None if only an exported file is given
    file : the exported file, or None
    """

    name: str
    elements: list[str]
    dtype: str
    potential: Potential | None
    model: dict[str, Any] | None
    file: Path | None


def is_exported(file: Path) -> bool:
    """Whether a file is TorchScript, which stores its constants separately."""
    if not file.is_file() or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def ours_of(settings: Mapping[str, Any], complete: Any) -> Ours:
    """Build or load the potential.

    Parameters
    ----------
    settings : of the command
    complete : function that adds the target's defaults to a model section
    """
    given = settings["checkpoint"]
    if given is None:
        torch.manual_seed(settings["seed"])
        model, dtype = complete(settings["model"]), settings["dtype"]
        potential = build.make_potential(settings["model"], build.DTYPES[dtype])
        name = model["_target_"].split(".")[-2]
        return Ours(name, potential.elements, dtype, potential, model, None)
    file, _ = checkpoint.find_checkpoint(given)
    if is_exported(file):
        module = load(file)
        return Ours(file.stem, list(module.elements), str(module.dtype), None, None, file)
    loaded = checkpoint.load(given)
    config = loaded.record["config"]
    potential = loaded.potential
    return Ours(loaded.run_dir.name, potential.elements, config["dtype"], potential, complete(config["model"]), None)


def check(settings: Mapping[str, Any], peers: Mapping[str, Peer]) -> None:
    """Raise `ConfigError` for mistakes that can be detected without building anything."""
    for name in settings["against"]:
        if name not in peers:
            raise ConfigError(f"against: '{name}' is unknown{did_you_mean(name, peers)}\n  allowed: {', '.join(peers)}")
        if not peers[name].file.is_file():
            installed = [other for other, peer in peers.items() if peer.file.is_file()]
            raise ConfigError(
                f"against: {name} needs the repository's folder benchmarks/peers, which is not part of the installed "
                f"package ({PEERS} does not exist)\n"
                f"  run hiphop-bench from a checkout of the repository (pip install -e .)\n"
                f"  allowed without one: {', '.join(installed)}"
            )
        python = peers[name].python
        if python is not None and not os.access(python, os.X_OK):
            raise ConfigError(
                f"peers.{name}.python={python}: no such program; give the Python of an environment with "
                f"{peers[name].package} (see scripts/peers.sh)"
            )
    for key in ("against", "structures", "water", "measure"):
        twice = [value for value in settings[key] if settings[key].count(value) > 1]
        if twice:
            raise ConfigError(f"{key}: {twice[0]} is given twice")
    for n_atoms in settings["water"]:
        systems.check_water(n_atoms)
    further = build.make_part(settings["loss"], "loss").parts.keys() - {"energy", "forces"}
    if further:
        raise ConfigError(f"loss.{min(further)}: training steps are timed with energies and forces only; remove it")
    if not settings["measure"]:
        raise ConfigError("measure=[]: nothing to measure; allowed: md, training, breakdown")
    if not settings["structures"] and not settings["water"] and settings["measure"] == ["md"]:
        raise ConfigError("measure=[md] needs structures: structures=[FILES] or water=[N_ATOMS]")
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no CUDA device is available; use device=cpu or device=auto")


def systems_of(settings: Mapping[str, Any], ours: Ours, peers: Mapping[str, Peer]) -> list[systems.System]:
    """Read or generate all structures, smallest first; all programs must support their elements."""
    found = [systems.from_file(Path(file).expanduser()) for file in settings["structures"]]
    found += [systems.water(n_atoms, settings["seed"]) for n_atoms in settings["water"]]
    for system in found:
        systems.check_elements(system, ours.elements, "the model")
        for name in settings["against"]:
            if (known := peers[name].elements) is not None:
                systems.check_elements(system, list(known), name)
    return sorted(found, key=len)


def batch_of(settings: Mapping[str, Any], ours: Ours) -> Structures:
    """Return a training batch, from the given data or of generated molecules."""
    if settings["data"] is None:
        generated = systems.clusters(settings["batch_size"], settings["seed"])
        missing = [symbol for symbol in ("H", "C", "O") if symbol not in ours.elements]
        if missing:
            raise ConfigError(
                f"the generated molecules contain {missing[0]}, which is not an element of the model; "
                "give other data, data=NAME, or measure=[md]"
            )
        return generated
    assert ours.potential is not None
    module = build.make_data(settings["data"], ours.potential, build.DTYPES[ours.dtype], settings["seed"])
    module.use_theories(["the model's"])
    check_elements(module.structures, ours.elements)
    batch = next(iter(module.train_dataloader()))
    return module.structures.take(batch.sample.numpy())


def start_programs(
    settings: Mapping[str, Any],
    ours: Ours,
    peers: Mapping[str, Peer],
    device: str,
    folder: Path,
    advance: Callable[[int], None],
) -> Programs:
    """Start all processes, or raise `ConfigError` if a program is not installed. The caller closes them.

    Parameters
    ----------
    settings : of the command
    ours : our potential
    peers : settings by name
    device : ``cpu`` or ``cuda``
    folder : for files between the processes
    advance : progress callback, called with 1 when a program is ready
    """
    limit = settings["memory_limit"]
    free = free_memory()
    memory = int(limit * 2**30) if limit is not None else free and int(MEMORY_SHARE * free)
    start = {
        "dtype": ours.dtype,
        "device": device,
        "threads": settings["threads"],
        "seed": settings["seed"],
        "memory": memory if device == "cpu" else None,
    }
    numbers = [atomic_numbers[symbol] for symbol in ours.elements]
    common = {"elements": ours.elements, "atomic_numbers": numbers}
    own = common | _our_settings(settings, ours, torch.device(device), folder)
    processes = {OURS: WorkerProcess(OURS, _our_file(ours), None, {**start, "settings": own}, folder)}
    for name in settings["against"]:
        peer = peers[name]
        own = common | peer.settings() | _shared(peer, ours, folder)
        processes[name] = WorkerProcess(name, peer.file, peer.python, {**start, "settings": own}, folder)
    programs = Programs(processes, folder, ours.dtype)
    small = folder / "small.npz"
    try:
        for process in processes.values():
            _open(process, peers.get(process.name))
            systems.work_of(systems.settling(ours.elements), process.description["cutoff"]).save(small)
            process.settle(small)
            advance(1)
    except BaseException:
        programs.close()
        raise
    return programs


def _our_file(ours: Ours) -> Path:
    """Return the program that runs our potential."""
    return HERE / ("ours.py" if ours.file is None else "exported.py")


def _our_settings(settings: Mapping[str, Any], ours: Ours, device: torch.device, folder: Path) -> dict[str, Any]:
    """Return the settings of our own process, and write the file with our weights."""
    if ours.potential is None:
        return {"exported": str(ours.file)}
    dtype = build.DTYPES[ours.dtype]
    accelerate(ours.potential, dtype, device, "inference", settings["compile"], key="compile")  # fails early
    stored = {"model": ours.model, "n_theories": len(ours.potential.e0), "weights": ours.potential.state_dict()}
    torch.save(stored, _weights_file(folder))
    training = {key: settings[key] for key in ("data", "loss", "optimizer", "batch_size", "seed")}
    own = {"potential": str(_weights_file(folder)), "model": ours.model, "compile": settings["compile"]}
    return {**own, "training": training}


def _weights_file(folder: Path) -> Path:
    return folder / "potential.pt"


def _shared(peer: Peer, ours: Ours, folder: Path) -> dict[str, Any]:
    """Return our potential in the form that a program needs."""
    if peer.needs == "weights":
        return {"model": ours.model, "potential": str(_weights_file(folder))}
    if peer.needs == "exported":
        file = ours.file or folder / "exported.pt"
        if ours.potential is not None and not file.is_file():
            export(ours.potential, file, {})
        return {"exported": str(file)}
    return {}


def _open(process: WorkerProcess, peer: Peer | None) -> None:
    """Start a process; errors include advice."""
    name = process.name
    try:
        process.open()
    except CannotImport as error:
        if peer is None:
            raise HipHopError(f"our own process does not start: {error}") from error
        python = process.python or "this environment's Python"
        raise ConfigError(
            f"against: {name} cannot be imported by {python} ({error})\n"
            f"  install it: pip install {peer.package}\n"
            f"  or, if its pinned dependencies conflict with ours, in a separate environment (scripts/peers.sh): "
            f"peers.{name}.python=.peers/{name}/bin/python"
        ) from error
    except DoesNotFit as error:
        raise ConfigError(f"{name} does not fit in memory even before the first structure: {error}") from error
    except Failed as error:
        raise HipHopError(f"{error}; it did not start") from error
