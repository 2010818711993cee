"""Results of dataset checks, and the robust statistics of their thresholds."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["ok", "warning", "contradiction", "inconclusive"]
"""``inconclusive``: too few data, or no clear result; ``contradiction``: the data contradict their configuration."""

SIGMA = 1.4826
"""Ratio of standard deviation to median absolute deviation of a normal distribution."""


@dataclass(frozen=True, eq=False)
class CheckResult:
    """Result of one check.

    Attributes
    ----------
    name : what was checked
    status : outcome
    text : one line with numbers
    numbers : the same numbers by name
    flagged : (n_flagged,) indices of the structures with the problem, worst first
    severity : (n_flagged,) magnitude of the problem, in the unit of `text`
    """

    name: str
    status: Status
    text: str
    numbers: dict[str, float] = field(default_factory=dict)
    flagged: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    severity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


def flagging(
    name: str, text: str, numbers: dict[str, float], flagged: NDArray[np.int64], severity: NDArray[np.float64]
) -> CheckResult:
    """Return the result of a check: a warning if structures are flagged, otherwise ok."""
    return CheckResult(name, "warning" if len(flagged) else "ok", text, numbers, flagged, severity)


def worst_first(
    chosen: NDArray[np.bool_], values: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices and values of chosen entries, the largest value first."""
    index = np.flatnonzero(chosen)
    index = index[np.argsort(-values[index], kind="stable")]
    return index, values[index].astype(np.float64)


def robust(values: NDArray[np.floating]) -> tuple[float, float]:
    """Median and robust standard deviation (from the median absolute deviation), ignoring NaN."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return float("nan"), float("nan")
    centre = float(np.median(known))
    return centre, SIGMA * float(np.median(np.abs(known - centre)))


def deviations(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """(n,) distances from the median in robust standard deviations; 0 where these are 0."""
    centre, spread = robust(values)
    if not spread > 0:
        return np.zeros(len(values))
    return (values - centre) / spread
