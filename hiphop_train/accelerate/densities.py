"""Densities of neighbours by species, g_n(r) Y^l of the pair vectors summed over neighbours, in C.

The sum is linear in radial functions, tensors and gradients, so all its derivatives are sums of the same kind, which
training needs. Where forces are not differentiated, radial functions and tensors are computed from the vectors in the
same loop, with their slopes for the derivative.
"""

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Set, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hiphop_train.accelerate.compiled_tensors import tensor_program
from hiphop_train.accelerate.compiler import Library
from hiphop_train.accelerate.polynomials import NOTHING, Step
from hiphop_train.accelerate.precision import full_precision
from hiphop_train.models.ace import ACE
from hiphop_train.nn.couplings import harmonics
from hiphop_train.types import Graph


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
        assert kernel.library.serves(r)
        assert kernel.library.serves(y)
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


class _DensityOfVectors(Function):
    """Densities of vectors (n_pairs, 3), which can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, pairs: Neighbours, kernel: DensityKernel) -> Tensor:
        ctx.pairs, ctx.kernel = pairs, kernel
        vectors = vectors.contiguous()
        ctx.save_for_backward(vectors)
        n_atoms = len(pairs.first) - 1
        result = vectors.new_empty((n_atoms, kernel.n_planes))
        kernel.library.call("density_of_vectors", pairs.first, pairs.species, vectors, result, n_atoms)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tuple[Tensor, None, None]:
        (vectors,) = ctx.saved_tensors
        gradient = torch.empty_like(vectors)
        given = (ctx.pairs.first, ctx.pairs.species, vectors, g.contiguous(), gradient)
        ctx.kernel.library.call("gradient_of_vectors", *given, len(ctx.pairs.first) - 1)
        return gradient, None, None


def densities(graph: Graph, plain: ACE, pairs: Neighbours, kernel: DensityKernel, is_frozen: bool) -> Tensor:
    """Return the densities (n_atoms, n_planes), which can be differentiated once if frozen, otherwise twice."""
    if is_frozen:
        found: Tensor = _DensityOfVectors.apply(graph.pair_vectors, pairs, kernel)  # type: ignore[no-untyped-call]
        return found
    distance = torch.linalg.norm(graph.pair_vectors, dim=1)
    values = harmonics(graph.pair_vectors / distance[:, None], plain.l_max)
    with full_precision(distance):
        radial = plain.radial(distance)
    found = _Density.apply(radial, values, pairs, kernel)  # type: ignore[no-untyped-call]
    return found


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
    reals = recurrence(plain.matrix.double()) | {"SIZE_OF_HARMONIC": harmonic_sizes(plain.l_max)}
    lines += [f"static const double {name}[] = {{{', '.join(map(repr, each))}}};" for name, each in reals.items()]
    lines += [f"static const double CUTOFF = {float(plain.cutoff)!r};", *tensor_functions(plain.l_max)]
    return "\n".join(lines) + "\n"


def recurrence(matrix: Tensor) -> Dict[str, List[float]]:
    """Return the coefficients of g_n = a_n b_(n+1) + b_n b_(n+2) + c_n g_(n-1), b_k = sin(k pi r / r_c) / r.

    Parameters
    ----------
    matrix : of `models.ace.orthogonal_bessel_matrix`
    """
    found: Dict[str, List[float]] = {"OF_FIRST": [], "OF_SECOND": [], "OF_BEFORE": []}
    for n in range(matrix.shape[1]):
        before = float(matrix[n - 1, n] / matrix[n - 1, n - 1]) if n else 0.0
        found["OF_FIRST"].append(float(matrix[n, n]) - (before * float(matrix[n, n - 1]) if n else 0.0))
        found["OF_SECOND"].append(float(matrix[n + 1, n]))
        found["OF_BEFORE"].append(before)
    return found


def harmonic_sizes(l_max: int) -> List[float]:
    """Return the factor of each component of the harmonics with respect to `nn.tensors.irreducible_tensors`."""
    found: List[float] = []
    for rank in range(l_max + 1):
        square = math.prod(range(1, 2 * rank + 2, 2)) / math.factorial(rank)
        found += [math.sqrt(square)] * (2 * rank + 1)
    return found


def tensor_functions(l_max: int) -> List[str]:
    """Write the irreducible tensors of unit vectors, and their derivative, as C functions of planes.

    Planes 0 to 2 are the vectors, N_TENSOR_PLANES + 0 to 2 their gradients; TENSOR_OUTPUTS are those of components.
    """
    if l_max == 0:
        empty = ["static inline void tensors(lanes *p) {}", "static inline void tensors_gradient(lanes *p) {}"]
        return ["enum { N_TENSOR_PLANES = 3 };", "static const int TENSOR_OUTPUTS[] = {0};", *empty]
    program = tensor_program(l_max)
    n = program.n_planes
    outputs = ", ".join(map(str, program.outputs))
    return [
        f"enum {{ N_TENSOR_PLANES = {n} }};",
        f"static const int TENSOR_OUTPUTS[] = {{0, {outputs}}};",
        "static inline void tensors(lanes *p)",
        *_statements(program.steps, set()),
        "static inline void tensors_gradient(lanes *p)",
        *_statements(program.gradient, {n + k for k in program.outputs}),
    ]


def _statements(steps: List[Step], filled: Set[int]) -> List[str]:
    lines = ["{"]
    for target, left, right, factor in steps:
        product = f"p[{left}]" if right == NOTHING else f"p[{left}] * p[{right}]"
        lines.append(f"    p[{target}] {'+=' if target in filled else '='} (real){factor!r} * {product};")
        filled.add(target)
    return [*lines, "}"]
