"""Products of harmonics and features of pairs with tensors of their atoms, in C, differentiable as often as wanted.

They are partial derivatives of one form that is linear in each of four tensors, with n components of rank l(n), atoms i
and the pairs p that each receives:

F(s, r, y, w) = sum_i sum_(p of i) sum_nu s_pu r_inu y_pn w_pl(n)u

Derivatives of a partial derivative are again partial derivatives of F, with a gradient in the place of a tensor. One
function thus serves energies, forces and training.
"""

from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

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
            n_ranks^2) and w (n_pairs, n_ranks, n_features); that of the index is not used
        """
        return self.partials((index,), tensors)[0]

    def partials(self, wanted: Sequence[int], tensors: Sequence[Optional[Tensor]]) -> Tuple[Tensor, ...]:
        """Return the derivatives with respect to several tensors."""
        given = [None if each is None else each.to(self.library.dtype).contiguous() for each in tensors]
        results: Tuple[Tensor, ...] = _Partials.apply(self, tuple(wanted), *given)  # type: ignore[no-untyped-call]
        return results

    def evaluate(self, wanted: Sequence[int], tensors: Sequence[Optional[Tensor]]) -> Tuple[Tensor, ...]:
        """Return the same, unknown to autograd."""
        n_atoms, n_components = len(self.start) - 1, self.n_ranks**2
        shapes = [
            (self.n_pairs, self.n_features),
            (n_atoms, n_components, self.n_features),
            (self.n_pairs, n_components),
            (self.n_pairs, self.n_ranks, self.n_features),
        ]
        for tensor, shape in zip(tensors, shapes, strict=True):
            assert tensor is None or (self.library.serves(tensor) and tensor.shape == shape and tensor.is_contiguous())
        results = [
            self.start.new_empty(shape, dtype=self.library.dtype) if k in wanted else None
            for k, shape in enumerate(shapes)
        ]
        self.library.call("partials", self.start, *tensors, *results, n_atoms, self.n_features)
        found = {k: result for k, result in enumerate(results) if result is not None}
        return tuple(found[k] for k in wanted)


class _Partials(Function):
    @staticmethod
    def forward(ctx: Any, pairs: Pairs, wanted: Tuple[int, ...], *tensors: Optional[Tensor]) -> Tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.pairs, ctx.wanted = pairs, wanted
        ctx.set_materialize_grads(False)
        return pairs.evaluate(wanted, tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Optional[Tensor]) -> Tuple[Optional[Tensor], ...]:
        """Sum over the results: each gradient takes the place of the tensor of its result."""
        sums: List[Optional[Tensor]] = [None] * 4
        for k, gradient in zip(ctx.wanted, grad_outputs, strict=True):
            needed = [j for j in range(4) if j != k and ctx.needs_input_grad[2 + j]]
            if gradient is None or not needed:
                continue
            tensors = list(ctx.saved_tensors)
            tensors[k] = gradient
            for j, found in zip(needed, ctx.pairs.partials(needed, tensors), strict=True):
                total = sums[j]
                sums[j] = found if total is None else total + found
        return None, None, *sums


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
