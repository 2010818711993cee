"""Structures that several tests of the data cut batches from."""

import numpy as np
import pytest
from ase import Atoms

from hiphop_train.data.formats.collector import Collector
from hiphop_train.data.structures import Structures


@pytest.fixture
def structures(mixed_structures: list[Atoms]) -> Structures:
    """Open and periodic structures with random labels, one without energy and one without forces."""
    rng = np.random.default_rng(0)
    found = Collector("set.xyz")
    for k, atoms in enumerate(mixed_structures):
        found.add(
            f"group{k}",
            atoms.numbers.astype(np.int64),
            atoms.positions[None],
            {
                "energy": np.array([np.nan if k == 1 else -1e4 * rng.uniform()]),
                "forces": None if k == 3 else rng.normal(size=(1, len(atoms), 3)),
            },
            atoms.cell.array[None] if atoms.pbc.any() else None,
            atoms.pbc[None],
        )
    return found.finish("train")
