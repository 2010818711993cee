"""Write the fixed split of the embedded tiny set, `hiphop_train/data/tiny/split.json`.

Conformations are numbered by reading order: groups in h5py's (sorted) order, rows in order. The draw is by SHA-256,
so that it depends on the seed alone, not on the version of a random number library. Running the script again
rewrites the same file byte for byte.

usage: python scripts/split_tiny.py [--data FILE] [--output FILE] [--seed N]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from connectivity import fragments
from numpy.typing import NDArray

TINY = Path(__file__).resolve().parents[1] / "hiphop_train" / "data" / "tiny"
DIMER = "dimer"
UNKNOWN = "unknown"
N_HELD_OUT = 8
MINIMUM_HEAVY_ATOMS = 3
VALIDATION_FRACTION = 0.06
TEST_FRACTION = 0.14
SPLITS = ("train", "val", "test", "test_unseen")

DESCRIPTION = (
    "Fixed split of tiny.h5. Conformations are numbered by reading order (groups sorted, rows in order). "
    f"{N_HELD_OUT} molecules drawn among those with at least {MINIMUM_HEAVY_ATOMS} heavy atoms are held out: all their "
    "conformations, and dimers of two of them, are test_unseen; structures with a held-out molecule beside another "
    "one, and dimers whose monomers are not recognised, are left_out. The rest is divided at random within each "
    "molecule (dimers as one class) into train, val (6 %) and test (14 %). molecule names each conformation: the "
    "path for monomers, A+B for dimers, by connectivity."
)


class Structure(NamedTuple):
    """What the split needs to know of one conformation."""

    path: str  # name given by the generator; `dimer` for all dimers
    heavy_atoms: int  # atoms other than hydrogen
    keys: tuple[str, ...]  # connectivity keys of its fragments, sorted


def read_structures(data: Path) -> list[Structure]:
    """Read all conformations of a release-layout file in reading order and find their fragments."""
    structures: list[Structure] = []
    with h5py.File(data, "r") as file:
        for group in file.values():
            numbers: NDArray[np.uint8] = group["atomic_numbers"][:]  # (n_atoms,)
            for positions, path in zip(group["coordinates"][:], group["path"][:], strict=True):
                keys = tuple(sorted(fragment.key for fragment in fragments(numbers, positions)))
                structures.append(Structure(path.decode(), int((numbers > 1).sum()), keys))
    return structures


def known_molecules(structures: Sequence[Structure]) -> dict[str, str]:
    """Map the connectivity key of every monomer to its name, by the majority of its conformations.

    Raises
    ------
    SystemExit
        If a molecule has no clear majority (9 of 10) or two molecules share a key.
    """
    counts: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for structure in structures:
        if structure.path != DIMER:
            counts[structure.path][structure.keys] += 1
    names: dict[str, str] = {}
    for path in sorted(counts):
        keys, majority = counts[path].most_common(1)[0]
        if len(keys) != 1 or majority < 0.9 * counts[path].total() or keys[0] in names:
            raise SystemExit(
                f"error: molecule {path!r}: most frequent connectivity {keys} in {majority} of "
                f"{counts[path].total()} conformations; expected one fragment, in at least 9 of 10, that no other "
                "molecule has; check BOND_FACTOR in hiphop_train/data/molecules.py"
            )
        names[keys[0]] = path
    return names


def molecule_names(structures: Sequence[Structure], names: dict[str, str]) -> list[str]:
    """Name every conformation: the path for monomers, the sorted names `A+B` of the monomers for dimers."""
    return [
        structure.path
        if structure.path != DIMER
        else "+".join(sorted(names.get(key, UNKNOWN) for key in structure.keys))
        for structure in structures
    ]


def draw_order(seed: int, items: Sequence[str]) -> list[str]:
    """Shuffle items by the SHA-256 of seed and item."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}/{item}".encode()).hexdigest())


def draw_held_out(structures: Sequence[Structure], seed: int) -> list[str]:
    """Draw the names of the held-out molecules among those with enough heavy atoms."""
    candidates = {s.path for s in structures if s.path != DIMER and s.heavy_atoms >= MINIMUM_HEAVY_ATOMS}
    return sorted(draw_order(seed, sorted(candidates))[:N_HELD_OUT])


def assign(structures: Sequence[Structure], names: dict[str, str], held_out: Sequence[str]) -> list[str]:
    """Say for each conformation: `test_unseen`, a reason to leave it out, or the stratum it is divided in."""
    hidden = {key for key, name in names.items() if name in held_out}
    result: list[str] = []
    for structure in structures:
        seen = [key for key in structure.keys if key not in hidden]
        if structure.path in held_out or (structure.path == DIMER and not seen):
            result.append("test_unseen")
        elif len(seen) < len(structure.keys):
            result.append("left_out: a held-out molecule beside another")
        elif structure.path == DIMER and (len(seen) != 2 or any(key not in names for key in seen)):
            result.append("left_out: dimer with an unrecognised fragment")
        else:
            result.append(structure.path)
    return result


def divide(assignments: Sequence[str], seed: int) -> dict[str, list[int]]:
    """Divide the conformations of each stratum at random into train, val and test."""
    splits: dict[str, list[int]] = {split: [] for split in (*SPLITS, "left_out")}
    strata: dict[str, list[str]] = defaultdict(list)
    for index, assignment in enumerate(assignments):
        kind = assignment.split(":")[0]
        if kind in splits:
            splits[kind].append(index)
        else:
            strata[assignment].append(str(index))
    for stratum in strata.values():
        order = [int(item) for item in draw_order(seed, stratum)]
        n_val = math.floor(VALIDATION_FRACTION * len(order) + 0.5)
        n_test = math.floor(TEST_FRACTION * len(order) + 0.5)
        splits["val"] += order[:n_val]
        splits["test"] += order[n_val : n_val + n_test]
        splits["train"] += order[n_val + n_test :]
    return {split: sorted(indices) for split, indices in splits.items()}


def make_split(data: Path, seed: int) -> tuple[dict[str, object], str]:
    """Make the content of split.json and a table of counts to print."""
    structures = read_structures(data)
    names = known_molecules(structures)
    held_out = draw_held_out(structures, seed)
    assignments = assign(structures, names, held_out)
    splits = divide(assignments, seed)
    left_out = splits.pop("left_out")
    molecules = molecule_names(structures, names)
    content: dict[str, object] = {
        "description": DESCRIPTION,
        "seed": seed,
        "data_sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "held_out_molecules": held_out,
        "splits": splits,
        "left_out": left_out,
        "molecule": molecules,
    }
    lines = [f"{'':12s} {'monomers':>8s} {'dimers':>8s} {'all':>8s} {'molecules':>10s}"]
    for split, indices in {**splits, "left_out": left_out}.items():
        n_dimers = sum(structures[i].path == DIMER for i in indices)
        n_molecules = len({molecules[i] for i in indices})
        lines.append(f"{split:12s} {len(indices) - n_dimers:8d} {n_dimers:8d} {len(indices):8d} {n_molecules:10d}")
    changed = [s for s in structures if s.path != DIMER and [names.get(key) for key in s.keys] != [s.path]]
    reasons = Counter(a for a in assignments if a.startswith("left_out"))
    lines += [f"held out: {', '.join(held_out)}"]
    lines += [f"{reason}: {count}" for reason, count in sorted(reasons.items())]
    lines += [f"monomers with another connectivity than most of their molecule, kept with it: {len(changed)}"]
    return content, "\n".join(lines)


def to_json(content: dict[str, object]) -> str:
    """Write one top-level entry (one split) per line: short, and readable in a diff."""
    entries = []
    for key, value in content.items():
        text = json.dumps(value)
        if isinstance(value, dict):
            text = "{\n" + ",\n".join(f'  "{k}": {json.dumps(v)}' for k, v in value.items()) + "\n }"
        entries.append(f' "{key}": {text}')
    return "{\n" + ",\n".join(entries) + "\n}\n"


def main() -> None:
    """Write the split and print its counts."""
    parser = argparse.ArgumentParser(description="Write the fixed split of the embedded tiny set.")
    parser.add_argument("--data", type=Path, default=TINY / "tiny.h5", help="file in the ANI-1x release layout")
    parser.add_argument("--output", type=Path, default=TINY / "split.json", help="where to write the split")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    arguments = parser.parse_args()
    if not arguments.data.is_file():
        raise SystemExit(f"error: --data {arguments.data}: no such file; the embedded set is {TINY / 'tiny.h5'}")
    content, table = make_split(arguments.data, arguments.seed)
    arguments.output.write_text(to_json(content), encoding="utf-8")
    print(table)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
