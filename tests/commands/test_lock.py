"""One run directory, one run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hiphop_train.commands import lock
from hiphop_train.commands.lock import Holder, RunLock
from hiphop_train.errors import InUseError
from tests.commands.conftest import FAST, Run

HOLD = """
import sys, time
from pathlib import Path
from hiphop_train.commands.lock import RunLock

held = RunLock(Path(sys.argv[1]))
held.acquire()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
held.release()
"""


def hold(folder: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    monkeypatch.setattr(lock, "SILENCE", 1.5)


@pytest.mark.usefixtures("impatient")
def test_a_second_start_is_refused_and_says_who_works_there(tmp_path: Path, run: Run) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    process = hold(run_dir, 60)
    code, _, err = run("train", *FAST, f"run_dir={run_dir}")
    assert code == 6
    assert f"is in use by process {process.pid} on {socket.gethostname()}, which began at" in err
    assert "choose another run_dir" in err
    assert [path.name for path in run_dir.iterdir()] == [".lock"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    RunLock(run_dir).acquire()


def test_a_holder_that_is_just_ending_is_waited_for(tmp_path: Path) -> None:
    process = hold(tmp_path, 1.0)
    start = time.monotonic()
    with RunLock(tmp_path) as mine:
        mine.acquire()
        assert 0.2 < time.monotonic() - start < 12
    process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    process = hold(tmp_path, 60)
    process.kill()
    process.communicate()
    mine = RunLock(tmp_path)
    mine.acquire()
    assert f"was left by process {process.pid} on" in capfd.readouterr().err
    assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    mine.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lives", [True, False])
def test_another_machine_is_watched_for_signs_of_life(
    lives: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As on a network file system that does not carry flock: nobody seems to hold it, but the file says who does."""
    path = tmp_path / ".lock"
    path.write_text(json.dumps(asdict(replace(Holder.this(), host="node7", boot="other"))))
    beats = subprocess.Popen(["sh", "-c", f"while sleep 0.2; do touch {path}; done"]) if lives else None
    mine = RunLock(tmp_path)
    try:
        if lives:
            with pytest.raises(InUseError, match=r"in use by process \d+ on node7"):
                mine.acquire()
            assert not mine.held
            assert "node7" in path.read_text()
        else:
            mine.acquire()
            assert "its lock is taken over" in capfd.readouterr().err
            mine.release()
    finally:
        if beats is not None:
            beats.kill()
            beats.wait()


def test_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with RunLock(tmp_path) as mine:
        mine.acquire()
        os.utime(mine.path, (0, 0))
        time.sleep(0.5)
        assert time.time() - mine.path.stat().st_mtime < 5


@pytest.mark.usefixtures("impatient")
def test_a_damaged_lock_is_no_obstacle(tmp_path: Path) -> None:
    for content in (b"", b"{", b"[1]", bytes(range(256))):
        (tmp_path / ".lock").write_bytes(content)
        with RunLock(tmp_path) as mine:
            mine.acquire()


@pytest.mark.usefixtures("impatient")
def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    """Each holds it for a moment; at no time do two."""
    script = HOLD.replace('print("held", flush=True)', 'print("in", time.monotonic(), flush=True)').replace(
        "held.release()", 'print("out", time.monotonic(), flush=True); held.release()'
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path, "0.1"], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    events = sorted((float(line.split()[1]), line.split()[0]) for text in outputs for line in text.splitlines())
    assert [event for _, event in events] == ["in", "out"] * 4
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_of_several_processes_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in lock.RANKS:
        monkeypatch.delenv(name, raising=False)
    assert lock.first_process()
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert lock.first_process()
    monkeypatch.setenv("NODE_RANK", "1")
    assert not lock.first_process()
