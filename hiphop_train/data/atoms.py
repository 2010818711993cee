"""Structures as ASE's atoms, to be written and looked at."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from hiphop_train.data.structures import Structures
from hiphop_train.targets import TARGETS


def to_atoms(structures: Structures, infos: Sequence[dict[str, Any]]) -> list[Atoms]:
    """Return each structure with its known labels, in our units, and what is said of it.

    Parameters
    ----------
    structures : to convert
    infos : of each structure, written beside it
    """
    found = []
    for row, info in enumerate(infos):
        atoms = slice(structures.offsets[row], structures.offsets[row + 1])
        box = {"cell": structures.cell[row], "pbc": structures.pbc[row]} if structures.pbc[row].any() else {}
        one = Atoms(structures.numbers[atoms], structures.positions[atoms], **box)
        labels: dict[str, Any] = {
            key: array[atoms if TARGETS[key].per == "atom" else row].astype(np.float64)
            for key, array in structures.labels.items()
            if structures.has(key)[row]
        }
        one.calc = SinglePointCalculator(one, **labels)  # type: ignore[no-untyped-call]
        one.info = dict(info)
        found.append(one)
    return found
