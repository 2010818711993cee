"""Processes of one training that Lightning starts on a machine: one that dies takes the others with it.

Without that, the others wait for it until torch's timeout of 30 minutes. srun and torchrun look after theirs.
"""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hiphop_train.errors import TrainingError

MAIN = "HIPHOP_MAIN_PROCESS"
"""Number of the process that starts the others, which inherit it."""
PR_SET_PDEATHSIG = 1
LAUNCHER = "lightning.fabric.strategies.launchers.subprocess_script"
"""Looks every five seconds whether the others live, and says so to its log alone before it ends all."""


LOST = "another process of this training has ended, see above for the reason; the same command goes on"


class _Lost(logging.Handler):
    """Says what Lightning writes about a lost process."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "terminated with code" in text:
            said = text.partition("terminated with ")[2].partition(".")[0]
            print(
                f"error: a process of this training ended with {said}, so the others are ended as well; see above for "
                "the reason; the same command goes on",
                file=sys.stderr,
                flush=True,
            )


def follow() -> None:
    """End this process when the one that started it for the same training ends (Linux)."""
    main = os.environ.get(MAIN)
    if main is None or "LOCAL_RANK" not in os.environ or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(main):
        raise TrainingError("the process that started this one has ended meanwhile; the same command goes on")


def is_lost(error: BaseException) -> bool:
    """Whether the connection to another process broke: gloo and NCCL say so in several ways."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL communicator was aborted")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextmanager
def lead(n_processes: int) -> Iterator[None]:
    """Let processes that are started meanwhile end with this one, and say why where one of them ends all."""
    if n_processes == 1:
        yield
        return
    logger, handler = logging.getLogger(LAUNCHER), _Lost()
    level, earlier = logger.level, os.environ.get(MAIN)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    os.environ[MAIN] = str(os.getpid())
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        os.environ.pop(MAIN)
        if earlier is not None:
            os.environ[MAIN] = earlier
