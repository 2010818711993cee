"""Silence about what every run is meant to do; real warnings stay."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("lightning.pytorch", "lightning.fabric")
EXPECTED = (
    ".*does not have many workers.*",
    ".*exists and is not empty.*",
    ".*is smaller than the logging interval.*",
    ".*LeafSpec.* is deprecated.*",
    r".*The `srun` command is available on your system but is not used.*",  # who uses Slurm knows
    ".*sync_dist=True.*",  # what we log has been summed over ranks
    r".*add the following callbacks: \['Timer'\].*",  # the earlier start had a time limit, this one has none
    ".*Grad strides do not match bucket view strides.*",
)
"""Warnings of Lightning and torch that are expected."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning says of every run, and restore loggers and filters afterwards."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
