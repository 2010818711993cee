/* Sensitivity functions for frozen weights, and their derivative with respect to the distance.

   s_k(r) = exp(-((1/r - 1/mu_k) w_k)^2 / 2) cos^2(pi r / 2 r_c), see nn/sensitivity.py. */

#include "exponential.h"

#include <tgmath.h>

#define PI 3.141592653589793

enum { SOME = 16 };  /* pairs at a time, whose sensitivities fill the processor's vectors */

void sensitivities(const real *distance, const real *inverse_centre, const real *inverse_width, real *s,
                   int64_t n_pairs, double cutoff, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t first = 0; first < n_pairs; first += SOME) {
        const int n = n_pairs - first < SOME ? n_pairs - first : SOME;
        real x[SOME * N_SENSITIVITIES] = {0};
        for (int p = 0; p < n; p++) {
            const real inverse = 1 / distance[first + p];
            #pragma omp simd
            for (int k = 0; k < N_SENSITIVITIES; k++) {
                const real offset = (inverse - inverse_centre[k]) * inverse_width[k];
                const real square = (real)0.5 * offset * offset;
                x[p * N_SENSITIVITIES + k] = -(square < 50 ? square : 50);
            }
        }
        for (int i = 0; i < SOME * N_SENSITIVITIES; i += N_LANES) put(x + i, exponential(get(x + i)));
        for (int p = 0; p < n; p++) {
            const real r = distance[first + p], wave = cos((real)(PI / 2 / cutoff) * r);
            const real decay = r < (real)cutoff ? wave * wave : 0;
            #pragma omp simd
            for (int k = 0; k < N_SENSITIVITIES; k++) {
                const real value = x[p * N_SENSITIVITIES + k];
                s[(first + p) * N_SENSITIVITIES + k] = (value > (real)1e-20 ? value : 0) * decay;
            }
        }
    }
}

void derivatives(const real *distance, const real *inverse_centre, const real *inverse_width, const real *s,
                 const real *g, real *grad_distance, int64_t n_pairs, double cutoff, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t p = 0; p < n_pairs; p++) {
        const real r = distance[p], inverse = 1 / r;
        real weighted = 0, plain = 0;
        #pragma omp simd reduction(+: weighted, plain)
        for (int k = 0; k < N_SENSITIVITIES; k++) {
            const real product = g[p * N_SENSITIVITIES + k] * s[p * N_SENSITIVITIES + k];
            weighted += product * (inverse - inverse_centre[k]) * inverse_width[k] * inverse_width[k];
            plain += product;
        }
        grad_distance[p] = weighted * inverse * inverse - (real)(PI / cutoff) * tan((real)(PI / 2 / cutoff) * r) * plain;
    }
}
