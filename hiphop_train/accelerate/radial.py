"""Twin of learned radial functions with frozen weights: a table, interpolated by cubic polynomials.

The last layer of a radial network multiplies a matrix for each pair, which costs as much as the convolution that uses
the functions. In inference in single precision the functions are read from a table of values and slopes instead. The
number of knots is doubled until interpolation errs by less than `TOLERANCE` of the largest value between all knots.
"""

from typing import Any, Optional, Tuple, Union

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hiphop_train.accelerate.compiler import Library
from hiphop_train.accelerate.twin import Setting, Twin, adopt
from hiphop_train.models.tfn import RadialFilters
from hiphop_train.nn.radial import ExponentialFunctions, RadialFunctions

Functions = Union[ExponentialFunctions, RadialFilters, RadialFunctions]

TOLERANCE = 3e-7
"""Largest error of an interpolated function relative to its largest value: about the resolution of single precision."""

MULTIPLE = 16
"""The number of functions is a multiple of this, so that rows fill the processor's vectors."""

MOST_KNOTS = 8192


class Table:
    """Values and slopes at evenly spaced knots.

    Parameters
    ----------
    plain : in any precision; evaluated in double

    Attributes
    ----------
    rows : (n_knots, 2, n_out), values, and slopes times the spacing
    first : distance of the first knot, Angstrom; below, the first polynomial goes on
    spacing : Angstrom
    error : largest error midway between knots relative to each function's largest value
    """

    def __init__(self, plain: Functions) -> None:
        dtype = next(plain.parameters()).dtype
        self.first = plain.regular_from
        n_intervals = 128
        values, slopes = _evaluate(plain, self._knots(n_intervals, plain.cutoff))
        while True:
            self.spacing = (plain.cutoff - self.first) / n_intervals
            middle, middle_slopes = _evaluate(plain, self._knots(n_intervals, plain.cutoff)[:-1] + 0.5 * self.spacing)
            expected = 0.5 * (values[1:] + values[:-1]) + 0.125 * self.spacing * (slopes[:-1] - slopes[1:])
            size = values.abs().amax(0).clamp(min=1e-30)
            self.error = float(((middle - expected).abs().amax(0) / size).max())
            if self.error < TOLERANCE or n_intervals >= MOST_KNOTS:
                break
            values, slopes = _interleaved(values, middle), _interleaved(slopes, middle_slopes)
            n_intervals *= 2
        self.rows = torch.stack([values, self.spacing * slopes], dim=1).to(dtype)

    def _knots(self, n_intervals: int, cutoff: float) -> Tensor:
        return torch.linspace(self.first, cutoff, n_intervals + 1, dtype=torch.float64)


def _evaluate(plain: Functions, distance: Tensor) -> Tuple[Tensor, Tensor]:
    """Return values and slopes (n, n_out), float64."""
    weights = {name: each.detach().double() for name, each in plain.state_dict().items()}

    def functions(r: Tensor) -> Any:
        return torch.func.functional_call(plain, weights, (r,))

    found = torch.func.jvp(functions, (distance,), (torch.ones_like(distance),))
    return found[0], found[1]


def _interleaved(outer: Tensor, inner: Tensor) -> Tensor:
    """Put rows between rows."""
    return torch.cat([torch.stack([outer[:-1], inner], dim=1).flatten(0, 1), outer[-1:]])


class TabulatedRadialFunctions(nn.Module):
    """Radial functions from a table, which is made again when weights have changed.

    Parameters
    ----------
    plain : the module
    setting : of the twin
    """

    def __init__(self, plain: Functions, setting: Setting) -> None:
        super().__init__()
        adopt(self, plain)
        self.original = [plain]
        self.library = setting.compile("radial.c")
        self.table: Optional[Table] = None
        self.versions: list[int] = []

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate at distances (n_pairs,), Angstrom: (n_pairs, n_out)."""
        if not self.library.serves(distance):  # converted or moved after compilation
            plain: Tensor = self.original[0](distance)
            return plain
        versions = [parameter._version for parameter in self.parameters()]
        if self.table is None or versions != self.versions:
            self.table, self.versions = Table(self.original[0]), versions
        functions: Tensor = _Interpolate.apply(distance, self.table, self.library)  # type: ignore[no-untyped-call]
        return functions


class _Interpolate(Function):
    @staticmethod
    def forward(ctx: Any, distance: Tensor, table: Table, library: Library) -> Tensor:
        distance = distance.contiguous()
        ctx.save_for_backward(distance)
        ctx.table, ctx.library = table, library
        n_knots, _, n_out = table.rows.shape
        values = distance.new_empty((len(distance), n_out))
        sizes = (len(distance), n_out, n_knots, table.first, 1.0 / table.spacing)
        library.call("values", distance, table.rows, values, *sizes)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor, None, None]:
        (distance,) = ctx.saved_tensors
        table: Table = ctx.table
        n_knots, _, n_out = table.rows.shape
        gradient = torch.empty_like(distance)
        sizes = (len(distance), n_out, n_knots, table.first, 1.0 / table.spacing)
        ctx.library.call("derivative", distance, table.rows, grad_output.contiguous(), gradient, *sizes)
        return gradient, None, None


def _why_not(plain: Functions, setting: Setting) -> str:
    missing = setting.why_no_kernels()
    if missing:
        return missing
    if setting.dtype != torch.float32:
        return "tables of radial functions are for single precision"
    if isinstance(plain, RadialFilters) and not plain.is_smooth:
        return "tables of radial functions are for smooth ones, which relu does not make"
    if plain.n_out % MULTIPLE:
        return f"tables of radial functions need a multiple of {MULTIPLE} functions, not {plain.n_out}"
    return ""


TWINS = [
    Twin("radial functions", "table", replaces, TabulatedRadialFunctions, purposes=("inference",), why_not=_why_not)
    for replaces in (RadialFunctions, ExponentialFunctions, RadialFilters)
]
