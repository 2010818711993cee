"""Twin of the atomic cluster expansion: densities and their products in C, twice differentiable.

The sum over neighbours is linear in radial functions, tensors and gradients, so all its derivatives are sums of this
kind too. The products share parts, each of which a program evaluates once (see `contraction_programs`, `steps`).
"""

from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hiphop_train.accelerate.compiler import Library
from hiphop_train.accelerate.contraction_programs import Component, ContractionWriter
from hiphop_train.accelerate.polynomial_kernels import evaluate_compiled
from hiphop_train.accelerate.polynomials import Step
from hiphop_train.accelerate.steps import StepKernels
from hiphop_train.accelerate.twin import Setting, Twin, adopt, why_no_kernels
from hiphop_train.models.ace import ACE
from hiphop_train.models.base import Representation
from hiphop_train.nn.contractions import Contraction
from hiphop_train.nn.couplings import harmonics
from hiphop_train.nn.labelled_products import ProductsOfGraph
from hiphop_train.nn.tensors import component_index
from hiphop_train.types import Graph


class LabelledWriter(ContractionWriter):
    """Writes contractions of several tensors of each rank.

    Parameters
    ----------
    n_labels : number of tensors of each rank; variables count ranks, then components, then tensors
    """

    def __init__(self, n_labels: Tuple[int, ...]) -> None:
        self.n_labels = n_labels
        self.first = first_planes(n_labels)
        super().__init__(self.first[-1])

    def variable(self, component: Component) -> int:
        """Plane of a free component of one tensor."""
        rank, n_labels = component.contraction.ranks[0], self.n_labels[component.contraction.ranks[0]]
        index = component_index(rank, n_x=component.axes[0][0], n_z=component.axes[0][2]) - rank * rank
        return self.first[rank] + index * n_labels + component.labels[0]


def first_planes(n_labels: Tuple[int, ...]) -> List[int]:
    """Return the first plane of each rank, and the number of planes."""
    return [0, *accumulate((2 * rank + 1) * count for rank, count in enumerate(n_labels))]


@cache
def labelled_program(
    products: Tuple[Tuple[Contraction, Tuple[Tuple[int, ...], ...]], ...], n_labels: Tuple[int, ...]
) -> Tuple[List[Step], List[int]]:
    """Write the evaluation of products.

    Parameters
    ----------
    products : contractions, with the labels of each product
    n_labels : see `LabelledWriter`

    Returns
    -------
    steps, outputs : of a program, see `polynomials.Program`
    """
    writer = LabelledWriter(n_labels)
    outputs = [writer.invariant(graph, each) for graph, labels in products for each in labels]
    return writer.steps, outputs


@dataclass(frozen=True)
class Neighbours:
    """Pairs sorted by receiver.

    Attributes
    ----------
    first : (n_atoms + 1,), first pair of each receiver
    species : (n_pairs,) of the sender
    """

    first: Tensor
    species: Tensor


@dataclass(frozen=True)
class DensityKernel:
    """Compiled sums over neighbours.

    Attributes
    ----------
    library : from `kernels/density.c`
    n_planes : of the densities of an atom
    """

    library: Library
    n_planes: int

    def density(self, r: Tensor, y: Tensor, pairs: Neighbours, to: Optional[Tensor] = None) -> Tensor:
        """Return A (n_atoms, n_planes), or add it to `to`."""
        n_atoms = len(pairs.first) - 1
        result = r.new_empty((n_atoms, self.n_planes)) if to is None else to
        self.library.call("density", pairs.first, pairs.species, r, y, result, n_atoms, int(to is not None))
        return result

    def contract(
        self, g: Tensor, r: Tensor, y: Tensor, pairs: Neighbours, dr: Optional[Tensor], dy: Optional[Tensor]
    ) -> None:
        """Write the derivatives of sum of g A with respect to r and y, where wanted."""
        self.library.call("contract", pairs.first, pairs.species, g, r, y, dr, dy, len(pairs.first) - 1, 0)


class _Density(Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor, y: Tensor, pairs: Neighbours, kernel: DensityKernel) -> Tensor:
        ctx.pairs, ctx.kernel = pairs, kernel
        r, y = r.contiguous(), y.contiguous()
        ctx.save_for_backward(r, y)
        return kernel.density(r, y, pairs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tuple[Tensor, Tensor, None, None]:
        r, y = ctx.saved_tensors
        dr, dy = _Contract.apply(g, r, y, ctx.pairs, ctx.kernel)  # type: ignore[no-untyped-call]
        return dr, dy, None, None


class _Contract(Function):
    """Derivatives of sum of g A with respect to r and y."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, r: Tensor, y: Tensor, pairs: Neighbours, kernel: DensityKernel
    ) -> Tuple[Tensor, Tensor]:
        ctx.pairs, ctx.kernel = pairs, kernel
        g = g.contiguous()
        ctx.save_for_backward(g, r, y)
        dr, dy = torch.empty_like(r), torch.empty_like(y)
        kernel.contract(g, r, y, pairs, dr, dy)
        return dr, dy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_r: Tensor, of_y: Tensor) -> Tuple[Tensor, Tensor, Tensor, None, None]:
        """Of sum of g (A(of_r, y) + A(r, of_y))."""
        g, r, y = ctx.saved_tensors
        kernel, pairs = ctx.kernel, ctx.pairs
        of_r, of_y = of_r.contiguous(), of_y.contiguous()
        dg = kernel.density(r, of_y, pairs, kernel.density(of_r, y, pairs))
        dr, dy = torch.empty_like(r), torch.empty_like(y)
        kernel.contract(g, r, of_y, pairs, dr, None)
        kernel.contract(g, of_r, y, pairs, None, dy)
        return dg, dr, dy, None, None


class CompiledACE(Representation):
    """Atomic cluster expansion in C.

    Parameters
    ----------
    plain : the model
    setting : of the twin
    """

    def __init__(self, plain: ACE, setting: Setting) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes, plain.standardised_functions)
        adopt(self, plain)
        self.original = [plain]  # not a submodule: the same buffers
        n_labels = tuple(plain.n_types * count for count in plain.n_radial_by_rank)
        steps, outputs = labelled_program(tuple((graph, tuple(labels)) for graph, labels in plain.products), n_labels)
        scale: List[float] = []
        for each in plain.evaluators:
            assert isinstance(each, ProductsOfGraph)
            scale += [each.factor] * each.labels.shape[1]
        first = first_planes(n_labels)
        self.products = StepKernels(steps, first[-1], outputs, scale, setting)
        library = setting.compile("density.c", generated=header(plain, first))
        self.densities = DensityKernel(library, first[-1])

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the functions B (n_atoms, n_functions)."""
        plain = self.original[0]
        pairs = neighbours(graph) if self.densities.library.serves(graph.pair_vectors) else None
        if pairs is None:  # not sorted, or converted or moved after compilation
            found: List[Tensor] = plain(graph)
            return found
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        values = harmonics(graph.pair_vectors / distance[:, None], plain.l_max)
        densities = _Density.apply(plain.radial(distance), values, pairs, self.densities)  # type: ignore[no-untyped-call]
        return [evaluate_compiled(self.products, densities)]


def neighbours(graph: Graph) -> Optional[Neighbours]:
    """Find the pairs of each receiver; None if they are not sorted."""
    if not bool((graph.pair_i[1:] >= graph.pair_i[:-1]).all()):
        return None
    n_atoms = len(graph.species)
    first = torch.zeros(n_atoms + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(graph.pair_i, minlength=n_atoms), 0, out=first[1:])
    return Neighbours(first, graph.species.index_select(0, graph.pair_j))


def header(plain: ACE, first: List[int]) -> str:
    """Write the file `generated.h` of `kernels/density.c`."""
    n_ranks = len(plain.n_radial_by_rank)
    sizes = {"N_TYPES": plain.n_types, "N_RANKS": n_ranks, "N_RADIAL": plain.n_radial}
    sizes |= {"N_HARMONICS": n_ranks**2, "N_PLANES": first[-1]}
    lists = {"OF_RANK": plain.n_radial_by_rank, "FIRST": first[:-1]}
    lines = [f"enum {{ {', '.join(f'{name} = {value}' for name, value in sizes.items())} }};"]
    lines += [f"static const int {name}[] = {{{', '.join(map(str, values))}}};" for name, values in lists.items()]
    return "\n".join(lines) + "\n"


TWINS = [
    Twin("densities and products", "C", ACE, CompiledACE, why_not=why_no_kernels),
]
