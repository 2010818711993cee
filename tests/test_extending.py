"""How many files a new model, data format and engine take: each is added to a copy of the package, and used.

A new target is in tests/test_targets.py.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

MODEL = {
    "hiphop_train/models/counting.py": '''"""Neighbours of each species, counted smoothly."""

from typing import List

import torch
from pydantic import PositiveFloat
from torch import Tensor

from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.base import Representation
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.types import Graph


class Counting(Representation):
    """Sums of the cutoff function over the neighbours of each species."""

    def __init__(self, elements: List[str], cutoff: PositiveFloat) -> None:
        super().__init__(elements, cutoff, [len(elements)])

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the sums (n_atoms, n_types)."""
        n_atoms, n_types = graph.species.shape[0], len(self.elements)
        channel = graph.pair_i * n_types + graph.species[graph.pair_j]
        terms = cosine_cutoff(torch.linalg.norm(graph.pair_vectors, dim=1), self.cutoff)
        return [segment_sum(terms, channel, n_atoms * n_types).reshape(n_atoms, n_types)]
''',
    "conf/model/counting.yaml": """_target_: hiphop_train.models.counting.Counting
elements: [H, C, N, O]
cutoff: 4.0

readout:
  _target_: hiphop_train.readout.atomwise.AtomwiseEnergy
  hidden: [8]
  activation: silu
""",
}

FORMAT = {
    "hiphop_train/data/formats/lists.py": '''"""Structures as lists in JSON."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from hiphop_train.data.formats.base import Block, Reader, require_file
from hiphop_train.data.formats.collector import Collector, declared
from hiphop_train.data.structures import Structures
from hiphop_train.units import EnergyUnit, ForceSign, LengthUnit


class ListReader(Reader):
    """Read one molecule's conformers."""

    def __init__(self, path: str, energy_unit: EnergyUnit, length_unit: LengthUnit, force_sign: ForceSign) -> None:
        self.path = path
        self.factors = declared(energy_unit, length_unit, force_sign)

    def files(self) -> list[Path]:
        """Return the one file."""
        return [require_file(self.path, "data.path")]

    def blocks(self) -> Iterator[Block]:
        """Yield all at once."""
        yield partial(self._read, self.files()[0])

    def _read(self, file: Path) -> Structures:
        content = {key: np.array(value) for key, value in json.loads(file.read_text()).items()}
        found = Collector(str(file), self.factors)
        labels = {"energy": content["energy"], "forces": content["forces"]}
        found.add("molecule", content["numbers"], content["positions"], labels)
        return found.finish("all")
''',
    "conf/data/lists.yaml": """defaults:
  - split: random
  - common@_here_: batches
  - _self_

_target_: hiphop_train.data.module.DataModule
name: lists
path: ???

reader:
  _target_: hiphop_train.data.formats.lists.ListReader
  path: ${data.path}
  energy_unit: eV
  length_unit: angstrom
  force_sign: force

batch_size: 4
eval_batch_size: 8
""",
}

ENGINE = {
    "hiphop_train/interfaces/verlet.py": '''"""An engine that knows nothing but an exported file."""

import torch
from torch import Tensor

from hiphop_train.export.torchscript import load


def trajectory(file: str, numbers: Tensor, positions: Tensor, n_steps: int, step: float) -> list[float]:
    """Return energy plus kinetic energy (eV) along a trajectory of unit masses."""
    potential = load(file)
    species, box, pbc = potential.species_of(numbers), torch.zeros(3, 3), torch.zeros(3, dtype=torch.bool)
    velocities, totals = torch.zeros_like(positions), []
    outputs = potential.energy_forces(species, positions, box, pbc)
    for _ in range(n_steps):
        velocities = velocities + 0.5 * step * outputs["forces"]
        positions = positions + step * velocities
        outputs = potential.energy_forces(species, positions, box, pbc)
        velocities = velocities + 0.5 * step * outputs["forces"]
        totals.append(float(outputs["energy"] + 0.5 * velocities.square().sum()))
    return totals
''',
}


def test_documents_state_the_same_counts() -> None:
    """The table in docs/architecture.md, which CONTRIBUTING refers to."""
    table = (ROOT / "docs" / "architecture.md").read_text().split("## What takes how many files")[1]
    for new, files in (("model", MODEL), ("data format", FORMAT), ("engine", ENGINE)):
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {new} |")]
        assert row.count("NAME") == len(files)
    assert "architecture.md" in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the package, and add the files above; no file is changed."""
    folder = tmp_path_factory.mktemp("extended")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hiphop_train", folder / "hiphop_train", ignore=ignored)
    shutil.copytree(ROOT / "conf", folder / "conf", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, text in (MODEL | FORMAT | ENGINE).items():
        assert not (folder / name).exists()
        (folder / name).write_text(text)
    return folder


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_new_model_format_and_engine_are_used(extended: Path, make_conformers) -> None:
    """Two files, two files, one file: trained on the new format, exported, and run by the new engine."""
    molecules = make_conformers("CH3OH", 24)
    content = {key: value.tolist() for key, value in molecules._asdict().items()}
    (extended / "molecules.json").write_text(json.dumps(content))
    settings = ["model=counting", "data=lists", "data.path=molecules.json", "run_dir=run", "trainer.accelerator=cpu"]
    start = "import sys; from hiphop_train.cli import train_main; train_main()"
    run(extended, "-c", start, *settings, "trainer.max_epochs=2", "data.check=false")
    assert json.loads((extended / "run" / "metrics.json").read_text())["status"] == "completed"
    numbers, positions = content["numbers"], content["positions"][0]
    engine = (
        "import torch; from hiphop_train.interfaces.verlet import trajectory; "
        f"print(trajectory('run/model.pt', torch.tensor({numbers}), torch.tensor({positions}).double(), 20, 1e-3))"
    )
    totals = np.array(json.loads(run(extended, "-c", engine)))
    assert len(totals) == 20
    assert np.ptp(totals) < 1e-4  # eV: forces are the slope of the energy


def test_layers_hold(extended: Path) -> None:
    """The contracts of import-linter need no change for new files."""
    run(extended, "-c", "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()")
