"""The sensitivity functions of frozen weights in C, a pair at a time, with the derivative by its distance."""

import math

import torch

from hiphop_train.nn.program_source import LANES

SOURCE = """\
#include <tgmath.h>

typedef integer integers __attribute__((vector_size(BYTES)));
enum { SOME = 16 };  /* pairs at a time, whose sensitivities fill whole vectors of the processor */

/* e^x for x from -50 to 0: 2^n, n being whole, times a polynomial of the rest */
static inline lanes exponential(lanes x)
{
    const integers n = __builtin_convertvector(x * (real)1.4426950408889634 - (real)0.5, integers);
    const lanes whole = __builtin_convertvector(n, lanes), y = (x - whole * (real)LN2_FIRST) - whole * (real)LN2_REST;
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
                 const real *g, real *of_distance, int64_t n_pairs, double cutoff, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t p = 0; p < n_pairs; p++) {
        const real r = distance[p], inverse = 1 / r;
        real weighted = 0, plain = 0;
        #pragma omp simd reduction(+: weighted, plain)
        for (int k = 0; k < N_SENSITIVITIES; k++) {
            const real pull = g[p * N_SENSITIVITIES + k] * s[p * N_SENSITIVITIES + k];
            weighted += pull * (inverse - inverse_centre[k]) * inverse_width[k] * inverse_width[k];
            plain += pull;
        }
        of_distance[p] = weighted * inverse * inverse - (real)(PI / cutoff) * tan((real)(PI / 2 / cutoff) * r) * plain;
    }
}
"""


def source(n_sensitivities: int, dtype: torch.dtype) -> str:
    """Write the functions above."""
    single = dtype == torch.float32
    degree = 7 if single else 13  # of the exponential's polynomial, between -ln 2 and ln 2
    first = 0.693359375  # of ln 2: few enough digits that its multiples are exact
    values = {
        "LN2_FIRST": first,
        "LN2_REST": repr(math.log(2) - first) if single else "-2.12194440054690582767878541823e-4",
        "DEGREE": degree,
        "MANTISSA": 23 if single else 52,
        "BIAS": 127 if single else 1023,
        "PI": repr(math.pi),
        "N_SENSITIVITIES": n_sensitivities,
    }
    lines = [f"#define {name} {value}" for name, value in values.items()]
    lines.append(f"typedef {'int32_t' if single else 'int64_t'} integer;")
    coefficients = ", ".join(repr(1 / math.factorial(k)) for k in range(degree + 1))
    lines.append(f"static const real coefficients[] = {{{coefficients}}};")
    return "\n".join([LANES, *lines, SOURCE])
