/* Sums over neighbours of tensors coupled with harmonics, and their derivatives; see accelerate/tensor_convolution.py.

   generated.h defines the sizes SIZE of the neighbours' tensors, N_ROWS of the results, N_PATHS, N_HARMONICS and N_ENTRIES
   of the matrices m that harmonics y and couplings make, and for one vector of features at f, rows having n of them,
   matrix        m from y
   convolve_at   a += w (m x)
   sources_at    dx += m^T (w g)
   weights_at    dw += g (m x)
   outer         sums += w g x coefficients, all features of a pair, as vectors that are not yet summed */

#include "common.h"

#define EACH_LANES(f) for (int64_t f = 0; f < n; f += N_LANES)

static inline real total(lanes values)
{
    real sum = 0;
    for (int k = 0; k < N_LANES; k++) sum += values[k];
    return sum;
}

#include "generated.h"

/* Radial functions come from memory: fetch those of a later pair while one is computed. */
static inline void fetch(const real *row, int64_t n)
{
    const int64_t step = 64 / sizeof(real);
    for (int64_t k = 0; k < N_PATHS * n; k += step) __builtin_prefetch(row + k);
}

/* Sort pairs by sender: order[start[j]] ... order[start[j + 1] - 1] are the pairs that atom j sends to. */
void by_sender(const int64_t *sender, int64_t *order, int64_t *start, int64_t n_pairs, int64_t n_atoms, int n_threads)
{
    (void)n_threads;
    memset(start, 0, (n_atoms + 1) * sizeof(int64_t));
    for (int64_t p = 0; p < n_pairs; p++) start[sender[p] + 1]++;
    for (int64_t j = 0; j < n_atoms; j++) start[j + 1] += start[j];
    for (int64_t p = 0; p < n_pairs; p++) order[start[sender[p]]++] = p;
    for (int64_t j = n_atoms; j > 0; j--) start[j] = start[j - 1];
    start[0] = 0;
}

/* a_i = sum_j w_ij (x_j y_ij) */
void convolve(const int64_t *first, const int64_t *sender, const real *x, const real *y, const real *w, real *a,
              int64_t n_atoms, int64_t n, int64_t stride, int64_t is_more, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t i = 0; i < n_atoms; i++) {
        real *restrict ai = a + i * N_ROWS * n;
        if (!is_more) memset(ai, 0, N_ROWS * n * sizeof(real));
        for (int64_t p = first[i]; p < first[i + 1]; p++) {
            const real *restrict xj = x + sender[p] * SIZE * n, *restrict wp = w + p * stride;
            const real *restrict yp = y + p * N_HARMONICS;
            if (p + 1 < first[n_atoms]) fetch(wp + stride, n);
            real m[N_ENTRIES];
            matrix(yp, m);
            EACH_LANES(f) convolve_at(xj, wp, m, ai, n, f);
        }
    }
}

/* dx_j = sum_i w_ij (g_i y_ij) */
void sources(const int64_t *first, const int64_t *order, const int64_t *receiver, const real *g, const real *y,
             const real *w, real *dx, int64_t n_atoms, int64_t n, int64_t stride, int64_t is_more, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t j = 0; j < n_atoms; j++) {
        real *restrict dxj = dx + j * SIZE * n;
        if (!is_more) memset(dxj, 0, SIZE * n * sizeof(real));
        for (int64_t k = first[j]; k < first[j + 1]; k++) {
            const int64_t p = order[k];
            const real *restrict gi = g + receiver[p] * N_ROWS * n, *restrict wp = w + p * stride;
            const real *restrict yp = y + p * N_HARMONICS;
            if (k + 1 < first[n_atoms]) fetch(w + order[k + 1] * stride, n);
            real m[N_ENTRIES];
            matrix(yp, m);
            EACH_LANES(f) sources_at(gi, wp, m, dxj, n, f);
        }
    }
}

/* Derivatives with respect to w (rows of stride_dw numbers, added if is_more) and y (added), where they are wanted (not
   NULL). */
void pairs(const int64_t *first, const int64_t *sender, const real *x, const real *y, const real *w, const real *g,
           real *dw, real *dy, int64_t n_atoms, int64_t n, int64_t stride, int64_t stride_dw, int64_t is_more,
           int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t i = 0; i < n_atoms; i++) {
        const real *restrict gi = g + i * N_ROWS * n;
        for (int64_t p = first[i]; p < first[i + 1]; p++) {
            const real *restrict xj = x + sender[p] * SIZE * n, *restrict wp = w + p * stride;
            if (dy && p + 1 < first[n_atoms]) fetch(wp + stride, n);
            if (dw) {
                real *restrict dwp = dw + p * stride_dw;
                const real *restrict yp = y + p * N_HARMONICS;
                real m[N_ENTRIES];
                matrix(yp, m);
                EACH_LANES(f) weights_at(xj, gi, m, dwp, is_more, n, f);
            }
            if (dy) {
                lanes sums[N_HARMONICS];
                for (int b = 0; b < N_HARMONICS; b++) sums[b] = (lanes){0};
                outer(xj, gi, wp, sums, n);
                for (int b = 0; b < N_HARMONICS; b++) dy[p * N_HARMONICS + b] += total(sums[b]);
            }
        }
    }
}
