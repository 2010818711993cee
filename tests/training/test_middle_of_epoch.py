"""A training that is stopped in the middle of an epoch resumes with exactly the remaining batches."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hiphop_train import cli
from hiphop_train.commands import train
from hiphop_train.training.checkpoint_files import LastCheckpoint
from hiphop_train.training.module import PotentialModule
from hiphop_train.training.schedules import _BatchSizeRaiser
from hiphop_train.training.stopping import Stop
from hiphop_train.types import Batch

COMMON = [
    "pictures=false",
    "model=hipnn",
    "model.n_features=4",
    "dtype=float64",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1",
]
ATOMS = ["data.batch_by=atoms", "data.bucket=4", "data.batch_size=200"]
Step = tuple[int, list[int], float]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Epoch, structures and loss of every step; trainings end without evaluation."""
    seen: list[Step] = []
    original = PotentialModule.training_step

    def training_step(self: PotentialModule, batch: Batch, batch_index: int) -> torch.Tensor:
        loss = original(self, batch, batch_index)
        seen.append((self.trainer.current_epoch, batch.sample.tolist(), float(loss.detach())))
        return loss

    monkeypatch.setattr(PotentialModule, "training_step", training_step)
    monkeypatch.setattr(train, "finish", lambda *arguments: {})
    return seen


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Send SIGTERM at the end of a step."""
    original = Stop.on_train_batch_end

    def on_train_batch_end(self: Stop, trainer: Any, *arguments: Any, **more: Any) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, trainer, *arguments, **more)

    monkeypatch.setattr(Stop, "on_train_batch_end", on_train_batch_end)
    return monkeypatch


def epochs(path: Path) -> list[str]:
    with (path / "metrics.csv").open() as file:
        return [row["epoch"] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("stops", "more"),
    [
        ([3], []),
        ([6, 7], ["data.num_workers=2"]),
        ([2, 4, 9], ATOMS),  # 4: between two epochs
        ([5], ["scheduler=plateau", "data.num_workers=1"]),
    ],
)
def test_steps_are_those_of_an_unbroken_training(
    stops: list[int], more: list[str], steps: list[Step], tmp_path: Path
) -> None:
    common = [*COMMON, *more]
    assert cli.run("train", [*common, f"run_dir={tmp_path / 'whole'}"]) == 0
    whole = steps.copy()
    assert [epoch for epoch, *_ in whole] == [0] * 4 + [1] * 4 + [2] * 4
    steps.clear()
    broken = tmp_path / "broken"
    for stop in stops:
        with pytest.MonkeyPatch.context() as patch:
            stop_after(stop, patch)
            assert cli.run("train", [*common, f"run_dir={broken}"]) == 128 + signal.SIGTERM
        assert len(steps) == stop
        assert torch.load(broken / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == stop
    assert cli.run("train", [*common, f"run_dir={broken}"]) == 0
    assert [step[:2] for step in steps] == [step[:2] for step in whole]
    for found, expected in zip(steps, whole, strict=True):
        assert found[2] == pytest.approx(expected[2], rel=1e-10)
    assert epochs(broken) == epochs(tmp_path / "whole") == ["1", "2", "3"]
    states = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "broken")
    ]
    assert states[0]["global_step"] == states[1]["global_step"] == 12
    for key in ("state_dict", "current_model_state"):
        for name, value in states[0][key].items():
            torch.testing.assert_close(states[1][key][name], value, rtol=1e-9, atol=1e-12)


def test_raised_batch_sizes_are_those_of_an_unbroken_training(
    steps: list[Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No validation improves: two epochs of 16, two of 32, then the rate falls. One after a stop must not count."""
    original = _BatchSizeRaiser.__init__

    def never_improves(self: _BatchSizeRaiser, *arguments: Any) -> None:
        original(self, *arguments)
        self.best = 0.0

    monkeypatch.setattr(_BatchSizeRaiser, "__init__", never_improves)
    schedule = ["scheduler=raise_batch_size", "scheduler.patience=1", "scheduler.max_batch_size=32"]
    common = [*COMMON, *schedule, "trainer.max_epochs=5"]
    assert cli.run("train", [*common, f"run_dir={tmp_path / 'whole'}"]) == 0
    whole = steps.copy()
    assert [len(samples) for _, samples, _ in whole] == [16] * 8 + [32] * 12
    steps.clear()
    for stop in (6, 8, 9):  # 8: between the epochs where the size rises
        with pytest.MonkeyPatch.context() as patch:
            stop_after(stop, patch)
            assert cli.run("train", [*common, f"run_dir={tmp_path / 'broken'}"]) == 128 + signal.SIGTERM
    assert cli.run("train", [*common, f"run_dir={tmp_path / 'broken'}"]) == 0
    assert [step[:2] for step in steps] == [step[:2] for step in whole]
    for found, expected in zip(steps, whole, strict=True):
        assert found[2] == pytest.approx(expected[2], rel=1e-10)
    rates = []
    for name in ("whole", "broken"):
        with (tmp_path / name / "metrics.csv").open() as file:
            rates.append([float(row["learning_rate"]) for row in csv.DictReader(file)])
    assert rates[0] == rates[1]
    assert rates[0][-1] == rates[0][0] / 2


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")  # there has been no validation yet
@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # each part has a directory of its own
def test_last_state_is_kept_where_max_steps_ends_within_an_epoch(steps: list[Step], tmp_path: Path) -> None:
    """A longer training resumes from it, with the remaining batches."""
    assert cli.run("train", [*COMMON, f"run_dir={tmp_path / 'whole'}"]) == 0
    whole = steps.copy()
    steps.clear()
    for stop, more in ((2, []), (7, [f"resume={tmp_path / '2'}"]), (12, [f"resume={tmp_path / '7'}"])):
        arguments = [*COMMON, f"trainer.max_steps={stop}", f"run_dir={tmp_path / str(stop)}", *more]
        assert cli.run("train", arguments) == 0
        last = torch.load(tmp_path / str(stop) / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] == len(steps) == stop
        assert last["DataModule"]["position"] == (stop % 4 or 4)
    assert [step[:2] for step in steps] == [step[:2] for step in whole]


STOP_ONE_RANK = """
import json, os, signal, sys
from hiphop_train import cli
from hiphop_train.commands import train
from hiphop_train.training.stopping import Stop

original = Stop.on_train_batch_end

def on_train_batch_end(self, trainer, *arguments, **more):
    if trainer.global_step == int(os.environ["STOP"]) and trainer.global_rank == int(os.environ["STOPPED_RANK"]):
        os.kill(os.getpid(), signal.SIGTERM)
    original(self, trainer, *arguments, **more)

def finish(run_dir, data, summary, *more):
    (run_dir / "metrics.json").write_text(json.dumps(summary))
    return {}

Stop.on_train_batch_end = on_train_batch_end
train.finish = finish
sys.exit(cli.run("train", sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_ranks_resume_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """Whichever rank the signal reaches, all stop and say so; the weights at the end are those without a stop."""
    script = tmp_path / "train.py"
    script.write_text(STOP_ONE_RANK)
    common = [*COMMON, *ATOMS, "trainer.max_epochs=2", "trainer.devices=2", "trainer.strategy=ddp"]

    def start(name: str, stop: int, rank: int) -> int:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "STOP": str(stop), "STOPPED_RANK": str(rank)}
        command = [sys.executable, str(script), *common, f"run_dir={tmp_path / name}"]
        return subprocess.run(command, env=environment, timeout=120).returncode

    def last(name: str) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        return state

    assert start("whole", -1, 0) == 0
    for stop, rank in ((3, 1), (6, 0)):
        assert start("broken", stop, rank) == 128 + signal.SIGTERM
        assert json.loads((tmp_path / "broken" / "metrics.json").read_text())["status"] == "stopped"
        assert last("broken")["global_step"] == stop
    assert start("broken", -1, 0) == 0
    whole, broken = last("whole"), last("broken")
    assert whole["global_step"] == broken["global_step"] == 8
    for key in ("state_dict", "current_model_state"):
        assert whole[key].keys() == broken[key].keys()
        for name, value in whole[key].items():
            torch.testing.assert_close(broken[key][name], value, rtol=1e-12, atol=1e-12)


def test_states_within_an_epoch_are_kept_for_a_machine_that_fails(
    steps: list[Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved from time to time: here after every step. The machine fails in the third of an epoch."""
    original = LastCheckpoint.__init__
    monkeypatch.setattr(LastCheckpoint, "__init__", lambda self, path: original(self, path, minutes=0.0))
    assert cli.run("train", [*COMMON, f"run_dir={tmp_path / 'whole'}"]) == 0
    whole = steps.copy()
    steps.clear()
    with pytest.MonkeyPatch.context() as patch:
        original_step = PotentialModule.training_step

        def fail(self: PotentialModule, batch: Batch, batch_index: int) -> torch.Tensor:
            if self.trainer.global_step == 6:
                raise RuntimeError("power failure")
            return original_step(self, batch, batch_index)

        patch.setattr(PotentialModule, "training_step", fail)
        with pytest.raises(RuntimeError, match="power failure"):
            cli.run("train", [*COMMON, f"run_dir={tmp_path / 'broken'}"])
    assert cli.run("train", [*COMMON, f"run_dir={tmp_path / 'broken'}"]) == 0
    assert [step[:2] for step in steps] == [step[:2] for step in whole]


def test_overfitting_takes_the_same_batches_in_all_epochs(steps: list[Step], tmp_path: Path) -> None:
    arguments = ["debug=overfit", "model=hipnn", "model.n_features=4", "trainer.accelerator=cpu"]
    assert cli.run("train", [*arguments, "trainer.max_epochs=3", f"run_dir={tmp_path / 'run'}"]) == 0
    batches = [samples for _, samples, _ in steps]
    assert len(batches) == 6
    assert batches[0] != batches[1]
    assert batches[0:2] == batches[2:4] == batches[4:6]
