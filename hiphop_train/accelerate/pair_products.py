"""Products of harmonics and features of pairs with tensors of their atoms, in C, differentiable as often as wanted.

They are partial derivatives of one form that is linear in each of four tensors, with n components of rank l(n), atoms i
and the pairs p that each receives:

F(s, r, y, w) = sum_i sum_(p of i) sum_nu s_pu r_inu y_pn w_pl(n)u

Derivatives of a partial derivative are again partial derivatives of F, with a gradient in the place of a tensor. Four
functions thus serve energies, forces and training.
"""

from dataclasses import dataclass
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.accelerate.compiler import Library
from hiphop_train.accelerate.twin import Setting

S, R, Y, W = range(4)


@dataclass(frozen=True)
class Pairs:
    """What all products of a graph share.

    Attributes
    ----------
    library : compiled from `kernels/pair_products.c`
    n_ranks : of the harmonics
    n_features : u
    start : (n_atoms + 1,) int64, first pair of each atom; pairs are sorted by receiver
    n_pairs : number of pairs
    """

    library: Library
    n_ranks: int
    n_features: int
    start: Tensor
    n_pairs: int

    def partial(self, index: int, tensors: Sequence[Optional[Tensor]]) -> Tensor:
        """Return the derivative of F with respect to a tensor.

        Parameters
        ----------
        index : of the tensor
        tensors : s (n_pairs, n_features), which may be None for 1, r (n_atoms, n_ranks^2, n_features), y (n_pairs,
            n_ranks^2) and w (n_pairs, n_ranks, n_features), without the one of the index
        """
        given = [None if each is None else each.to(self.library.dtype) for each in tensors]
        result: Tensor = _Partial.apply(self, index, *given)  # type: ignore[no-untyped-call]
        return result

    def evaluate(self, index: int, tensors: Sequence[Optional[Tensor]]) -> Tensor:
        """Return the same, unknown to autograd."""
        n_atoms, n_components = len(self.start) - 1, self.n_ranks**2
        shapes = [
            (self.n_pairs, self.n_features),
            (n_atoms, n_components, self.n_features),
            (self.n_pairs, n_components),
            (self.n_pairs, self.n_ranks, self.n_features),
        ]
        result = self.start.new_empty(shapes[index], dtype=self.library.dtype)
        arguments = [None if each is None else each.contiguous() for each in tensors]
        arguments.insert(index, result)
        for argument, shape in zip(arguments, shapes, strict=True):
            assert argument is None or (self.library.serves(argument) and argument.shape == shape)
        self.library.call(f"partial_{index}", self.start, *arguments, n_atoms, self.n_features)
        return result


class _Partial(Function):
    @staticmethod
    def forward(ctx: Any, pairs: Pairs, index: int, *tensors: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.pairs, ctx.index = pairs, index
        return pairs.evaluate(index, tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Optional[Tensor], ...]:
        tensors = list(ctx.saved_tensors)
        tensors.insert(ctx.index, grad_output)
        needed = list(ctx.needs_input_grad[2:])
        needed.insert(ctx.index, False)
        found = [
            ctx.pairs.partial(k, tensors[:k] + tensors[k + 1 :]) if needed[k] else None
            for k in range(len(tensors))
            if k != ctx.index
        ]
        return None, None, *found


def compile_pair_products(n_ranks: int, setting: Setting) -> Library:
    """Compile the functions for harmonics of a number of ranks."""
    return setting.compile("pair_products.c", {"N_RANKS": n_ranks}, in_vectors=False)


def first_pairs(pair_i: Tensor, n_atoms: int) -> Optional[Tensor]:
    """Return the first pair of each receiver (n_atoms + 1,); None if pairs are not sorted by receiver."""
    if not bool((pair_i[1:] >= pair_i[:-1]).all()):
        return None
    start = pair_i.new_zeros(n_atoms + 1)
    torch.cumsum(torch.bincount(pair_i, minlength=n_atoms), 0, out=start[1:])
    return start
