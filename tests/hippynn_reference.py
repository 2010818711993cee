"""hippynn as a reference.

It makes its tensor constants at import, in the default floating-point type: it is imported afresh in float64.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
import torch


@contextmanager
def hippynn_in_float64() -> Iterator[ModuleType]:
    """Import hippynn with float64 constants and plain PyTorch kernels, and leave no trace of it behind."""
    others = _forget_hippynn()
    default = torch.get_default_dtype()
    filters = warnings.filters[:]
    patch = pytest.MonkeyPatch()
    patch.setenv("HIPPYNN_USE_CUSTOM_KERNELS", "False")
    patch.setitem(sys.modules, "numba", None)  # not needed, and slow to import
    patch.setattr(torch, "compile", lambda function: function)  # its plain kernels are otherwise compiled
    try:
        torch.set_default_dtype(torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import hippynn as module
            import hippynn.networks.hiphop
        module.settings.WARN_LOW_DISTANCES = False
    finally:
        torch.set_default_dtype(default)
        patch.undo()
    assert warnings.filters == filters
    assert module.layers.hiplayers.tensors.pmaps[3].dtype == torch.float64
    assert module.custom_kernels.CUSTOM_KERNELS_ACTIVE == "pytorch"
    yield module
    _forget_hippynn()
    sys.modules.update(others)


def _forget_hippynn() -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "hippynn"}
