"""Compose a configuration and check it, before any data is read.

Hydra composes; every section with a ``_target_`` is then checked against that target's own typed signature, and the
root against a small schema. A mistake is an error that names the file and line or the override it comes from.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from hiphop_train import checkpoint
from hiphop_train.accelerate import Choice
from hiphop_train.build import DATA_VARIABLES, HANDED_OVER, OWN_KEYS
from hiphop_train.errors import ConfigError, did_you_mean

Command = Literal["train", "eval", "export", "bench", "data"]

_SECTION = dict[str, Any]
ROOT: dict[Command, dict[str, Any]] = {
    "train": {
        **dict.fromkeys(["data", "model", "loss", "optimizer", "scheduler", "trainer"], _SECTION),
        **dict.fromkeys(["callbacks", "logger"], _SECTION | None),
        "seed": int,
        "dtype": Literal["float32", "float64"],
        "run_dir": str | None,
        "resume": str,
        "init_weights": str | None,
    },
    "eval": {
        "data": _SECTION | None,
        "checkpoint": str,
        "splits": list[str] | None,
        "output_dir": str | None,
        "device": Literal["auto", "cpu", "cuda"],
    },
    "export": {"checkpoint": str, "output": str | None},
    "bench": {
        **dict.fromkeys(["model", "loss", "optimizer", "peers"], _SECTION),
        "data": _SECTION | None,
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
        "seed": NonNegativeInt,
    },
    "data": {"data": _SECTION | None},
}
"""Keys at the top of each command's configuration, with their types."""


@dataclass(frozen=True)
class Source:
    """Where values come from, to be named in messages.

    Attributes
    ----------
    overrides : as given on the command line
    files : configuration files that were composed, strongest first, each with the dotted path of its contents
    """

    overrides: list[str] = field(default_factory=list)
    files: list[tuple[Path, str]] = field(default_factory=list)

    def of(self, path: str) -> str:
        """Name the override, or file and line, that set a dotted path; empty when neither is found."""
        for override in reversed(self.overrides):
            if override.lstrip("+~").split("=", 1)[0].replace("/", ".") == path:
                return f"override '{override}'"
        for file, package in self.files:
            line = _line_of(file, path.removeprefix(f"{package}.") if package else path)
            if line is not None:
                return f"{file}:{line}"
        return ""


def config_directory() -> Path:
    """Return the folder of configuration files: inside of an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"no configuration files beside {package}: the installation is damaged; install it again")


def load_config(command: Command, overrides: list[str]) -> DictConfig:
    """Compose and check the configuration of a command.

    Parameters
    ----------
    command : whose primary configuration is composed
    overrides : in Hydra's form, ``model=hipnn``, ``model.cutoff=5``

    Returns
    -------
    config : without Hydra's own section
    """
    composed = _compose(command, overrides)
    choices: Mapping[str, str | None] = composed.hydra.runtime.choices
    source = Source(overrides, _files(command, choices))
    config = without_hydra(composed)
    take_model(config, overrides)
    check(config, command, source)
    return config


def without_hydra(config: DictConfig) -> DictConfig:
    """Return a configuration without Hydra's own section."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def take_model(config: DictConfig, overrides: list[str]) -> None:
    """Put the model of `init_weights`, where it is set, into its section; one that was asked for must be the same.

    That of a `checkpoint`, where there is a choice of models beside it, cannot be another.
    """
    if config.get("checkpoint") is not None and "model" in config:
        asking = [o for o in overrides if re.match(r"[+~]*(model|dtype)\b", o)]
        if asking:
            raise ConfigError(
                f"override '{asking[0]}': model and dtype come from the checkpoint, {config.checkpoint}; leave out "
                f"{', '.join(asking)}, or checkpoint"
            )
    if config.get("init_weights") is None:
        return
    file, _ = checkpoint.find_checkpoint(str(config.init_weights), "init_weights")
    stored = checkpoint.read(file)["hiphop_train"]["config"]["model"]
    keys = [override.lstrip("+~").split("=", 1)[0].replace("/", ".") for override in overrides]
    asking = [key for key in keys if key.split(".")[0] in ("model", "experiment")]
    if asking:
        theirs, ours = completed(stored), completed(OmegaConf.to_container(config.model, resolve=True))
        different = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
        if different:
            lines = [f"  model.{key}: {theirs.get(key)!r} there, {ours.get(key)!r} asked for" for key in different]
            raise ConfigError(
                f"init_weights={config.init_weights} holds another model:\n" + "\n".join(lines) + "\n"
                f"leave out {', '.join(asking)}: the model is that of the weights; or choose other weights"
            )
    with open_dict(config):
        config.model = stored


def completed(model: Any) -> dict[str, Any]:
    """Return a plain model section with the defaults of its target."""
    parameters = _parameters(get_object(model["_target_"]), "model").values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {**defaults, **model}


def check(config: DictConfig, command: Command, source: Source) -> None:
    """Raise `ConfigError` at the first key or value that the root or a target does not know."""
    missing = _missing_keys(config)
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
            raise _unknown(str(key), schema, source)
        _check_value(str(key), value, schema[str(key)], source, strict=True)
        if isinstance(value, dict) and key != "hydra":
            _check_section(str(key), value, source)
    if plain.get("dtype") == "float64" and plain.get("trainer", {}).get("precision") == "bf16-mixed":
        raise _at("trainer.precision", source, "bf16-mixed leaves nothing of dtype=float64; leave out one of them")


def _missing_keys(section: DictConfig, parent: str = "") -> list[str]:
    """Dotted paths of the values that are to be given by the user."""
    missing = []
    for key in map(str, section):
        if OmegaConf.is_missing(section, key):
            missing.append(f"{parent}{key}")
        elif not OmegaConf.is_interpolation(section, key) and isinstance(section[key], DictConfig):
            missing += _missing_keys(section[key], f"{parent}{key}.")
    return missing


def _parameters(built: Any, path: str) -> dict[str, inspect.Parameter]:
    """What a section may set of its target's parameters."""
    parent = path.rpartition(".")[0]
    handed_over = HANDED_OVER.get(path, ()) + (HANDED_OVER[parent] if parent == "logger" else ())
    parameters = {n: p for n, p in inspect.signature(built).parameters.items() if n not in handed_over}
    for name in OWN_KEYS.get(path, {}):
        parameters[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
    if path == "model":
        parameters["readout"] = inspect.Parameter("readout", inspect.Parameter.KEYWORD_ONLY)
    return parameters


def _check_section(path: str, section: dict[str, Any], source: Source) -> None:
    if "_target_" not in section:
        if path not in ("callbacks", "logger", "peers"):
            raise ConfigError(f"{path} has no _target_: it names no class to build ({source.of(path) or 'config'})")
        for name, part in section.items():
            if part is not None:
                _check_section(f"{path}.{name}", part, source)
        return
    target = section["_target_"]
    try:
        built = get_object(target)
    except Exception as error:  # whatever an import may raise
        raise _at(f"{path}._target_", source, f"'{target}' cannot be imported: {error}") from error
    parameters = _parameters(built, path)
    hints = get_type_hints(built.__init__ if inspect.isclass(built) else built, include_extras=True)
    own = OWN_KEYS.get(path, {})
    ours = target.startswith("hiphop_train.")
    variables = DATA_VARIABLES if path == "data" else ()
    for key, value in section.items():
        if key == "_target_" or key in variables:
            continue
        if key not in parameters:
            raise _unknown(f"{path}.{key}", parameters, source)
        if isinstance(value, dict) and "_target_" in value:
            _check_section(f"{path}.{key}", value, source)
        elif key in own:
            _check_value(f"{path}.{key}", value, own[key], source, strict=True)
        elif key in hints:
            _check_value(f"{path}.{key}", value, hints[key], source, strict=ours)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in section:
            raise ConfigError(f"{path}.{name} is not set, and {target} needs it: {path}.{name}=VALUE")


def _check_value(path: str, value: Any, hint: Any, source: Source, strict: bool) -> None:
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:
        adapter = TypeAdapter(hint)  # the type has a configuration of its own
    try:
        adapter.validate_python(value, strict=strict)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].replace("Input should be", "it must be")
        raise _at(path, source, f"got {value!r}; {problem}") from error


def _unknown(path: str, allowed: Mapping[str, Any], source: Source) -> ConfigError:
    parent, _, key = path.rpartition(".")
    origin = source.of(path)
    return ConfigError(f"{origin + ': ' if origin else ''}{_unknown_key(parent, key, allowed)}")


def _unknown_key(parent: str, key: str, allowed: Mapping[str, Any]) -> str:
    names = sorted(name for name in allowed if name != "_target_")
    where = f"{parent}.{key}: unknown key '{key}' in '{parent}'" if parent else f"unknown key '{key}'"
    return f"{where}{did_you_mean(key, names)}\n  allowed: {', '.join(names) or 'none'}"


def _at(path: str, source: Source, problem: str) -> ConfigError:
    origin = source.of(path)
    return ConfigError(f"{origin + ': ' if origin else ''}{path}: {problem}")


def _compose(command: Command, overrides: list[str]) -> DictConfig:
    folder = config_directory()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            return compose(command, overrides, return_hydra_config=True)
    except OverrideParseException as error:
        raise unreadable(error) from error
    except MissingConfigException as error:
        raise _missing_choice(str(error), overrides, folder) from error
    except HydraException as error:
        return _refused_override(str(error), command, overrides)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"a configuration file is not valid YAML: {error}") from error
    except ValueError as error:  # Hydra's answer to GROUP=null
        given = next((o for o in overrides if o.endswith("=null") and (folder / o[:-5]).is_dir()), None)
        if given is None:
            raise
        options = sorted(file.stem for file in (folder / given[:-5]).glob("*.yaml"))
        raise ConfigError(
            f"override '{given}': a group takes the name of one of its files\n  allowed: {', '.join(options)}"
        ) from error


def unreadable(error: OverrideParseException) -> ConfigError:
    """Return what to say of an override that Hydra cannot read."""
    key, _, value = (error.override or "key=value").partition("=")
    return ConfigError(
        f"override '{error.override}' cannot be read. Values with blanks, parentheses, '=', '#', ',' or '~' need "
        f"quotes inside quotes, for instance: '{quoted(key, value)}'"
    )


def quoted(key: str, value: str) -> str:
    """Return an override whose value may hold any character."""
    escaped = value.replace('"', '\\"')
    return f'{key}="{escaped}"'


def _missing_choice(message: str, overrides: list[str], folder: Path) -> ConfigError:
    found = re.search(r"Could not find '([^']+)'", message)
    if not found:
        return ConfigError(message.splitlines()[0])
    group, _, choice = found.group(1).rpartition("/")
    options = sorted(file.stem for file in (folder / group).glob("*.yaml"))
    given = next((o for o in overrides if o.startswith(f"{group}=")), f"{group}={choice}")
    return ConfigError(
        f"override '{given}': there is no '{choice}' for {group}{did_you_mean(choice, options)}\n"
        f"  allowed: {', '.join(options)}"
    )


def _refused_override(message: str, command: Command, overrides: list[str]) -> DictConfig:
    """Compose again with a key that a file leaves at its default; raise when the section's target has no such key."""
    found = re.search(r"Could not (?:override|append|delete|merge)[^']*'([^']+)'", message)
    if not found:
        raise ConfigError(message.splitlines()[0])
    path = found.group(1).split("@")[0].replace("/", ".")
    if command not in ("train", "bench") and path.split(".")[0] in (
        "model",
        "dtype",
        "loss",
        "optimizer",
        "scheduler",
        "trainer",
    ):
        raise ConfigError(f"'{path}' cannot be set here: model and training come from the checkpoint")
    refused = [o for o in overrides if o.lstrip("+~").split("=", 1)[0].replace("/", ".") == path]
    if not refused:
        raise ConfigError(message.splitlines()[0])
    others = [o for o in overrides if o not in refused]
    node: Any = _compose(command, others)
    parent: list[str] = []
    for key in path.split("."):
        known = isinstance(node, DictConfig) and key in node
        if not known:
            section = ".".join(parent)
            allowed: dict[str, Any] = dict.fromkeys(map(str, node if isinstance(node, DictConfig) else ()))
            allowed.pop("hydra", None)
            if "_target_" in allowed:
                allowed |= _parameters(get_object(node["_target_"]), section)
                if key in allowed and not refused[0].startswith("+"):
                    return _compose(command, [*others, f"+{refused[0]}"])
            raise ConfigError(f"override '{refused[0]}': {_unknown_key(section, key, allowed)}")
        node = node[key]
        parent.append(key)
    raise ConfigError(message.splitlines()[0])


def _files(command: Command, choices: Mapping[str, str | None]) -> list[tuple[Path, str]]:
    """Configuration files that were composed, strongest first, with the package of each."""
    folder = config_directory()
    groups = [(group, choice) for group, choice in choices.items() if choice and not group.startswith("hydra")]
    groups.sort(key=lambda pair: pair[0] not in ("debug", "experiment"))
    files = []
    for group, choice in groups:
        name, _, package = group.partition("@")
        file = folder / name / f"{choice}.yaml"
        if file.is_file():
            is_global = "@package _global_" in file.read_text()
            files.append((file, "" if is_global else package or name.replace("/", ".")))
    return [*files, (folder / f"{command}.yaml", "")]


def _line_of(file: Path, path: str) -> int | None:
    """Line of a dotted path in a YAML file."""
    node = yaml.compose(file.read_text())
    line = None
    for key in path.split("."):
        if not isinstance(node, yaml.MappingNode):
            return None
        for key_node, value_node in node.value:
            if key_node.value == key:
                line, node = key_node.start_mark.line + 1, value_node
                break
        else:
            return None
    return line
