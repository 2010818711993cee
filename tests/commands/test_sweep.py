"""hiphop-train --multirun: real processes; a failed job does not stop the others, a signal stops the sweep."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hiphop_train.commands.sweep import expand
from hiphop_train.errors import ConfigError
from tests.commands.conftest import FAST, Run

COMMAND = [sys.executable, "-m", "hiphop_train.cli", "--multirun"]
SMALL = [*FAST, "model=hipnn", "trainer.limit_train_batches=2", "data/split=random"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def sweep(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a sweep from here, in a folder of its own; its jobs are other processes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda *arguments: run("train", "--multirun", *arguments)


def status(run_dir: Path) -> str:
    return str(json.loads((run_dir / "metrics.json").read_text())["status"])


def test_jobs_are_all_combinations() -> None:
    jobs = expand(["model=hiphop,hipnn", "seed=range(2)", "data=tiny", "+trainer.profiler=null"])
    assert [job.name for job in jobs] == [
        f"model={model} seed={seed}" for model in ("hiphop", "hipnn") for seed in (0, 1)
    ]
    assert jobs[1].overrides == ["model=hiphop", "seed=1", "data=tiny", "+trainer.profiler=null"]
    assert {job.overrides[0] for job in expand(["model=glob(hipnn*)"])} == {"model=hipnn", "model=hipnn_ts"}
    assert [job.name for job in expand(["model.elements=[H,C]"])] == ["model.elements=[H,C]"]  # a list is one value
    for override, problem in (("seed=interval(0,1)", "needs discrete values"), ("a=b(", "cannot be read")):
        with pytest.raises(ConfigError, match=problem):
            expand([override])
    with pytest.raises(ConfigError, match="gives no values"):
        expand(["model=glob(nothing*)"])


def test_failed_jobs_do_not_stop_the_others(tmp_path: Path, sweep: Run) -> None:
    """One is refused when composed, one crashes in Lightning, one ends well."""
    code, out, err = sweep(*SMALL, "trainer.val_check_interval=[1],1000,1.0", "run_dir=sweep")
    assert code == 2, err  # of the first that failed
    finished = [path for path in (tmp_path / "sweep").iterdir() if (path / "metrics.json").is_file()]
    assert [status(path) for path in finished] == ["completed"]
    assert "job 3 of 3: trainer.val_check_interval=1.0" in out
    assert "1 of 3 jobs done" in out
    refused, crashed = (line for line in err.splitlines() if line.startswith("failed"))
    assert "=[1] (exit code 2): override 'trainer.val_check_interval=[1]': trainer.val_check_interval" in refused
    assert "=1000 (exit code 1): ValueError" in crashed
    assert "Traceback" in err  # of the crash, as it came


def test_each_job_has_its_own_directory(tmp_path: Path, sweep: Run) -> None:
    code, out, err = sweep(*SMALL, "seed=0,1")
    assert code == 0, err
    runs = sorted((tmp_path / "runs").iterdir())
    assert len(runs) == 2
    assert all(path.name.startswith("tiny-hipnn-") and status(path) == "completed" for path in runs)
    assert "2 of 2 jobs done" in out
    (compare,) = [line.split() for line in out.splitlines() if line.startswith("compare")]
    assert sorted(compare[2:]) == [f"runs/{path.name}" for path in runs]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    code, out, _ = sweep(*SMALL, "seed=0,1", "--print-run-dir")
    assert code == 0
    assert sorted(out.split()) == [str(path) for path in runs]
    code, out, err = sweep(*SMALL, "seed=0,-1", "--print-run-dir")
    assert code == 2
    assert out.splitlines() == [str(path) for path in runs if path.name in out]
    assert err.startswith("error: override 'seed=-1'")


def begin(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start a sweep, and wait until its first job has gone through an epoch."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 200
    while not list(folder.glob("sweep/*/checkpoints/last.ckpt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def test_interrupt_ends_the_job_cleanly_and_the_sweep(tmp_path: Path) -> None:
    with begin(tmp_path, *SMALL, "seed=0,1", "trainer.max_epochs=1000", "run_dir=sweep") as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=150)
    assert process.returncode == 130, err
    (run,) = (tmp_path / "sweep").iterdir()
    assert status(run) == "stopped"
    assert "SIGINT: stopping after this step" in err
    assert "not started seed=1" in err
    assert "0 of 2 jobs done" in out


def test_killed_job_is_named_and_the_next_ones_run(tmp_path: Path) -> None:
    with begin(tmp_path, *SMALL, "trainer.max_epochs=1000,1,-5", "run_dir=sweep") as process:
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 137, err
    assert [status(path.parent) for path in (tmp_path / "sweep").glob("*/metrics.json")] == ["completed"]
    assert "failed     trainer.max_epochs=1000 (exit code 137): killed by SIGKILL" in err
    assert "failed     trainer.max_epochs=-5 (exit code 2): override 'trainer.max_epochs=-5'" in err
    assert "1 of 3 jobs done" in out


def test_what_is_wrong_with_all_jobs_is_one_message(tmp_path: Path, sweep: Run) -> None:
    code, out, err = sweep("model=hiphop,hipnn", "seed=0,1", "model.cuttoff=5")
    assert code == 2
    assert err.startswith("error: override 'model.cuttoff=5'")
    assert "did you mean 'cutoff'?" in err
    assert err.count("error:") == 1
    assert "job 1" not in out
    assert not list(tmp_path.iterdir())


def test_configurations_of_all_jobs_are_printed(tmp_path: Path, sweep: Run) -> None:
    code, out, err = sweep("--cfg", "job", "model=hiphop,hipnn", "seed=7")
    assert code == 0, err
    for name in ("hiphop.HIPHOP", "hipnn.HIPNN"):
        assert f"_target_: hiphop_train.models.{name}\n" in out
    assert out.count("\nseed: 7\n") == 2
    assert not list(tmp_path.iterdir())
