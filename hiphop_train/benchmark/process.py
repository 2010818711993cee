"""Client of the process in which a program is timed: requests and answers are JSON objects, one per line."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hiphop_train.errors import HipHopError
from hiphop_train.memory import ENVIRONMENT, free_memory

WORKER = Path(__file__).with_name("worker.py")


class DoesNotFit(HipHopError):  # noqa: N818 (a result rather than an error)
    """The workload needs more memory than is available."""


class CannotImport(HipHopError):  # noqa: N818
    """The program is not installed in its environment, or its import fails."""


class Failed(HipHopError):  # noqa: N818
    """A program stopped with any other error."""


class WorkerProcess:
    """A program's process; started at the first request, and restarted after it has ended.

    Parameters
    ----------
    name : name in the settings
    program : file that `worker` runs
    python : interpreter; None means ours
    start : first request (see `worker.Worker`)
    folder : for its standard error
    """

    def __init__(self, name: str, program: Path, python: str | None, start: dict[str, Any], folder: Path) -> None:
        self.name = name
        self.program = program
        self.python = python
        self.start = start
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[str] | None = None
        self.description: dict[str, Any] = {}

    def open(self) -> dict[str, Any]:
        """Start the process; return the program's description."""
        environment = {**ENVIRONMENT, **os.environ}  # the same for all programs; the user's values take precedence
        if self.python is not None:
            environment.pop("PYTHONPATH", None)  # of our environment
        if threads := self.start["threads"]:
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
                environment[name] = str(threads)
        command = [self.python or sys.executable, str(WORKER), str(self.program)]
        try:
            with self.log.open("w") as log:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
                )
        except OSError as error:
            raise CannotImport(f"{command[0]} cannot be started: {error.strerror}") from error
        self.description = self._exchange(self.start)
        return self.description

    def settle(self, file: Path) -> None:
        """Run a small workload, so that the memory of compilers and libraries does not count as the program's."""
        self.ask("load", file=str(file), training=False)
        self.ask("run", what="excluded" if self.description["takes_pairs"] else "included", count=3)
        self.ask("settle")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises
        ------
        DoesNotFit
            if an allocation fails, or the system kills the process
        CannotImport
            if the program cannot be imported
        Failed
            if it ends with any other error
        """
        if self.process is None:
            self.open()
        return self._exchange({"do": do, **arguments})

    def make_room(self, others: Iterable["WorkerProcess"]) -> None:
        """Make other processes release unused memory, if less is free than this one may use.

        Processes keep freed memory, which together may exceed the machine's memory.
        """
        limit, free = self.start["memory"], free_memory()
        if limit is None or free is None or free >= limit:
            return
        for other in others:
            if other.process is not None and other is not self:
                with contextlib.suppress(DoesNotFit, Failed):  # reported at its own turn
                    other.ask("release_memory")

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        kind, message = answer.get("error"), str(answer.get("message", ""))
        if kind == "memory":
            raise DoesNotFit(message)
        if kind == "import":
            raise CannotImport(message)
        if kind is not None:
            raise Failed(f"{self.name}: {message}")
        return answer

    def _ended(self) -> Exception:
        """Return the reason why the process ended."""
        assert self.process is not None
        code = self.process.wait()
        self.close()
        stderr = self.log.read_text(errors="replace")
        last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "")
        if last.startswith(("ModuleNotFoundError", "ImportError")):
            return CannotImport(last)
        if code == -signal.SIGKILL or "bad_alloc" in stderr or "allocate memory" in stderr:
            return DoesNotFit(f"its process was ended ({last or 'killed'})")
        return Failed(f"{self.name}: its process ended with code {code}: {last}")

    def close(self) -> None:
        """End the process."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # the worker ends with its requests
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process = None
