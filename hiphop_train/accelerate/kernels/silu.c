/* silu, x s(x) with the logistic function s, and two derivatives; see accelerate/silu.py. */

#include "common.h"
#include "exponential.h"

/* a where the mask is -1, b where it is 0 */
static inline lanes choose(integers mask, lanes a, lanes b)
{
    return (lanes)(((integers)a & mask) | ((integers)b & ~mask));
}

/* s(x); of arguments beyond 50 in size as at 50, so that no numbers are denormal */
static inline lanes logistic(lanes x)
{
    const lanes limit = (lanes){0} - 50, negative = choose(x < 0, x, -x);
    const lanes decay = exponential(choose(negative < limit, limit, negative)), large = 1 / (1 + decay);
    return choose(x < 0, decay * large, large);
}

/* Up to a vector of numbers; the rest is 0. */
static inline lanes some(const real *from, int64_t left)
{
    if (left >= N_LANES) return get(from);
    real few[N_LANES] = {0};
    for (int64_t k = 0; k < left; k++) few[k] = from[k];
    return get(few);
}

static inline void put_some(real *to, lanes values, int64_t left)
{
    if (left >= N_LANES) put(to, values);
    else for (int64_t k = 0; k < left; k++) to[k] = values[k];
}

/* Matrices of n_rows rows of n numbers; first arguments: each matrix with the distance between its rows */
#define ROWS _Pragma("omp parallel for num_threads(n_threads) schedule(static)") \
    for (int64_t row = 0; row < n_rows; row++)
#define EACH_LANES for (int64_t k = 0; k < n; k += N_LANES)
#define READ(x) some(x + row * x##_step + k, n - k)
#define WRITE(x, values) put_some(x + row * x##_step + k, values, n - k)

/* y = x s(x), and s */
void values(const real *x, int64_t x_step, real *s, int64_t s_step, real *y, int64_t y_step, int64_t n_rows, int64_t n,
            int n_threads)
{
    ROWS EACH_LANES {
        const lanes xk = READ(x), sk = logistic(xk);
        WRITE(s, sk);
        WRITE(y, xk * sk);
    }
}

/* dx = g y'(x) = g (s + y (1 - s)) */
void gradient(const real *s, int64_t s_step, const real *y, int64_t y_step, const real *g, int64_t g_step, real *dx,
              int64_t dx_step, int64_t n_rows, int64_t n, int n_threads)
{
    ROWS EACH_LANES {
        const lanes sk = READ(s);
        WRITE(dx, READ(g) * (sk + READ(y) * (1 - sk)));
    }
}

/* Of u dx: dg = u y'(x), dx = u g y''(x) = u g (1 - s) (2 s + y (1 - 2 s)) */
void gradient_of_gradient(const real *s, int64_t s_step, const real *y, int64_t y_step, const real *g, int64_t g_step,
                          const real *u, int64_t u_step, real *dg, int64_t dg_step, real *dx, int64_t dx_step,
                          int64_t n_rows, int64_t n, int n_threads)
{
    ROWS EACH_LANES {
        const lanes sk = READ(s), yk = READ(y), uk = READ(u), t = 1 - sk;
        WRITE(dg, uk * (sk + yk * t));
        WRITE(dx, uk * READ(g) * t * (2 * sk + yk * (t - sk)));
    }
}
