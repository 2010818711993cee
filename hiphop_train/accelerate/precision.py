"""Where less than float32 is allowed, and where it is not.

With ``trainer.precision=bf16-mixed`` the representation is evaluated under torch's autocast in training: matrix
products are computed in bfloat16. Their results return to float32 at once where they are summed further. What the eight
bits of bfloat16 would spoil is outside of autocast (readout, energies, derivatives), or is not a product that autocast
knows: geometry, sums over neighbours, invariants.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hiphop_train.types import Graph

Precision = Literal["full", "bf16-mixed"]
MatmulPrecision = Literal["highest", "high", "medium"]


class MixedPrecision:
    """Evaluates a module under autocast while it trains.

    Parameters
    ----------
    module : whose forward it enters and leaves
    """

    def __init__(self, module: nn.Module) -> None:
        self.context: torch.autocast | None = None
        self.handles = [
            module.register_forward_pre_hook(self.enter),
            module.register_forward_hook(self.leave, always_call=True),
        ]

    def enter(self, module: nn.Module, inputs: tuple[Graph]) -> None:
        """Begin autocast on the device of the graph: there are representations without parameters."""
        if module.training:
            self.context = torch.autocast(inputs[0].pair_vectors.device.type, torch.bfloat16)
            self.context.__enter__()  # type: ignore[no-untyped-call]

    def leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        """End it."""
        if self.context is not None:
            self.context.__exit__(None, None, None)
            self.context = None

    def remove(self) -> None:
        """Undo all."""
        for handle in self.handles:
            handle.remove()


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Suspend autocast on the device of a tensor."""
    device = tensor.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()  # in a tenth of the time


@contextmanager
def matmul_precision(precision: MatmulPrecision) -> Iterator[None]:
    """Set how torch multiplies float32 matrices, for a while: ``high`` is TF32 on GPUs that have it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
