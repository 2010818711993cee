/* A polynomial map, its gradient, and the gradient of that, as straight-line programs; see accelerate/polynomials.py.

   generated.h defines for each of the three functions the number of its planes, and how a vector of elements is loaded
   into them, evaluated, and stored. Each vector of elements passes through all steps in registers and the L1 cache. */

#include "common.h"

/* Load and store a vector of which fewer than N_LANES elements may be left. */
static inline lanes load(const tensor *from, int64_t plane, int64_t row, int64_t column, int64_t n)
{
    const real *start = from->data + plane * from->plane + row * from->row + column;
    lanes values = {0};
    if (n >= N_LANES) return get(start);
    memcpy(&values, start, n * sizeof(real));
    return values;
}

static inline void store(const tensor *to, int64_t plane, int64_t row, int64_t column, lanes values, int64_t n)
{
    real *start = to->data + plane * to->plane + row * to->row + column;
    if (n >= N_LANES) put(start, values);
    else memcpy(start, &values, n * sizeof(real));
}

#define LOAD(tensor, number, plane) p[plane] = load(given + tensor, number, row, column, n);
#define STORE(tensor, number, value) store(results + tensor, number, row, column, value, n);
#define ZERO (lanes){0}

#include "generated.h"

#define FUNCTION(name, N_PLANES, LOADS, STEPS, STORES) \
    void name(const tensor *given, const tensor *results, int64_t n_rows, int64_t n_columns, int n_threads) \
    { \
        const int64_t n_pieces = (n_columns + N_LANES - 1) / N_LANES; \
        _Pragma("omp parallel for num_threads(n_threads) schedule(static)") \
        for (int64_t i = 0; i < n_rows * n_pieces; i++) { \
            const int64_t row = i / n_pieces, column = i % n_pieces * N_LANES, n = n_columns - column; \
            lanes p[N_PLANES]; \
            LOADS \
            STEPS \
            STORES \
        } \
    }

FUNCTION(evaluate, EVALUATE_PLANES, EVALUATE_LOADS, EVALUATE_STEPS, EVALUATE_STORES)
FUNCTION(gradient, GRADIENT_PLANES, GRADIENT_LOADS, GRADIENT_STEPS, GRADIENT_STORES)
FUNCTION(gradient_of_gradient, SECOND_PLANES, SECOND_LOADS, SECOND_STEPS, SECOND_STORES)
