"""What is to be timed: everything that can be refused is refused here, before a clock runs."""

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers

from hiphop_train import build, checkpoint
from hiphop_train.benchmark import systems, weights
from hiphop_train.benchmark.link import CannotImport, DoesNotFit, Failed, Link, free_memory
from hiphop_train.benchmark.md import OURS, Field
from hiphop_train.benchmark.peers.settings import Exported, Hippynn, Peer
from hiphop_train.compilation import compile_potential
from hiphop_train.data.batching.dataset import check_elements
from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError, HipHopError, did_you_mean
from hiphop_train.export.torchscript import export, load
from hiphop_train.potential import Potential

MEMORY_SHARE = 0.8
"""Of the memory that is free at the beginning, what one process may take."""


@dataclass(frozen=True)
class Ours:
    """Our own potential.

    Attributes
    ----------
    name : for titles and file names
    elements : that it knows
    dtype : of the network
    potential : None where only an exported file is given
    model : model section, complete; None likewise
    file : exported file that is timed itself, or None
    """

    name: str
    elements: list[str]
    dtype: str
    potential: Potential | None
    model: dict[str, Any] | None
    file: Path | None


def is_exported(file: Path) -> bool:
    """Whether a file is TorchScript, which keeps its constants by themselves."""
    if not file.is_file() or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def ours_of(settings: Mapping[str, Any], complete: Any) -> Ours:
    """Build the potential, or load it.

    Parameters
    ----------
    settings : the command's
    complete : function that adds the defaults to a model section
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
    """Raise `ConfigError` for what can be seen without building anything."""
    for name in settings["against"]:
        if name not in peers:
            raise ConfigError(
                f"against: there is no '{name}'{did_you_mean(name, peers)}\n  allowed: {', '.join(peers)}"
            )
        python = peers[name].python
        if python is not None and not os.access(python, os.X_OK):
            raise ConfigError(
                f"peers.{name}.python={python}: there is no such program; give the Python of an environment with "
                f"{peers[name].package} (scripts/peers.sh makes some)"
            )
    for key in ("against", "structures", "water", "measure"):
        twice = [value for value in settings[key] if settings[key].count(value) > 1]
        if twice:
            raise ConfigError(f"{key}: {twice[0]} is there twice")
    for n_atoms in settings["water"]:
        systems.check_water(n_atoms)
    if not settings["measure"]:
        raise ConfigError("measure=[]: nothing is to be measured; allowed: md, training, breakdown")
    if not settings["structures"] and not settings["water"] and settings["measure"] == ["md"]:
        raise ConfigError("measure=[md] needs something to move: structures=[FILES] or water=[N_ATOMS]")
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no CUDA device is to be seen; use device=cpu or device=auto")


def systems_of(settings: Mapping[str, Any], ours: Ours, peers: Mapping[str, Peer]) -> list[systems.System]:
    """Read and make all structures, the smallest first; all programs must know their elements."""
    found = [systems.from_file(Path(file).expanduser()) for file in settings["structures"]]
    found += [systems.water(n_atoms, settings["seed"]) for n_atoms in settings["water"]]
    for system in found:
        systems.check_elements(system, ours.elements, "the model")
        for name in settings["against"]:
            if (known := peers[name].elements) is not None:
                systems.check_elements(system, list(known), name)
    return sorted(found, key=len)


def batch_of(settings: Mapping[str, Any], ours: Ours) -> Structures:
    """Return a batch to train on: of the data that are given, or of molecules that are made."""
    if settings["data"] is None:
        made = systems.clusters(settings["batch_size"], settings["seed"])
        missing = [symbol for symbol in ("H", "C", "O") if symbol not in ours.elements]
        if missing:
            raise ConfigError(
                f"the molecules to train on hold {missing[0]}, which the model does not know; give others: data=NAME, "
                "or measure=[md]"
            )
        return made
    assert ours.potential is not None
    module = build.make_data(settings["data"], ours.potential, build.DTYPES[ours.dtype], settings["seed"])
    module.use_levels(["the model's"])
    check_elements(module.structures, ours.elements)
    batch = next(iter(module.train_dataloader()))
    return module.structures.take(batch.sample.numpy())


def open_field(
    settings: Mapping[str, Any],
    ours: Ours,
    peers: Mapping[str, Peer],
    device: str,
    folder: Path,
    advance: Callable[[int], None],
) -> Field:
    """Start all processes; raises `ConfigError` where a program is not installed. The caller closes them.

    Parameters
    ----------
    settings : the command's
    ours : our potential
    peers : name -> what is set of it
    device : ``cpu`` or ``cuda``
    folder : for files between the processes
    advance : called with 1 for each that is ready
    """
    numbers = [atomic_numbers[symbol] for symbol in ours.elements]
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
    common: dict[str, Any] = {"elements": ours.elements, "atomic_numbers": numbers}
    field = Field({}, set(), folder, ours.dtype)
    if ours.potential is not None:
        field.e0[numbers] = ours.potential.e0[0].cpu().numpy()
    field.links[OURS] = _our_link(settings, ours, {**start, "settings": dict(common)}, folder)
    for name in settings["against"]:
        told = {**common, **peers[name].settings(), **_shared(name, peers[name], ours, field)}
        field.links[name] = Link(name, peers[name].script, peers[name].python, {**start, "settings": told}, folder)
    small = folder / "small.npz"
    try:
        for name, link in field.links.items():
            _open(name, link, peers)
            systems.work_of(systems.settling(ours.elements), link.description["cutoff"]).save(small)
            link.settle(small)
            if name in field.same_weights and isinstance(peers[name], Hippynn):
                _share_weights(link, ours, folder)
            advance(1)
    except BaseException:
        close(field)
        raise
    return field


def _shared(name: str, peer: Peer, ours: Ours, field: Field) -> dict[str, Any]:
    """Return what a program gets of our potential, and note in the field whether its outputs must be ours."""
    if isinstance(peer, Hippynn):
        assert ours.model is not None
        network, arguments, same = weights.network_of(ours.model)
        if same:
            field.same_weights.add(name)
            field.without_e0.add(name)
        return {"network": network, "arguments": arguments, "weights": None}
    if isinstance(peer, Exported):
        assert ours.potential is not None
        file = field.folder / "exported.pt"
        export(ours.potential, file, {})
        field.same_weights.add(name)
        return {"file": str(file)}
    return {}


def close(field: Field) -> None:
    """End all processes."""
    for link in field.links.values():
        link.close()


def _our_link(settings: Mapping[str, Any], ours: Ours, start: dict[str, Any], folder: Path) -> Link:
    if ours.file is not None:
        start["settings"]["file"] = str(ours.file)
        return Link(OURS, "exported", None, start, folder)
    assert ours.potential is not None
    dtype, device = build.DTYPES[ours.dtype], torch.device(start["device"])
    compile_potential(ours.potential, settings["compile"], dtype, device, "compile")  # refuses now what it would then
    stored = folder / "potential.pt"
    content = {
        "model": settings["model"] if settings["checkpoint"] is None else ours.model,
        "n_levels": len(ours.potential.e0),
        "weights": ours.potential.state_dict(),
    }
    torch.save(content, stored)
    training = {key: settings[key] for key in ("data", "loss", "optimizer", "batch_size", "seed")}
    told = {"potential": str(stored), "model": ours.model, "training": training, "compile": settings["compile"]}
    start["settings"] |= told
    return Link(OURS, "ours", None, start, folder)


def _open(name: str, link: Link, peers: Mapping[str, Peer]) -> None:
    try:
        link.open()
    except CannotImport as error:
        if name == OURS:
            raise HipHopError(f"our own process does not start: {error}") from error
        python = link.python or "this environment's Python"
        raise ConfigError(
            f"against: {name} cannot be imported by {python} ({error})\n"
            f"  install it: pip install {peers[name].package}\n"
            f"  or, where its pins clash with ours, in an environment of its own (scripts/peers.sh): "
            f"peers.{name}.python=.peers/{name}/bin/python"
        ) from error
    except DoesNotFit as error:
        raise ConfigError(f"{name} does not fit in memory before it has begun: {error}") from error
    except Failed as error:
        raise HipHopError(f"{error}; it was not even started") from error


def _share_weights(link: Link, ours: Ours, folder: Path) -> None:
    """Give hippynn our weights."""
    assert ours.potential is not None
    file = folder / f"{link.name}.pt"
    link.ask(do="special", weights="write", file=str(file))
    state = torch.load(file, weights_only=True)
    given = weights.for_hippynn(state, ours.potential.state_dict(), ours.potential.cutoff, ours.elements)
    torch.save(given, file)
    link.ask(do="special", weights="read", file=str(file))
    link.start["settings"]["weights"] = str(file)  # for a process that must be started anew
