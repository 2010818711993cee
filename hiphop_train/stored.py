"""Sections of a configuration that come from a file, such as a checkpoint's record: they may name our classes only.

What a user writes on the command line or in a yaml file of his own may name any class: it is his own code. What a file
brings along may come from a stranger; so its ``_target_`` must be a model, a readout or a part of the data of this
package, or in a package that the user trusts by the environment variable HIPHOP_TRUST, and its arguments plain data of
the types that the class declares.
"""

import inspect
import os
import pkgutil
from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Literal, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from hiphop_train.errors import CheckpointError

Kind = Literal["model", "data"]
PACKAGES: dict[Kind, tuple[str, ...]] = {
    "model": ("hiphop_train.models", "hiphop_train.readout"),
    "data": ("hiphop_train.data.formats", "hiphop_train.data.splits", "hiphop_train.data.module"),
}
"""Packages and modules whose public classes a stored section of each kind may name."""

TRUST = "HIPHOP_TRUST"
DEPTH = 8
"""Levels of nesting that a section may have; ours have four."""


@cache
def known(kind: Kind) -> dict[str, type]:
    """Return the classes that a stored section may name, by their full names."""
    found = {}
    for package in map(import_module, PACKAGES[kind]):
        inner = pkgutil.iter_modules(package.__path__, f"{package.__name__}.") if hasattr(package, "__path__") else ()
        for module in (package, *(import_module(entry.name) for entry in inner)):
            for name, value in vars(module).items():
                if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                    found[f"{module.__name__}.{name}"] = value
    return found


def check(section: Any, kind: Kind, where: str, trusted: Collection[str] = ()) -> None:
    """Raise `CheckpointError` unless a stored section is harmless.

    Parameters
    ----------
    section : of a record: a mapping with ``_target_``
    kind : of the section
    where : it is stored, for the message
    trusted : further targets: those that the user has given himself
    """
    own = [name for name in os.environ.get(TRUST, "").replace(",", " ").split() if name]

    def refuse(path: str, problem: str) -> CheckpointError:
        return CheckpointError(f"{where}: {path}{problem}")

    def visit(path: str, value: Any, depth: int) -> None:
        if depth > DEPTH:
            raise refuse(path, " is nested too deeply; this is no section of ours")
        if isinstance(value, Mapping):
            for key, part in value.items():
                if not isinstance(key, str | int) or (str(key).startswith("_") and key != "_target_"):
                    raise refuse(path, f" has the key {key!r}, which only a configuration of your own may have")
                visit(f"{path}.{key}", part, depth + 1)
            if "_target_" in value:
                _check_target(path, value)
        elif isinstance(value, list | tuple):
            for number, part in enumerate(value):
                visit(f"{path}[{number}]", part, depth + 1)
        elif not isinstance(value, str | int | float | bool | None):
            raise refuse(path, f" is a {type(value).__name__}, not plain data")
        elif isinstance(value, str) and "${" in value:
            raise refuse(path, " refers to something else, which only a configuration of your own may do")

    def _check_target(path: str, value: Mapping[str, Any]) -> None:
        target = str(value["_target_"])
        if target in trusted or any(str(target).startswith(f"{name}.") for name in own):
            return
        if target not in known(kind):
            raise refuse(
                f"{path}._target_",
                f" names {target!r}, which is no class of {' or '.join(PACKAGES[kind])}, so it is not run. If the file "
                f"is from you or someone you trust, and the class too: {TRUST}={str(target).split('.')[0]} before the "
                "command",
            )
        for key, problem in _problems(known(kind)[target], value).items():
            raise refuse(f"{path}.{key}", f": {problem}")

    if not isinstance(section, Mapping) or "_target_" not in section:
        raise refuse(kind, " is no section with a _target_")
    visit(kind, section, 0)


def targets(section: Any) -> set[str]:
    """Return all targets that a section names."""
    if isinstance(section, Mapping):
        own = {section["_target_"]} if isinstance(section.get("_target_"), str) else set()
        return own.union(*map(targets, section.values()))
    return set().union(*map(targets, section)) if isinstance(section, list | tuple) else set()


def problem(value: Any, hint: Any, strict: bool = True) -> str | None:
    """Say why a value is not of a declared type, or return None."""
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:
        adapter = TypeAdapter(hint)  # the type has a configuration of its own
    try:
        adapter.validate_python(value, strict=strict)
    except ValidationError as error:
        return f"got {value!r}; {error.errors()[0]['msg'].replace('Input should be', 'must be')}"
    return None


def _problems(known_class: type, section: Mapping[str, Any]) -> dict[str, str]:
    """Return key -> what is wrong with it, of the plain arguments that the class declares."""
    hints = get_type_hints(known_class.__init__, include_extras=True)  # type: ignore[misc]
    found = {}
    for key, value in section.items():
        if key in hints and not isinstance(value, Mapping) and (said := problem(value, hints[key])):
            found[key] = said
    return found
