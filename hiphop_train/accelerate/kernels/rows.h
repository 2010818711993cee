/* Rows of N = N_FEATURES real numbers, held in VECTORS vectors of the processor, padded with zeros. */

#pragma once

#include "common.h"

#define N N_FEATURES
#define VECTORS ((N + N_LANES - 1) / N_LANES)
#define TAIL (N % N_LANES)
#define EACH _Pragma("GCC unroll 4") for (int k = 0; k < VECTORS; k++)

typedef struct {
    lanes v[VECTORS];
} row;

static inline row load(const real *from)
{
    row x;
    EACH {
        if (!TAIL || k < VECTORS - 1) x.v[k] = get(from + k * N_LANES);
        else {
            x.v[k] = (lanes){0};
            memcpy(&x.v[k], from + k * N_LANES, (TAIL ? TAIL : N_LANES) * sizeof(real));
        }
    }
    return x;
}

static inline void store(real *to, const row *x)
{
    EACH {
        if (!TAIL || k < VECTORS - 1) put(to + k * N_LANES, x->v[k]);
        else memcpy(to + k * N_LANES, &x->v[k], (TAIL ? TAIL : N_LANES) * sizeof(real));
    }
}

static inline void add_to(real *to, const row *x)
{
    row sum = load(to);
    EACH sum.v[k] += x->v[k];
    store(to, &sum);
}

static inline void add_to_row(row *x, const real *from)
{
    const row y = load(from);
    EACH x->v[k] += y.v[k];
}

/* Set the padding. */
static inline void pad(row *x, real value)
{
    if (TAIL)
        for (int i = TAIL; i < N_LANES; i++) x->v[VECTORS - 1][i] = value;
}

static inline real total(lanes x)
{
    real sum = 0;
    for (int i = 0; i < N_LANES; i++) sum += x[i];
    return sum;
}

static inline real mean(const row *x)
{
    lanes sum = {0};
    EACH sum += x->v[k];
    return total(sum) / N;
}

static inline real product(const row *x, const row *y)
{
    lanes sum = {0};
    EACH sum += x->v[k] * y->v[k];
    return total(sum) / N;
}
