"""Checkpoints: versioned files of plain data and tensors, complete without the code that wrote them.

A checkpoint is Lightning's file (``state_dict`` contains averaged weights, ``current_model_state`` the raw ones) with a
record under ``hiphop_train``: version, resolved configuration, units, fingerprint of the data, version of the code.
A checkpoint of imported weights has only ``state_dict`` and record; its record has an ``origin``, and its configuration
only model and dtype.
"""

import io
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

import hiphop_train
from hiphop_train import files, stored
from hiphop_train.build import DTYPES, make_potential
from hiphop_train.errors import CheckpointError, ConfigError
from hiphop_train.potential import Potential

VERSION = 3
UNITS = {"energy": "eV", "length": "angstrom", "forces": "eV/angstrom"}

PREFIX = "potential."
"""Prefix of the names of the potential's parameters in ``state_dict``."""


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Name the level of theory, as the reader of the ANI-1x layout now does."""
    record = {**content["hiphop_train"], "version": 2, "levels": ["default"]}
    data = record["config"].get("data")
    if data is not None and data["reader"]["_target_"].endswith(".ANI1xReader"):
        reader = dict(data["reader"])
        keys = {"energy": reader.pop("energy_key"), "forces": reader.pop("forces_key")}
        data = {**data, "reader": {**reader, "levels": {"default": keys}, "level": "default"}}
        record["config"] = {**record["config"], "data": data}
    return {**content, "hiphop_train": record}


def _from_version_2(content: dict[str, Any]) -> dict[str, Any]:
    """Update the paths of the readers to `hiphop_train.data.formats`."""
    record = {**content["hiphop_train"], "version": 3}
    data = record["config"].get("data")
    if data is not None:
        folder, module, name = data["reader"]["_target_"].rsplit(".", 2)
        target = f"{folder}.formats.{RENAMED.get(module, module)}.{name}"
        record["config"] = {**record["config"], "data": {**data, "reader": {**data["reader"], "_target_": target}}}
    return {**content, "hiphop_train": record}


RENAMED = {"packed": "packed_set"}
"""Modules of readers that version 3 knows by another name."""


def former_reader(target: str) -> str:
    """Return the name of a reader's class before version 3."""
    for former, present in RENAMED.items():
        target = target.replace(f".formats.{present}.", f".formats.{former}.")
    return target.replace("hiphop_train.data.formats.", "hiphop_train.data.")


UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_version_1, 2: _from_version_2}
"""Version -> function that converts its checkpoints to the next version."""


@dataclass(frozen=True)
class Loaded:
    """A potential from a checkpoint.

    Attributes
    ----------
    potential : with averaged weights, in evaluation mode
    record : the record stored with the weights
    file : the checkpoint
    run_dir : its run directory; for a file outside of one, a folder with its name beside it
    """

    potential: Potential
    record: dict[str, Any]
    file: Path
    run_dir: Path


def make_record(
    config: dict[str, Any], fingerprint: str, statistics: dict[str, Any], levels: list[str]
) -> dict[str, Any]:
    """Return the record of a checkpoint.

    Parameters
    ----------
    config : resolved configuration, in plain types
    fingerprint : of the data
    statistics : fitted to the training labels, for information
    levels : names of the levels of theory, in the order of E0
    """
    return {
        "version": VERSION,
        "code_version": hiphop_train.__version__,
        "config": config,
        "units": UNITS,
        "data_fingerprint": fingerprint,
        "statistics": statistics,
        "levels": levels,
    }


def of_weights(model: dict[str, Any], dtype: str, weights: dict[str, Tensor], origin: str) -> dict[str, Any]:
    """Return the contents of a checkpoint of imported weights.

    Parameters
    ----------
    model : the model section, readout included
    dtype : of the network, float32 or float64
    weights : state dictionary of the potential
    origin : source of the weights, in one line

    Raises
    ------
    RuntimeError
        if the weights do not fit the model
    """
    potential = make_potential(model, DTYPES[dtype])
    potential.load_state_dict(weights)
    statistics = {"e0": potential.e0[0].tolist(), "scale": float(weights["terms.0.scale"])}
    record = make_record({"model": model, "dtype": dtype}, "", statistics, ["default"])
    state = {f"{PREFIX}{name}": value for name, value in potential.state_dict().items()}
    return {"state_dict": state, "hiphop_train": {**record, "origin": origin}}


def to_bytes(content: dict[str, Any]) -> bytes:
    """Return the contents of a checkpoint file, with its seal."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return files.seal(buffer.getbuffer())


def find_checkpoint(path: str, key: str = "checkpoint") -> tuple[Path, Path]:
    """Return checkpoint file and run directory, given either; `key` is the configuration key of `path`."""
    if not path:
        raise CheckpointError(f"{key} is empty; give a run directory or a checkpoint file: {key}=PATH")
    given = Path(path).expanduser()
    if given.is_dir():
        for name in ("best.ckpt", "last.ckpt", "previous.ckpt"):
            file = given / "checkpoints" / name
            if file.is_file():
                return file, given
        raise CheckpointError(
            f"{given} contains no checkpoints/best.ckpt or checkpoints/last.ckpt: it is not a run directory, or its "
            f"training ended before the first checkpoint; give a run directory or a checkpoint file: {key}=PATH"
        )
    if not given.is_file():
        raise CheckpointError(f"{given} {files.absence(given)}; give a run directory or a checkpoint file: {key}=PATH")
    return given, given.parent.parent if given.parent.name == "checkpoints" else given.with_suffix("")


def read(file: Path) -> dict[str, Any]:
    """Read a checkpoint file, upgraded to the current version.

    Raises
    ------
    CheckpointError
        if its contents have changed since they were written, or it is not a checkpoint that this code knows
    """
    if why := files.damage(file):
        beside = [path for path in sorted(file.parent.glob("*.ckpt")) if path != file and files.damage(path) is None]
        good = f"; good beside it: {', '.join(map(str, beside))}" if beside else ""
        raise CheckpointError(f"{file} cannot be read as a checkpoint: {why}{good}")
    if is_zipfile(file) and any(name.endswith("/constants.pkl") for name in ZipFile(file).namelist()):
        raise CheckpointError(f"{file} is an exported potential; give the run directory or checkpoint it came from")
    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a crafted pickle provokes
        raise CheckpointError(
            f"{file} cannot be read as a checkpoint: it is damaged or another kind of file "
            f"({str(error).splitlines()[0][:200]})"
        ) from error
    record = content.get("hiphop_train") if isinstance(content, dict) else None
    if not isinstance(record, dict) or "version" not in record or "state_dict" not in content:
        raise CheckpointError(f"{file} was not written by hiphop-train; it has no record of model and units")
    try:
        while record["version"] < VERSION and record["version"] in UPGRADES:
            content = UPGRADES[record["version"]](content)
            record = content["hiphop_train"]
        if record["version"] == VERSION:
            _check_record(content)
            return content
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{file} has a record of model and units that is not hiphop-train's ({type(error).__name__}: {error})"
        ) from error
    raise CheckpointError(
        f"{file} has checkpoint version {record['version']}, but this code reads version {VERSION}; "
        f"it was written by hiphop-train {record.get('code_version')}: install that version or a newer one"
    )


def _check_record(content: dict[str, Any]) -> None:
    """Raise what a crafted record provokes, here and not in the middle of its use."""
    record = content["hiphop_train"]
    if not all(isinstance(value, Tensor) for value in content["state_dict"].values()):
        raise TypeError("state_dict has other things than tensors")
    config, levels = record["config"], record["levels"]
    if not (isinstance(levels, list) and levels and all(isinstance(level, str) for level in levels)):
        raise TypeError("levels must be names")
    if not isinstance(config["model"], dict) or not isinstance(config.get("data", {}), dict):
        raise TypeError("config must have sections")
    if config["dtype"] not in DTYPES:
        raise ValueError(f"dtype {config['dtype']!r}")


def load(path: str, trusted: Collection[str] = ()) -> Loaded:
    """Load a potential from a run directory (its best checkpoint) or a checkpoint file.

    Parameters
    ----------
    path : of either
    trusted : targets that the user's own configuration names, see `hiphop_train.stored`

    Raises
    ------
    CheckpointError
        if there is none, it is damaged, or names other classes than those of this package
    """
    file, run_dir = find_checkpoint(path)
    content = read(file)
    record = content["hiphop_train"]
    config = record["config"]
    weights = {
        key.removeprefix(PREFIX): value for key, value in content["state_dict"].items() if key.startswith(PREFIX)
    }
    stored.check(config["model"], "model", str(file), trusted)
    try:
        potential = make_potential(config["model"], DTYPES[config["dtype"]], len(record["levels"]))
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{file}: its model cannot be built: {error}") from error
    try:
        potential.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: weights do not fit the stored configuration: {error}") from error
    return Loaded(potential.eval(), record, file, run_dir)
