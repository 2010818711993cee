"""The Python API, and the examples of README and docs/api.md as they stand there."""

import logging
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import hiphop_train
from hiphop_train import CheckpointError, ConfigError, DataError, HipHopCalculator, graph_from_atoms, load, train
from hiphop_train.commands.quiet import quiet

ROOT = Path(__file__).resolve().parents[2]


def examples(page: Path) -> list[str]:
    """Return the indented blocks of a page that use the package in Python."""
    blocks: list[str] = []
    inside = False
    for line in page.read_text().splitlines():
        is_code = line.startswith("    ") or (inside and not line)
        if is_code and not inside:
            blocks.append("")
        if is_code:
            blocks[-1] += line.removeprefix("    ") + "\n"
        inside = is_code
    return [block for block in blocks if "import hiphop_train" in block or "from hiphop_train import" in block]


@pytest.mark.parametrize(("page", "count"), [("README.md", 1), ("docs/api.md", 2), ("docs/using.md", 1)])
def test_examples_run_as_they_stand(
    page: str, count: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUN is a run directory of the folder that the examples are started in."""
    (tmp_path / "RUN").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    found = examples(ROOT / page)
    assert len(found) == count
    for block in found:
        exec(compile(block, page, "exec"), {})


def test_readme_s_calculator_and_potential_agree(trained: Path) -> None:
    atoms = molecule("CH3CH2OH")
    potential = load(trained)
    outputs = potential(graph_from_atoms(atoms, potential))
    atoms.calc = HipHopCalculator(trained / "model.pt")
    assert outputs["energy"].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    torch.testing.assert_close(outputs["forces"].double(), torch.from_numpy(atoms.get_forces()), rtol=1e-4, atol=1e-4)


def test_graph_of_a_batch_is_that_of_its_structures(trained: Path) -> None:
    potential = load(trained).double()
    structures = [bulk("C"), molecule("H2O"), Atoms("N", [[0.3, 0.1, 0.2]])]
    both = potential(graph_from_atoms(structures, potential))
    for k, atoms in enumerate(structures):
        one = potential(graph_from_atoms(atoms, potential))
        torch.testing.assert_close(one["energy"][0], both["energy"][k], rtol=0, atol=1e-9)
    with pytest.raises(DataError, match=r"unknown elements: Cl, Na; this potential has H, C, N, O"):
        graph_from_atoms(bulk("NaCl", "rocksalt", a=5.6), potential)
    with pytest.raises(DataError, match="no structures"):
        graph_from_atoms([], potential)


def test_files_that_cannot_be_loaded(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"model\.pt is an exported potential; give the run directory"):
        load(trained / "model.pt")


def test_mistakes_are_raised_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'cutoff'"):
        train(["model.cuttoff=5"])
    with pytest.raises(ConfigError, match="'3' is not a setting; settings are given as KEY=VALUE"):
        train(["3"])
    assert not list(tmp_path.iterdir())


def test_import_does_nothing() -> None:
    code = "import sys, hiphop_train; print([name for name in sys.modules if name.startswith(('hiphop', 'torch'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['hiphop_train']\n"


def test_names() -> None:
    for name in hiphop_train.__all__:
        value = getattr(hiphop_train, name)
        assert not isinstance(value, ModuleType), name  # nor does importing a module hide one
        assert name == "__version__" or value.__doc__
    assert set(hiphop_train.__all__) <= set(dir(hiphop_train))
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = hiphop_train.lod


def test_silence_ends_with_the_training() -> None:
    logger = logging.getLogger("lightning.pytorch")
    level, filters = logger.level, list(warnings.filters)
    with quiet():
        assert logger.level == logging.WARNING
        warnings.warn("The loader does not have many workers", stacklevel=1)
        with pytest.raises(UserWarning, match="unexpected"):
            warnings.warn("unexpected", stacklevel=1)
    assert logger.level == level
    assert list(warnings.filters) == filters
