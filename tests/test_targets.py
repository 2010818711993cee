"""What a new target takes: a record, a term of the loss and, where the potential does not compute it, a readout.

Magnetic moments of the atoms are added to a copy of the package, and go from a file through packing, batches, loss,
metrics, error tables, reports, pictures and checkpoints to the exported file.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from hiphop_train.export.torchscript import load, verify
from tests.conftest import ROOT, MakeAtoms

CHANGED = {
    "hiphop_train/targets.py": [
        (
            "    )\n}\n",
            '        Target("magmoms", "atom", (), "mu_B", "mu_B", 1.0, False, 0, False, decimals=4),\n    )\n}\n',
        ),
    ],
    "hiphop_train/training/losses.py": [
        (
            "dipole: ErrorLoss | None = None,\n",
            "dipole: ErrorLoss | None = None,\n        magmoms: ErrorLoss | None = None,\n",
        ),
        ('"dipole": dipole}', '"dipole": dipole, "magmoms": magmoms}'),
    ],
}
ADDED = {
    "hiphop_train/readout/moments.py": '''"""Magnetic moments of the atoms beside energies."""

from typing import Dict, List

from torch import Tensor, nn

from hiphop_train.readout.base import Readout
from hiphop_train.types import Graph


class Moments(Readout):
    """m_i = w . z_i + b."""

    def __init__(self, energy: Readout, feature_sizes: List[int]) -> None:
        super().__init__(energy.is_hierarchical, ("magmoms", *energy.targets))
        self.energy = energy
        self.moments = nn.Linear(feature_sizes[-1], 1)

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return energies and ``magmoms`` (n_atoms,)."""
        outputs: Dict[str, Tensor] = self.energy(levels, graph)
        outputs["magmoms"] = self.moments(levels[-1])[:, 0]
        return outputs
''',
}
YAML = {
    "conf/model/hipnn_moments.yaml": """defaults:
  - hipnn
  - _self_

readout:
  _target_: hiphop_train.readout.moments.Moments
  energy: { _target_: hiphop_train.readout.hierarchical.HierarchicalEnergy }
""",
    "conf/loss/moments.yaml": """defaults:
  - mae_rmse
  - _self_

magmoms: { _target_: hiphop_train.training.losses.ErrorLoss, mae: 10.0 }
""",
}


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """Copy the package, change and add the files above."""
    for name in ("hiphop_train", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in CHANGED.items():
        text = (tmp_path / name).read_text()
        for before, after in changes:
            assert text.count(before) == 1
            text = text.replace(before, after)
        (tmp_path / name).write_text(text)
    for name, text in (ADDED | YAML).items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def molecules(tmp_path: Path, make_molecule: MakeAtoms) -> Path:
    """Molecules whose oxygen atoms have a moment of two, the others a tenth of their number of neighbours."""
    made = []
    for seed in range(60):
        atoms = make_molecule(6, seed=seed)
        neighbours = (atoms.get_all_distances() < 1.7).sum(axis=1) - 1
        moments = np.where(atoms.numbers == 8, 2.0, neighbours / 10)
        labels = {"energy": -10.0 * len(atoms), "forces": np.zeros((6, 3)), "magmoms": moments}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        made.append(atoms)
    del made[3].calc.results["magmoms"]
    ase.io.write(tmp_path / "molecules.xyz", made, format="extxyz")
    return tmp_path / "molecules.xyz"


def test_three_files_carry_a_new_target_from_a_file_to_export(extended: Path, molecules: Path) -> None:
    assert len(CHANGED | ADDED) <= 3
    settings = [
        *("data=extxyz", f"data.path={molecules}", "data.pack=always", "data.check=false", "data.batch_size=4"),
        *("model=hipnn_moments", "model.n_features=16", "model.n_sensitivities=8", "loss=moments", "optimizer.lr=1e-2"),
        *("trainer.max_epochs=15", "trainer.accelerator=cpu", "callbacks=none", "run_dir=run"),
    ]
    start = "import sys; from hiphop_train.cli import train_main; train_main()"
    environment = {**os.environ, "PYTHONPATH": str(extended), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", start, *settings]
    done = subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "magmoms of 59 of 60" in done.stdout
    assert re.search(r"epoch +15 .* magmoms 0\.\d+ mu_B", done.stdout)
    assert "magmoms, mu_B" in done.stdout

    errors = json.loads((extended / "run" / "metrics.json").read_text())["errors"]["test"]["magmoms"]
    assert errors["n"] == 6 * 6
    assert errors["mae"] < 0.2
    assert f"{errors['mae']:.4f} / {errors['rmse']:.4f}" in done.stdout
    assert "val/magmoms_rmse" in (extended / "run" / "metrics.csv").read_text()
    file = extended / "run" / "model.pt"
    assert verify(file).agrees
    answer = load(file).golden[1]
    assert answer["magmoms"].shape == answer["species"].shape


def test_files_that_know_a_target_by_its_name() -> None:
    """Of the dipole: record, term of the loss and readout; and where files and ASE name it. Others go by records."""
    found = {
        str(path.relative_to(ROOT / "hiphop_train"))
        for path in (ROOT / "hiphop_train").rglob("*.py")
        if re.search(r"[\"']dipole[\"']", path.read_text())
    }
    readers = {f"data/formats/{name}.py" for name in ("collector", "ase_files", "ani1x")}
    assert found == {"targets.py", "training/losses.py", "readout/charges.py", "interfaces/ase.py", *readers}
