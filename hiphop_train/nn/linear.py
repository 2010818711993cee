"""Linear layers with the initialisation of SchNet and DTNN."""

from torch import nn


def glorot_linear(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """Make a linear layer with uniform weights of variance 2 / (n_in + n_out) (Glorot, Bengio, 2010) and zero biases.

    Parameters
    ----------
    n_in, n_out : widths
    bias : whether the layer has biases
    """
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
