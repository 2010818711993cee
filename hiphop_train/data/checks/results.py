"""What a check of labels finds."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["ok", "warning", "contradiction", "not told"]
"""``not told``: the data give no answer; ``contradiction``: they are not as their configuration declares."""


@dataclass(frozen=True, eq=False)
class Finding:
    """One check.

    Attributes
    ----------
    name : what was looked at
    status : how it came out
    text : one line with figures
    figures : the same figures as numbers
    offenders : running numbers of the structures that are to blame, worst first
    values : (n_offenders,) what is wrong with each, in the unit of `text`
    """

    name: str
    status: Status
    text: str
    figures: dict[str, float] = field(default_factory=dict)
    offenders: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    values: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


def worst_first(
    chosen: NDArray[np.bool_], values: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices and values of what was chosen, the largest value first."""
    index = np.flatnonzero(chosen)
    index = index[np.argsort(-values[index], kind="stable")]
    return index, values[index].astype(np.float64)
