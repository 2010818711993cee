"""Compose a configuration and check it, before any data is read.

Hydra parses the overrides and composes. An override of a key that does not exist is refused before, by comparison with
what is composed without it; the result is checked by `hiphop_train.schema`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from hiphop_train import checkpoint
from hiphop_train.build import learning_rate
from hiphop_train.config_files import config_directory, defaults, experiment_sets, is_global, options
from hiphop_train.errors import ConfigError, did_you_mean
from hiphop_train.schema import ROOT, ConfigName, Source, check, completed, dotted, parameters_of, unknown_key

LONGEST_KEY = 200
"""Characters; a file system's names end soon after."""

FROM_CHECKPOINT = ("model", "dtype", "loss", "optimizer", "scheduler", "trainer")
"""Sections of a training that no later command sets."""


def load_config(command: ConfigName, overrides: Iterable[str]) -> DictConfig:
    """Compose and check the configuration of a command.

    Parameters
    ----------
    command : whose primary configuration is composed
    overrides : in Hydra's form, ``model=hipnn``, ``model.cutoff=5``

    Returns
    -------
    config : without Hydra's own section

    Raises
    ------
    ConfigError
        at the first mistake, which names where it was made, what is allowed and what is near
    """
    parsed = parse_overrides(overrides)
    for override in parsed:
        if override.is_sweep_override():
            key, value = override.get_key_element(), override.get_value_string()
            raise ConfigError(
                f"override '{override.input_line}' has several values: a sweep needs --multirun, a single value with "
                f"commas needs quotes inside quotes: '{quoted(key, value)}'"
            )
    composed = _compose_checked(command, parsed)
    config = without_hydra(composed)
    take_model(config, parsed)
    take_rate(config)
    check(config, command, Source(parsed, _files(command, composed.hydra.runtime.choices)))
    return config


def parse_overrides(overrides: Iterable[str], loader: ConfigLoader | None = None) -> list[Override]:
    """Parse overrides; `loader` lists the files of a group for ``glob(...)``.

    Raises
    ------
    ConfigError
        for one that Hydra cannot read
    """
    try:
        parsed: list[Override] = OverridesParser.create(loader).parse_overrides(list(overrides))
        for override in parsed:
            if not override.key_or_group or len(str(override.key_or_group)) > LONGEST_KEY:
                raise ConfigError(f"'{str(override.input_line)[:60]}' has no key that could be; give KEY=VALUE")
        return parsed
    except OverrideParseException as error:
        key, equals, value = error.override.partition("=")
        if not equals:
            raise ConfigError(f"'{key}' is not a setting; settings are given as KEY=VALUE") from error
        raise ConfigError(
            f"override '{error.override}' cannot be read. Values with blanks, parentheses, '=', '#', ',' or '~' need "
            f"quotes inside quotes, for instance: '{quoted(key, value)}'"
        ) from error


def quoted(key: str, value: str) -> str:
    """Return an override whose value may hold any character."""
    escaped = value.replace('"', '\\"')
    return f'{key}="{escaped}"'


def without_hydra(config: DictConfig) -> DictConfig:
    """Return a configuration without Hydra's own section."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def take_model(config: DictConfig, overrides: list[Override]) -> None:
    """Put the model of `init_weights`, where it is set, into its section; a model that was requested must be the same.

    It may have further elements: they are put behind those of the weights. Beside a `checkpoint`, which holds its own
    model, none may be requested.
    """
    paths = {str(override.input_line): dotted(override) for override in overrides}
    if config.get("checkpoint") is not None and "model" in config:
        requested = [line for line, path in paths.items() if path.split(".")[0] in ("model", "dtype")]
        if requested:
            raise ConfigError(
                f"override '{requested[0]}': model and dtype come from the checkpoint, {config.checkpoint}; leave out "
                f"{', '.join(requested)}, or checkpoint"
            )
    if config.get("init_weights") is None:
        return
    file, _ = checkpoint.find_checkpoint(str(config.init_weights), "init_weights")
    stored = checkpoint.read(file)["hiphop_train"]["config"]["model"]
    requested = [path for path in paths.values() if path.split(".")[0] == "model"]
    requested += [
        o.key_or_group for o in overrides if o.key_or_group == "experiment" and experiment_sets(o.value(), "model")
    ]
    if requested:
        section = OmegaConf.to_container(config.model, resolve=True)
        assert isinstance(section, dict)
        stored = {**stored, "elements": _elements(config, stored["elements"], section, "model.elements" in requested)}
        theirs, ours = completed(stored), completed({str(key): value for key, value in section.items()})
        different = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
        if different and set(requested) != {"model.elements"}:
            lines = [f"  model.{key}: stored {theirs.get(key)!r}, requested {ours.get(key)!r}" for key in different]
            raise ConfigError(
                f"init_weights={config.init_weights} contains another model:\n" + "\n".join(lines) + "\n"
                f"leave out {', '.join(requested)}: the model is that of the weights; or choose other weights"
            )
    with open_dict(config):
        config.model = stored


def take_rate(config: DictConfig) -> None:
    """Put the learning rate of the model's class where it is left to it."""
    if OmegaConf.select(config, "optimizer.lr") == "auto":
        config.optimizer.lr = learning_rate(str(OmegaConf.select(config, "model._target_")))


def _elements(config: DictConfig, before: list[str], section: dict[Any, Any], named: bool) -> list[str]:
    """Return the elements of given weights and behind them further ones of a section, which gets the same order."""
    requested = section.get("elements")
    if not isinstance(requested, list):
        return before
    both = list(dict.fromkeys([*before, *requested]))
    if set(before) <= set(requested):
        section["elements"] = both
        return both
    if named:
        raise ConfigError(
            f"model.elements={requested} lacks elements of init_weights={config.init_weights}; name them and the new "
            f"ones: 'model.elements=[{','.join(map(str, both))}]'"
        )
    if set(requested) <= set(before):
        section["elements"] = before  # those of a file, which nobody asked for
    return before


def _compose_checked(command: ConfigName, overrides: list[Override]) -> DictConfig:
    """Compose, and check overrides that change keys against what is composed without them, before they are applied."""
    for override in filter(_is_group, overrides):
        _check_group(command, override)
    changes = [o for o in overrides if _changes_key(o)]
    composed = _compose(command, overrides, [str(o.input_line) for o in overrides if o not in changes])
    plain = OmegaConf.to_container(composed, resolve=False) if changes else {}
    for override in changes:
        _check_keys(command, override, plain)
    for override in changes:
        with _refusals(overrides):
            # A key that the files leave at its target's default is added.
            OmegaConf.update(composed, str(override.key_or_group), override.value(), merge=True, force_add=True)
    return composed


def _changes_key(override: Override) -> bool:
    """Whether an override changes the value of a key, other than of Hydra's own section."""
    changes = override.type is OverrideType.CHANGE and override.package is None
    return changes and not _is_group(override) and not override.is_hydra_override()


def _is_group(override: Override) -> bool:
    """Whether an override chooses a file, as Hydra decides it."""
    return (config_directory() / str(override.key_or_group)).is_dir() and not isinstance(override.value(), dict)


def _check_group(command: ConfigName, override: Override) -> None:
    """Raise `ConfigError` where a command has no such group, or the choice is not a name."""
    group = str(override.key_or_group)
    if group.split("/")[0] not in defaults(command):
        raise _not_here(command, override)
    if not override.is_delete() and not isinstance(override.value(), str | list):
        raise ConfigError(
            f"override '{override.input_line}': a group takes the name of one of its files\n"
            f"  allowed: {', '.join(options(group))}"
        )


def _check_keys(command: ConfigName, override: Override, composed: Any) -> None:
    """Raise `ConfigError` where neither the files nor the section's target know a key that an override sets."""
    for path in _paths(dotted(override), override.value()):
        found = _first_unknown(composed, path)
        if found is None:
            continue
        parent, section, key = found
        if not parent:
            raise _not_here(command, override)
        allowed = set(section) if isinstance(section, dict) else set()
        if "_target_" in allowed:
            allowed |= parameters_of(parent, section["_target_"], Source()).keys()
        is_free = "_target_" not in allowed and isinstance(override.value(), dict)  # its type is checked with the rest
        if key not in allowed and not is_free:
            problem = unknown_key(parent, key, allowed)
            raise ConfigError(f"override '{override.input_line}': {parent}.{key}: {problem}")


def _paths(path: str, value: Any) -> list[str]:
    """Return the dotted paths that a value sets: its own, or those of the entries of a dictionary."""
    if not isinstance(value, dict):
        return [path]
    return [inner for key, entry in value.items() for inner in _paths(f"{path}.{key}", entry)]


def _first_unknown(composed: Any, path: str) -> tuple[str, Any, str] | None:
    """Return the first key of a dotted path that does not exist: path of its section, the section, the key."""
    node, keys = composed, path.split(".")
    for depth, key in enumerate(keys):
        if isinstance(node, list) or (isinstance(node, str) and node.startswith("${")):
            return None  # an entry of a list, or of what is interpolated, is left to Hydra
        if not isinstance(node, dict) or key not in node:
            return ".".join(keys[:depth]), node, key
        node = node[key]
    return None


def _not_here(command: ConfigName, override: Override) -> ConfigError:
    """Return the error of an override whose first key is missing from the command's configuration."""
    key = dotted(override).split(".")[0]
    if command not in ("train", "bench") and key in FROM_CHECKPOINT:
        return ConfigError(f"'{dotted(override)}' cannot be set here: model and training come from the checkpoint")
    problem = f"{key}: {unknown_key('', key, ROOT[command])}"
    if key in ROOT[command]:
        problem = f"nothing is chosen for {key}; choose it too: {key}=NAME\n  allowed: {', '.join(options(key))}"
    return ConfigError(f"override '{override.input_line}': {problem}")


def _compose(command: ConfigName, overrides: list[Override], lines: list[str]) -> DictConfig:
    """Compose with Hydra."""
    GlobalHydra.instance().clear()
    with _refusals(overrides), initialize_config_dir(str(config_directory()), version_base="1.3"):
        return compose(command, lines, return_hydra_config=True)


@contextmanager
def _refusals(overrides: list[Override]) -> Iterator[None]:
    """Raise what Hydra refuses as one message."""
    try:
        yield
    except MissingConfigException as error:
        raise _missing_file(error, overrides) from error
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"a configuration file is not valid YAML: {error}") from error


def _missing_file(error: MissingConfigException, overrides: list[Override]) -> ConfigError:
    """Return the error of a choice that has no file, made by an override or by another file."""
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    allowed = list(error.options or ())
    given = next((o for o in reversed(overrides) if o.key_or_group == group), None)
    origin = f"a configuration file chooses {group}={choice}" if given is None else f"override '{given.input_line}'"
    return ConfigError(
        f"{origin}: '{choice}' is not one of the files of {group}{did_you_mean(choice, allowed)}\n"
        f"  allowed: {', '.join(allowed)}"
    )


def _files(command: ConfigName, choices: Mapping[str, str | None]) -> list[tuple[Path, str]]:
    """Return the configuration files that were composed, strongest first, each with the dotted path of its contents."""
    folder = config_directory()
    groups = [(group, choice) for group, choice in choices.items() if choice and not group.startswith("hydra")]
    groups.sort(key=lambda pair: pair[0] not in ("debug", "experiment"))
    files = []
    for group, choice in groups:
        name, _, package = group.partition("@")
        file = folder / name / f"{choice}.yaml"
        if file.is_file():
            files.append((file, "" if is_global(file) else package or name.replace("/", ".")))
    return [*files, (folder / f"{command}.yaml", "")]
