"""Result of all importers."""

from typing import Any, NamedTuple

from torch import Tensor


class Imported(NamedTuple):
    """Configuration and weights of a model trained by another program."""

    model: dict[str, Any]
    """The model section as in conf/model/*.yaml, readout included."""
    weights: dict[str, Tensor]
    """State dictionary of the potential, including E0 in eV and the scale."""
    origin: str
    """Source of the model, in one line."""
