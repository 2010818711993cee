"""Powers with integer exponents; TorchScript-safe."""

import torch
from torch import Tensor


def integer_power(base: Tensor, exponent: int) -> Tensor:
    """Raise to a power by repeated squaring, which is much faster than ``torch.pow`` and its derivatives.

    Parameters
    ----------
    base : any shape
    exponent : at least 0
    """
    power = base if exponent % 2 == 1 else torch.ones_like(base)
    is_one = exponent % 2 == 0
    square = base
    exponent = exponent // 2
    while exponent > 0:
        square = square.square()
        if exponent % 2 == 1:
            power = square if is_one else power * square
            is_one = False
        exponent = exponent // 2
    return power
