/* Shared by all kernels: real numbers, vectors of the processor, tensors with strides. */

#pragma once

#include <stdint.h>
#include <string.h>

typedef REAL real;

/* Strides of (n_planes, n_rows, n_columns); columns are contiguous. */
typedef struct {
    real *data;
    int64_t plane, row;
} tensor;

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

typedef real lanes __attribute__((vector_size(BYTES)));
enum { N_LANES = BYTES / sizeof(real) };

static inline lanes get(const real *from)
{
    lanes values;
    memcpy(&values, from, sizeof values);
    return values;
}

static inline void put(real *to, lanes values)
{
    memcpy(to, &values, sizeof values);
}
