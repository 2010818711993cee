"""Where the trainings of a search run: as processes here, or as jobs of Slurm."""

import contextlib
import ctypes
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from hiphop_train.commands import launched

SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""

WAIT = 120.0
"""Seconds for a training to save its state."""


class Trials(ABC):
    """Trainings by number."""

    @abstractmethod
    def start(self, number: int, overrides: list[str]) -> None:
        """Start a training, or let it go on."""

    @abstractmethod
    def ended(self, number: int) -> tuple[int, str] | None:
        """Return exit code and what went wrong; None while it runs."""

    @abstractmethod
    def end(self, number: int) -> None:
        """Let a training save its state and end."""

    @abstractmethod
    def stop(self) -> None:
        """Let all of them end, so that the next start goes on with them."""


class Local(Trials):
    """Processes on this machine; what they print is in a file for each.

    Parameters
    ----------
    folder : of the sweep
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int, overrides: list[str]) -> None:
        """Start a process, which ends with this one, however this one ends."""
        command = [sys.executable, "-m", "hiphop_train.cli", *overrides]
        libc = ctypes.CDLL(None)

        def tie() -> None:
            with contextlib.suppress(AttributeError):  # only Linux has it
                libc.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)

        with self._log(number).open("ab") as log:
            self._processes[number] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, preexec_fn=tie
            )

    def _log(self, number: int) -> Path:
        return self.folder / f"trial_{number:03d}.log"

    def ended(self, number: int) -> tuple[int, str] | None:
        """Return exit code and last error message."""
        code = self._processes[number].poll()
        if code is None:
            return None
        lines = self._log(number).read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")] or [line for line in lines if line.strip()]
        problem = f"killed by {signal.Signals(-code).name}" if code < 0 else (errors or [f"exit code {code}"])[-1]
        return (code if code >= 0 else 128 - code), problem.removeprefix("error: ")

    def end(self, number: int) -> None:
        """Send SIGTERM."""
        self._processes[number].send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Send SIGTERM to all, and wait for their states."""
        running = [process for process in self._processes.values() if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(WAIT)


class OnSlurm(Trials):
    """Trainings as jobs of Slurm.

    Parameters
    ----------
    folder : of the sweep
    train : called in each job
    settings : of `launched.split`
    """

    def __init__(self, folder: Path, train: launched.Job, settings: dict[str, Any]) -> None:
        self.train = train
        self.executor = launched.executor(settings, folder / "jobs")
        self._jobs: dict[int, Any] = {}

    def start(self, number: int, overrides: list[str]) -> None:
        """Submit a job."""
        with launched.refused():
            self._jobs[number] = self.executor.submit(self.train, overrides)

    def ended(self, number: int) -> tuple[int, str] | None:
        """Return exit code and what went wrong."""
        return launched.ended(self._jobs[number])

    def end(self, number: int) -> None:
        """Cancel the job: Slurm sends SIGTERM, and the training saves its state."""
        self._jobs[number].cancel(check=False)

    def stop(self) -> None:
        """Cancel all jobs."""
        for number, job in self._jobs.items():
            if launched.ended(job) is None:
                self.end(number)
