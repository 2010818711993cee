"""Where less than float32 is allowed, and where it is not.

With ``trainer.precision=bf16-mixed`` training steps run under torch's autocast: matrix products are made in bfloat16.
What such a product gives goes back to float32 at once where it is summed further. What bfloat16's eight bits would
spoil is kept out of autocast, or is no product that it knows: geometry, sums over neighbours, invariants, energies.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["full", "bf16-mixed"]
MatmulPrecision = Literal["highest", "high", "medium"]


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
