"""The invariants of HIP-HOP-NN: the set of contractions of an atom's tensors, and their evaluation."""

from functools import cache
from typing import List, Literal

import torch
from torch import Tensor, nn

from hiphop_train.errors import ConfigError
from hiphop_train.nn.contractions import Contraction, parse
from hiphop_train.nn.invariant_search import flexible_invariants
from hiphop_train.nn.tensors import full_tensor

InvariantSet = Literal["published", "flexible"]

PUBLISHED = (
    "s",
    "v_i v_i",
    "q_ij q_ij",
    "q_ij q_jk q_ki",
    "t_ijk t_ijk",
    "t_ijk t_ijm t_nok t_nom",
    "v_i v_j q_ij",
    "v_i v_j q_ik q_jk",
    "v_i v_j v_k t_ijk",
    "v_k v_m t_ijk t_ijm",
    "q_km t_ijk t_ijm",
    "q_kn q_mn t_ijk t_ijm",
    "q_ij q_no t_ijk t_nok",
)
"""The published set for l_max = 3, n_max = 4 (arXiv 2503.23515, table I), in the order of hippynn's weights."""


@cache
def invariant_contractions(invariants: InvariantSet, l_max: int, n_max: int) -> List[Contraction]:
    """Return the invariants of a set in the order of a model's weights.

    Parameters
    ----------
    invariants : "published", those of the paper, or "flexible", the smallest set that has the rank of all products of
        up to n_max tensors whichever tensors vanish (see `nn.invariant_search`)
    l_max : highest rank of the tensors
    n_max : highest number of tensors in a product

    Raises
    ------
    ConfigError
        if l_max or n_max exceeds the published set
    """
    if invariants == "flexible":
        return flexible_invariants(l_max, n_max)
    if l_max > 3 or n_max > 4:
        raise ConfigError(
            f"model.l_max={l_max}, model.n_max={n_max}: the published invariants end at l_max=3, n_max=4; "
            "lower them, or use model.invariants=flexible"
        )
    published = [parse(product) for product in PUBLISHED]
    return [product for product in published if len(product.ranks) <= n_max and max(product.ranks) <= l_max]


class Invariants(nn.Module):
    """Evaluate the invariants of a set; no parameters.

    Parameters
    ----------
    invariants, l_max, n_max : see `invariant_contractions`
    """

    def __init__(self, invariants: InvariantSet, l_max: int, n_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        self.contractions = invariant_contractions(invariants, l_max, n_max)
        self.n_invariants = len(self.contractions)
        self.ranks = [list(contraction.ranks) for contraction in self.contractions]
        self.equations = [contraction.equation() for contraction in self.contractions]

    def forward(self, components: Tensor) -> Tensor:
        """Evaluate.

        Parameters
        ----------
        components : ((l_max + 1)^2, ...), free components of the tensors, see `nn.tensors`

        Returns
        -------
        invariants : (n_invariants, ...)
        """
        tensors: List[Tensor] = []  # s, v, q, t ...
        for rank in range(self.l_max + 1):
            tensors.append(full_tensor(components[rank * rank : (rank + 1) * (rank + 1)], rank))
        invariants: List[Tensor] = []
        for ranks, equation in zip(self.ranks, self.equations):
            invariants.append(torch.einsum(equation, [tensors[rank] for rank in ranks]))
        return torch.stack(invariants)
