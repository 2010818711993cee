/* Functions of the distance from a table of values and slopes, and their derivative; see accelerate/radial.py.

   Each row of the table holds the n values at a knot, then the n slopes times the spacing. */

#include "common.h"

#define EACH_LANES(f) for (int64_t f = 0; f < n; f += N_LANES)

static inline real total(lanes values)
{
    real sum = 0;
    for (int k = 0; k < N_LANES; k++) sum += values[k];
    return sum;
}

/* Row of the knot below r; the position between it and the next, in units of the spacing, goes to t. */
static inline const real *below(const real *table, real r, double first, double per_spacing, int64_t n_knots, int64_t n,
                                real *t)
{
    const double x = (r - first) * per_spacing;
    int64_t k = x > 0 ? (int64_t)x : 0;
    if (k > n_knots - 2) k = n_knots - 2;
    *t = (real)(x - k);
    return table + k * 2 * n;
}

void values(const real *r, const real *table, real *to, int64_t n_pairs, int64_t n, int64_t n_knots, double first,
            double per_spacing, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t p = 0; p < n_pairs; p++) {
        real t;
        const real *restrict row = below(table, r[p], first, per_spacing, n_knots, n, &t);
        const real u = 1 - t, a = u * u * (1 + 2 * t), b = u * u * t, c = t * t * (1 + 2 * u), d = -t * t * u;
        real *restrict top = to + p * n;
        EACH_LANES(f)
            put(top + f, a * get(row + f) + b * get(row + n + f) + c * get(row + 2 * n + f) + d * get(row + 3 * n + f));
    }
}

/* dr = sum_f g_f df/dr */
void derivative(const real *r, const real *table, const real *g, real *dr, int64_t n_pairs, int64_t n, int64_t n_knots,
                double first, double per_spacing, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t p = 0; p < n_pairs; p++) {
        real t;
        const real *restrict row = below(table, r[p], first, per_spacing, n_knots, n, &t);
        const real u = 1 - t, b = u * (1 - 3 * t), c = 6 * t * u, d = t * (3 * t - 2);
        const real *restrict gp = g + p * n;
        lanes sum = {0};
        EACH_LANES(f)
            sum += get(gp + f) * (c * (get(row + 2 * n + f) - get(row + f)) + b * get(row + n + f) + d * get(row + 3 * n + f));
        dr[p] = total(sum) * (real)per_spacing;
    }
}
