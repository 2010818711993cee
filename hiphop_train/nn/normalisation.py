"""Layer normalisation without parameters, with its second derivatives written out.

Of x along the last axis, with mean m and r = 1 / sqrt(mean (x - m)^2 + eps): y = r (x - m). Its Jacobian is symmetric;
seeds g become r (g - mean g - y mean(g y)). Autograd's derivative of that is thirty operations on whole tensors.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import layer_norm

from hiphop_train.nn.compiled import evaluate_compiled
from hiphop_train.nn.kernels import Compilable, compile_kernels

EPSILON = 1e-5

SOURCE = """\
#include <math.h>
#define ROW(name, part, number) real *restrict name = part[number].data + row * part[number].row
#define EACH(work) _Pragma("omp simd") for (int64_t i = 0; i < n; i++) { work; }
#define ROWS(work) \\
    _Pragma("omp parallel for num_threads(n_threads) schedule(static)") \\
    for (int64_t row = 0; row < n_rows; row++) { work; }

static inline real sum(const real *x, int64_t n)
{
    real s = 0;
    #pragma omp simd reduction(+: s)
    for (int64_t i = 0; i < n; i++) s += x[i];
    return s;
}

/* sum (x - a) (y - b) */
static inline real product(const real *x, real a, const real *y, real b, int64_t n)
{
    real s = 0;
    #pragma omp simd reduction(+: s)
    for (int64_t i = 0; i < n; i++) s += (x[i] - a) * (y[i] - b);
    return s;
}

#define STATISTICS \\
    const real m = sum(x, n) / n, r = 1 / (real)sqrt(product(x, m, x, m, n) / n + (real)EPSILON);

void evaluate(const tensor *given, const tensor *asked, int64_t n_rows, int64_t n, int n_threads)
{
    ROWS(ROW(x, given, 0); ROW(y, asked, 0); STATISTICS EACH(y[i] = r * (x[i] - m)))
}

void gradient(const tensor *given, const tensor *asked, int64_t n_rows, int64_t n, int n_threads)
{
    ROWS(
        ROW(x, given, 0); ROW(g, given, 1); ROW(of_x, asked, 0); STATISTICS
        const real mean_g = sum(g, n) / n;
        const real q = r * product(g, mean_g, x, m, n) / n;
        EACH(of_x[i] = r * (g[i] - mean_g - r * (x[i] - m) * q)))
}

void gradient_of_gradient(const tensor *given, const tensor *asked, int64_t n_rows, int64_t n, int n_threads)
{
    ROWS(
        ROW(x, given, 0); ROW(g, given, 1); ROW(u, given, 2); ROW(of_x, asked, 0); ROW(of_g, asked, 1); STATISTICS
        const real mean_g = sum(g, n) / n;
        const real mean_u = sum(u, n) / n;
        const real q = r * product(g, mean_g, x, m, n) / n;
        const real p = r * product(u, mean_u, x, m, n) / n;
        const real c = product(u, mean_u, g, mean_g, n) / n - 3 * p * q;
        EACH(
            const real y = r * (x[i] - m);
            of_g[i] = r * (u[i] - mean_u - y * p);
            of_x[i] = -r * r * (p * (g[i] - mean_g) + q * (u[i] - mean_u) + c * y)))
}
"""


class Normalisation(Compilable):
    """Give each row mean 0 and variance 1; nothing is learned."""

    def forward(self, values: Tensor) -> Tensor:
        """Normalise (..., n_features) along the last axis."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return layer_norm(values, values.shape[-1:], eps=1e-5)
        normal: Tensor = self.evaluate(values)
        return normal

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def evaluate(self, values: Tensor) -> Tensor:
        """Do as `forward` does, with derivatives of their own, which TorchScript cannot hold."""
        if self.kernels is not None and self.kernels.serve(values):
            rows = values.reshape(1, -1, values.shape[-1])
            return evaluate_compiled(self.kernels, rows).reshape(values.shape)
        normal: Tensor = _Normalise.apply(values)  # type: ignore[no-untyped-call]
        return normal

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def compile_for(self, dtype: torch.dtype) -> bool:
        """Compile the formulas above."""
        self.kernels, is_new = compile_kernels(f"#define EPSILON {EPSILON}\n{SOURCE}", dtype, 1, 1)
        return is_new


class _Normalise(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        normal, mean, scale = torch.native_layer_norm(values, values.shape[-1:], None, None, EPSILON)
        ctx.save_for_backward(values, mean, scale)
        return normal

    @staticmethod
    def backward(ctx: Any, seeds: Tensor) -> Tensor:
        gradient: Tensor = _Gradient.apply(seeds, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return gradient


class _Gradient(Function):
    @staticmethod
    def forward(ctx: Any, seeds: Tensor, values: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(seeds, values, mean, scale)
        return _apply_jacobian(seeds, values, mean, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, more_seeds: Tensor) -> tuple[Tensor, Tensor, None, None]:
        seeds, values, mean, scale = ctx.saved_tensors
        n = values.shape[-1]
        first = seeds - seeds.mean(-1, keepdim=True)
        second = more_seeds - more_seeds.mean(-1, keepdim=True)
        normal = (values - mean) * scale
        of_first, of_second = ((part * normal).sum(-1, keepdim=True) / n for part in (first, second))
        both = (first * second).sum(-1, keepdim=True) / n - 3 * of_first * of_second
        of_values = normal.mul_(both).addcmul_(of_second, first).addcmul_(of_first, second).mul_(-scale.square())
        return _apply_jacobian(more_seeds, values, mean, scale), of_values, None, None


def _apply_jacobian(seeds: Tensor, values: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    shape, mask = values.shape[-1:], [True, False, False]
    result = torch.ops.aten.native_layer_norm_backward(seeds, values, shape, mean, scale, None, None, mask)
    gradient: Tensor = result[0]
    return gradient
