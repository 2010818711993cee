"""Callbacks: clock, progress, average of the weights, early stopping."""

import math
import sys
import time
from datetime import timedelta
from typing import Annotated, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from pydantic import Field, PositiveInt
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from hiphop_train.targets import TARGETS
from hiphop_train.training.schedules import MONITOR


class Clock(Callback):
    """Seconds of training, over all starts of a run: checkpoints carry them."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds up to now."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self._started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seconds of earlier starts."""
        self._before = float(state_dict["seconds"])


class ProgressLines(Callback):
    """Without a terminal: a line per epoch, but not more often than every few seconds.

    Parameters
    ----------
    seconds : shortest time between two lines
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self._start = self._last = 0.0
        self._first_epoch = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()
        self._first_epoch = trainer.current_epoch

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print epoch, errors, learning rate and the time that is left."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        now, done = time.monotonic(), trainer.current_epoch + 1
        if done != trainer.max_epochs and now - self._last < self.seconds:
            return
        self._last = now
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        line = f"epoch {done:4d}  {validation_errors(trainer)}  rate {rate:.1e}"
        if trainer.max_epochs and trainer.max_epochs > 0:
            per_epoch = (now - self._start) / max(1, done - self._first_epoch)
            line += f"  {timedelta(seconds=int(per_epoch * (trainer.max_epochs - done)))} left"
        print(line, flush=True)


class ProgressBar(Callback):
    """On a terminal: one bar for the whole training, with the errors of the last validation."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar, on the first rank."""
        if not trainer.is_global_zero:
            return
        clocks = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("left"))
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), *clocks, transient=True)
        steps = trainer.estimated_stepping_batches
        self._bar.start()
        self._task = self._bar.add_task("epoch 1", total=steps if math.isfinite(steps) else None)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Advance."""
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the errors."""
        if self._bar is not None:
            epochs = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            self._bar.update(self._task, description=f"{epochs}  {validation_errors(trainer)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the terminal."""
        if self._bar is not None:
            self._bar.stop()


def validation_errors(trainer: Trainer) -> str:
    """Return the errors of the last validation as one line."""
    shown = []
    for key, target in TARGETS.items():
        if f"val/{key}_mae" in trainer.callback_metrics:
            label, unit = {"energy": ("E", ""), "forces": ("F", "")}.get(key, (key, f" {target.reported_unit}"))
            shown.append(f"{label} {float(trainer.callback_metrics[f'val/{key}_mae']):.3f}{unit}")
    return f"validation MAE, kcal/mol(/A): {'  '.join(shown)}"


def progress() -> Callback:
    """Return a progress bar on a terminal, lines elsewhere."""
    return ProgressBar() if sys.stdout.isatty() else ProgressLines()


class Average(WeightAveraging):
    """The average of the weights over the training's recent steps; validation and checkpoints use it.

    Lightning's own stays on the CPU when the training is on a GPU, and synchronises with the device in each step.

    Parameters
    ----------
    decay : share of the average that a step keeps
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)  # buffers are E0 and scale: constant
        self.decay = decay

    @property
    def state_key(self) -> str:
        """Name of its state in checkpoints, the same in all versions."""
        return "WeightAveraging"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start from the present weights."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Add the weights of a step, all parameters at once: one by one takes a tenth of a small model's step."""
        if trainer.global_step <= self._latest_update_step:
            return
        assert self._average_model is not None
        average: list[Tensor] = list(self._average_model.module.parameters())
        latest: list[Tensor] = list(pl_module.parameters())
        if self._latest_update_step == 0:
            torch._foreach_copy_(average, latest)
        else:
            torch._foreach_lerp_(average, latest, 1.0 - self.decay)
        self._average_model.n_averaged += 1
        self._latest_update_step = trainer.global_step


def ema(decay: Annotated[float, Field(ge=0, lt=1)]) -> Callback:
    """Return the average of the weights over the training's recent steps.

    Parameters
    ----------
    decay : share of the average that a step keeps
    """
    return Average(decay)


class Patience(EarlyStopping):
    """Lightning's, which forgets at a new start that it had ended the training before."""

    @property
    def state_key(self) -> str:
        """Name of its state in checkpoints, the same in all versions."""
        return super().state_key.replace(type(self).__qualname__, EarlyStopping.__qualname__, 1)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End it again, without a further step."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


def early_stopping(patience: PositiveInt) -> Callback:
    """Return the callback that stops a training without progress.

    Parameters
    ----------
    patience : validations without improvement
    """
    # after validations: an epoch that trainer.max_steps cuts short has none
    return Patience(monitor=MONITOR, patience=patience, check_finite=False, check_on_train_epoch_end=False)
