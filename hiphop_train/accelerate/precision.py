"""Reduced precision: where less than float32 is allowed.

With ``trainer.precision=bf16-mixed`` the representation is evaluated under torch's autocast in training: matrix
products are computed in bfloat16, and results that are summed further return to float32 at once. Parts that need more
than the eight bits of bfloat16 are outside autocast (readout, energies, derivatives) or consist of operations that
autocast does not touch (geometry, sums over neighbours, invariants).
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
    module : whose forward runs under autocast
    """

    def __init__(self, module: nn.Module) -> None:
        self.context: torch.autocast | None = None
        self.handles = [
            module.register_forward_pre_hook(self.enter),
            module.register_forward_hook(self.leave, always_call=True),
        ]

    def enter(self, module: nn.Module, inputs: tuple[Graph]) -> None:
        """Begin autocast on the device of the graph, since a representation may have no parameters."""
        if module.training:
            self.context = torch.autocast(inputs[0].pair_vectors.device.type, torch.bfloat16)
            self.context.__enter__()  # type: ignore[no-untyped-call]

    def leave(self, module: nn.Module, inputs: Any, outputs: Any) -> list[Tensor] | None:
        """End autocast; the features of each level leave in the type of the geometry."""
        if self.context is None:
            return None
        self.context.__exit__(None, None, None)
        self.context = None
        return None if outputs is None else [level.to(inputs[0].pair_vectors.dtype) for level in outputs]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Suspend autocast on the device of a tensor."""
    device = tensor.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()  # ten times faster


@contextmanager
def matmul_precision(precision: MatmulPrecision) -> Iterator[None]:
    """Temporarily set the precision of float32 matrix products: ``high`` is TF32 on GPUs that support it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
