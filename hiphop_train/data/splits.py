"""Splits: which structures train, which validate, which test."""

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hiphop_train.data.reader import locate
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError

Fraction = Annotated[float, Field(ge=0, lt=1)]

Splits = dict[str, NDArray[np.int64]]


class Split(ABC):
    """Divide structures into ``train``, ``val`` and any number of tests, whose names begin with ``test``."""

    @abstractmethod
    def divide(self, structures: Structures) -> Splits:
        """Return the indices of each part; a structure is in one part at most."""


class RandomSplit(Split):
    """Divide at random, by a seed of its own.

    Parameters
    ----------
    val_fraction, test_fraction : shares of the structures (or groups); the rest trains
    seed : of the division
    by : ``structure``, or ``group`` to keep all conformers of a group on one side
    """

    def __init__(
        self,
        val_fraction: Fraction,
        test_fraction: Fraction,
        seed: int,
        by: Literal["structure", "group"] = "structure",
    ) -> None:
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.seed = seed
        self.by = by

    def divide(self, structures: Structures) -> Splits:
        """Return train, val and test."""
        units = structures.group if self.by == "group" else np.arange(len(structures))
        names = np.unique(units)
        return _draw(units, names, {"val": self.val_fraction, "test": self.test_fraction}, self.seed)


class SubsetSplit(Split):
    """Take the reader's subsets named val and test for what they are; draw from train what is missing.

    Parameters
    ----------
    val_fraction, test_fraction : shares drawn from train when no file was given for them
    seed : of the draw
    """

    def __init__(self, val_fraction: Fraction, test_fraction: Fraction, seed: int) -> None:
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.seed = seed

    def divide(self, structures: Structures) -> Splits:
        """Return train, val and test."""
        names = np.array(structures.subset_names)[structures.subset]
        given = {part: np.flatnonzero(names == part) for part in ("val", "test") if (names == part).any()}
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        missing = {part: fraction for part, fraction in fractions.items() if part not in given}
        train = np.flatnonzero(names == "train")
        return {**_draw(train, train, missing, self.seed, index=train), **given}


class IndexFileSplit(Split):
    """Read the split from a JSON file made for exactly one data file.

    Parameters
    ----------
    path : JSON with ``splits`` (name -> indices in the data file's order) and ``data_sha256``
    data_path : the data file whose checksum must agree
    """

    def __init__(self, path: str, data_path: str) -> None:
        self.path = path
        self.data_path = data_path

    def divide(self, structures: Structures) -> Splits:
        """Return the parts named in the file."""
        file, data_file = locate(self.path), locate(self.data_path)
        try:
            stored = json.loads(file.read_text())
            splits = {name: np.array(index, np.int64) for name, index in stored["splits"].items()}
            expected = stored["data_sha256"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file} cannot be read as a split ({type(error).__name__}: {error})") from error
        found = hashlib.sha256(data_file.read_bytes()).hexdigest()
        if found != expected:
            raise DataError(
                f"{file} divides a file with sha256 {expected}, but {data_file} has {found}; "
                "choose another split, for instance data/split=random"
            )
        for name, index in splits.items():
            if len(index) and (index.min() < 0 or index.max() >= len(structures)):
                raise DataError(f"{file}: split '{name}' holds an index outside of 0 to {len(structures) - 1}")
        return splits


def _draw(
    units: NDArray[np.int64],
    names: NDArray[np.int64],
    fractions: dict[str, float],
    seed: int,
    index: NDArray[np.int64] | None = None,
) -> Splits:
    """Draw whole units for each part; what is left trains. `index` numbers the entries of `units`."""
    index = np.arange(len(units)) if index is None else index
    order = np.random.default_rng(seed).permutation(names)
    splits: Splits = {}
    start = 0
    for part, fraction in fractions.items():
        stop = start + round(fraction * len(names))
        splits[part] = index[np.isin(units, order[start:stop])]
        start = stop
    return {"train": index[np.isin(units, order[start:])], **splits}


def check_splits(splits: Splits, source: str) -> None:
    """Raise `DataError` when a part is empty or a structure is in two parts."""
    for required in ("train", "val"):
        if len(splits.get(required, ())) == 0:
            raise DataError(
                f"{source}: the split '{required}' is empty; "
                "give more structures, or change data.split (fractions) or data.val_path"
            )
    for name, index in splits.items():
        if len(index) == 0:
            raise DataError(f"{source}: the split '{name}' is empty; change data.split (fractions)")
    every = np.concatenate(list(splits.values()))
    twice = every[np.bincount(every)[every] > 1]
    if len(twice):
        raise DataError(f"{source}: structure {twice[0]} is in more than one split")
