"""Structures in a form that is small when it is pickled: what is mapped from files is named, not copied."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures


@dataclass(frozen=True)
class File:
    """A whole array in a file."""

    path: str
    dtype: str
    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Constant:
    """One value for all structures."""

    value: NDArray[Any]
    shape: tuple[int, ...]


def lighten(structures: Structures) -> Structures:
    """Put names of files, and single values, in the place of arrays where that is possible."""
    changed: dict[str, Any] = {name: _light(array) for name, array in _arrays(structures)}
    return replace(structures, **changed)


def restore(structures: Structures) -> Structures:
    """Undo `lighten`."""
    changed: dict[str, Any] = {name: _array(light) for name, light in _arrays(structures)}
    return replace(structures, **changed)


def _arrays(structures: Structures) -> list[tuple[str, Any]]:
    values = [(field.name, getattr(structures, field.name)) for field in fields(structures)]
    return [(name, value) for name, value in values if isinstance(value, np.ndarray | File | Constant)]


def _light(array: NDArray[Any]) -> Any:
    if isinstance(array, np.memmap) and array.mode == "r" and type(array.base).__name__ == "mmap":  # no view of a part
        return File(str(array.filename), array.dtype.str, int(array.offset), array.shape)
    if array.ndim and len(array) > 1 and not any(array.strides):
        return Constant(np.array(array[(0,) * array.ndim]), array.shape)
    if array.ndim and len(array) > 1 and array.strides[0] == 0:
        return Constant(np.array(array[0]), array.shape)
    return array


def _array(light: Any) -> NDArray[Any]:
    if isinstance(light, File):
        return np.memmap(light.path, np.dtype(light.dtype), "r", light.offset, light.shape)
    if isinstance(light, Constant):
        return np.broadcast_to(light.value, light.shape)
    array: NDArray[Any] = light
    return array
