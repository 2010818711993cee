"""One of two processes dies, before the first step and in training."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.commands.test_train import COMMAND

TWO = [
    *("model=hipnn", "model.n_features=4", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"),
    *("trainer.max_epochs=5000", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "callbacks=none"),
]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["start-up", "steps"])
@pytest.mark.parametrize("victim", ["first", "second"])
def test_a_process_that_dies_takes_the_other_with_it(victim: str, moment: str, tmp_path: Path) -> None:
    """Within a minute; the process that is left says why, where it can."""
    run_dir = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*COMMAND, *TWO, f"run_dir={run_dir}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not (second := children(process.pid)) or (
                moment == "steps" and not (run_dir / "checkpoints" / "last.ckpt").is_file()
            ):
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(0.0 if moment == "steps" else 2.5)  # Python and torch are being imported
            os.kill(process.pid if victim == "first" else second[0], signal.SIGKILL)
            _, err = process.communicate(timeout=60)
            deadline = time.monotonic() + 60
            while lives(second[0]) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not lives(second[0])
        finally:
            if lives(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL or moment == "steps"
    assert process.returncode != 0
    ended = "a process of this training ended with code -9, so the others are ended as well" in err
    assert victim == "first" or ended or "another process of this training has ended" in err
    assert "Traceback" not in err
