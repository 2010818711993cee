/* Functions of one number, interpolated by cubic polynomials between knots with given values and slopes.

   table: (n_knots, 2, N), values and slopes times spacing; beyond the knots, the outermost polynomials. */

#include "rows.h"

typedef struct {
    const real *at; /* values and slopes of the knot before, then of that after */
    real t;         /* position between them, 0 to 1 */
} place;

static inline place locate(const real *table, double x, double first, double spacing, int64_t n_knots)
{
    const double position = (x - first) / spacing;
    int64_t knot = position > 0 ? (int64_t)position : 0;
    knot = knot < n_knots - 2 ? knot : n_knots - 2;
    return (place){table + knot * 2 * N, (real)(position - knot)};
}

#define INTERPOLATE(before, before_slope, after, after_slope) \
    const row a = load(p.at), u = load(p.at + N), b = load(p.at + 2 * N), v = load(p.at + 3 * N); \
    const real f_a = before, f_u = before_slope, f_b = after, f_v = after_slope;

void look_up(const real *x, const real *table, real *values, int64_t n, double first, double spacing, int64_t n_knots,
             int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const place p = locate(table, x[i], first, spacing, n_knots);
        const real t = p.t, s = 1 - t;
        INTERPOLATE((1 + 2 * t) * s * s, t * s * s, t * t * (3 - 2 * t), -t * t * s)
        row value;
        EACH value.v[k] = f_a * a.v[k] + f_u * u.v[k] + f_b * b.v[k] + f_v * v.v[k];
        store(values + i * N, &value);
    }
}

void look_up_gradient(const real *x, const real *table, const real *g, real *grad_x, int64_t n, double first,
                      double spacing, int64_t n_knots, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const place p = locate(table, x[i], first, spacing, n_knots);
        const real t = p.t, s = 1 - t;
        INTERPOLATE(-6 * t * s, s * (1 - 3 * t), 6 * t * s, t * (3 * t - 2))
        const row g_i = load(g + i * N);
        lanes sum = {0};
        EACH sum += g_i.v[k] * (f_a * a.v[k] + f_u * u.v[k] + f_b * b.v[k] + f_v * v.v[k]);
        grad_x[i] = total(sum) / (real)spacing;
    }
}
