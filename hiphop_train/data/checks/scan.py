"""One pass over a data set of any size: a row of figures for each structure, and a sample of neighbouring conformers.

Only the rows stay in memory, about 90 bytes a structure; what the figures point at is read again.
"""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from hiphop_train.data.checks.descriptors import geometry, pull
from hiphop_train.data.formats.base import Reader
from hiphop_train.data.structures import Structures, concatenate

PIECE = 20_000
"""Structures that are looked at together, where they have at most `PIECE_ATOMS` atoms."""
PIECE_ATOMS = 500_000
RUN = 64
"""Neighbouring conformers that are sampled together."""
SAMPLE = 5_000


class Source(ABC):
    """Structures that can be gone through more than once."""

    @abstractmethod
    def pieces(self) -> Iterator[Structures]:
        """Go through all structures, in order; pieces of different files have different `source`."""

    @abstractmethod
    def fetch(self, index: NDArray[np.int64]) -> Structures:
        """Return some structures, by their running numbers, in ascending order."""


@final
class FromReader(Source):
    """Structures that are read anew each time, piece by piece.

    Parameters
    ----------
    reader : reads them
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.counts: list[int] = []

    def pieces(self) -> Iterator[Structures]:
        """Read the blocks; small ones are put together."""
        self.counts = []
        held: list[Structures] = []
        for block in self.reader.blocks():
            structures = block()
            self.counts.append(0 if structures is None else len(structures))
            if structures is None:
                continue
            n, n_atoms = sum(map(len, held)), sum(len(part.numbers) for part in held)
            if held and (n > PIECE or n_atoms > PIECE_ATOMS or held[0].source != structures.source):
                yield concatenate(held, held[0].source)
                held = []
            held.append(structures)
        if held:
            yield concatenate(held, held[0].source)

    def fetch(self, index: NDArray[np.int64]) -> Structures:
        """Read the blocks that hold the structures."""
        index, found, first = np.unique(index), [], 0
        for count, block in zip(self.counts, self.reader.blocks(), strict=True):
            here = index[(index >= first) & (index < first + count)]
            if len(here) and (structures := block()) is not None:
                found.append(structures.take(here - first))
            first += count
        return concatenate(found, "")


@final
class InMemory(Source):
    """Structures in memory, or in files that are mapped into it."""

    def __init__(self, structures: Structures) -> None:
        self.structures = structures

    def pieces(self) -> Iterator[Structures]:
        """Cut the arrays."""
        return self.structures.pieces(PIECE)

    def fetch(self, index: NDArray[np.int64]) -> Structures:
        """Take them."""
        return self.structures.take(np.unique(index))


@dataclass(frozen=True, eq=False)
class Table:
    """A row for each structure.

    Attributes
    ----------
    energy : (n,) float64, eV; NaN where missing
    has_forces : (n,) bool
    size : (n,) int32, number of atoms
    composition : (n,) int32, row of `Survey.compositions`
    group : (n,) int32, row of `Survey.places`
    conformation : (n,) int64, number in the source
    level : (n,) int16, index into `Survey.level_names`
    contact, nearest, exact, near, order : see `figures.Geometry`
    largest, net_force, net_torque, zero : see `figures.Pull`
    """

    energy: NDArray[np.float64]
    has_forces: NDArray[np.bool_]
    size: NDArray[np.int32]
    composition: NDArray[np.int32]
    group: NDArray[np.int32]
    conformation: NDArray[np.int64]
    level: NDArray[np.int16]
    contact: NDArray[np.float32]
    nearest: NDArray[np.float32]
    exact: NDArray[np.uint64]
    near: NDArray[np.uint64]
    order: NDArray[np.float32]
    largest: NDArray[np.float32]
    net_force: NDArray[np.float32]
    net_torque: NDArray[np.float32]
    zero: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Survey:
    """What one pass over a data set found.

    Attributes
    ----------
    table : a row for each structure
    compositions : (n_compositions, 119) int32, number of atoms of each atomic number
    places : source, subset and name of each group
    level_names : of the levels of theory
    sample : runs of neighbouring conformers, chosen at random
    """

    table: Table
    compositions: NDArray[np.int32]
    places: list[tuple[str, str, str]]
    level_names: list[str]
    sample: Structures

    def __len__(self) -> int:
        return len(self.table.energy)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur."""
        return [int(number) for number in np.flatnonzero(self.compositions.any(axis=0))]

    @property
    def geometries(self) -> NDArray[np.int64]:
        """One structure for each geometry, which is there once for each level of theory."""
        if len(self.level_names) == 1:
            return np.arange(len(self))
        pairs = np.stack([self.table.group, self.table.conformation], axis=1)
        return np.sort(np.unique(pairs, axis=0, return_index=True)[1])

    def atom_counts(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """(119,) number of atoms of each atomic number in some structures."""
        per_composition = np.bincount(self.table.composition[index], minlength=len(self.compositions))
        counts: NDArray[np.int64] = per_composition @ self.compositions
        return counts

    def place(self, k: int) -> dict[str, Any]:
        """Where structure k stands."""
        source, subset, group = self.places[self.table.group[k]]
        return {"file": source, "subset": subset, "group": group, "conformation": int(self.table.conformation[k])}


def survey(source: Source, advance: Callable[[int], None], seed: int = 0) -> Survey:
    """Go through all structures once.

    Parameters
    ----------
    source : gives them
    advance : called with numbers of structures that have been looked at
    seed : of the sample
    """
    rows: list[dict[str, NDArray[Any]]] = []
    compositions: dict[bytes, int] = {}
    places: dict[tuple[str, str, str], int] = {}
    levels: dict[str, int] = {}
    sample = _Sample(seed)
    for piece in source.pieces():
        level = np.array([levels.setdefault(name, len(levels)) for name in piece.theory_names])[piece.theory]
        seen, pulled = geometry(piece), pull(piece)
        row = {
            "energy": np.array(piece.energy, np.float64),
            "has_forces": np.array(piece.has_forces),
            "size": piece.sizes.astype(np.int32),
            "composition": _compositions(piece, compositions),
            "group": _groups(piece, places),
            "conformation": np.array(piece.conformation, np.int64),
            "level": level.astype(np.int16),
        }
        for part in (seen, pulled):
            row |= {field.name: getattr(part, field.name) for field in fields(part)}
        rows.append(row)
        sample.add(piece)
        advance(len(piece))
    joined = {field.name: np.concatenate([row[field.name] for row in rows]) for field in fields(Table)}
    counts = np.frombuffer(b"".join(compositions), np.int32).reshape(-1, 119)
    return Survey(Table(**joined), counts, list(places), list(levels), sample.finish())


def _compositions(piece: Structures, known: dict[bytes, int]) -> NDArray[np.int32]:
    """Number the composition of each structure."""
    structure = np.repeat(np.arange(len(piece)), piece.sizes)
    present = np.flatnonzero(np.bincount(piece.numbers, minlength=119))
    column = np.zeros(119, np.int64)
    column[present] = np.arange(len(present))
    flat = np.bincount(structure * len(present) + column[piece.numbers], minlength=len(piece) * len(present))
    kinds, which = np.unique(flat.reshape(len(piece), -1), axis=0, return_inverse=True)
    full = np.zeros((len(kinds), 119), np.int32)
    full[:, present] = kinds
    numbers = np.array([known.setdefault(row.tobytes(), len(known)) for row in full], np.int32)
    return numbers[which.reshape(-1)]


def _groups(piece: Structures, known: dict[tuple[str, str, str], int]) -> NDArray[np.int32]:
    """Number the groups over all pieces; a name is another group in another file or subset."""
    pairs, which = np.unique(np.stack([piece.subset, piece.group]), axis=1, return_inverse=True)
    keys = [(piece.source, piece.subset_names[s], piece.group_names[g]) for s, g in pairs.T]
    return np.array([known.setdefault(key, len(known)) for key in keys], np.int32)[which.reshape(-1)]


class _Sample:
    """Runs of neighbouring conformers with the smallest of random numbers: the same chance for each run.

    Parameters
    ----------
    seed : of the numbers
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.heap: list[tuple[float, int, Structures]] = []  # the largest number first
        self.size = self.count = 0

    def add(self, piece: Structures) -> None:
        """Look at the runs of a piece."""
        change = (np.diff(piece.group) != 0) | (np.diff(piece.theory) != 0) | (np.diff(piece.subset) != 0)
        starts = np.concatenate([[0], np.flatnonzero(change) + 1, [len(piece)]])
        cuts = np.concatenate([np.arange(a, b, RUN) for a, b in pairwise(starts)] + [[len(piece)]])
        keys = self.rng.random(len(cuts) - 1)
        for k in np.argsort(keys):
            if self.size >= SAMPLE and -keys[k] <= self.heap[0][0]:
                break
            run = piece.take(np.arange(cuts[k], cuts[k + 1]))
            self.count += 1
            heapq.heappush(self.heap, (-float(keys[k]), self.count, run))
            self.size += len(run)
            while self.size - len(self.heap[0][2]) >= SAMPLE:
                self.size -= len(heapq.heappop(self.heap)[2])

    def finish(self) -> Structures:
        """Put the runs together, in the order of the set."""
        runs = [run for _, _, run in sorted(self.heap, key=lambda entry: entry[1])]
        return concatenate(runs, runs[0].source)
