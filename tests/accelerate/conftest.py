"""Settings for twins, and graphs on which they might differ from plain modules."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase import Atoms

from hiphop_train.accelerate.twin import Setting
from hiphop_train.types import Graph
from tests.conftest import GraphOf, MakeAtoms

MakeSetting = Callable[..., Setting]
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def make_setting() -> MakeSetting:
    """Make a setting in which C is required."""

    def make(dtype: torch.dtype = torch.float64, purpose: Any = "inference") -> Setting:
        return Setting(dtype, CPU, purpose, True, "full")

    return make


@pytest.fixture(scope="session")
def varied(mixed_structures: list[Atoms], make_molecule: MakeAtoms, graph_of: GraphOf) -> Graph:
    """Isolated atoms, atoms with many neighbours, and atoms that are their own neighbours in small cells."""
    return graph_of([*mixed_structures, make_molecule(30, seed=8)])
