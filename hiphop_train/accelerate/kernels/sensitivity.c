/* Sensitivity functions for frozen weights, and their derivative with respect to the distance.

   s_k(r) = exp(-((1/r - 1/mu_k) w_k)^2 / 2) cos^2(pi r / 2 r_c), see nn/sensitivity.py. */

#include "common.h"

#include <tgmath.h>

#define PI 3.141592653589793
#define LN2_FIRST 0.693359375 /* leading digits of ln 2, few enough that multiples are exact */
#define LN2_REST -2.12194440054690582767878541823e-4

/* Taylor coefficients 1/k! of the exponential, for arguments between -ln 2 and ln 2. */
static const real coefficients[] = {
    1.0,
    1.0,
    1.0 / 2,
    1.0 / 6,
    1.0 / 24,
    1.0 / 120,
    1.0 / 720,
    1.0 / 5040,
    1.0 / 40320,
    1.0 / 362880,
    1.0 / 3628800,
    1.0 / 39916800,
    1.0 / 479001600,
    1.0 / 6227020800,
};

#if IS_SINGLE
typedef int32_t integer;
enum { DEGREE = 7, MANTISSA = 23, BIAS = 127 };
#else
typedef int64_t integer;
enum { DEGREE = 13, MANTISSA = 52, BIAS = 1023 };
#endif

typedef integer integers __attribute__((vector_size(BYTES)));
enum { SOME = 16 };  /* pairs at a time, whose sensitivities fill the processor's vectors */

/* e^x for -50 <= x <= 0: 2^n with integer n, times a polynomial of the remainder */
static inline lanes exponential(lanes x)
{
    const integers n = __builtin_convertvector(x * (real)1.4426950408889634 - (real)0.5, integers);
    const lanes power = __builtin_convertvector(n, lanes), y = (x - power * (real)LN2_FIRST) - power * (real)LN2_REST;
    lanes sum = {0};
    _Pragma("GCC unroll 16") for (int k = DEGREE; k >= 0; k--) sum = sum * y + coefficients[k];
    return sum * (lanes)((n + BIAS) << MANTISSA);
}

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
