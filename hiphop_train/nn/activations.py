"""Activation functions that torch lacks, or evaluates less accurately."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class ShiftedSoftplus(nn.Module):
    """ln(e^x / 2 + 1 / 2), softplus shifted to be 0 at 0 (arXiv 1706.08566, section 4.1)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply to each number."""
        return softplus(inputs) - math.log(2.0)


class CELU(nn.Module):
    """Continuously differentiable exponential linear unit, max(x, 0) + alpha (exp(min(x, 0) / alpha) - 1).

    Barron, arXiv 1704.07483. torch's own has derivatives of single precision even in float64.

    Parameters
    ----------
    alpha : minus the limit at large negative x
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply to each number."""
        decay = torch.exp(inputs.clamp(max=0.0) / self.alpha)
        return inputs.clamp(min=0.0) + self.alpha * (decay - 1.0)
