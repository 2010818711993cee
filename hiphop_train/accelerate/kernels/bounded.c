/* Matrices divided by their squares, y = x / (x.m + 1), with m = M x and the metric M of their parts; see
   accelerate/tensornet.py. A gradient g becomes dx = (g - 2 (x.g / n) m) / n, n = x.m + 1; gradient_of_gradient is the
   vector-Jacobian product of that with u. Tensors are 9 planes. */

#include "common.h"

#define PARTS(c) _Pragma("GCC unroll 9") for (int c = 0; c < 9; c++)
#define PLANE(c, from) from.data[c * from.plane + row * from.row + f]
#define READ(x, from) real x[9]; PARTS(c) x[c] = PLANE(c, from);
#define ELEMENTS(...) \
    for (int64_t row = 0; row < n_rows; row++) \
        _Pragma("omp parallel for simd num_threads(n_threads) schedule(static)") \
        for (int64_t f = 0; f < n_columns; f++) { __VA_ARGS__ }

/* M x, of the sums of the squared entries of the parts */
static inline __attribute__((always_inline)) void metric(const real *x, real *m)
{
    m[0] = 3 * x[0];
    for (int c = 1; c < 4; c++) m[c] = 2 * x[c];
    m[4] = 2 * x[4] + x[7];
    m[5] = 2 * x[5];
    m[6] = 2 * x[6];
    m[7] = 2 * x[7] + x[4];
    m[8] = 2 * x[8];
}

static inline __attribute__((always_inline)) real dot(const real *x, const real *y)
{
    real sum = 0;
    PARTS(c) sum += x[c] * y[c];
    return sum;
}

void evaluate(const tensor *given, const tensor *results, int64_t n_rows, int64_t n_columns, int n_threads)
{
    ELEMENTS(
        READ(x, given[0]) real m[9]; metric(x, m);
        const real n = 1 / (dot(x, m) + 1);
        PARTS(c) PLANE(c, results[0]) = x[c] * n;)
}

void gradient(const tensor *given, const tensor *results, int64_t n_rows, int64_t n_columns, int n_threads)
{
    ELEMENTS(
        READ(x, given[0]) READ(g, given[1]) real m[9]; metric(x, m);
        const real n = 1 / (dot(x, m) + 1);
        const real q = 2 * n * dot(x, g);
        PARTS(c) PLANE(c, results[0]) = n * (g[c] - q * m[c]);)
}

void gradient_of_gradient(const tensor *given, const tensor *results, int64_t n_rows, int64_t n_columns, int n_threads)
{
    ELEMENTS(
        READ(x, given[0]) READ(g, given[1]) READ(u, given[2]) real m[9]; real mu[9]; metric(x, m); metric(u, mu);
        const real n = 1 / (dot(x, m) + 1);
        const real q = 2 * n * dot(x, g);
        const real p = 2 * n * dot(u, m);
        const real r = 2 * n * dot(u, g) - 2 * p * q;
        PARTS(c) {
            PLANE(c, results[0]) = -n * (r * m[c] + p * g[c] + q * mu[c]);
            PLANE(c, results[1]) = n * (u[c] - p * x[c]);
        })
}
