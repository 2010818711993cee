/* Layer normalisation without parameters, and its derivatives.

   Of x along a row, with mean m and r = 1 / sqrt(mean (x - m)^2 + EPSILON): y = r (x - m). Its Jacobian is symmetric: a
   gradient g becomes r (g - mean g - y mean(g y)); gradient_of_gradient is the vector-Jacobian product of that. */

#include "common.h"

#include <math.h>

#define ROW(name, part, number) real *restrict name = part[number].data + row * part[number].row
#define EACH(work) _Pragma("omp simd") for (int64_t i = 0; i < n; i++) { work; }
#define ROWS(work) \
    _Pragma("omp parallel for num_threads(n_threads) schedule(static)") \
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

#define STATISTICS \
    const real m = sum(x, n) / n, r = 1 / (real)sqrt(product(x, m, x, m, n) / n + (real)EPSILON);

void evaluate(const tensor *given, const tensor *results, int64_t n_rows, int64_t n, int n_threads)
{
    ROWS(ROW(x, given, 0); ROW(y, results, 0); STATISTICS EACH(y[i] = r * (x[i] - m)))
}

void gradient(const tensor *given, const tensor *results, int64_t n_rows, int64_t n, int n_threads)
{
    ROWS(
        ROW(x, given, 0); ROW(g, given, 1); ROW(grad_x, results, 0); STATISTICS
        const real mean_g = sum(g, n) / n;
        const real q = r * product(g, mean_g, x, m, n) / n;
        EACH(grad_x[i] = r * (g[i] - mean_g - r * (x[i] - m) * q)))
}

void gradient_of_gradient(const tensor *given, const tensor *results, int64_t n_rows, int64_t n, int n_threads)
{
    ROWS(
        ROW(x, given, 0); ROW(g, given, 1); ROW(u, given, 2); ROW(grad_x, results, 0); ROW(grad_g, results, 1); STATISTICS
        const real mean_g = sum(g, n) / n;
        const real mean_u = sum(u, n) / n;
        const real q = r * product(g, mean_g, x, m, n) / n;
        const real p = r * product(u, mean_u, x, m, n) / n;
        const real c = product(u, mean_u, g, mean_g, n) / n - 3 * p * q;
        EACH(
            const real y = r * (x[i] - m);
            grad_g[i] = r * (u[i] - mean_u - y * p);
            grad_x[i] = -r * r * (p * (g[i] - mean_g) + q * (u[i] - mean_u) + c * y)))
}
