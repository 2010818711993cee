"""Errors for users: each message states the problem, its location, the allowed values and the next step."""

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


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest allowed word, or an empty string if none is near."""
    near = get_close_matches(word, list(allowed), n=1, cutoff=0.7)
    return f"; did you mean '{near[0]}'?" if near else ""
