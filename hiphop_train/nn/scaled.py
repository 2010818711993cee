"""Linear layers and networks whose weights keep unit variance, as in e3nn, NequIP and MACE."""

import math
from itertools import pairwise
from typing import List

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

SILU_FACTOR = 1.6791767923989418
TANH_FACTOR = 1.5937334472592695
"""Factors that make the mean square of an activation 1 for normally distributed numbers, as estimated by e3nn from
random ones; exact are 1.676532 and 1.592537."""


class ScaledLinear(nn.Module):
    """y = g x W / sqrt(n_in): the weights keep unit variance, and the factor is applied in the forward pass.

    The rate at which Adam changes the map depends on this: e3nn, NequIP and MACE scale alike.

    Parameters
    ----------
    n_in, n_out : widths
    gain : g
    uniform : whether weights are drawn from a uniform distribution instead of a normal one
    """

    def __init__(self, n_in: int, n_out: int, gain: float = 1.0, uniform: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.factor = gain / math.sqrt(n_in)
        if uniform:
            nn.init.uniform_(self.weight, -math.sqrt(3), math.sqrt(3))
        else:
            nn.init.normal_(self.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        return inputs @ (self.factor * self.weight)


class ScaledNetwork(nn.Module):
    """Scaled layers without biases, with silu between them.

    Parameters
    ----------
    n_in, n_out : widths
    hidden : widths of the hidden layers
    gain : factor of all layers but the first
    uniform : see `ScaledLinear`
    """

    def __init__(self, n_in: int, hidden: List[int], n_out: int, gain: float, uniform: bool = False) -> None:
        super().__init__()
        widths = [n_in, *hidden, n_out]
        self.layers = nn.ModuleList(
            ScaledLinear(before, after, gain if k > 0 else 1.0, uniform)
            for k, (before, after) in enumerate(pairwise(widths))
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        for k, layer in enumerate(self.layers):
            inputs = layer(inputs if k == 0 else silu(inputs))
        return inputs
