"""sweep=optuna: a search that is killed goes on; what is hopeless is ended; the best is a command."""

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from hiphop_train.commands import search as module
from hiphop_train.commands.search_space import Varied
from hiphop_train.commands.search_trials import Trials
from hiphop_train.config import parse_overrides
from tests.commands.conftest import FAST, Run

COMMAND = [sys.executable, "-m", "hiphop_train.cli"]


class Curves(Trials):
    """Trainings whose validation errors are a function of the rate: an epoch each time one is asked after it.

    Parameters
    ----------
    folder : of the sweep
    train, settings : not used
    """

    started: list[int]
    dies_after = 10**9

    def __init__(self, folder: Path, *_: Any) -> None:
        self.folder, self.started, self.code = folder, [], {}
        self.rates: dict[int, float] = {}
        self.asked = 0

    def start(self, number: int, overrides: list[str]) -> None:
        """Take the rate."""
        self.started.append(number)
        words = dict(word.split("=", 1) for word in overrides)
        self.rates[number] = float(words["optimizer.lr"])
        (self.folder / f"trial_{number:03d}").mkdir(exist_ok=True)

    def ended(self, number: int) -> tuple[int, str] | None:
        """Add an epoch."""
        self.asked += 1
        if self.asked > self.dies_after:
            raise KeyboardInterrupt
        if number in self.code:
            return self.code[number], "ended"
        if self.rates[number] > 0.05:
            return 5, "the training diverges"
        file = self.folder / f"trial_{number:03d}" / "metrics.csv"
        rows = list(csv.reader(file.read_text().splitlines())) if file.is_file() else [["epoch", "val/error"]]
        epoch = len(rows)
        rows.append([str(epoch), str(1 + abs(np.log10(self.rates[number] / 1e-3)) + 1 / epoch)])
        file.write_text("\n".join(",".join(row) for row in rows) + "\n")
        if epoch == 8:
            self.code[number] = 0
        return None

    def end(self, number: int) -> None:
        """End it as SIGTERM does."""
        self.code[number] = 143

    def stop(self) -> None:
        """Nothing runs."""


LOG = "optimizer.lr=tag(log,interval(1e-5,1e-1))"


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> list[Curves]:
    """Searches whose trainings are curves, without waiting; returns what they started."""
    made: list[Curves] = []

    def make(folder: Path, *more: Any) -> Curves:
        made.append(Curves(folder, *more))
        return made[-1]

    monkeypatch.setattr(module, "Local", make)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return made


def trials(folder: Path) -> list[Any]:
    return list(optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder / 'study.db'}").trials)


def go(folder: Path, *more: str) -> int:
    words = ["sweep=optuna", "model=hipnn", LOG, "model.n_features=8,16", f"run_dir={folder}", *more]
    return module.search(words, lambda overrides: (0, ""))


def test_the_best_is_found_and_the_hopeless_ended(
    curves: list[Curves], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert go(tmp_path / "a", "sweep.trials=25", "sweep.patience=3") == 0
    found = trials(tmp_path / "a")
    states = [trial.state.name for trial in found]
    assert len(found) == 25
    assert states.count("PRUNED") > 3
    assert "COMPLETE" in states
    out = capsys.readouterr().out
    best = next(line for line in out.splitlines() if line.startswith("best ")).removeprefix("best       ")
    words = shlex.split(best)
    assert words[:2] == ["hiphop-train", "model=hipnn"]
    rate = float(next(word for word in words if word.startswith("optimizer.lr=")).partition("=")[2])
    assert 2e-4 < rate < 5e-3
    assert best in (tmp_path / "a" / "best.sh").read_text()
    rows = list(csv.DictReader((tmp_path / "a" / "sweep.csv").read_text().splitlines()))
    assert len(rows) == 25
    assert {row["state"] for row in rows} >= {"done", "ended early"}
    assert (tmp_path / "a" / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_search_goes_on_where_it_was(curves: list[Curves], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted anywhere: the same trials as an unbroken one, none twice; then more where more are asked for."""
    assert go(tmp_path / "whole", "sweep.trials=4", "sweep.pruner=none") == 0
    monkeypatch.setattr(Curves, "dies_after", 9)
    starts = 0
    while True:
        starts += 1
        try:
            assert go(tmp_path / "broken", "sweep.trials=4", "sweep.pruner=none") == 0
            break
        except KeyboardInterrupt:
            continue
    assert starts > 2
    one, other = trials(tmp_path / "whole"), trials(tmp_path / "broken")
    assert [trial.params for trial in one] == [trial.params for trial in other]
    assert [trial.state for trial in one] == [trial.state for trial in other]
    monkeypatch.setattr(Curves, "dies_after", 10**9)
    assert go(tmp_path / "broken", "sweep.trials=5", "sweep.pruner=none") == 0
    assert curves[-1].started == [4]
    assert go(tmp_path / "broken", "sweep.trials=5", "sweep.pruner=none") == 0
    assert curves[-1].started == []


def test_several_run_at_a_time(curves: list[Curves], tmp_path: Path) -> None:
    assert go(tmp_path / "a", "sweep.trials=7", "sweep.parallel=3") == 0
    assert sorted(curves[0].started) == list(range(7))
    assert len(trials(tmp_path / "a")) == 7


def test_another_space_is_refused_in_the_same_folder(curves: list[Curves], tmp_path: Path, run: Run) -> None:
    assert go(tmp_path / "a", "sweep.trials=1") == 0
    code, _, err = run("train", "sweep=optuna", "model=hipnn", LOG, f"run_dir={tmp_path / 'a'}")
    assert code == 4
    assert "stored model.n_features=8,16" in err
    assert "another folder" in err
    (tmp_path / "a" / "study.db").write_bytes(b"nothing of the kind" * 100)
    code, _, err = run("train", "sweep=optuna", "model=hipnn", LOG, f"run_dir={tmp_path / 'a'}")
    assert code == 4
    assert "cannot be read as a study" in err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["nothing to vary", "model.n_features=32,64,128"]),
        (["model.n_featurs=8,16"], ["unknown key 'n_featurs'", "did you mean 'n_features'"]),
        (["model.n_features=8,0"], ["model.n_features", "got 0"]),
        (["optimizer.lr=interval(1,1)"], ["the range is empty"]),
        (["optimizer.lr=tag(log,interval(0,1))"], ["above 0"]),
        (["seed=0,1", "submit=slurm"], ["excludes submit", "hydra/launcher=slurm"]),
        (["seed=0,1", "sweep.trials=0"], ["sweep.trials", "got 0"]),
        (["seed=0,1", "sweep.pruner=axe"], ["sweep.pruner", "'median'"]),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    words: list[str], parts: list[str], tmp_path: Path, run: Run
) -> None:
    code, _, err = run("train", "sweep=optuna", f"run_dir={tmp_path / 'a'}", *words)
    assert code == 2, err
    assert all(part in err for part in parts), err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=1,2", Varied("a", "a=1,2", ("1", "2"))),
        ("a=range(8,65,8)", Varied("a", "a=range(8,65,8)", (), 8, 64, 8)),
        ("a=interval(1,9)", Varied("a", "a=interval(1,9)", (), 1, 9)),
        ("a=interval(1.0,9)", Varied("a", "a=interval(1.0,9)", (), 1.0, 9.0)),
        ("a=tag(log,interval(1e-4,1e-2))", Varied("a", "a=tag(log,interval(1e-4,1e-2))", (), 1e-4, 1e-2, None, True)),
    ],
)
def test_ranges_are_read_as_written(word: str, expected: Varied) -> None:
    assert Varied.of(parse_overrides([word])[0]) == expected


def test_real_trainings_survive_a_kill_and_a_failure(tmp_path: Path) -> None:
    """SIGKILL of the search ends its training too, which goes on with the same command; one of two rates diverges."""
    folder = tmp_path / "sweep"
    words = [*FAST, "model=hipnn", "~debug", "trainer.max_epochs=8", "trainer.limit_train_batches=3"]
    words += ["trainer.limit_val_batches=1", "optimizer.lr=1e-3,1e30", "sweep.sampler=random", "sweep.trials=3"]
    command = [*COMMAND, "sweep=optuna", *words, "sweep.parallel=2", f"run_dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        deadline = time.monotonic() + 100
        while not list(folder.glob("trial_*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    while running(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(folder)
    assert any(trial.state.name == "RUNNING" for trial in trials(folder))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    found = trials(folder)
    assert len(found) == 3
    assert {trial.state.name for trial in found} == {"COMPLETE", "FAIL"}
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rate is too high" in next(trial.user_attrs["problem"] for trial in found if trial.state.name == "FAIL")
    assert "Traceback" not in done.stderr
    assert (folder / f"trial_{next(t.number for t in found if t.state.name == 'COMPLETE'):03d}" / "model.pt").is_file()


def running(folder: Path) -> list[str]:
    """Processes with the folder in their command line."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line and "trial_" in line]
