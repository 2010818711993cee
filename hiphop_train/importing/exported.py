"""Files of scripts/export_for_import.py: settings and tensors of a model that another library made, without its code.

The libraries' own files are pickles, which run code when they are opened; they are not read here. An importer declares
the settings that it supports as a pydantic model; all that a file has otherwise is refused by name.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from hiphop_train.errors import DataError, HipHopError
from hiphop_train.importing.base import Imported
from hiphop_train.nn.couplings import TensorType
from hiphop_train.nn.scaled import SILU_FACTOR, TANH_FACTOR
from hiphop_train.units import ENERGY

FORMAT = "hiphop-import"
VERSION = 1
SCRIPT = "scripts/export_for_import.py"

FACTORS = {"silu": SILU_FACTOR, "tanh": TANH_FACTOR}
"""Activation -> factor that e3nn gives it."""

Value = TypeVar("Value")


class Settings(BaseModel):
    """Settings that are supported, as the script writes them."""

    model_config = ConfigDict(extra="forbid", strict=True)


Supported = TypeVar("Supported", bound=Settings)
Described = TypeVar("Described", bound=BaseModel)


class Weights(Mapping[str, Tensor]):
    """Tensors of a file, which remember their use.

    Parameters
    ----------
    parameters, buffers : by their names in the library
    """

    def __init__(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        self.tensors = {**buffers, **parameters}
        self.unused = {name for name, value in parameters.items() if value.numel() > 0}

    def __getitem__(self, name: str) -> Tensor:
        self.unused.discard(name)
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


Convert = Callable[[Supported, Weights], tuple[dict[str, Any], dict[str, Tensor]]]
"""From settings and weights to the model section, and the state dictionary of the potential."""


def read(
    path: Path, library: str, energy_unit: str, supported: type[Supported], convert: Convert[Supported]
) -> list[Imported]:
    """Read a file; a list of one.

    Parameters
    ----------
    path : file
    library : that the model must come from, as the script names it
    energy_unit : of the model's energies, which its file does not name
    supported : settings
    convert : of the importer

    Raises
    ------
    DataError
        if it is another kind of file, or a model that is not supported
    """
    content = _load(path, library)
    try:
        section, translated = _converted(content, supported, convert)
    except HipHopError as error:
        raise DataError(f"{path}: {error}") from error
    for name in ("e0", "terms.0.scale"):
        translated[name] = translated[name] * ENERGY[energy_unit]
    return [Imported(section, translated, f"{library} {content['library_version']}, {path.resolve()}")]


def _load(path: Path, library: str) -> dict[str, Any]:
    environment = "nequip" if library == "allegro" else library  # the script tells them apart
    command = f"python {SCRIPT} {environment} MODEL FILE"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a crafted pickle provokes
        kind = "contains pickled objects" if isinstance(error, UnpicklingError) else "is damaged or of another kind"
        raise DataError(
            f"{path} cannot be read as plain values and tensors: it {kind}. Files of {library} itself are not opened "
            f"because they can run any code; in an environment with {environment}, {command} writes one without"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not a file of {SCRIPT}; in an environment with {environment}, {command} writes one")
    if content.get("version") != VERSION:
        raise DataError(f"{path} was written by another version of {SCRIPT}; write it again with that of this version")
    if content.get("library") != library:
        raise DataError(f"{path} contains a model of {content.get('library')}, not of {library}")
    tensors = [content.get(part) for part in ("parameters", "buffers")]
    if not isinstance(content.get("settings"), dict) or not all(
        isinstance(part, dict) and all(isinstance(value, Tensor) for value in part.values()) for part in tensors
    ):
        raise DataError(f"{path} is damaged: it lacks settings or tensors")
    return content


def _converted(
    content: dict[str, Any], supported: type[Supported], convert: Convert[Supported]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    settings = validated(supported, content["settings"])
    weights = Weights(content["parameters"], content["buffers"])
    try:
        section, translated = convert(settings, weights)
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError, MemoryError, AssertionError) as error:
        raise DataError(f"its tensors do not fit its settings ({type(error).__name__}: {str(error)[:200]})") from error
    if weights.unused:
        raise DataError(
            f"parameters of an unsupported part of a model: {', '.join(sorted(weights.unused)[:5])}"
            f"{' ...' if len(weights.unused) > 5 else ''}"
        )
    return section, translated


def validated(supported: type[Described], settings: Mapping[str, Any]) -> Described:
    """Return settings, or name all that are not supported."""
    try:
        return supported.model_validate(settings)
    except ValidationError as error:
        problems = []
        for each in error.errors():
            name = ".".join(map(str, each["loc"]))
            if each["type"] == "missing":
                problems.append(f"{name} is missing")
                continue
            expected = each.get("ctx", {}).get("expected", each["msg"][:1].lower() + each["msg"][1:])
            problems.append(f"{name} is {str(each['input'])[:100]!r}; supported: {expected}")
        raise DataError("; ".join(problems)) from error


def same(values: Sequence[Value], name: str) -> Value:
    """Return what all layers have in common."""
    if not values or any(value != values[0] for value in values):
        raise DataError(f"{name} differs between layers, {list(values)}; supported: one value for all")
    return values[0]


def check(is_supported: bool, name: str, found: object, supported: object) -> None:
    """Refuse a setting by name."""
    if not is_supported:
        raise DataError(f"{name} is {found!r}; supported: {supported}")


def check_factors(factors: Mapping[str, Sequence[float]]) -> None:
    """Check the factors by which e3nn multiplies activations, numbers that it estimates."""
    for name, values in factors.items():
        for value in values:
            is_same = name in FACTORS and abs(value / FACTORS[name] - 1) < 1e-9
            check(is_same, f"factor of {name}", value, FACTORS.get(name, "silu and tanh"))


def check_bessel(weights: Tensor, scale: float) -> int:
    """Check the frequencies of Bessel functions, n times a scale; return their number."""
    found = weights.reshape(-1).double()
    expected = scale * torch.arange(1, found.numel() + 1, dtype=torch.float64)
    if not torch.allclose(found, expected, rtol=1e-6, atol=0):
        raise DataError("the frequencies of the Bessel functions were trained; supported: multiples of pi / cutoff")
    return found.numel()


def elements_of(symbols: Sequence[str], name: str) -> list[str]:
    """Return the elements of a model, if they are elements."""
    for symbol in symbols:
        check(symbol in atomic_numbers and symbol != "X", name, list(symbols), "names of elements, such as H, C")
    check(len(set(symbols)) == len(symbols) > 0, name, list(symbols), "each element once")
    return list(symbols)


def irreps(text: str) -> list[tuple[int, TensorType]]:
    """Return numbers of features and their types from e3nn's notation, such as 8x0e+8x1o."""
    found = []
    for part in text.replace(" ", "").split("+"):
        matched = re.fullmatch(r"(\d+)x(\d+)([eo])", part)
        if matched is None:
            raise DataError(f"features '{text[:100]}' are not written as 8x0e+8x1o")
        found.append((int(matched[1]), TensorType(int(matched[2]), 1 if matched[3] == "e" else -1)))
    return found
