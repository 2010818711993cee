"""Activation functions that torch does not have."""

import math

from torch import Tensor, nn
from torch.nn.functional import softplus


class ShiftedSoftplus(nn.Module):
    """ln(e^x / 2 + 1 / 2), softplus moved down so that it is 0 at 0 (arXiv 1706.08566, section 4.1)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply to each number."""
        return softplus(inputs) - math.log(2.0)
