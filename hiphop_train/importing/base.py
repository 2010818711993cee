"""What every importer returns."""

from typing import Any, NamedTuple

from torch import Tensor


class Imported(NamedTuple):
    """A model that another program trained, in this project's terms."""

    model: dict[str, Any]
    """The model section as in conf/model/*.yaml, readout included."""
    weights: dict[str, Tensor]
    """State dictionary of the potential: E0 in eV, scale and all."""
    origin: str
    """One line that says where it came from."""
