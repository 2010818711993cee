/* Partial derivatives of a form that is linear in each of four tensors; see accelerate/pair_products.py.

   F(s, r, y, w) = sum_i sum_{p of i} sum_nu s_pu r_inu y_pn w_pl(n)u

   i: atoms, p: pairs that an atom receives, from start[i] to start[i + 1]; n: components of harmonics of ranks l(n);
   u: features, in vectors of the processor. s may be NULL, which is 1. Size: N_RANKS. */

#include "common.h"

enum { COMPONENTS = N_RANKS * N_RANKS };
#define UNROLL _Pragma("GCC unroll 64")
#define EACH_RANK UNROLL for (int l = 0; l < N_RANKS; l++)
#define EACH_OF_RANK UNROLL for (int c = l * l; c < (l + 1) * (l + 1); c++)
#define EACH_COMPONENT UNROLL for (int c = 0; c < COMPONENTS; c++)
#define EACH_PAIR for (int64_t p = start; p < end; p++)
#define INLINE static inline __attribute__((always_inline)) void

/* Load and store a vector of which fewer than N_LANES features may be left, unless it is known to be full. */
static inline __attribute__((always_inline)) lanes load(const real *from, int64_t left, int is_full)
{
    if (is_full) return get(from);
    lanes values = {0};
    memcpy(&values, from, left * sizeof(real));
    return values;
}

INLINE store(real *to, lanes values, int64_t left, int is_full)
{
    if (is_full) put(to, values);
    else memcpy(to, &values, left * sizeof(real));
}

/* Entries of a pair and rank, an atom and component, a pair and component */
#define W(p, l) (w + ((p) * N_RANKS + (l)) * n + u)
#define R(i, c) (r + ((i) * COMPONENTS + (c)) * n + u)
#define Y(p, c) y[(p) * COMPONENTS + (c)]
#define S(p) (s ? load(s + (p) * n + u, left, full) : one)

/* All functions, of one atom i with its pairs and one vector of features from u on, of which `left` are left */
#define ARGUMENTS int64_t i, int64_t start, int64_t end, int64_t n, int64_t u, int64_t left, int full

INLINE partial_of_s(real *s, const real *r, const real *y, const real *w, ARGUMENTS)
{
    lanes ri[COMPONENTS];
    EACH_COMPONENT ri[c] = load(R(i, c), left, full);
    EACH_PAIR {
        lanes total = {0};
        EACH_RANK {
            lanes sum = {0};
            EACH_OF_RANK sum += Y(p, c) * ri[c];
            total += sum * load(W(p, l), left, full);
        }
        store(s + p * n + u, total, left, full);
    }
}

INLINE partial_of_r(const real *s, real *r, const real *y, const real *w, ARGUMENTS)
{
    const lanes one = (lanes){0} + 1;
    lanes sum[COMPONENTS];
    EACH_COMPONENT sum[c] = (lanes){0};
    EACH_PAIR {
        const lanes sp = S(p);
        EACH_RANK {
            const lanes product = sp * load(W(p, l), left, full);
            EACH_OF_RANK sum[c] += Y(p, c) * product;
        }
    }
    EACH_COMPONENT store(R(i, c), sum[c], left, full);
}

INLINE partial_of_w(const real *s, const real *r, const real *y, real *w, ARGUMENTS)
{
    const lanes one = (lanes){0} + 1;
    lanes ri[COMPONENTS];
    EACH_COMPONENT ri[c] = load(R(i, c), left, full);
    EACH_PAIR {
        const lanes sp = S(p);
        EACH_RANK {
            lanes sum = {0};
            EACH_OF_RANK sum += Y(p, c) * ri[c];
            store(W(p, l), sp * sum, left, full);
        }
    }
}

/* Of one pair: y_pn = sum_u s_pu r_inu w_pl(n)u, vector by vector */
INLINE add_to_y(const real *s, const real *r, lanes *sum, const real *w, int64_t i, int64_t p, int64_t n, int64_t u,
                int64_t left, int full)
{
    const lanes one = (lanes){0} + 1, sp = S(p);
    EACH_RANK {
        const lanes product = sp * load(W(p, l), left, full);
        EACH_OF_RANK sum[c] += product * load(R(i, c), left, full);
    }
}

#define EACH_VECTOR(call) { \
    int64_t u = 0; \
    for (; u + N_LANES <= n; u += N_LANES) call(N_LANES, 1); \
    if (u < n) call(n - u, 0); \
}
#define OF_S(left, full) partial_of_s(to_s, r, y, w, i, start[i], start[i + 1], n, u, left, full)
#define OF_R(left, full) partial_of_r(s, to_r, y, w, i, start[i], start[i + 1], n, u, left, full)
#define OF_W(left, full) partial_of_w(s, r, y, to_w, i, start[i], start[i + 1], n, u, left, full)
#define OF_Y(left, full) add_to_y(s, r, sum, w, i, p, n, u, left, full)

/* The derivatives with respect to those tensors whose results are not NULL, atom by atom, so that what the atom's pairs
   share is read from memory once. */
void partials(const int64_t *start, const real *s, const real *r, const real *y, const real *w,
              real *to_s, real *to_r, real *to_y, real *to_w, int64_t n_atoms, int64_t n, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < n_atoms; i++) {
        if (to_s) EACH_VECTOR(OF_S)
        if (to_r) EACH_VECTOR(OF_R)
        if (to_w) EACH_VECTOR(OF_W)
        if (to_y) for (int64_t p = start[i]; p < start[i + 1]; p++) {
            lanes sum[COMPONENTS];
            EACH_COMPONENT sum[c] = (lanes){0};
            EACH_VECTOR(OF_Y)
            for (int c = 0; c < COMPONENTS; c++) {
                real total = 0;
                UNROLL for (int k = 0; k < N_LANES; k++) total += sum[c][k];
                to_y[p * COMPONENTS + c] = total;
            }
        }
    }
}
