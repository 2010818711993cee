"""A training that is stopped within an epoch goes on with the batches that are left."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from hiphop_train.cli import run as run_command
from hiphop_train.training import callbacks

PARTS = [
    *("model=hipnn", "model.n_features=4", "model.n_sensitivities=4", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=2", "trainer.limit_train_batches=4", "trainer.limit_val_batches=1", "data.check=false"),
]


class Recorder(Callback):
    """The structures of each batch that was trained on; sends itself a signal after some of them."""

    def __init__(self, stop_at: int | None) -> None:
        self.stop_at = stop_at
        self.samples: list[list[int]] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.samples.append(batch.sample.tolist())
        if trainer.global_step + 1 == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop_at", "more"),
    [
        (2, ["data.num_workers=0"]),
        (6, ["data.num_workers=0", "data.batch_by=atoms", "data.batch_size=300"]),
        (2, ["data.num_workers=2"]),
        (6, ["data.num_workers=2"]),
    ],
)
def test_stopped_and_resumed_is_bit_equal_to_unbroken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, more: list[str]
) -> None:
    def run(name: str, stop: int | None) -> list[list[int]]:
        recorder = Recorder(stop)
        monkeypatch.setattr(callbacks, "progress", lambda: recorder)
        assert run_command("train", [*PARTS, *more, f"run_dir={tmp_path / name}"]) == (0 if stop is None else 143)
        return recorder.samples

    def state(name: str) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        return content

    whole = run("whole", None)
    first = run("broken", stop_at)
    assert len(first) == stop_at
    assert state("broken")["global_step"] == stop_at
    assert state("broken")["DataModule"]["batches"] == stop_at % 4
    rest = run("broken", None)
    assert first + rest == whole
    assert whole[:4] != whole[4:]
    one, two = state("whole"), state("broken")
    assert one["global_step"] == two["global_step"] == 8
    for kind in ("state_dict", "current_model_state"):
        assert all(torch.equal(two[kind][name], value) for name, value in one[kind].items())
