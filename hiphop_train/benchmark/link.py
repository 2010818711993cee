"""The process in which one program is timed, from our side: requests and answers, one JSON object a line."""

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
from hiphop_train.memory import ENVIRONMENT

SCRIPT = Path(__file__).parent / "peers" / "worker.py"
OURS = ("ours", "exported")
"""Programs whose process imports this package."""


class DoesNotFit(HipHopError):  # noqa: N818 (a result, no mistake)
    """The work takes more memory than there is."""


class CannotImport(HipHopError):  # noqa: N818
    """The program is not installed, or does not import, in its environment."""


class Failed(HipHopError):  # noqa: N818
    """A program stopped with an error of its own."""


def free_memory() -> int | None:
    """Memory of the machine that is free now, bytes; None where the system does not say."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


class Link:
    """A program's process; started at the first request, and anew after one that ended.

    Parameters
    ----------
    name : as the user calls it
    script : file of the program in the folder ``peers``
    python : interpreter; None is ours
    start : what the process is told first, but for the name (see `peers.worker`)
    folder : for its standard error
    """

    def __init__(self, name: str, script: str, python: str | None, start: dict[str, Any], folder: Path) -> None:
        self.name = name
        self.script = script
        self.python = python
        self.start = {**start, "do": "start", "name": script}
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[str] | None = None
        self.description: dict[str, Any] = {}

    def open(self) -> dict[str, Any]:
        """Start the process; returns what the program says of itself."""
        ours = self.script in OURS
        environment = {**ENVIRONMENT, **os.environ}  # all programs alike; what the user sets goes first
        if self.python is not None:
            environment.pop("PYTHONPATH", None)  # of our environment
        if threads := self.start["threads"]:
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
                environment[name] = str(threads)
        command = [self.python or sys.executable, str(SCRIPT), *(["--ours"] if ours else [])]
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
        """Work once on something small, so that what compilers and libraries take is not counted as its memory."""
        self.ask(do="load", file=str(file), training=False)
        self.ask(do="run", what="excluded" if self.description["takes_pairs"] else "included", count=3)
        self.ask(do="settle")

    def ask(self, **request: Any) -> dict[str, Any]:
        """Let the program do something.

        Raises
        ------
        DoesNotFit
            when its allocator refuses, or the system kills it
        CannotImport
            when it does not import
        Failed
            when it ends with any other error
        """
        if self.process is None:
            self.open()
        return self._exchange(request)

    def make_room(self, others: Iterable["Link"]) -> None:
        """Let others give back memory that they do not use, where less is free than this one may take.

        All keep what they have freed, which together may be more than there is.
        """
        limit, free = self.start["memory"], free_memory()
        if limit is None or free is None or free >= limit:
            return
        for other in others:
            if other.process is not None and other is not self:
                with contextlib.suppress(DoesNotFit, Failed):  # its own turn will say so
                    other.ask(do="rest")

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
        """Say why the process is no more."""
        assert self.process is not None
        code = self.process.wait()
        self.close()
        said = self.log.read_text(errors="replace")
        last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
        if code == -signal.SIGKILL or "bad_alloc" in said or "allocate memory" in said:
            return DoesNotFit(f"its process was ended ({last or 'killed'})")
        return Failed(f"{self.name}: its process ended with code {code}: {last}")

    def close(self) -> None:
        """End the process."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # at the end of the requests it goes
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process = None
