"""Errors for users: each message states the problem, its location, the allowed values and the next step."""

import signal
from collections.abc import Iterable
from difflib import get_close_matches


class HipHopError(Exception):
    """Base class of errors that the commands print as one message, without a traceback."""

    exit_code = 1


class ConfigError(HipHopError):
    """The configuration is wrong: an unknown key, a value that is not allowed, contradictory settings."""

    exit_code = 2


class DataError(HipHopError):
    """A data file is missing, damaged, or contradicts the configuration."""

    exit_code = 3


class CheckpointError(HipHopError):
    """A checkpoint or run directory is missing, damaged, of another version or of another configuration."""

    exit_code = 4


class TrainingError(HipHopError):
    """The training cannot go on as configured: it diverges, too many batches are bad, or memory is too small."""

    exit_code = 5


class InUseError(HipHopError):
    """Another process works in the run directory."""

    exit_code = 6


class StorageError(HipHopError):
    """A file cannot be written: no space, no right, a failing disk; what was there before is whole."""

    exit_code = 7


class Interrupted(BaseException):
    """A signal ended the command at once; no `Exception`, so that nothing on the way takes it for a failure.

    Parameters
    ----------
    number : of the signal
    moment : in which it came, and what that means
    """

    def __init__(self, number: int, moment: str) -> None:
        super().__init__(f"{signal.Signals(number).name} {moment}")
        self.exit_code = 128 + number


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest allowed word, or an empty string if none is near."""
    near = get_close_matches(word, list(allowed), n=1, cutoff=0.7)
    return f"; did you mean '{near[0]}'?" if near else ""
