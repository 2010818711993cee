"""Reads damaged files, one line of JSON for each, under a limit of memory: the other side of `fuzz`.

Takes lines "layout path" on its standard input; answers {"outcome": ..., "detail": ..., "megabytes": ...}.
"""

import json
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hiphop_train.errors import DataError
from tests.data.formats.layouts import given_to, make_reader

MEMORY = 1_200_000_000
"""Bytes of address space; imports alone take a fifth of it."""


def judge(layout: str, structures: Any) -> str:
    """Return 'right' when all that was read equals what was written, otherwise 'wrong'.

    Missing structures and masked labels are right; float32 may have rounded.
    """
    known = [
        (tuple(m.numbers.tolist()), x, e, f)
        for m in given_to(layout)
        for x, e, f in zip(m.positions, m.energy, m.forces, strict=True)
    ]
    for k in range(len(structures)):
        atoms = slice(structures.offsets[k], structures.offsets[k + 1])
        numbers, x, forces = (
            tuple(structures.numbers[atoms].tolist()),
            structures.positions[atoms],
            structures.forces[atoms],
        )
        energy = structures.energy[k]
        ion = layout == "spice" and structures.group_names[structures.group[k]] in ("ION", "EMPTY")
        near = [
            row
            for row in known
            if row[0] == numbers
            and np.abs(row[1] - x).max() < 1e-5
            and (np.isnan(energy) or abs(row[2] - energy) < 2e-3)
            and (np.isnan(forces).all() or np.abs(row[3] - forces).max() < 1e-4)
        ]
        if not near and not ion:
            return "wrong"
    return "right"


def attempt(layout: str, path: Path) -> tuple[str, str]:
    """Read one file."""
    try:
        structures = make_reader(layout, path).read()
    except DataError as error:
        message = str(error)
        told = path.name in message or str(path.parent) in message
        memory = "MemoryError" in message or "memory" in message.lower()
        return "memory" if memory else "refused" if told else "unnamed", message
    except Exception as error:
        import traceback

        return "crashed", f"{type(error).__name__}: {error}: {traceback.format_exc()[-600:]}"
    return judge(layout, structures), ""


def main() -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = sys.stdout
    sys.stdout = sys.stderr  # what readers print
    for line in sys.stdin:
        layout, _, path = line.strip().partition(" ")
        outcome, detail = attempt(layout, Path(path))
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"outcome": outcome, "detail": detail, "megabytes": megabytes}), file=answers, flush=True)


if __name__ == "__main__":
    main()
