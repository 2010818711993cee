"""Disks that are full or refuse to be written, homes that are missing, standard output that is gone."""

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hiphop_train import files
from tests.commands.conftest import FAST, Run
from tests.commands.test_train import COMMAND

COMMON = [
    "pictures=false",
    "model=hipnn",
    "model.n_features=8",
    "trainer.accelerator=cpu",
    "trainer.limit_train_batches=3",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
FULL = 20_000
"""Bytes that a file may have: less than a checkpoint. The system then refuses as it does on a full disk."""


def test_a_full_disk_does_not_end_a_training(tmp_path: Path) -> None:
    """The state before stays, the training goes on, and writes what it has when there is space again."""
    run_dir = tmp_path / "run"
    last = run_dir / "checkpoints" / "last.ckpt"
    with subprocess.Popen(
        [*COMMAND, *COMMON, "trainer.max_epochs=2000", f"run_dir={run_dir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not last.is_file() and time.monotonic() < deadline:
                time.sleep(0.05)
            limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FULL, resource.RLIM_INFINITY))
            assert process.stdout is not None
            while "cannot be written (File too large)" not in (line := process.stdout.readline()):
                assert line, "the training has ended"
            assert "the training goes on meanwhile" in line
            before = last.read_bytes()
            time.sleep(1.0)
            assert last.read_bytes() == before
            assert files.damage(last) is None
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
            while "are written now" not in (line := process.stdout.readline()):
                assert line, "the training has ended"
            assert last.read_bytes() != before
            process.send_signal(signal.SIGTERM)
            output = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert process.returncode == 143
    assert "Traceback" not in output
    assert not list(run_dir.rglob(".*"))


def test_without_space_for_the_first_state_a_training_ends_and_can_be_started_again(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = [*COMMON, "trainer.max_epochs=2", f"run_dir={run_dir}"]
    limited = [
        *(sys.executable, "-c"),
        f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({FULL}, -1)); "
        "runpy.run_module('hiphop_train.cli', run_name='__main__', alter_sys=True)",
    ]
    full = subprocess.run([*limited, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert full.returncode == 7, full.stderr
    assert "best.ckpt cannot be written (File too large); raise the limit" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    assert not list(run_dir.rglob(".*"))
    again = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("name", ["model.pt", "parity.png", "metrics.json"])
def test_a_result_that_cannot_be_written_is_one_sentence(trained: Path, name: str, tmp_path: Path, run: Run) -> None:
    run_dir = shutil.copytree(trained, tmp_path / "run")
    for result in ("model.pt", "metrics.json", "parity.png"):
        (run_dir / result).unlink()
    (run_dir / name).mkdir()  # root may write anything but a file over a folder
    command = [*FAST, "pictures=true", f"run_dir={run_dir}"]
    code, _, err = run("train", *command)
    assert code == 7
    assert f"{name} cannot be written (Is a directory)" in err
    (run_dir / name).rmdir()
    assert run("train", *command)[0] == 0
    assert json.loads((run_dir / "metrics.json").read_text())["status"] == "completed"


@pytest.mark.parametrize(
    "changes",
    [
        {"HOME": "/nowhere", "XDG_CACHE_HOME": ""},
        {"HOME": "/proc", "TMPDIR": "/nowhere"},
        {"CC": "/nowhere/cc", "PATH": "/nowhere"},
    ],
)
def test_poor_environments(changes: dict[str, str], tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, **changes}
    command = [*COMMAND, *FAST, "model=hipnn", "data.num_workers=0", f"run_dir={tmp_path / 'run'}"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("redirection", ["> /dev/full 2>&1", ">&- 2>&-"])
def test_output_that_nobody_takes_does_not_end_a_training(tmp_path: Path, redirection: str) -> None:
    run_dir = tmp_path / "run"
    words = [*COMMAND, *COMMON, "trainer.max_epochs=1", "trainer.limit_val_batches=1", f"run_dir={run_dir}"]
    script = f"{shlex.join(words)} {redirection}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((run_dir / "metrics.json").read_text())["status"] == "completed"


@pytest.mark.parametrize(("redirection", "code"), [("> /dev/full", 7), ("| true", 0)])
def test_what_is_printed_for_a_reader_must_reach_it(redirection: str, code: int) -> None:
    script = f"{sys.executable} -m hiphop_train.cli --cfg job {redirection}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
