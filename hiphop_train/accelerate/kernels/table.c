/* Functions of one number, interpolated by cubic polynomials between knots.

   table: (n_intervals, 4, N_FEATURES), coefficients of 1, t, t^2 and t^3; t, from 0 to 1, is the position in the interval.
   Beyond the knots, the outermost polynomials. */

#include "rows.h"

typedef struct {
    const real *coefficients;
    real t;
} place;

static inline place locate(const real *table, double x, double first, double spacing, int64_t n_intervals)
{
    const double position = (x - first) / spacing;
    int64_t interval = position > 0 ? (int64_t)position : 0;
    interval = interval < n_intervals ? interval : n_intervals - 1;
    return (place){table + interval * 4 * N, (real)(position - interval)};
}

void look_up(const real *x, const real *table, real *values, int64_t n, double first, double spacing,
             int64_t n_intervals, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const place p = locate(table, x[i], first, spacing, n_intervals);
        const row a = load(p.coefficients), b = load(p.coefficients + N), c = load(p.coefficients + 2 * N);
        const row d = load(p.coefficients + 3 * N);
        row value;
        EACH value.v[k] = a.v[k] + p.t * (b.v[k] + p.t * (c.v[k] + p.t * d.v[k]));
        store(values + i * N, &value);
    }
}

void look_up_gradient(const real *x, const real *table, const real *g, real *grad_x, int64_t n, double first,
                      double spacing, int64_t n_intervals, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const place p = locate(table, x[i], first, spacing, n_intervals);
        const row b = load(p.coefficients + N), c = load(p.coefficients + 2 * N), d = load(p.coefficients + 3 * N);
        const row g_i = load(g + i * N);
        lanes sum = {0};
        EACH sum += g_i.v[k] * (b.v[k] + p.t * (2 * c.v[k] + 3 * p.t * d.v[k]));
        grad_x[i] = total(sum) / (real)spacing;
    }
}
