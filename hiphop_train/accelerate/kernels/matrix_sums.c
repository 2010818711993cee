/* Sums over neighbours of TensorNet's tensors, and their derivatives; see accelerate/matrix_sums.py. WIDTH: number of
   features.

   Tensors are 9 planes (n_atoms, WIDTH): a scalar, 3 components of a vector, 5 of a symmetric tensor. A pair p has the
   atoms first[p] and second[p]; the entries of each atom are as in pair_sums.c. Weights w have a row (3, WIDTH) per pair,
   y a row (9) of functions of the direction, for the first atom; for the second, those of the vector change sign. Row
   n_pairs of both is that of each atom with itself, which is symmetric: only y[0] is not 0. */

#include "common.h"

#define EACH _Pragma("omp simd") for (int64_t f = 0; f < WIDTH; f++)
#define ATOMS _Pragma("omp parallel for num_threads(n_threads) schedule(dynamic, 16)") \
    for (int64_t i = 0; i < n_atoms; i++)
#define ENTRIES for (int64_t k = start[i]; k < start[i + 1]; k++)
#define PAIRS _Pragma("omp parallel for num_threads(n_threads) schedule(static)") for (int64_t p = 0; p < n_pairs; p++)
#define PARTS(c) _Pragma("GCC unroll 9") for (int c = 0; c < 9; c++)
#define AT(x, c, i) ((x) + ((c) * n_atoms + (i)) * WIDTH)
#define FETCH(w) if (k + 1 < start[n_atoms]) fetch((w) + (entry[k + 1] >> 1) * 3 * WIDTH)

static const int rank_of[9] = {0, 1, 1, 1, 2, 2, 2, 2, 2};

static inline void fetch(const real *row)
{
    for (size_t f = 0; f < 3 * WIDTH; f += 64 / sizeof(real)) __builtin_prefetch(row + f);
}

/* y, with the sign for the atom that has the entry */
static inline void direction(const real *y, int is_second, real *to)
{
    PARTS(c) to[c] = is_second && rank_of[c] == 1 ? -y[c] : y[c];
}

/* M_i = w_ii x_i + sum_j w_ij x_j; added if is_more */
void carry(const int64_t *start, const int64_t *entry, const int64_t *other, const real *w, const real *x, real *to,
           int64_t n_atoms, int64_t is_more, int n_threads)
{
    const real *itself = w + (start[n_atoms] >> 1) * 3 * WIDTH;
    ATOMS {
        real sum[9][WIDTH];
        PARTS(c) {
            const real *restrict xi = AT(x, c, i), *restrict wp = itself + rank_of[c] * WIDTH;
            const real *restrict before = AT(to, c, i);
            if (is_more) EACH sum[c][f] = before[f] + wp[f] * xi[f];
            else EACH sum[c][f] = wp[f] * xi[f];
        }
        ENTRIES {
            const int64_t j = other[k];
            const real *restrict wp = w + (entry[k] >> 1) * 3 * WIDTH;
            FETCH(w);
            EACH PARTS(c) sum[c][f] += wp[rank_of[c] * WIDTH + f] * AT(x, c, j)[f];
        }
        PARTS(c) memcpy(AT(to, c, i), sum[c], sizeof sum[c]);
    }
}

/* Of sum_i g_i M_i: dw = x_i g_j + x_j g_i, components of each rank summed */
void carry_gradient(const int64_t *first, const int64_t *second, const real *x, const real *g, real *dw, int64_t n_pairs,
                    int64_t n_atoms, int n_threads)
{
    PAIRS {
        const int64_t i = first[p], j = second[p];
        real *restrict to = dw + p * 3 * WIDTH;
        EACH {
            real sum[3] = {0, 0, 0};
            PARTS(c) sum[rank_of[c]] += AT(x, c, i)[f] * AT(g, c, j)[f] + AT(x, c, j)[f] * AT(g, c, i)[f];
            for (int r = 0; r < 3; r++) to[r * WIDTH + f] = sum[r];
        }
    }
    real *restrict itself = dw + n_pairs * 3 * WIDTH;
    memset(itself, 0, 3 * WIDTH * sizeof(real));
    for (int c = 0; c < 9; c++)
        for (int64_t i = 0; i < n_atoms; i++) {
            const real *restrict xi = AT(x, c, i), *restrict gi = AT(g, c, i);
            EACH itself[rank_of[c] * WIDTH + f] += xi[f] * gi[f];
        }
}

/* X_i = w_ii (a_i + b_i) y_ii + sum_j w_ij (a_i + b_j) y_ij; added if is_more */
void embed(const int64_t *start, const int64_t *entry, const int64_t *other, const real *w, const real *y, const real *a,
           const real *b, real *to, int64_t n_atoms, int64_t is_more, int n_threads)
{
    const int64_t n_pairs = start[n_atoms] >> 1;
    ATOMS {
        real sum[9][WIDTH];
        const real *restrict ai = a + i * WIDTH, *restrict bi = b + i * WIDTH, *restrict wi = w + n_pairs * 3 * WIDTH;
        if (is_more) PARTS(c) memcpy(sum[c], AT(to, c, i), sizeof sum[c]);
        else memset(sum, 0, sizeof sum);
        EACH sum[0][f] += y[n_pairs * 9] * wi[f] * (ai[f] + bi[f]);
        ENTRIES {
            const int64_t p = entry[k] >> 1;
            const real *restrict bj = b + other[k] * WIDTH, *restrict wp = w + p * 3 * WIDTH;
            real yp[9];
            direction(y + p * 9, entry[k] & 1, yp);
            FETCH(w);
            EACH {
                const real z = ai[f] + bj[f];
                const real v[3] = {wp[f] * z, wp[WIDTH + f] * z, wp[2 * WIDTH + f] * z};
                PARTS(c) sum[c][f] += v[rank_of[c]] * yp[c];
            }
        }
        PARTS(c) memcpy(AT(to, c, i), sum[c], sizeof sum[c]);
    }
}

/* Of sum_i g_i X_i: dw and dy, where they are wanted (not NULL); added if is_more */
void embed_pairs(const int64_t *first, const int64_t *second, const real *w, const real *y, const real *a, const real *b,
                 const real *g, real *dw, real *dy, int64_t n_pairs, int64_t n_atoms, int64_t is_more, int n_threads)
{
    PAIRS {
        const int64_t i = first[p], j = second[p];
        const real *restrict ai = a + i * WIDTH, *restrict bi = b + i * WIDTH, *restrict wp = w + p * 3 * WIDTH;
        const real *restrict aj = a + j * WIDTH, *restrict bj = b + j * WIDTH, *restrict yp = y + p * 9;
        real h[9][WIDTH];
        EACH {
            const real zi = ai[f] + bj[f], zj = aj[f] + bi[f];
            PARTS(c) h[c][f] = zi * AT(g, c, i)[f] + (rank_of[c] == 1 ? -zj : zj) * AT(g, c, j)[f];
        }
        if (dw) {
            real *restrict to = dw + p * 3 * WIDTH;
            if (!is_more) memset(to, 0, 3 * WIDTH * sizeof(real));
            EACH {
                real sum[3] = {to[f], to[WIDTH + f], to[2 * WIDTH + f]};
                PARTS(c) sum[rank_of[c]] += yp[c] * h[c][f];
                for (int r = 0; r < 3; r++) to[r * WIDTH + f] = sum[r];
            }
        }
        if (dy)
            PARTS(c) {
                real sum = 0;
                _Pragma("omp simd reduction(+: sum)")
                for (int64_t f = 0; f < WIDTH; f++) sum += wp[rank_of[c] * WIDTH + f] * h[c][f];
                dy[p * 9 + c] = sum + (is_more ? dy[p * 9 + c] : 0);
            }
    }
    const real *restrict wi = w + n_pairs * 3 * WIDTH;
    real *restrict to = dw ? dw + n_pairs * 3 * WIDTH : NULL, sum = 0;
    if (dw && !is_more) memset(to, 0, 3 * WIDTH * sizeof(real));
    if (dy && !is_more) memset(dy + n_pairs * 9, 0, 9 * sizeof(real));
    for (int64_t i = 0; i < n_atoms; i++) {
        const real *restrict ai = a + i * WIDTH, *restrict bi = b + i * WIDTH, *restrict gi = g + i * WIDTH;
        if (dw) EACH to[f] += y[n_pairs * 9] * (ai[f] + bi[f]) * gi[f];
        if (dy)
            _Pragma("omp simd reduction(+: sum)")
            for (int64_t f = 0; f < WIDTH; f++) sum += wi[f] * (ai[f] + bi[f]) * gi[f];
    }
    if (dy) dy[n_pairs * 9] += sum;
}

/* Of sum_i g_i X_i: da and db; added if is_more */
void embed_atoms(const int64_t *start, const int64_t *entry, const int64_t *other, const real *w, const real *y,
                 const real *g, real *da, real *db, int64_t n_atoms, int64_t is_more, int n_threads)
{
    const int64_t n_pairs = start[n_atoms] >> 1;
    ATOMS {
        real sum[2][WIDTH];
        const real *restrict gi = g + i * WIDTH, *restrict wi = w + n_pairs * 3 * WIDTH;
        EACH sum[0][f] = sum[1][f] = y[n_pairs * 9] * wi[f] * gi[f];
        ENTRIES {
            const int64_t p = entry[k] >> 1, j = other[k];
            const real *restrict wp = w + p * 3 * WIDTH;
            real yi[9], yj[9];
            direction(y + p * 9, entry[k] & 1, yi);
            direction(y + p * 9, !(entry[k] & 1), yj);
            FETCH(w);
            EACH {
                real own[3] = {0, 0, 0}, others[3] = {0, 0, 0};
                PARTS(c) {
                    own[rank_of[c]] += yi[c] * AT(g, c, i)[f];
                    others[rank_of[c]] += yj[c] * AT(g, c, j)[f];
                }
                for (int r = 0; r < 3; r++) {
                    sum[0][f] += wp[r * WIDTH + f] * own[r];
                    sum[1][f] += wp[r * WIDTH + f] * others[r];
                }
            }
        }
        real *restrict to_a = da + i * WIDTH, *restrict to_b = db + i * WIDTH;
        EACH {
            to_a[f] = sum[0][f] + (is_more ? to_a[f] : 0);
            to_b[f] = sum[1][f] + (is_more ? to_b[f] : 0);
        }
    }
}
