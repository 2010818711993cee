"""Twin of the convolution of tensors with harmonics: generated C that stores no messages, twice differentiable.

The tensors of one type have couplings with all ranks of harmonics. For each pair, the harmonics and the couplings'
coefficients make small matrices, which multiply the neighbour's tensors, all features of them in the processor's
vectors. The sum over pairs is linear in the tensors x, harmonics y, radial functions w and gradients g: all its
derivatives are sums of the same kind with other arguments, so three kernels suffice for derivatives of any order.
"""

from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from hiphop_train.accelerate.compiler import Library
from hiphop_train.accelerate.twin import Setting, Twin, adopt, why_no_kernels
from hiphop_train.nn.convolution import SourceCouplings, TensorConvolution

MULTIPLE = 16
"""Features are padded to a multiple of this, so that rows fill the processor's vectors."""


@dataclass(frozen=True)
class Neighbours:
    """Pairs sorted by receiver and by sender.

    Attributes
    ----------
    receiver, sender : (n_pairs,)
    first : (n_atoms + 1,), first pair of each receiver
    order : (n_pairs,), pairs sorted by sender
    first_sent : (n_atoms + 1,), first position in `order` of each sender
    """

    receiver: Tensor
    sender: Tensor
    first: Tensor
    order: Tensor
    first_sent: Tensor


@dataclass(frozen=True)
class Kernel:
    """Compiled kernels of the couplings of one type of tensors.

    Attributes
    ----------
    library : from `kernels/tensor_convolution.c`
    size, n_rows, n_paths : see `SourceCouplings`
    """

    library: Library
    size: int
    n_rows: int
    n_paths: int

    def convolve(self, x: Tensor, y: Tensor, w: Tensor, pairs: Neighbours, to: Optional[Tensor] = None) -> Tensor:
        """Return a_i = sum_j w_ij (x_j y_ij), (n_atoms, n_rows, width), or add it to `to`."""
        result = x.new_empty((len(x), self.n_rows, x.shape[2])) if to is None else to
        sizes = (len(x), x.shape[2], w.stride(0), int(to is not None))
        self.library.call("convolve", pairs.first, pairs.sender, x, y, w, result, *sizes)
        return result

    def sources(self, y: Tensor, w: Tensor, g: Tensor, pairs: Neighbours, to: Optional[Tensor] = None) -> Tensor:
        """Return the derivative of sum_i g_i a_i with respect to x, (n_atoms, size, width), or add it to `to`."""
        result = g.new_empty((len(g), self.size, g.shape[2])) if to is None else to
        sizes = (len(g), g.shape[2], w.stride(0), int(to is not None))
        self.library.call("sources", pairs.first_sent, pairs.order, pairs.receiver, g, y, w, result, *sizes)
        return result

    def add(
        self,
        x: Tensor,
        y: Tensor,
        w: Tensor,
        g: Tensor,
        pairs: Neighbours,
        dw: Optional[Tensor],
        dy: Optional[Tensor],
        is_more: bool = True,
    ) -> None:
        """Add the derivatives of sum_i g_i a_i with respect to w, or write them unless `is_more`, and to y."""
        sizes = (len(x), x.shape[2], w.stride(0), 0 if dw is None else dw.stride(0), int(is_more))
        self.library.call("pairs", pairs.first, pairs.sender, x, y, w, g, dw, dy, *sizes)


class CompiledTensorConvolution(nn.Module):
    """Convolution in generated C.

    Parameters
    ----------
    plain : the module
    kernels : of each of its types of tensors
    """

    def __init__(self, plain: TensorConvolution, kernels: List[Kernel]) -> None:
        super().__init__()
        adopt(self, plain)
        self.original = [plain]  # not a submodule: the same parameters and buffers
        self.kernels = kernels
        self.paths, self.widths, self.widths_out = plain.paths, plain.widths, plain.widths_out
        self.n_weights, self.results, self.sizes = plain.n_weights, plain.results, plain.sizes

    def forward(
        self, tensors: List[Tensor], harmonics: Tensor, radial: Tensor, pair_i: Tensor, pair_j: Tensor
    ) -> List[Tensor]:
        """Convolve, see `TensorConvolution`."""
        library = self.kernels[0].library
        if torch.is_autocast_enabled("cpu"):  # sums over neighbours are not rounded
            tensors = [each.to(library.dtype) for each in tensors]
            harmonics, radial = harmonics.to(library.dtype), radial.to(library.dtype)
        pairs = neighbours(pair_i, pair_j, len(tensors[0]), library) if library.serves(radial) else None
        if pairs is None:  # not sorted, or converted or moved after compilation
            found: List[Tensor] = self.original[0](tensors, harmonics, radial, pair_i, pair_j)
            return found
        parts: List[List[Tensor]] = [[] for _ in self.sizes]
        for source, sums in enumerate(self._sums(tensors, harmonics.contiguous(), radial, pairs)):
            row = 0
            for result in self.results[source]:
                parts[result].append(sums[:, row : row + self.sizes[result], : self.widths[source]])
                row += self.sizes[result]
        return [part[0] if len(part) == 1 else torch.cat(part, dim=2) for part in parts]

    def _sums(self, tensors: List[Tensor], harmonics: Tensor, radial: Tensor, pairs: Neighbours) -> Tuple[Tensor, ...]:
        """Return the sums over neighbours of each type of tensors, (n_atoms, n_rows, padded width)."""
        if any(width % MULTIPLE for width in self.widths):
            sizes = [kernel.n_paths * width for kernel, width in zip(self.kernels, self.widths)]
            each = zip(radial.split_with_sizes(sizes, dim=1), self.kernels, self.widths)
            radial = torch.cat([_padded(part.reshape(-1, kernel.n_paths, n)).flatten(1) for part, kernel, n in each], 1)
            tensors = [_padded(tensor) for tensor in tensors]
        contiguous = [tensor.contiguous() for tensor in tensors]
        sums: Tuple[Tensor, ...] = _Convolve.apply(harmonics, radial, pairs, self.kernels, *contiguous)  # type: ignore[no-untyped-call]
        return sums


def _padded(values: Tensor) -> Tensor:
    return pad(values, (0, -values.shape[-1] % MULTIPLE))


def neighbours(pair_i: Tensor, pair_j: Tensor, n_atoms: int, library: Library) -> Optional[Neighbours]:
    """Sort pairs; None if they are not sorted by receiver."""
    if not bool((pair_i[1:] >= pair_i[:-1]).all()):
        return None
    sender = pair_j.contiguous()
    first = torch.zeros(n_atoms + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(pair_i, minlength=n_atoms), 0, out=first[1:])
    order, first_sent = torch.empty_like(sender), torch.empty_like(first)
    library.call("by_sender", sender, order, first_sent, len(sender), n_atoms)
    return Neighbours(pair_i.contiguous(), sender, first, order, first_sent)


def _of_sources(w: Tensor, xs: Sequence[Tensor], kernels: List[Kernel]) -> Sequence[Tensor]:
    """Divide radial functions (n_pairs, n_weights) between the types of tensors."""
    sizes = [kernel.n_paths * x.shape[2] for x, kernel in zip(xs, kernels)]
    return w.split_with_sizes(sizes, dim=1)


def _of_sources_if(w: Optional[Tensor], xs: Sequence[Tensor], kernels: List[Kernel]) -> Sequence[Optional[Tensor]]:
    """Do the same, or return None for each type."""
    return [None] * len(kernels) if w is None else _of_sources(w, xs, kernels)


class _Convolve(Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, w: Tensor, pairs: Neighbours, kernels: List[Kernel], *xs: Tensor
    ) -> Tuple[Tensor, ...]:
        ctx.pairs, ctx.kernels = pairs, kernels
        w = w.contiguous()
        ctx.save_for_backward(y, w, *xs)
        parts = zip(kernels, xs, _of_sources(w, xs, kernels), strict=True)
        return tuple(kernel.convolve(x, y, part, pairs) for kernel, x, part in parts)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tuple[Optional[Tensor], ...]:
        y, w, *xs = ctx.saved_tensors
        wants_y, wants_w, _, _, *wants_x = ctx.needs_input_grad
        gs = [g.contiguous() for g in grad_outputs]
        given = (y, w, ctx.pairs, ctx.kernels, (wants_y, wants_w, *wants_x), *xs, *gs)
        dy, dw, *dxs = _Gradient.apply(*given)  # type: ignore[no-untyped-call]
        return dy, dw, None, None, *dxs


class _Gradient(Function):
    """Derivatives of sum_i g_i a_i with respect to y, w and the tensors x."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        w: Tensor,
        pairs: Neighbours,
        kernels: List[Kernel],
        wanted: Tuple[bool, ...],
        *xs_and_gs: Tensor,
    ) -> Tuple[Optional[Tensor], ...]:
        ctx.pairs, ctx.kernels = pairs, kernels
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, w, *xs_and_gs)
        xs, gs = xs_and_gs[: len(kernels)], xs_and_gs[len(kernels) :]
        dy = torch.zeros_like(y) if wanted[0] else None
        dw = torch.empty_like(w) if wanted[1] else None
        dxs: List[Optional[Tensor]] = []
        parts = zip(kernels, _of_sources(w, xs, kernels), _of_sources_if(dw, xs, kernels), strict=True)
        for k, (kernel, part, dpart) in enumerate(parts):
            dxs.append(kernel.sources(y, part, gs[k], pairs) if wanted[2 + k] else None)
            if dy is not None or dpart is not None:
                kernel.add(xs[k], y, part, gs[k], pairs, dpart, dy, is_more=False)
        return dy, dw, *dxs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_y: Optional[Tensor], of_w: Optional[Tensor], *of_xs: Optional[Tensor]) -> Tuple[Any, ...]:
        """Of S = sum_i g_i (a_i(of_x, y, w) + a_i(x, of_y, w) + a_i(x, y, of_w)), linear in each argument."""
        y, w, *xs_and_gs = ctx.saved_tensors
        kernels, pairs = ctx.kernels, ctx.pairs
        xs, gs = xs_and_gs[: len(kernels)], xs_and_gs[len(kernels) :]
        wants_y, wants_w, _, _, _, *wants = ctx.needs_input_grad
        of_y, of_w = (None if each is None else each.contiguous() for each in (of_y, of_w))
        dy = torch.zeros_like(y) if wants_y else None
        dw = torch.zeros_like(w) if wants_w else None
        dxs = [torch.zeros_like(x) if wanted else None for x, wanted in zip(xs, wants[: len(xs)])]
        dgs = [torch.zeros_like(g) if wanted else None for g, wanted in zip(gs, wants[len(xs) :])]
        ws, of_ws, dws = (_of_sources_if(each, xs, kernels) for each in (w, of_w, dw))
        for k, kernel in enumerate(kernels):
            g, dx, dg = gs[k], dxs[k], dgs[k]
            of_x = of_xs[k]
            terms = [
                (None if of_x is None else of_x.contiguous(), y, ws[k], (None, dws[k], dy)),
                (xs[k], of_y, ws[k], (dx, dws[k], None)),
                (xs[k], y, of_ws[k], (dx, None, dy)),
            ]
            for first, second, third, (to_x, to_w, to_y) in terms:
                if first is None or second is None or third is None:
                    continue
                if dg is not None:
                    kernel.convolve(first, second, third, pairs, dg)
                if to_x is not None:
                    kernel.sources(second, third, g, pairs, to_x)
                if to_w is not None or to_y is not None:
                    kernel.add(first, second, third, g, pairs, to_w, to_y)
        return dy, dw, None, None, None, *dxs, *dgs


def header(couplings: SourceCouplings, n_harmonics: int) -> str:
    """Write the file `generated.h` of `kernels/tensor_convolution.c`."""
    coefficients = couplings.coefficients.reshape(n_harmonics, couplings.n_rows, couplings.size)
    entries: dict[tuple[int, int], int] = {}  # (row, column) -> index in m
    for row in range(couplings.n_rows):
        for column in range(couplings.size):
            if bool(coefficients[:, row, column].any()):
                entries[row, column] = len(entries)
    terms = {key: [(b, float(c)) for b, c in enumerate(coefficients[:, *key]) if float(c) != 0.0] for key in entries}
    rows: dict[int, list[int]] = {}  # path -> rows
    for row, path in enumerate(couplings.path_of_row.tolist()):
        rows.setdefault(path, []).append(row)
    columns = {
        row: [column for column in range(couplings.size) if (row, column) in entries] for row in range(couplings.n_rows)
    }

    matrix = [f"m[{k}] = {' + '.join(f'(real){c!r} * y[{b}]' for b, c in terms[key])};" for key, k in entries.items()]
    loads = [f"const lanes x{a} = get(x + {a} * n + f);" for a in range(couplings.size)]

    def product(row: int) -> str:
        return " + ".join(f"m[{entries[row, column]}] * x{column}" for column in columns[row])

    convolve, weights = [*loads], [*loads]
    sources = [f"lanes d{a} = get(dx + {a} * n + f);" for a in range(couplings.size)]
    outer = []
    for path, own in rows.items():
        w = f"const lanes w{path} = get(w + {path} * n + f);"
        convolve.append(w)
        sources.append(w)
        weights.append(f"lanes s{path} = is_more ? get(dw + {path} * n + f) : (lanes){{0}};")
        for row in own:
            convolve.append(f"put(a + {row} * n + f, get(a + {row} * n + f) + w{path} * ({product(row)}));")
            weights.append(f"s{path} += get(g + {row} * n + f) * ({product(row)});")
            sources.append(f"const lanes g{row} = w{path} * get(g + {row} * n + f);")
            sources += [f"d{column} += m[{entries[row, column]}] * g{row};" for column in columns[row]]
        weights.append(f"put(dw + {path} * n + f, s{path});")
        keys = [(row, column) for row in own for column in columns[row]]
        outer.append("{")
        outer += [f"lanes m{entries[key]} = {{0}};" for key in keys]
        outer += ["EACH_LANES(f) {", *loads, w]
        for row in own:
            outer.append(f"const lanes g{row} = w{path} * get(g + {row} * n + f);")
            outer += [f"m{entries[row, column]} += g{row} * x{column};" for column in columns[row]]
        outer.append("}")
        for key in keys:
            outer += [f"sums[{b}] += (real){c!r} * m{entries[key]};" for b, c in terms[key]]
        outer.append("}")
    sources += [f"put(dx + {a} * n + f, d{a});" for a in range(couplings.size)]
    at = "int64_t n, int64_t f"
    functions = {
        "matrix(const real *y, real *m)": matrix,
        f"convolve_at(const real *x, const real *w, const real *m, real *a, {at})": convolve,
        f"sources_at(const real *g, const real *w, const real *m, real *dx, {at})": sources,
        f"weights_at(const real *x, const real *g, const real *m, real *dw, int64_t is_more, {at})": weights,
        "outer(const real *x, const real *g, const real *w, lanes *sums, int64_t n)": outer,
    }
    sizes = {"SIZE": couplings.size, "N_ROWS": couplings.n_rows, "N_PATHS": couplings.n_paths}
    sizes |= {"N_HARMONICS": n_harmonics, "N_ENTRIES": len(entries)}
    lines = [f"enum {{ {', '.join(f'{name} = {value}' for name, value in sizes.items())} }};"]
    for signature, body in functions.items():
        arguments = signature.replace("*", "*restrict ")
        lines += [
            f"static inline __attribute__((always_inline)) void {arguments}",
            "{",
            *(f"    {line}" for line in body),
            "}",
        ]
    return "\n".join(lines) + "\n"


def _compile(plain: TensorConvolution, setting: Setting) -> CompiledTensorConvolution:
    kernels = []
    for couplings in plain.couplings:
        assert isinstance(couplings, SourceCouplings)
        n_harmonics = len(couplings.coefficients)
        library = setting.compile("tensor_convolution.c", generated=header(couplings, n_harmonics))
        kernels.append(Kernel(library, couplings.size, couplings.n_rows, couplings.n_paths))
    return CompiledTensorConvolution(plain, kernels)


TWINS = [
    Twin("convolution of tensors", "compiled C", TensorConvolution, _compile, why_not=why_no_kernels),
]
