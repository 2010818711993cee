"""Residual layers of HIP-NN (JCP 148, 241715, section II B)."""

from torch import Tensor, nn
from torch.nn.functional import softplus


class Residual(nn.Module):
    """Close a layer with a residual connection: U softplus(middle) + b + features.

    Where the widths differ, the features pass through a matrix without bias first.

    Parameters
    ----------
    n_in, n_middle, n_out : widths of the layer's input, of its preactivation, and of the output
    """

    def __init__(self, n_in: int, n_middle: int, n_out: int) -> None:
        super().__init__()
        self.update = nn.Linear(n_middle, n_out)
        self.adjust = nn.Identity() if n_in == n_out else nn.Linear(n_in, n_out, bias=False)

    def forward(self, middle: Tensor, features: Tensor) -> Tensor:
        """Combine.

        Parameters
        ----------
        middle : (n_atoms, n_middle), before the activation
        features : (n_atoms, n_in), input of the layer

        Returns
        -------
        features : (n_atoms, n_out)
        """
        # under autocast layers return bfloat16; the residual stream keeps its dtype
        residual: Tensor = self.update(softplus(middle)).to(features.dtype) + self.adjust(features)
        return residual


class AtomLayer(nn.Module):
    """One on-site layer: features + U softplus(W features + a) + b.

    Parameters
    ----------
    n_features : width
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, n_features)
        self.residual = Residual(n_features, n_features, n_features)
        nn.init.xavier_normal_(self.linear.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Transform (n_atoms, n_features) into the same shape."""
        result: Tensor = self.residual(self.linear(features), features)
        return result
