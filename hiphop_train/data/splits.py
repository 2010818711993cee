"""Splits of a data set into training, validation and test structures."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hiphop_train.data.formats.base import locate
from hiphop_train.data.hashes import Hashes, mix, sum_rows
from hiphop_train.data.molecules import molecule_hashes
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.files import replacing

Fraction = Annotated[float, Field(ge=0, lt=1)]

Splits = dict[str, NDArray[np.int64]]


class Split(ABC):
    """Divide structures into ``train``, ``val`` and any number of test splits, whose names begin with ``test``."""

    @abstractmethod
    def divide(self, structures: Structures, checksum: str) -> Splits:
        """Return the indices of each split; splits do not overlap.

        Parameters
        ----------
        structures : the whole set
        checksum : of the set, compared by stored splits
        """


class RandomSplit(Split):
    """Divide at random.

    Parameters
    ----------
    val_fraction, test_fraction : fractions of the drawn units; the remainder is the training split
    seed : of the division, independent of other seeds
    by : unit that is drawn as a whole: ``structure`` (a conformation at all its levels of theory), ``group`` (as in the
        file), ``formula``, ``molecule`` (by connectivity, see `data.molecules`), ``subset`` (a file of a collection)
    """

    def __init__(
        self,
        val_fraction: Fraction,
        test_fraction: Fraction,
        seed: int,
        by: Literal["structure", "group", "formula", "molecule", "subset"] = "structure",
    ) -> None:
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.seed = seed
        self.by = by

    def divide(self, structures: Structures, checksum: str) -> Splits:
        """Return train, val and test."""
        choices: dict[str, Callable[[], NDArray[Any]]] = {
            "structure": lambda: structures.conformation,
            "group": lambda: structures.group,
            "formula": lambda: formula_hashes(structures),
            "molecule": lambda: molecule_hashes(structures),
            "subset": lambda: structures.subset,
        }
        return _draw(choices[self.by](), {"val": self.val_fraction, "test": self.test_fraction}, self.seed)


class SubsetSplit(Split):
    """Use the subsets of the reader named train, val and test; draw val or test from train if one is missing.

    Parameters
    ----------
    val_fraction, test_fraction : fractions drawn from train if no file is given for them
    seed : of the draw
    """

    def __init__(self, val_fraction: Fraction, test_fraction: Fraction, seed: int) -> None:
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.seed = seed

    def divide(self, structures: Structures, checksum: str) -> Splits:
        """Return train, val and test."""
        names = np.array(structures.subset_names)[structures.subset]
        given = {part: np.flatnonzero(names == part) for part in ("val", "test") if (names == part).any()}
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        missing = {part: fraction for part, fraction in fractions.items() if part not in given}
        train = np.flatnonzero(names == "train")
        drawn = _draw(structures.conformation[train], missing, self.seed)
        return {**{part: train[index] for part, index in drawn.items()}, **given}


class FilesSplit(Split):
    """Read the conformation numbers of each split from files.

    Parameters
    ----------
    train, val, test : files of conformation numbers in the source, from 0: NumPy's .npy, or text with numbers separated
        by white space or commas
    val_fraction : fraction drawn from train if no file is given for val
    seed : of the draw
    """

    def __init__(
        self, train: str, test: str, val: str | None = None, val_fraction: Fraction = 0.1, seed: int = 0
    ) -> None:
        self.files = {"train": train, "val": val, "test": test}
        self.val_fraction = val_fraction
        self.seed = seed

    def divide(self, structures: Structures, checksum: str) -> Splits:
        """Return train, val and test."""
        splits = {}
        for part, path in self.files.items():
            if path is not None:
                wanted = _read_numbers(locate(path), f"data.split.{part}")
                missing = np.setdiff1d(wanted, structures.conformation)
                if len(missing):
                    raise DataError(
                        f"{path} (data.split.{part}) names conformation {missing[0]}, which {structures.source} does "
                        f"not contain with the requested labels; its numbers range from "
                        f"{structures.conformation.min()} to {structures.conformation.max()}"
                    )
                splits[part] = np.flatnonzero(np.isin(structures.conformation, wanted))
        if "val" not in splits:
            train = splits["train"]
            drawn = _draw(structures.conformation[train], {"val": self.val_fraction}, self.seed)
            splits |= {part: train[index] for part, index in drawn.items()}
        return splits


class StoredSplit(Split):
    """Use the split of an earlier run, for the same data.

    Parameters
    ----------
    path : splits.npz of a run directory
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def divide(self, structures: Structures, checksum: str) -> Splits:
        """Return the stored splits."""
        file = locate(self.path)
        try:
            with file.open("rb") as handle, np.load(handle) as stored:
                parts = {name: stored[name] for name in stored.files}
            expected = str(parts.pop("checksum"))
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise DataError(
                f"{file} (data.split.path) cannot be read as a split ({type(error).__name__}: {error}); give "
                "splits.npz of a run directory"
            ) from error
        if expected != checksum:
            raise DataError(
                f"{file} is for data with checksum {expected}, but {structures.source} has {checksum}; give the data "
                "of that run, or another split"
            )
        return {name: index.astype(np.int64) for name, index in parts.items()}


def store_splits(file: Path, splits: Splits, checksum: str) -> None:
    """Write a split for `StoredSplit`."""
    arrays: dict[str, Any] = {name: index.astype("<i8") for name, index in splits.items()}
    with replacing(file) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, checksum=np.array(checksum), **arrays)


def formula_hashes(structures: Structures) -> Hashes:
    """(n,) hashes that are equal for equal formulas."""
    found = [
        mix(sum_rows(mix(block.numbers.astype(np.uint64) + np.uint64(0x2545F491)), block.offsets))
        for block in structures.blocks()
    ]
    return np.concatenate(found)


class IndexFileSplit(Split):
    """Read the split from a JSON file that belongs to one data file.

    Parameters
    ----------
    path : JSON file with ``splits`` (name -> indices in the data file's order) and ``data_sha256``
    data_path : the data file whose checksum must match
    """

    def __init__(self, path: str, data_path: str) -> None:
        self.path = path
        self.data_path = data_path

    def divide(self, structures: Structures, checksum: str) -> Splits:
        """Return the splits in the file."""
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
                f"{file} is for a data file with sha256 {expected}, but {data_file} has {found}; "
                "choose another split, for instance data/split=random"
            )
        for name, index in splits.items():
            if len(index) and (index.min() < 0 or index.max() >= len(structures)):
                raise DataError(f"{file}: split '{name}' contains an index outside 0 to {len(structures) - 1}")
        return splits


def _read_numbers(file: Path, key: str) -> NDArray[np.int64]:
    try:
        if file.suffix == ".npy":
            numbers = np.load(file).reshape(-1)
        else:
            numbers = np.array(file.read_text().replace(",", " ").split(), np.float64)
        integers: NDArray[np.int64] = numbers.astype(np.int64)
        if not len(integers) or not np.array_equal(integers, numbers):
            raise ValueError("it does not contain integers")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{file} ({key}) cannot be read as conformation numbers ({error}); give integers in a .npy or text file"
        ) from error
    return integers


def _draw(units: NDArray[Any], fractions: dict[str, float], seed: int) -> Splits:
    """Draw whole units for each split, given the unit of each structure; the remainder is the training split."""
    names, unit = np.unique(units, return_inverse=True)
    part_of = np.full(len(names), len(fractions))
    order = np.random.default_rng(seed).permutation(len(names))
    start = 0
    for number, fraction in enumerate(fractions.values()):
        stop = start + round(fraction * len(names))
        part_of[order[start:stop]] = number
        start = stop
    part = part_of[unit.reshape(-1)]
    drawn = {name: np.flatnonzero(part == number) for number, name in enumerate(fractions)}
    return {"train": np.flatnonzero(part == len(fractions)), **drawn}


def check_splits(splits: Splits, structures: Structures, allow_leak: bool = False) -> None:
    """Raise `DataError` if a split is empty, a structure is in two, or a training geometry is also in another."""
    source = structures.source
    for required in ("train", "val"):
        if len(splits.get(required, ())) == 0:
            raise DataError(
                f"{source}: the split '{required}' is empty; "
                "add structures, or change data.split (fractions) or data.val_path"
            )
    for name, index in splits.items():
        if len(index) == 0:
            raise DataError(f"{source}: the split '{name}' is empty; change data.split (fractions)")
    every = np.concatenate(list(splits.values()))
    twice = every[np.bincount(every)[every] > 1]
    if len(twice):
        raise DataError(f"{source}: structure {twice[0]} is in more than one split")
    if allow_leak:
        return
    train = np.unique(structures.geometry[splits["train"]])
    for name, index in splits.items():
        known = np.isin(structures.geometry[index], train) & (name != "train")
        if known.any():
            first = index[np.flatnonzero(known)[0]]
            same = np.flatnonzero(structures.geometry[splits["train"]] == structures.geometry[first])
            raise DataError(
                f"{source}: {known.sum()} of {len(index)} structures of the split '{name}' are also in the training "
                f"split, for instance {structures.name(first)} as {structures.name(splits['train'][same[0]])}; remove "
                "duplicates (listed by hiphop-data check), split by molecule (data/split=random "
                "data.split.by=molecule), or allow it: data.allow_leak=true"
            )
