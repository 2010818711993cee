/* The exponential function on vectors of the processor. */

#pragma once

#include "common.h"

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

/* e^x for -50 <= x <= 0: 2^n with integer n, times a polynomial of the remainder */
static inline lanes exponential(lanes x)
{
    const integers n = __builtin_convertvector(x * (real)1.4426950408889634 - (real)0.5, integers);
    const lanes power = __builtin_convertvector(n, lanes), y = (x - power * (real)LN2_FIRST) - power * (real)LN2_REST;
    lanes sum = {0};
    _Pragma("GCC unroll 16") for (int k = DEGREE; k >= 0; k--) sum = sum * y + coefficients[k];
    return sum * (lanes)((n + BIAS) << MANTISSA);
}
