"""What a start finds of an earlier one may be missing, empty, cut or garbage; nothing begins silently anew."""

import csv
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hiphop_train import cli, files
from hiphop_train.checkpoint import to_bytes
from hiphop_train.commands import train as train_command
from hiphop_train.training.module import PotentialModule
from tests.commands.conftest import FAST, Run

COMMON = [*FAST, "model=hipnn", "dtype=float64", "trainer.max_epochs=3", "trainer.limit_train_batches=3"]
Fault = Callable[[Path], None]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_text("no, not this\n" * 40)


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 20)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def missing(path: Path) -> None:
    path.unlink()


FAULTS = [empty, cut, garbage, binary, flipped, missing]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs."""
    return begun(tmp_path_factory.mktemp("whole") / "run", 3)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, killed after two epochs: no results yet."""
    return begun(tmp_path_factory.mktemp("half") / "run", 2)


def begun(run_dir: Path, epochs: int) -> Path:
    """A training of three epochs, which a failure ends after some."""

    class PowerFailure(BaseException):
        pass

    def fail(self: PotentialModule, *arguments: object) -> torch.Tensor:
        if self.trainer.current_epoch == epochs:
            raise PowerFailure
        return original(self, *arguments)  # type: ignore[arg-type]

    original = PotentialModule.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PotentialModule, "training_step", fail)
        with suppress(PowerFailure):
            assert cli.run("train", [*COMMON, f"run_dir={run_dir}"]) == 0
    return run_dir


@pytest.fixture
def broken(half: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(half, tmp_path / "run"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings end without evaluation."""
    monkeypatch.setattr(train_command, "finish", lambda *arguments: {})


def same_end(run_dir: Path, whole: Path) -> None:
    """The last state and metrics.csv are those of an unbroken training, bit by bit."""
    found, expected = (torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (run_dir, whole))
    assert found["global_step"] == expected["global_step"] == 9
    for key in ("state_dict", "current_model_state"):
        for name, value in expected[key].items():
            assert torch.equal(found[key][name], value), name
    rows = [list(csv.DictReader((path / "metrics.csv").read_text().splitlines())) for path in (run_dir, whole)]
    assert rows[0] == rows[1]
    leftovers = [path.name for path in run_dir.rglob(".*")]
    assert leftovers == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_last_state_is_replaced_by_the_one_before(fault: Fault, broken: Path, whole: Path, run: Run) -> None:
    last = broken / "checkpoints" / "last.ckpt"
    fault(last)
    code, out, err = run("train", *COMMON, f"run_dir={broken}")
    assert code == 0
    (line,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert str(last) in line
    assert "the training goes on from previous.ckpt (epoch 1, step 3)" in line or "best.ckpt" in line
    assert "resumes" in out
    assert last.with_name("last.ckpt.damaged").exists() == (fault is not missing)
    same_end(broken, whole)


@pytest.mark.usefixtures("quick")
def test_the_best_state_is_resumed_exactly_where_no_other_is_left(broken: Path, whole: Path, run: Run) -> None:
    for name in ("last.ckpt", "previous.ckpt"):
        cut(broken / "checkpoints" / name)
    code, _, err = run("train", *COMMON, f"run_dir={broken}")
    assert code == 0
    assert "goes on from best.ckpt" in err
    same_end(broken, whole)


@pytest.mark.parametrize("fault", [empty, binary, missing])
def test_without_a_good_state_nothing_begins_anew(fault: Fault, broken: Path, run: Run) -> None:
    for path in (broken / "checkpoints").iterdir():
        fault(path)
    before = {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    code, _, err = run("train", *COMMON, f"run_dir={broken}")
    assert code == 4
    assert "resume=never" in err
    assert {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", FAULTS)
def test_metrics_csv_is_written_again_from_the_checkpoint(fault: Fault, broken: Path, whole: Path, run: Run) -> None:
    fault(broken / "metrics.csv")
    code, _, err = run("train", *COMMON, f"run_dir={broken}")
    assert code == 0
    if fault is not flipped:  # a digit that is another digit
        assert "metrics.csv" in err
        assert "written again from the checkpoint" in err
        same_end(broken, whole)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["config.yaml", "splits.npz"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_start_writes_again_may_be_damaged(name: str, fault: Fault, broken: Path, whole: Path, run: Run) -> None:
    fault(broken / name)
    assert run("train", *COMMON, f"run_dir={broken}", "optimizer.lr=0.1")[0] == 2  # never another configuration
    assert run("train", *COMMON, f"run_dir={broken}")[0] == 0
    assert yaml.safe_load((broken / "config.yaml").read_text())["optimizer"]["lr"] == 0.002
    with np.load(broken / "splits.npz") as found, np.load(whole / "splits.npz") as expected:
        assert all(np.array_equal(found[key], expected[key]) for key in expected.files)
    same_end(broken, whole)


@pytest.mark.parametrize("fault", [cut, missing, flipped])
def test_results_of_a_completed_run_are_made_again(fault: Fault, whole: Path, tmp_path: Path, run: Run) -> None:
    run_dir = shutil.copytree(whole, tmp_path / "run")
    fault(run_dir / "model.pt")
    state = (run_dir / "checkpoints" / "last.ckpt").read_bytes()
    code, _, err = run("train", *COMMON, f"run_dir={run_dir}")
    assert code == 0
    assert "model.pt" in err
    assert "its results are made again" in err
    assert files.damage(run_dir / "model.pt") is None
    assert (run_dir / "checkpoints" / "last.ckpt").read_bytes() == state
    assert "completed before" in run("train", *COMMON, f"run_dir={run_dir}")[1]


@pytest.mark.usefixtures("quick")
def test_a_lost_best_state_of_a_training_that_goes_on(broken: Path, run: Run) -> None:
    flipped(broken / "checkpoints" / "best.ckpt")
    code, _, err = run("train", *COMMON, f"run_dir={broken}")
    assert code == 0
    assert "the best of the epochs to come takes its place" in err
    assert files.damage(broken / "checkpoints" / "best.ckpt") is None


def test_a_lost_best_state_of_a_completed_run_is_said(whole: Path, tmp_path: Path, run: Run) -> None:
    run_dir = shutil.copytree(whole, tmp_path / "run")
    cut(run_dir / "checkpoints" / "best.ckpt")
    code, _, err = run("train", *COMMON, f"run_dir={run_dir}")
    assert code == 4
    assert "best.ckpt" in err
    assert "last.ckpt" in err
    assert run("eval", f"checkpoint={run_dir}")[0] == 4


def test_a_moved_run_keeps_its_best_score(whole: Path, half: Path, tmp_path: Path, run: Run) -> None:
    run_dir = shutil.copytree(half, tmp_path / "elsewhere" / "run")
    best = (run_dir / "checkpoints" / "best.ckpt").read_bytes()
    last = run_dir / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["callbacks"]["BestCheckpoint"]["score"] = 0.0  # nothing to come is better
    last.write_bytes(to_bytes(content))
    assert run("train", *COMMON, f"run_dir={run_dir}")[0] == 0
    assert (run_dir / "checkpoints" / "best.ckpt").read_bytes() == best
    assert json.loads((run_dir / "metrics.json").read_text())["status"] == "completed"


def test_the_score_of_earlier_versions_is_taken_over(half: Path, tmp_path: Path, run: Run) -> None:
    run_dir = shutil.copytree(half, tmp_path / "run")
    best = (run_dir / "checkpoints" / "best.ckpt").read_bytes()
    last = run_dir / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    del content["callbacks"]["BestCheckpoint"]
    key = "ModelCheckpoint{'monitor': 'val/loss', 'mode': 'min'}"
    content["callbacks"][key] = {"dirpath": "/elsewhere", "best_model_score": torch.tensor(0.0)}
    torch.save(content, last)  # without a seal
    assert run("train", *COMMON, f"run_dir={run_dir}")[0] == 0
    assert (run_dir / "checkpoints" / "best.ckpt").read_bytes() == best
