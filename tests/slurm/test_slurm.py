"""Trainings on a real Slurm of one machine, which scripts/slurm/cluster.sh installs and starts.

One job goes through what happens to jobs, in turn: it is requeued in mid-training, its time ends, its node goes down;
at the end it is bit by bit what an undisturbed training is. Then arrays, two tasks, sweeps and refusals.
"""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hiphop_train import cli
from hiphop_train.export.torchscript import load

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "scripts" / "slurm" / "cluster.sh"
TRAIN = ROOT / "scripts" / "slurm" / "train.sbatch"
SMALL = ["model=hipnn", "model.n_features=4", "dtype=float64", "trainer.accelerator=cpu", "callbacks=none"]
LONG = [*SMALL, "trainer.max_epochs=400", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"]
SHORT = [*SMALL, "trainer.max_epochs=2", "trainer.limit_train_batches=4"]
JOB = ["--gpus-per-node=0", "--cpus-per-task=1", "--time=10"]

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("slurm")]  # one cluster


class Slurm:
    """The cluster, and what is printed of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "SLURM_CONF": str(folder / "cluster" / "slurm.conf"),
            "HIPHOP_VENV": sys.prefix,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        self.begun = time.monotonic()

    def call(self, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of Slurm, or of ours, as a user would."""
        return subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            cwd=cwd or self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def say(self, line: str) -> None:
        """Print what happened, and when."""
        print(f"{time.monotonic() - self.begun:6.1f} s  {line}", flush=True)

    def submit(self, *words: str | Path) -> str:
        """Submit the job script and return the job's number."""
        done = self.call("sbatch", "--parsable", *JOB, *words)
        assert done.returncode == 0, done.stderr
        self.say(f"job {done.stdout.strip()}: sbatch {' '.join(str(word) for word in words)[:100]}")
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """Return what scontrol says of a job."""
        return dict(re.findall(r"(\w+)=(\S+)", self.call("scontrol", "show", "job", number).stdout))

    def wait(self, what: str, holds: Any, seconds: float = 240.0) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                logs = "".join(path.read_text()[-3000:] for path in self.folder.glob("slurm-*.out"))
                raise AssertionError(f"{what}: not within {seconds} s\n{self.call('squeue').stdout}\n{logs}")
            time.sleep(0.2)
        self.say(what)

    def ended(self, number: str) -> bool:
        """Whether a job will not run any more."""
        return self.job(number).get("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A cluster of one machine, with four processors for its jobs."""
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([CLUSTER, "start", folder / "cluster"], capture_output=True, text=True, timeout=300)
    try:
        assert started.returncode == 0, started.stderr
        yield Slurm(folder)
    finally:
        subprocess.run([CLUSTER, "stop", folder / "cluster"], timeout=60)


def state(run_dir: Path, name: str = "last.ckpt") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run_dir / "checkpoints" / name, weights_only=True)
    return content


def steps(run_dir: Path) -> int:
    """Steps of the last saved state; none where there is no state yet."""
    try:
        return int(state(run_dir)["global_step"])
    except (OSError, RuntimeError):
        return 0


def differences(one: Path, other: Path) -> int:
    """Number of tensors, numbers and outputs that differ.

    The mean loss of an epoch that was broken off is that of its last part, so it is left out.
    """
    rows = [list(csv.DictReader((path / "metrics.csv").read_text().splitlines())) for path in (one, other)]
    found = sum(a[key] != b[key] for a, b in zip(*rows, strict=True) for key in a if key != "train/loss")
    for name in ("last.ckpt", "best.ckpt"):
        states = [state(path, name) for path in (one, other)]
        for key, value in states[0]["state_dict"].items():
            found += not torch.equal(states[1]["state_dict"][key], value)
        moments = [content["optimizer_states"][0]["state"] for content in states]
        for key, values in moments[0].items():
            found += sum(not torch.equal(moments[1][key][name], value) for name, value in values.items())
    models = [load(path / "model.pt") for path in (one, other)]
    for answer in models[0].golden:
        given = [answer[key] for key in ("species", "positions", "cell", "pbc")]
        outputs = [model.energy_forces(*given) for model in models]
        found += sum(not torch.equal(outputs[1][key], value) for key, value in outputs[0].items())
    return found


def status(run_dir: Path) -> str:
    return str(json.loads((run_dir / "metrics.json").read_text())["status"])


def test_a_job_survives_what_happens_to_jobs(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print()
        run_dir, whole, array, pair = (slurm.folder / name for name in ("disturbed", "undisturbed", "array", "pair"))
        number = slurm.submit(TRAIN, *LONG, f"run_dir={run_dir}")
        command = [sys.executable, "-m", "hiphop_train.cli", *LONG, f"run_dir={whole}"]
        reference = subprocess.Popen(command, env=slurm.environment, stdout=subprocess.DEVNULL)

        slurm.wait("its first states are saved", lambda: steps(run_dir) > 100)
        slurm.call("scontrol", "requeue", number)
        slurm.wait("requeued; runs again", lambda: slurm.job(number)["Restarts"] == "1" and runs(slurm, number))
        before = steps(run_dir)
        slurm.wait("and goes on", lambda: steps(run_dir) > before + 50)

        slurm.call("scontrol", "update", f"job={number}", "timelimit=1")
        slurm.wait("its time is up: saved, back in the queue, runs again", lambda: slurm.job(number)["Restarts"] == "2")
        slurm.call("scontrol", "update", f"job={number}", "timelimit=10")
        log = (slurm.folder / f"slurm-{number}.out").read_text()
        assert "stopped with exit code 143 and saved in" in log
        before = steps(run_dir)
        slurm.wait("and goes on", lambda: steps(run_dir) > before + 50)

        node = slurm.job(number)["NodeList"]
        slurm.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        slurm.wait("its node is down: back in the queue", lambda: slurm.job(number)["JobState"] == "PENDING")
        # A node that comes back with a job's old step still running refuses the job, which Slurm then holds.
        slurm.wait("nothing of it runs there", lambda: not has_steps(number))
        slurm.call("scontrol", "update", f"nodename={node}", "state=resume")
        tasks = slurm.submit("--array=0-1", TRAIN, *SHORT, f"run_dir={array}")
        slurm.wait("has ended", lambda: slurm.ended(number))
        assert slurm.job(number)["ExitCode"] == "0:0", (slurm.folder / f"slurm-{number}.out").read_text()[-3000:]
        assert slurm.job(number)["Restarts"] == "3"
        assert reference.wait(timeout=300) == 0
        assert status(run_dir) == status(whole) == "completed"
        found = differences(run_dir, whole)
        slurm.say(f"tensors, numbers and outputs that differ from those of an undisturbed training: {found}")
        assert found == 0
        assert not list(run_dir.rglob(".*"))

        two = slurm.submit("--ntasks-per-node=2", TRAIN, *SHORT, f"run_dir={pair}", "trainer.strategy=ddp")
        alone = slurm.folder / "alone"
        assert slurm.call(sys.executable, "-m", "hiphop_train.cli", *SHORT, f"run_dir={alone}").returncode == 0
        slurm.wait(
            f"array {tasks} and job {two} of two tasks have ended", lambda: slurm.ended(two) and not queued(slurm)
        )
        assert [status(array / f"seed{seed}") for seed in (0, 1)] == ["completed"] * 2
        assert differences(array / "seed0", alone) == 0
        assert differences(array / "seed1", alone) > 0
        one, other = (state(path)["state_dict"] for path in (alone, pair))
        largest = max(float((one[name] - other[name]).abs().max()) for name in one)
        slurm.say(f"weights of two tasks differ from those of one process by at most {largest:.1e}")
        assert largest < 1e-10


def runs(slurm: Slurm, number: str) -> bool:
    return slurm.job(number)["JobState"] == "RUNNING"


def has_steps(number: str) -> bool:
    return subprocess.run(["pgrep", "-f", rf"slurmstepd: \[{number}\."], stdout=subprocess.DEVNULL).returncode == 0


def queued(slurm: Slurm) -> bool:
    return bool(slurm.call("squeue", "--noheader").stdout.strip())


def here(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str]:
    """Run our command in this process, which saves the start of Python; return exit code and standard error."""
    for name in ("SLURM_CONF", "HIPHOP_VENV", "PYTHONPATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.chdir(slurm.folder)
    capfd.readouterr()
    code = cli.run("train", list(words))
    return code, capfd.readouterr().err


def test_what_cannot_run_is_refused(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tasks that do not match devices, with the line to write; wrong settings, before anything is submitted."""
    number = slurm.submit("--ntasks-per-node=3", TRAIN, *SHORT, "trainer.devices=2", f"run_dir={slurm.folder / 'x'}")
    slurm.wait("three tasks for two devices: refused", lambda: slurm.ended(number))
    log = (slurm.folder / f"slurm-{number}.out").read_text()
    assert "3 tasks for 2 devices on each of 1 nodes" in log
    assert "Make --ntasks-per-node and --gpus-per-node the same." in log
    for wrong, said in (
        (["model.n_feature=4"], "did you mean 'n_features'"),
        (["submit.time=soon"], "submit.time"),
        (["submit.nods=2"], "did you mean 'nodes'"),
        (['submit.options=["--partition=none"]'], "sbatch refuses the job"),
        (["submit.tasks_per_node=3"], "one task per GPU"),
    ):
        code, err = here(slurm, monkeypatch, capfd, *SHORT, "submit=slurm", f"run_dir={slurm.folder / 'y'}", *wrong)
        assert code == 2, (wrong, err)
        assert said in err
    assert not queued(slurm)
    monkeypatch.setenv("PATH", "/nowhere")
    code, err = here(slurm, monkeypatch, capfd, "submit=slurm")
    assert code == 2
    assert "there is no sbatch on this machine" in err


def test_submitted_by_one_word(slurm: Slurm) -> None:
    run_dir = slurm.folder / "submitted run"
    command = [sys.executable, "-m", "hiphop_train.cli", "submit=slurm", "submit.gpus_per_node=0", "submit.time=5"]
    given = [*command, "submit.cpus_per_task=1", *SHORT, f'run_dir="{run_dir}"']
    done = slurm.call(*given)
    assert done.returncode == 0, done.stderr
    found = re.search(r"job (\d+)", done.stdout)
    assert found is not None
    slurm.wait(f"job {found.group(1)}, submitted by hiphop-train, has ended", lambda: slurm.ended(found.group(1)))
    assert status(run_dir) == "completed"
    assert (run_dir / f"slurm-{found.group(1)}.out").is_file()
    assert shlex.quote(f"run_dir={run_dir}") in (run_dir / "submit.sh").read_text()
    done = slurm.call(*given)
    assert "completed before" in done.stdout
    assert not queued(slurm)


def test_a_job_without_progress_is_not_requeued_for_ever(slurm: Slurm) -> None:
    """The signal comes before the first state."""
    number = slurm.submit(TRAIN, *LONG, f"run_dir={slurm.folder / 'none'}")
    slurm.wait("runs", lambda: runs(slurm, number))
    time.sleep(1.0)
    slurm.call("scancel", "--signal=TERM", number)
    slurm.wait("was stopped before its training began", lambda: slurm.ended(number), 60)
    log = (slurm.folder / f"slurm-{number}.out").read_text()
    assert slurm.job(number)["Restarts"] == "0"
    assert "stopped before anything was saved" in log or not (slurm.folder / "none" / "checkpoints").exists()


LAUNCHER = [
    *("hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0"),
    *("hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=5"),
]


def test_a_sweep_of_which_one_fails(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three models, of which one has no room for its angular functions within this cutoff."""
    common = [word for word in SHORT if not word.startswith("model")]
    code, err = here(slurm, monkeypatch, capfd, "--multirun", *LAUNCHER, "hydra.launcher.partitions=x", *common)
    assert code == 2
    assert "did you mean 'partition'" in err
    command = [sys.executable, "-m", "hiphop_train.cli", "--multirun"]
    done = slurm.call(*command, *LAUNCHER, *common, "model=schnet,bp,ani", "model.cutoff=3.0")
    slurm.say(f"a sweep of three trainings has ended with exit code {done.returncode}")
    assert done.returncode == 2, done.stderr + done.stdout
    assert "2 of 3 jobs done" in done.stdout
    assert "model=ani (exit code 2)" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_sought_by_jobs(slurm: Slurm) -> None:
    """Two at a time; one rate diverges."""
    folder = slurm.folder / "sought"
    command = [sys.executable, "-m", "hiphop_train.cli", "sweep=optuna", "sweep.trials=3", "sweep.parallel=2"]
    done = slurm.call(
        *command, *LAUNCHER, *SHORT, "optimizer.lr=1e-3,1e30", "sweep.sampler=random", f"run_dir={folder}"
    )
    slurm.say(f"a search of three trainings has ended with exit code {done.returncode}")
    assert done.returncode == 0, done.stderr + done.stdout
    rows = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert {row["state"] for row in rows} == {"done", "failed"}
    assert all(row["state"] == ("done" if row["optimizer.lr"] == "0.001" else "failed") for row in rows)
    assert "optimizer.lr=0.001" in (folder / "best.sh").read_text()
    assert not queued(slurm)


def test_within_a_job_but_without_srun_it_is_one_process(slurm: Slurm) -> None:
    """As in an interactive job: Slurm's variables speak of two tasks, but one was started."""
    script = slurm.folder / "plain.sh"
    run_dir = slurm.folder / "plain"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} -m hiphop_train.cli {' '.join(SHORT)} run_dir={run_dir}\n")
    number = slurm.submit("--ntasks=2", script)
    slurm.wait("a plain start within a job of two tasks has ended", lambda: slurm.ended(number))
    log = (slurm.folder / f"slurm-{number}.out").read_text()
    assert slurm.job(number)["ExitCode"] == "0:0", log
    assert "srun" not in log
    assert status(run_dir) == "completed"
