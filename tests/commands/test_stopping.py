"""A signal at any moment, and trainer.max_time: the state is safe in time, the exit code says what happened."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hiphop_train import files
from tests.commands.conftest import FAST, Run
from tests.commands.test_train import ARTEFACTS, COMMAND

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
LONG = ["model=hipnn", "model.n_features=8", "trainer.accelerator=cpu", "trainer.max_epochs=1000"]

AT = """
import os, signal, sys
from hiphop_train import cli
{patch}
sys.exit(cli.run("train", sys.argv[1:]))
"""


@contextmanager
def started(run_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A training in a process of its own, alive when its first state is there."""
    process = subprocess.Popen(
        [*COMMAND, *LONG, f"run_dir={run_dir}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # whatever started the tests
    )
    try:
        deadline = time.monotonic() + 120
        while not (run_dir / "checkpoints" / "last.ckpt").is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_training_saves_the_state_and_ends(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C, which a person gives, evaluates and exports; the others, after which a kill may follow, do not."""
    run_dir = tmp_path / "run"
    with started(run_dir) as process:
        process.send_signal(number)
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number, output
    assert f"{number.name}: stopping after this step" in output
    assert json.loads((run_dir / "metrics.json").read_text())["status"] == "stopped"
    assert files.damage(run_dir / "checkpoints" / "last.ckpt") is None
    found = {path.name for path in run_dir.iterdir()}
    results = {"model.pt", "parity.png", "learning_curves.png", "error_by_hierarchicality.png"}
    assert found == (ARTEFACTS if number == signal.SIGINT else ARTEFACTS - results)


def test_a_second_ctrl_c_aborts(tmp_path: Path) -> None:
    with started(tmp_path / "run") as process:
        process.send_signal(signal.SIGSTOP)  # both arrive while it does not run
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        while "SIGINT: stopping after this step" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "Traceback" not in output


PATCHES = {
    "the data are read": "from hiphop_train import build as o; n = 'make_data'",
    "the weights are fitted": "from hiphop_train.commands import train as o; n = '_initialise'",
    "the run directory is made": "from hiphop_train.commands import run_directory as o; n = 'make'",
    "lightning sets up": "from hiphop_train.data.module import DataModule as o; n = 'train_dataloader'",
    "the errors are computed": "from hiphop_train.commands import finish as o; n = 'predict'",
    "the file is exported": "from hiphop_train.commands import finish as o; n = 'export'",
}


@pytest.mark.parametrize("moment", PATCHES)
def test_a_signal_outside_of_training_ends_at_once(moment: str, tmp_path: Path) -> None:
    """Sent by the process to itself as the named function begins; the next start makes what is missing."""
    script = tmp_path / "at.py"
    patch = (
        f"{PATCHES[moment]}\nf = getattr(o, n)\ndef g(*a, **k):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return f(*a, **k)\nsetattr(o, n, g)"
    )
    script.write_text(AT.format(patch=patch))
    run_dir = tmp_path / "run"
    command = [*FAST, "model=hipnn", f"run_dir={run_dir}"]
    ended = subprocess.run([sys.executable, script, *command], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 143, ended.stderr
    late = moment in ("the errors are computed", "the file is exported")
    expected = "in the final evaluation; the training is saved" if late else "before the training began"
    assert ended.stderr.splitlines()[-1].startswith(f"stopped by SIGTERM {expected}")
    assert "Traceback" not in ended.stderr
    assert not (run_dir / "metrics.json").exists()
    if moment == "the file is exported":
        state = (run_dir / "checkpoints" / "last.ckpt").read_bytes()
        again = subprocess.run([*COMMAND, *command], capture_output=True, text=True, timeout=120)
        assert again.returncode == 0, again.stderr
        assert json.loads((run_dir / "metrics.json").read_text())["status"] == "completed"
        assert files.damage(run_dir / "model.pt") is None
        assert (run_dir / "checkpoints" / "last.ckpt").read_bytes() == state


def test_nohup_is_respected(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = f"trap '' HUP; exec {' '.join(COMMAND)} {' '.join(LONG)} run_dir={run_dir}"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 120
            while not (run_dir / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < deadline:
                time.sleep(0.1)
            process.send_signal(signal.SIGHUP)
            time.sleep(1.0)
            assert process.poll() is None
        finally:
            process.kill()


def test_max_time_ends_with_124_and_counts_each_start(tmp_path: Path, run: Run) -> None:
    common = [*LONG, f"run_dir={tmp_path / 'run'}", "trainer.max_time=00:00:00:03", "trainer.limit_val_batches=1"]
    steps = []
    for _ in range(2):
        assert run("train", *common)[0] == 124
        metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
        assert metrics["status"] == "stopped"
        assert metrics["errors"]
        steps.append(torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])
    assert steps[1] > steps[0] > 0


@pytest.mark.parametrize("value", ["1h", "00:00:01", "-00:00:00:01", "12"])
def test_max_time_is_checked(value: str, tmp_path: Path, run: Run) -> None:
    code, _, err = run("train", *FAST, f"run_dir={tmp_path / 'run'}", f"trainer.max_time={value}")
    assert code == 2
    assert "trainer.max_time" in err
    assert list(tmp_path.iterdir()) == []
