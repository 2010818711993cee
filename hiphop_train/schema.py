"""What a configuration may hold: the root by a schema, each section by the typed signature of its ``_target_``.

A mistake is an error that names the override, or the file and line, that it comes from.
"""

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from hydra.core.override_parser.types import Override
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, PositiveFloat, PositiveInt

from hiphop_train.accelerate import Choice
from hiphop_train.build import DATA_VARIABLES, HANDED_OVER, OWN_KEYS
from hiphop_train.config_files import line_of
from hiphop_train.errors import ConfigError, did_you_mean
from hiphop_train.stored import problem

ConfigName = Literal["train", "eval", "export", "bench", "data"]
"""Primary configurations, conf/NAME.yaml, one for each command that has settings."""

Section = dict[str, Any]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What all generators of random numbers take."""

ROOT: dict[ConfigName, dict[str, Any]] = {
    "train": {
        **dict.fromkeys(["data", "model", "loss", "optimizer", "scheduler", "trainer"], Section),
        **dict.fromkeys(["callbacks", "logger", "submit", "sweep"], Section | None),
        "finetune": Section,
        "seed": Seed,
        "dtype": Literal["float32", "float64"],
        "run_dir": str | None,
        "resume": str,
        "init_weights": str | None,
        "preflight": Literal["short", "full", "off"],
        "pictures": bool,
    },
    "eval": {
        "data": Section | None,
        "checkpoint": str,
        "splits": list[str] | None,
        "output_dir": str | None,
        "device": Literal["auto", "cpu", "cuda"],
    },
    "export": {"checkpoint": str, "output": str | None},
    "bench": {
        **dict.fromkeys(["model", "loss", "optimizer", "peers"], Section),
        "data": Section | None,
        "checkpoint": str | None,
        **dict.fromkeys(["structures", "against"], list[str]),
        "water": list[int],
        "measure": list[Literal["md", "training", "breakdown"]],
        "batch_size": PositiveInt,
        "rounds": PositiveInt,
        "threads": PositiveInt | None,
        "dtype": Literal["float32", "float64"],
        "device": Literal["auto", "cpu", "cuda"],
        "compile": Choice,
        "memory_limit": PositiveFloat | PositiveInt | None,
        "output": str | None,
        "seed": Seed,
    },
    "data": {"data": Section | None},
}
"""Keys at the top of each command's configuration, with their types."""

WITHOUT_TARGET = ("callbacks", "logger", "peers")
"""Sections that hold named sections instead of being built themselves."""


def dotted(override: Override) -> str:
    """Return the dotted path that an override sets."""
    return str(override.key_or_group).replace("/", ".")


@dataclass(frozen=True)
class Source:
    """Where values come from, to be named in messages.

    Attributes
    ----------
    overrides : of the command line
    files : configuration files that were composed, strongest first, each with the dotted path of its contents
    """

    overrides: list[Override] = field(default_factory=list)
    files: list[tuple[Path, str]] = field(default_factory=list)

    def of(self, path: str) -> str:
        """Name the override, or file and line, that set a dotted path; empty when neither is found."""
        for override in reversed(self.overrides):
            key = dotted(override)
            if path == key or (isinstance(override.value(), dict) and path.startswith(f"{key}.")):
                return f"override '{override.input_line}'"
        for file, package in self.files:
            line = line_of(file, path.removeprefix(f"{package}.") if package else path)
            if line is not None:
                return f"{file}:{line}"
        return ""

    def error(self, path: str, problem: str) -> ConfigError:
        """Return an error that begins with where the path was set."""
        return ConfigError(": ".join(part for part in (self.of(path), path, problem) if part))


def check(config: DictConfig, command: ConfigName, source: Source) -> None:
    """Raise `ConfigError` at the first key or value that the root or a target does not know."""
    missing = missing_keys(config)
    if missing:
        raise ConfigError(f"{missing[0]} must be given: {missing[0]}=VALUE")
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    schema = ROOT[command]
    for key, value in plain.items():
        if key not in schema:
            raise source.error(str(key), unknown_key("", str(key), schema))
        _check_value(str(key), value, schema[str(key)], source, strict=True)
        if isinstance(value, dict):
            check_section(str(key), value, source)
    if plain.get("dtype") == "float64" and plain.get("trainer", {}).get("precision") == "bf16-mixed":
        raise source.error("trainer.precision", "bf16-mixed contradicts dtype=float64; leave out one of them")
    if command == "train":
        _check_trainer(plain["trainer"], source)
        if plain["optimizer"].get("lr") == 0:
            raise source.error("optimizer.lr", "got 0; nothing would be trained")


LEAST = {
    "max_epochs": 1,
    "max_steps": 1,
    "limit_train_batches": 1e-9,
    "check_val_every_n_epoch": 1,
    "accumulate_grad_batches": 1,
    "log_every_n_steps": 0,
    "gradient_clip_val": 0,
}
"""Smallest values of the trainer's numbers, which Lightning takes and then divides by, or trains nothing with."""


def _check_trainer(trainer: Section, source: Source) -> None:
    for key, least in LEAST.items():
        value = trainer.get(key)
        endless = key.startswith("max_") and value == -1
        if isinstance(value, int | float) and not endless and value < least:
            raise source.error(
                f"trainer.{key}", f"got {value}; must be {'above 0' if 0 < least < 1 else f'{least} or more'}"
            )
    if trainer.get("max_epochs") in (None, -1) and trainer.get("max_steps", -1) in (None, -1):
        raise source.error("trainer.max_epochs", "the training would have no end; give 1 or more")


def missing_keys(section: DictConfig, parent: str = "") -> list[str]:
    """Return the dotted paths of the values that the user must give."""
    missing = []
    for key in map(str, section):
        if OmegaConf.is_missing(section, key):
            missing.append(f"{parent}{key}")
        elif not OmegaConf.is_interpolation(section, key) and isinstance(section[key], DictConfig):
            missing += missing_keys(section[key], f"{parent}{key}.")
    return missing


def check_section(path: str, section: Section, source: Source) -> None:
    """Raise `ConfigError` at the first key or value that a section's target does not know."""
    if "_target_" not in section:
        if path not in WITHOUT_TARGET:
            raise source.error(path, "has no _target_: it names no class to build")
        for name, part in section.items():
            if part is not None:
                check_section(f"{path}.{name}", part, source)
        return
    target = section["_target_"]
    parameters, hints = _signature(path, target, source)
    for key, value in section.items():
        if key == "_target_" or (path == "data" and key in DATA_VARIABLES):
            continue
        if key not in parameters:
            raise source.error(f"{path}.{key}", unknown_key(path, key, parameters))
        if isinstance(value, dict) and "_target_" in value:
            check_section(f"{path}.{key}", value, source)
        elif key in hints:
            strict = target.startswith("hiphop_train.") or key in OWN_KEYS.get(path, {})
            _check_value(f"{path}.{key}", value, hints[key], source, strict)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in section:
            raise ConfigError(f"{path}.{name} is not set, and {target} needs it: {path}.{name}=VALUE")


def parameters_of(path: str, target: str, source: Source) -> dict[str, inspect.Parameter]:
    """Return what a section may set of its target's parameters."""
    return _signature(path, target, source)[0]


def completed(model: Section) -> Section:
    """Return a plain model section with the defaults of its target."""
    parameters = parameters_of("model", model["_target_"], Source()).values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty} | model


def unknown_key(parent: str, key: str, allowed: Iterable[str]) -> str:
    """Say that a section has no such key, which is near, and which it has."""
    names = sorted(name for name in allowed if name != "_target_")
    where = f" in '{parent}'" if parent else ""
    return f"unknown key '{key}'{where}{did_you_mean(key, names)}\n  allowed: {', '.join(names) or 'none'}"


def _signature(path: str, target: str, source: Source) -> tuple[dict[str, inspect.Parameter], Section]:
    """Return the parameters that a section may set, and type hints by name."""
    try:
        built = get_object(target)
    except Exception as error:  # whatever an import may raise
        raise source.error(f"{path}._target_", f"'{target}' cannot be imported: {error}") from error
    parent, own = path.rpartition(".")[0], OWN_KEYS.get(path, {})
    handed_over = HANDED_OVER.get(path, ()) + (HANDED_OVER[parent] if parent == "logger" else ())
    parameters = {n: p for n, p in inspect.signature(built).parameters.items() if n not in handed_over}
    parameters |= {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in own}
    if path == "model":
        parameters["readout"] = inspect.Parameter("readout", inspect.Parameter.KEYWORD_ONLY)
    hints = get_type_hints(built.__init__ if inspect.isclass(built) else built, include_extras=True)
    return parameters, hints | own


def _check_value(path: str, value: Any, hint: Any, source: Source, strict: bool) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise source.error(path, f"got {value}; must be a finite number")
    if said := problem(value, hint, strict):
        raise source.error(path, said)
