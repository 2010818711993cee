"""One pass over a data set of any size: descriptors of each structure, and a sample of neighbouring conformers.

Only the descriptors stay in memory, about 90 bytes per structure; flagged structures are read again.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiphop_train.data.checks.descriptors import geometry_descriptors, largest_norms, net_forces
from hiphop_train.data.formats.base import Reader
from hiphop_train.data.hashes import Hashes
from hiphop_train.data.structures import Structures, concatenate
from hiphop_train.targets import TARGETS

CHUNK = 20_000
"""Structures processed together, up to `CHUNK_ATOMS` atoms."""
CHUNK_ATOMS = 500_000
RUN = 64
"""Neighbouring conformers sampled together."""
SAMPLE = 5_000


class Source:
    """Structures of a reader, read again on each pass, chunk by chunk.

    Parameters
    ----------
    reader : reads them
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.counts: list[int] = []

    def chunks(self) -> Iterator[Structures]:
        """Yield all structures in order; small blocks of the same file are joined."""
        self.counts = []
        held: list[Structures] = []
        for block in self.reader.blocks():
            structures = block()
            self.counts.append(0 if structures is None else len(structures))
            if structures is None:
                continue
            n, n_atoms = sum(map(len, held)), sum(len(part.numbers) for part in held)
            if held and (n > CHUNK or n_atoms > CHUNK_ATOMS or held[0].source != structures.source):
                yield concatenate(held, held[0].source)
                held = []
            held.append(structures)
        if held:
            yield concatenate(held, held[0].source)

    def fetch(self, index: NDArray[np.int64]) -> Structures:
        """Read structures by index, in ascending order."""
        index, found, first = np.unique(index), [], 0
        for count, block in zip(self.counts, self.reader.blocks(), strict=True):
            here = index[(index >= first) & (index < first + count)]
            if len(here) and (structures := block()) is not None:
                found.append(structures.take(here - first))
            first += count
        return concatenate(found, "")


@dataclass(frozen=True, eq=False)
class Table:
    """One row per structure.

    Attributes
    ----------
    energy : (n,) float64, eV; NaN where missing
    size : (n,) int32, number of atoms
    pbc : (n, 3) bool
    composition : (n,) int32, row of `Scan.compositions`
    group : (n,) int32, row of `Scan.origins`
    conformation : (n,) int64, number in the source
    theory : (n,) int16, index into `Scan.theory_names`
    contact, nearest, exact, near, order : see `descriptors.GeometryDescriptors`
    net_force, net_torque : see `descriptors.NetForces`
    """

    energy: NDArray[np.float64]
    size: NDArray[np.int32]
    pbc: NDArray[np.bool_]
    composition: NDArray[np.int32]
    group: NDArray[np.int32]
    conformation: NDArray[np.int64]
    theory: NDArray[np.int16]
    contact: NDArray[np.float32]
    nearest: NDArray[np.float32]
    exact: Hashes
    near: Hashes
    order: NDArray[np.float32]
    net_force: NDArray[np.float32]
    net_torque: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scan:
    """Result of one pass over a data set.

    Attributes
    ----------
    table : one row per structure
    largest : target key -> (n,) float32, largest norm of an entry in each structure, in the target's unit; NaN where
        unknown
    compositions : (n_compositions, 119) int32, number of atoms of each atomic number
    origins : source, subset and name of each group
    theory_names : of the levels of theory
    sample : runs of neighbouring conformers, chosen at random
    """

    table: Table
    largest: dict[str, NDArray[np.float32]]
    compositions: NDArray[np.int32]
    origins: list[tuple[str, str, str]]
    theory_names: list[str]
    sample: Structures

    def __len__(self) -> int:
        return len(self.table.energy)

    def has(self, key: str) -> NDArray[np.bool_]:
        """(n,) whether a label is known."""
        return ~np.isnan(self.largest[key])

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur."""
        return [int(number) for number in np.flatnonzero(self.compositions.any(axis=0))]

    @property
    def geometries(self) -> NDArray[np.int64]:
        """One structure per geometry; a geometry occurs once per level of theory."""
        if len(self.theory_names) == 1:
            return np.arange(len(self))
        pairs = np.stack([self.table.group, self.table.conformation], axis=1)
        return np.sort(np.unique(pairs, axis=0, return_index=True)[1])

    def atom_counts(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """(119,) number of atoms of each atomic number in the given structures."""
        per_composition = np.bincount(self.table.composition[index], minlength=len(self.compositions))
        counts: NDArray[np.int64] = per_composition @ self.compositions
        return counts

    def origin(self, k: int) -> dict[str, Any]:
        """File, subset, group and conformation of structure k."""
        source, subset, group = self.origins[self.table.group[k]]
        return {"file": source, "subset": subset, "group": group, "conformation": int(self.table.conformation[k])}


def scan(source: Source, advance: Callable[[int], None], seed: int = 0) -> Scan:
    """Scan all structures in one pass.

    Parameters
    ----------
    source : of the structures
    advance : progress callback, called with the number of structures in each chunk
    seed : of the sample
    """
    rows: list[dict[str, NDArray[Any]]] = []
    norms: list[dict[str, NDArray[np.float32]]] = []
    compositions: dict[bytes, int] = {}
    origins: dict[tuple[str, str, str], int] = {}
    theories: dict[str, int] = {}
    sample = _Sample(seed)
    for chunk in source.chunks():
        theory = np.array([theories.setdefault(name, len(theories)) for name in chunk.theory_names])[chunk.theory]
        rows.append(
            {
                "energy": np.array(chunk.energy, np.float64),
                "size": chunk.sizes.astype(np.int32),
                "pbc": np.array(chunk.pbc),
                "composition": _compositions(chunk, compositions),
                "group": _groups(chunk, origins),
                "conformation": np.array(chunk.conformation, np.int64),
                "theory": theory.astype(np.int16),
                **vars(geometry_descriptors(chunk)),
                **vars(net_forces(chunk)),
            }
        )
        norms.append(largest_norms(chunk))
        sample.add(chunk)
        advance(len(chunk))
    joined = {field.name: np.concatenate([row[field.name] for row in rows]) for field in fields(Table)}
    unknown = [np.full(len(row["energy"]), np.nan, np.float32) for row in rows]
    largest = {
        key: np.concatenate([norm.get(key, missing) for norm, missing in zip(norms, unknown, strict=True)])
        for key in TARGETS
        if any(key in norm for norm in norms)
    }
    counts = np.frombuffer(b"".join(compositions), np.int32).reshape(-1, 119)
    return Scan(Table(**joined), largest, counts, list(origins), list(theories), sample.finish())


def _compositions(chunk: Structures, known: dict[bytes, int]) -> NDArray[np.int32]:
    """Number the composition of each structure."""
    structure = np.repeat(np.arange(len(chunk)), chunk.sizes)
    present = np.flatnonzero(np.bincount(chunk.numbers, minlength=119))
    column = np.zeros(119, np.int64)
    column[present] = np.arange(len(present))
    flat = np.bincount(structure * len(present) + column[chunk.numbers], minlength=len(chunk) * len(present))
    different, which = np.unique(flat.reshape(len(chunk), -1), axis=0, return_inverse=True)
    full = np.zeros((len(different), 119), np.int32)
    full[:, present] = different
    numbers = np.array([known.setdefault(row.tobytes(), len(known)) for row in full], np.int32)
    return numbers[which.reshape(-1)]


def _groups(chunk: Structures, known: dict[tuple[str, str, str], int]) -> NDArray[np.int32]:
    """Number the groups over all chunks; equal names in different files or subsets are different groups."""
    pairs, which = np.unique(np.stack([chunk.subset, chunk.group]), axis=1, return_inverse=True)
    keys = [(chunk.source, chunk.subset_names[s], chunk.group_names[g]) for s, g in pairs.T]
    return np.array([known.setdefault(key, len(known)) for key in keys], np.int32)[which.reshape(-1)]


class _Sample:
    """Random sample of runs of neighbouring conformers: those with the smallest random keys.

    Parameters
    ----------
    seed : of the random keys
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.heap: list[tuple[float, int, Structures]] = []  # largest key first
        self.size = self.count = 0

    def add(self, chunk: Structures) -> None:
        """Draw from the runs of a chunk."""
        change = (np.diff(chunk.group) != 0) | (np.diff(chunk.theory) != 0) | (np.diff(chunk.subset) != 0)
        starts = np.concatenate([[0], np.flatnonzero(change) + 1, [len(chunk)]])
        cuts = np.concatenate([np.arange(a, b, RUN) for a, b in pairwise(starts)] + [[len(chunk)]])
        keys = self.rng.random(len(cuts) - 1)
        for k in np.argsort(keys):
            if self.size >= SAMPLE and -keys[k] <= self.heap[0][0]:
                break
            run = chunk.take(np.arange(cuts[k], cuts[k + 1]))
            self.count += 1
            heapq.heappush(self.heap, (-float(keys[k]), self.count, run))
            self.size += len(run)
            while self.size - len(self.heap[0][2]) >= SAMPLE:
                self.size -= len(heapq.heappop(self.heap)[2])

    def finish(self) -> Structures:
        """Join the runs, in the order of the set."""
        runs = [run for _, _, run in sorted(self.heap, key=lambda entry: entry[1])]
        return concatenate(runs, runs[0].source)
