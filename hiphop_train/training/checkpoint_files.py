"""What a training keeps on disk to go on from: best.ckpt, last.ckpt and previous.ckpt, whole and sealed."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from hiphop_train import files
from hiphop_train.checkpoint import to_bytes
from hiphop_train.errors import StorageError
from hiphop_train.training.schedules import MONITOR


class SealedCheckpoints(CheckpointIO):
    """Writes checkpoints as `hiphop_train.files` does, and keeps what the disk refuses for the next attempt.

    A full disk does not end a training of weeks: the state stays in memory, is tried again with each save, and the
    state before stays as it was.
    """

    def __init__(self) -> None:
        self._unwritten: dict[Path, bytes] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint, and those that could not be written before."""
        told = bool(self._unwritten)
        self._unwritten[Path(path)] = to_bytes(checkpoint)
        try:
            self.flush()
        except StorageError as error:
            if not Path(path).with_name("last.ckpt").exists():
                raise  # of the first state: there is nothing to go on from
            if not told:
                files.warn(f"{error}; the training goes on meanwhile, and tries again with each state")
        else:
            if told:
                files.warn("the states that could not be written before are written now")

    def flush(self) -> None:
        """Write what could not be written before.

        Raises
        ------
        StorageError
            if it still cannot
        """
        for path, content in list(self._unwritten.items()):
            with files.told(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            previous = path.with_name("previous.ckpt") if path.name == "last.ckpt" else None
            files.write_bytes(path, content, previous)
            del self._unwritten[path]

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, which has been checked before.

        The best score of trainings from before `BestCheckpoint` is in the state of Lightning's own callback.
        """
        content: dict[str, Any] = torch.load(path, map_location, weights_only=True)
        states = content["callbacks"]
        for key in [key for key in states if key.startswith("ModelCheckpoint")]:
            score = states.pop(key)["best_model_score"]
            states["BestCheckpoint"] = {"score": None if score is None else float(score)}
        states.pop("Timer", None)
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file."""
        Path(path).unlink(missing_ok=True)


class BestCheckpoint(Checkpoint):
    """best.ckpt: the state at the end of the epoch with the lowest validation error so far.

    Its record is a number in the state of the training, so that it stays with a run directory that is moved or copied.

    Parameters
    ----------
    path : of the file
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.score: float | None = None
        self._due = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin again where the file was lost."""
        if trainer.strategy.broadcast(not self.path.is_file()):
            self.score = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of the epoch, from where a training can resume exactly; at once within one.

        The validation of a training that is being stopped within an epoch does not count: an unbroken one has none.
        """
        within = not trainer.is_last_batch
        if trainer.sanity_checking or (within and trainer.should_stop):
            return
        score = float(trainer.callback_metrics[MONITOR])
        if self.score is None or score < self.score:
            self.score, self._due = math.inf if math.isnan(score) else score, True
            if within:
                self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where the validation was the best."""
        if self._due:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._due = False
        trainer.save_checkpoint(self.path)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"score": self.score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score of earlier starts."""
        self.score = state_dict["score"]


class LastCheckpoint(Checkpoint):
    """last.ckpt: after every epoch, every few minutes, and at the step after which the training was stopped.

    The state before is kept as previous.ckpt. A training resumed from the middle of an epoch takes the remaining
    batches of it. So a state from within an epoch is kept when the training stops there: at the end of its loop
    Lightning counts the epoch as done.

    Parameters
    ----------
    path : of the file
    minutes : between two saved states within an epoch
    """

    def __init__(self, path: Path, minutes: float = 10.0) -> None:
        self.path = path
        self.seconds = 60.0 * minutes
        self._saved_at = 0.0
        self._saved_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Save where the training stops within an epoch, or some time has passed; after all other callbacks."""
        due = time.monotonic() - self._saved_at > self.seconds
        if trainer.world_size > 1:
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        stops = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if (due or stops) and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless the training stops within the epoch."""
        if trainer.is_last_batch or self._saved_step != trainer.global_step:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Return the callbacks that keep the best and the last state, as best.ckpt and last.ckpt."""
    return [BestCheckpoint(folder / "best.ckpt"), LastCheckpoint(folder / "last.ckpt")]
