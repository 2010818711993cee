"""Callbacks: graceful stop, progress, and the two checkpoints."""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint, RichProgressBar, Timer
from pydantic import Field, PositiveInt

from hiphop_train.training.schedules import MONITOR


class GracefulStop(Callback):
    """On Ctrl-C, SIGTERM, finish the step and stop; the run then ends as any other, with evaluation and export.

    A second Ctrl-C aborts at once.

    Attributes
    ----------
    received : number of the signal that came, or None
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals, after Lightning has set its own handlers."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.received is not None and number == signal.SIGINT:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt
            self.received = number
            name = signal.Signals(number).name
            print(f"\n{name}: stopping after this step; Ctrl-C once more aborts at once", file=sys.stderr, flush=True)

        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, handle)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop all ranks together."""
        stop = self.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            trainer.should_stop = True

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def out_of_time(trainer: Trainer) -> bool:
    """Whether trainer.max_time ended the training, which can then go on later."""
    timers = (callback for callback in trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
    return any((timer.time_remaining() or 0.0) <= 0.0 for timer in timers)


class ProgressLines(Callback):
    """Where nobody watches a terminal: a line per epoch, but not more often than every few seconds.

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
        last = done == trainer.max_epochs
        if not last and now - self._last < self.seconds:
            return
        self._last = now
        metrics = trainer.callback_metrics
        shown = [
            f"{label} {float(metrics[key]):7.3f}"
            for label, key in (("E", "val/energy_mae"), ("F", "val/forces_mae"))
            if key in metrics
        ]
        line = f"epoch {done:4d}  validation MAE, kcal/mol(/A): {'  '.join(shown)}  rate {_rate(trainer):.1e}"
        if trainer.max_epochs and trainer.max_epochs > 0:
            per_epoch = (now - self._start) / max(1, done - self._first_epoch)
            line += f"  {_clock(per_epoch * (trainer.max_epochs - done))} left"
        print(line, flush=True)


def _rate(trainer: Trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def progress() -> Callback:
    """Return a progress bar on a terminal, lines elsewhere."""
    return RichProgressBar(leave=False) if sys.stdout.isatty() else ProgressLines()


def checkpoints(folder: Path) -> list[Callback]:
    """Return the callbacks that keep the best and the last state, as best.ckpt and last.ckpt."""
    common: dict[str, Any] = {"dirpath": folder, "auto_insert_metric_name": False, "enable_version_counter": False}
    return [
        ModelCheckpoint(filename="best", monitor=MONITOR, save_top_k=1, **common),
        ModelCheckpoint(filename="last", save_top_k=1, every_n_epochs=1, save_on_train_epoch_end=True, **common),
    ]


def ema(decay: Annotated[float, Field(ge=0, lt=1)]) -> Callback:
    """Return the average of the weights over the training's recent steps.

    Parameters
    ----------
    decay : share of the average that a step keeps
    """
    return EMAWeightAveraging(decay=decay, use_buffers=False)  # buffers are E0 and scale: constant


def early_stopping(patience: PositiveInt) -> Callback:
    """Return what stops a training without progress.

    Parameters
    ----------
    patience : validations without improvement
    """
    return EarlyStopping(monitor=MONITOR, patience=patience, check_finite=True)
