"""Stopping a training: by a signal at any moment, or after trainer.max_time."""

import contextlib
import os
import re
import signal
import sys
import time
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from hiphop_train.errors import ConfigError, Interrupted

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

TIME_IS_UP = 124
"""Exit code of a training that trainer.max_time ended: that of timeout(1)."""

PATIENCE = 8.0
"""Seconds that a validation may still take after a signal: who sends one often kills after ten."""

DURATION = re.compile(r"(\d+):(\d+):(\d+):(\d+)")


class Stop(Callback):
    """Takes over the signals while it is entered.

    In training, the step is finished and all ranks stop together with their state saved. Before and after, and at a
    second Ctrl-C, `Interrupted` is raised at once: files are replaced as a whole, so there is nothing to lose.

    Parameters
    ----------
    max_time : after which the training stops, counted from the start of this process; None is without limit

    Attributes
    ----------
    received : number of the signal, whichever rank received it, or None
    out_of_time : whether max_time ended the training
    now : what `Interrupted` says of the moment
    """

    def __init__(self, max_time: timedelta | None) -> None:
        self.max_time = max_time
        self.received: int | None = None
        self.out_of_time = False
        self.now = "before the training began; there was nothing to save"
        self._training = False
        self._here = False  # whether this rank itself received one: only then is the next one its second
        self._since = float("inf")  # when the first one came to any rank
        self._started = time.monotonic()
        self._previous: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """0, 124 after max_time, 128 + signal."""
        if self.received is not None:
            return 128 + self.received
        return TIME_IS_UP if self.out_of_time else 0

    def __enter__(self) -> Self:
        """Take over the signals, except SIGHUP where nohup had it ignored."""
        with contextlib.suppress(ValueError):  # not in the main thread: signals are not ours
            for number in SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *raised: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        if not self._training or (self._here and number == signal.SIGINT):
            self.received = number
            raise Interrupted(number, self.now)
        self.received, self._here, self._since = number, True, min(self._since, time.monotonic())
        with contextlib.suppress(OSError):  # print() is not for handlers: it may have been interrupted itself
            name = signal.Signals(number).name
            os.write(2, f"\n{name}: stopping after this step; Ctrl-C once more aborts at once\n".encode())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal ends the step first."""
        if self.received is not None:  # the exception was swallowed by a library's code
            raise Interrupted(self.received, self.now)
        self.now = "in training, at once; the steps since the last saved state are taken again at the next start"
        self._training = True

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop all ranks together, and tell each of them why: a rank that did not know would report completion."""
        late = self.max_time is not None and time.monotonic() - self._started >= self.max_time.total_seconds()
        number = self.received or (-1 if late else 0)
        if trainer.world_size > 1:
            shared = torch.tensor([number, -number], device=trainer.strategy.root_device)
            number, time_is_up = trainer.strategy.reduce(shared, reduce_op="max").tolist()
            number = number or -time_is_up
        if number:
            self.received, self.out_of_time = (number, False) if number > 0 else (None, True)
            self._since = min(self._since, time.monotonic())
            trainer.should_stop = True

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Leave a validation that takes long."""
        if self.received is not None and time.monotonic() - self._since > PATIENCE:
            raise Interrupted(self.received, self.now)

    def after_training(self, now: str) -> None:
        """From here on a signal interrupts at once again; `now` is what it then says of the moment."""
        self._training, self.now = False, now


def duration(max_time: Any) -> timedelta | None:
    """Return trainer.max_time as a time.

    Raises
    ------
    ConfigError
        if it is neither null, ``DD:HH:MM:SS`` nor arguments of `timedelta`
    """
    if max_time is None or isinstance(max_time, timedelta):
        return max_time
    try:
        if isinstance(max_time, str) and (match := DURATION.fullmatch(max_time.strip())):
            days, hours, minutes, seconds = map(int, match.groups())
            return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if not isinstance(max_time, str):
            return timedelta(**max_time)
    except (TypeError, OverflowError):
        pass
    raise ConfigError(
        f"trainer.max_time={max_time}: give days, hours, minutes and seconds as DD:HH:MM:SS, such as 00:12:00:00 for "
        "twelve hours, or null"
    )


def _leave_terminal() -> None:
    """Write no more to a terminal that has been closed: each line would be an error."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stream.isatty():
                void = os.open(os.devnull, os.O_WRONLY)
                os.dup2(void, stream.fileno())
                os.close(void)
