/* Products over pairs and sums over neighbours, where both directions of a pair share what is summed, with their
   derivatives; see accelerate/pair_sums.py. WIDTH: number of features.

   A pair p has the atoms first[p] and second[p]. Each atom i has the entries start[i] ... start[i + 1] - 1: twice the pair,
   plus 1 where the atom is the second, and the other atom. Sums over entries need no two threads to write to one row. */

#include "common.h"

#define EACH _Pragma("omp simd") for (int64_t f = 0; f < WIDTH; f++)
#define ATOMS _Pragma("omp parallel for num_threads(n_threads) schedule(dynamic, 16)") \
    for (int64_t i = 0; i < n_atoms; i++)
#define ENTRIES for (int64_t k = start[i]; k < start[i + 1]; k++)
#define FETCH(row) if (k + 1 < start[n_atoms]) fetch(row) /* of the next entry, which is not the next in memory */
#define PAIRS _Pragma("omp parallel for num_threads(n_threads) schedule(static)") for (int64_t p = 0; p < n_pairs; p++)

static inline void fetch(const real *row)
{
    for (size_t f = 0; f < WIDTH; f += 64 / sizeof(real)) __builtin_prefetch(row + f);
}

/* Sort the two entries of each pair by atom. */
void sort_entries(const int64_t *first, const int64_t *second, int64_t *start, int64_t *entry, int64_t *other,
                  int64_t n_pairs, int64_t n_atoms, int n_threads)
{
    (void)n_threads;
    memset(start, 0, (n_atoms + 1) * sizeof(int64_t));
    for (int64_t p = 0; p < n_pairs; p++) { start[first[p] + 1]++; start[second[p] + 1]++; }
    for (int64_t i = 0; i < n_atoms; i++) start[i + 1] += start[i];
    for (int64_t p = 0; p < n_pairs; p++) {
        const int64_t at = start[first[p]]++, to = start[second[p]]++;
        entry[at] = 2 * p;
        other[at] = second[p];
        entry[to] = 2 * p + 1;
        other[to] = first[p];
    }
    for (int64_t i = n_atoms; i > 0; i--) start[i] = start[i - 1];
    start[0] = 0;
}

/* m = w s_i s_j */
void messages(const int64_t *first, const int64_t *second, const real *w, const real *s, real *m, int64_t n_pairs,
              int n_threads)
{
    PAIRS {
        const real *si = s + first[p] * WIDTH, *sj = s + second[p] * WIDTH, *wp = w + p * WIDTH;
        real *restrict mp = m + p * WIDTH;
        EACH mp[f] = wp[f] * si[f] * sj[f];
    }
}

/* M_i = sum_j m_ij */
void sums(const int64_t *start, const int64_t *entry, const real *m, real *total, int64_t n_atoms, int n_threads)
{
    ATOMS {
        real sum[WIDTH] = {0};
        ENTRIES {
            const real *restrict mp = m + (entry[k] >> 1) * WIDTH;
            FETCH(m + (entry[k + 1] >> 1) * WIDTH);
            EACH sum[f] += mp[f];
        }
        memcpy(total + i * WIDTH, sum, sizeof sum);
    }
}

/* Of sum g m + sum G_i M_i, with h = g + G_i + G_j: dw = h s_i s_j; h is kept. */
void filters_gradient(const int64_t *first, const int64_t *second, const real *s, const real *g, const real *of_sums,
                      real *h, real *dw, int64_t n_pairs, int n_threads)
{
    PAIRS {
        const int64_t i = first[p] * WIDTH, j = second[p] * WIDTH;
        const real *si = s + i, *sj = s + j, *gi = of_sums + i, *gj = of_sums + j, *gp = g + p * WIDTH;
        real *restrict hp = h + p * WIDTH, *restrict dwp = dw + p * WIDTH;
        EACH {
            const real both = gp[f] + gi[f] + gj[f];
            hp[f] = both;
            dwp[f] = both * si[f] * sj[f];
        }
    }
}

/* ds_i = sum_j h w s_j */
void sources_gradient(const int64_t *start, const int64_t *entry, const int64_t *other, const real *h, const real *w,
                      const real *s, real *ds, int64_t n_atoms, int n_threads)
{
    ATOMS {
        real sum[WIDTH] = {0};
        ENTRIES {
            const int64_t p = (entry[k] >> 1) * WIDTH;
            const real *restrict hp = h + p, *restrict wp = w + p, *restrict sj = s + other[k] * WIDTH;
            FETCH(h + (entry[k + 1] >> 1) * WIDTH);
            FETCH(w + (entry[k + 1] >> 1) * WIDTH);
            EACH sum[f] += hp[f] * wp[f] * sj[f];
        }
        memcpy(ds + i * WIDTH, sum, sizeof sum);
    }
}

/* Of L = sum u dw + sum v ds = sum h a, a = u s_i s_j + w (v_i s_j + s_i v_j): a = dL/dh, and dw. */
void filters_second(const int64_t *first, const int64_t *second, const real *w, const real *s, const real *h,
                    const real *u, const real *v, real *a, real *dw, int64_t n_pairs, int n_threads)
{
    PAIRS {
        const int64_t i = first[p] * WIDTH, j = second[p] * WIDTH, q = p * WIDTH;
        const real *si = s + i, *sj = s + j, *vi = v + i, *vj = v + j, *wp = w + q, *hp = h + q, *up = u + q;
        real *restrict ap = a + q, *restrict dwp = dw + q;
        EACH {
            const real both = vi[f] * sj[f] + si[f] * vj[f];
            ap[f] = up[f] * si[f] * sj[f] + wp[f] * both;
            dwp[f] = hp[f] * both;
        }
    }
}

/* ds_i = sum_j h (u s_j + w v_j) of the same L */
void sources_second(const int64_t *start, const int64_t *entry, const int64_t *other, const real *w, const real *s,
                    const real *h, const real *u, const real *v, real *ds, int64_t n_atoms, int n_threads)
{
    ATOMS {
        real sum[WIDTH] = {0};
        ENTRIES {
            const int64_t p = (entry[k] >> 1) * WIDTH, j = other[k] * WIDTH;
            const real *restrict hp = h + p, *restrict up = u + p, *restrict wp = w + p;
            const real *restrict sj = s + j, *restrict vj = v + j;
            FETCH(h + (entry[k + 1] >> 1) * WIDTH);
            FETCH(u + (entry[k + 1] >> 1) * WIDTH);
            FETCH(w + (entry[k + 1] >> 1) * WIDTH);
            EACH sum[f] += hp[f] * (up[f] * sj[f] + wp[f] * vj[f]);
        }
        memcpy(ds + i * WIDTH, sum, sizeof sum);
    }
}

/* F_i = sum_j e_ij (q_ij, c) with vectors e_ij = -e_ji, rows of WIDTH + 1 numbers; added if is_more */
void pulls(const int64_t *start, const int64_t *entry, const real *e, const real *q, real *force, int64_t n_atoms,
           double c, int64_t is_more, int n_threads)
{
    ATOMS {
        real sum[3][WIDTH + 1] = {{0}};
        real *restrict to = force + 3 * i * (WIDTH + 1);
        if (is_more) memcpy(sum, to, sizeof sum);
        ENTRIES {
            const int64_t p = entry[k] >> 1;
            const real sign = entry[k] & 1 ? -1 : 1;
            const real x = sign * e[3 * p], y = sign * e[3 * p + 1], z = sign * e[3 * p + 2];
            const real *restrict qp = q + p * WIDTH;
            FETCH(q + (entry[k + 1] >> 1) * WIDTH);
            EACH {
                sum[0][f] += x * qp[f];
                sum[1][f] += y * qp[f];
                sum[2][f] += z * qp[f];
            }
            sum[0][WIDTH] += x * (real)c;
            sum[1][WIDTH] += y * (real)c;
            sum[2][WIDTH] += z * (real)c;
        }
        memcpy(to, sum, sizeof sum);
    }
}

/* Of sum_i g_i F_i, with d = g_i - g_j: de = sum_f q d + c d, the last number of d, and dq = e . d */
void pulls_gradient(const int64_t *first, const int64_t *second, const real *e, const real *q, const real *g, real *de,
                    real *dq, int64_t n_pairs, double c, int n_threads)
{
    PAIRS {
        const real *gi = g + 3 * first[p] * (WIDTH + 1), *gj = g + 3 * second[p] * (WIDTH + 1), *qp = q + p * WIDTH;
        const real ex = e[3 * p], ey = e[3 * p + 1], ez = e[3 * p + 2];
        enum { Y = WIDTH + 1, Z = 2 * Y };
        real *restrict dqp = dq + p * WIDTH;
        real x = 0, y = 0, z = 0;
        _Pragma("omp simd reduction(+: x, y, z)") for (int64_t f = 0; f < WIDTH; f++) {
            const real dx = gi[f] - gj[f], dy = gi[Y + f] - gj[Y + f], dz = gi[Z + f] - gj[Z + f];
            dqp[f] = ex * dx + ey * dy + ez * dz;
            x += qp[f] * dx;
            y += qp[f] * dy;
            z += qp[f] * dz;
        }
        de[3 * p] = x + (real)c * (gi[WIDTH] - gj[WIDTH]);
        de[3 * p + 1] = y + (real)c * (gi[Y + WIDTH] - gj[Y + WIDTH]);
        de[3 * p + 2] = z + (real)c * (gi[Z + WIDTH] - gj[Z + WIDTH]);
    }
}

/* C_i = sum_j q_ij d_j, vectors d; added if is_more */
void carried(const int64_t *start, const int64_t *entry, const int64_t *other, const real *q, const real *d, real *to,
             int64_t n_atoms, int64_t is_more, int n_threads)
{
    ATOMS {
        real sum[3][WIDTH] = {{0}};
        if (is_more) memcpy(sum, to + 3 * i * WIDTH, sizeof sum);
        ENTRIES {
            const real *restrict qp = q + (entry[k] >> 1) * WIDTH, *restrict dj = d + 3 * other[k] * WIDTH;
            FETCH(q + (entry[k + 1] >> 1) * WIDTH);
            EACH {
                sum[0][f] += qp[f] * dj[f];
                sum[1][f] += qp[f] * dj[WIDTH + f];
                sum[2][f] += qp[f] * dj[2 * WIDTH + f];
            }
        }
        memcpy(to + 3 * i * WIDTH, sum, sizeof sum);
    }
}

/* Of sum_i g_i C_i: dq = d_i . g_j + d_j . g_i */
void carried_gradient(const int64_t *first, const int64_t *second, const real *d, const real *g, real *dq,
                      int64_t n_pairs, int n_threads)
{
    PAIRS {
        const int64_t i = 3 * first[p] * WIDTH, j = 3 * second[p] * WIDTH;
        const real *di = d + i, *dj = d + j, *gi = g + i, *gj = g + j;
        real *restrict dqp = dq + p * WIDTH;
        EACH
            dqp[f] = di[f] * gj[f] + dj[f] * gi[f] + di[WIDTH + f] * gj[WIDTH + f] + dj[WIDTH + f] * gi[WIDTH + f] +
                     di[2 * WIDTH + f] * gj[2 * WIDTH + f] + dj[2 * WIDTH + f] * gi[2 * WIDTH + f];
    }
}
