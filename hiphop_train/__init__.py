"""Train, judge and ship neural-network interatomic potentials.

The names in ``__all__`` are the Python API (docs/api.md). Each is imported when it is first used, so that importing the
package takes no time and does nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Graph",
    "HipHopCalculator",
    "HipHopError",
    "Potential",
    "TrainResult",
    "__version__",
    "evaluate",
    "export_potential",
    "graph_from_atoms",
    "load",
    "train",
]

if TYPE_CHECKING:
    from hiphop_train.api import evaluate, export_potential, graph_from_atoms, load, train
    from hiphop_train.commands.train import TrainResult
    from hiphop_train.errors import CheckpointError, ConfigError, DataError, HipHopError
    from hiphop_train.interfaces.ase import HipHopCalculator
    from hiphop_train.potential import Potential
    from hiphop_train.types import Graph
else:  # a type checker that saw this would take any name for one of the package
    _MODULES = {
        "commands.train": ["TrainResult"],
        "errors": ["CheckpointError", "ConfigError", "DataError", "HipHopError"],
        "interfaces.ase": ["HipHopCalculator"],
        "potential": ["Potential"],
        "types": ["Graph"],
        "api": ["evaluate", "export_potential", "graph_from_atoms", "load", "train"],
    }

    def __getattr__(name: str) -> object:
        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
