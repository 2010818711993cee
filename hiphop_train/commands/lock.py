"""One run directory, one run: a lock that its process holds, and a sign of life for other machines.

The lock proper is flock(2): the system gives it back when its process ends, however it ends. On network file systems
that do not carry it to other machines, the sign of life decides: the time of the file, set every few seconds.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from hiphop_train import files
from hiphop_train.errors import InUseError

NAME = ".lock"
BEAT = 10.0
"""Seconds between two signs of life."""

SILENCE = 45.0
"""Seconds without a sign of life after which the process of another machine is taken for dead."""

PATIENCE = 15.0
"""Seconds for which a process that is just ending is waited for, such as the one that a batch system has requeued."""


RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "JSM_NAMESPACE_RANK")
"""Environment variables by which launchers number the processes of one training."""


def first_process() -> bool:
    """Whether this is the first or only process of a training, as far as can be seen before there is a trainer."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


@dataclass(frozen=True)
class Holder:
    """Who works in a run directory: host, its boot, process and when it began."""

    host: str
    boot: str
    process: int
    since: str

    @classmethod
    def this(cls) -> Self:
        """Return this process."""
        with contextlib.suppress(OSError):
            return cls(socket.gethostname(), Path("/proc/sys/kernel/random/boot_id").read_text().strip(), *_now())
        return cls(socket.gethostname(), "", *_now())

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return who has written a lock; None where it is empty or damaged."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def __str__(self) -> str:
        """Return how a message names it."""
        return f"process {self.process} on {self.host}, which began at {self.since}"


def _now() -> tuple[int, str]:
    return os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S")


class RunLock:
    """The lock of a run directory, held from `acquire` to `release`.

    Parameters
    ----------
    folder : the run directory
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._descriptor: int | None = None
        self._flock = True  # whether the file system has it
        self._ended = threading.Event()

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock, waiting for a holder that is just ending, and taking over from a dead one.

        Raises
        ------
        InUseError
            if another process works in the folder
        StorageError
            if the folder cannot be written
        """
        deadline = time.monotonic() + PATIENCE
        while not self._try():
            holder = Holder.read(self.path)
            if time.monotonic() > deadline:
                raise InUseError(
                    f"{self.path.parent} is in use by {holder or 'another process'}; wait until it has ended, stop it, "
                    "or choose another run_dir"
                )
            time.sleep(0.2)
        assert self._descriptor is not None
        former, this = Holder.read(self.path), Holder.this()
        if former is not None:
            try:
                self._wait_for_silence(former, this)
            except BaseException:
                self._close()
                raise
            files.warn(f"{self.path.parent} was left by {former}, without an end; its lock is taken over")
        with files.told(self.path):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(asdict(this)).encode(), 0)
        self._ended.clear()
        threading.Thread(target=self._live, name="lock", daemon=True).start()

    def _try(self) -> bool:
        """Take flock, or say that another process has it."""
        with files.told(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:  # a file system without locks: the sign of life alone decides
            self._descriptor, self._flock = descriptor, False
            return True
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                self._descriptor = descriptor
                return True
        os.close(descriptor)  # its holder has removed the file meanwhile
        return False

    def _wait_for_silence(self, former: Holder, this: Holder) -> None:
        """Look for signs of life of another machine, whose locks this one may not see."""
        here = former.host == this.host
        if here and (self._flock or former.boot != this.boot):
            return  # its locks are seen from here, or have ended with the boot
        first, start = self.path.stat().st_mtime_ns, time.monotonic()
        files.warn(f"{self.path.parent} was in use by {former}; waiting {SILENCE:.0f} s for a sign of life")
        while time.monotonic() - start < SILENCE:
            time.sleep(0.5)
            if self.path.stat().st_mtime_ns != first:
                raise InUseError(
                    f"{self.path.parent} is in use by {former}; wait until it has ended, stop it, or choose another "
                    "run_dir"
                )

    def _live(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError, TypeError):
                os.utime(self._descriptor)  # type: ignore[arg-type]

    def release(self) -> None:
        """Give the lock back; without it, nothing happens."""
        if self.held:
            self._ended.set()
            with contextlib.suppress(OSError):
                self.path.unlink()
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        """Do nothing: `acquire` comes where the folder is known to be a run's."""
        return self

    def __exit__(self, *raised: Any) -> None:
        """Give the lock back."""
        self.release()
