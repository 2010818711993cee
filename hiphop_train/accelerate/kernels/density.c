/* Densities of neighbours, A_i = sum over j of g_n(r_ij) Y^l_m(r_ij) by the species of j, and their derivatives; see
   accelerate/densities.py.

   generated.h has N_TYPES, N_RANKS, N_RADIAL, N_HARMONICS, N_PLANES, and for each rank: OF_RANK, its number of radial
   functions, and FIRST, its first plane. Within a rank, planes count components, then species, then radial functions.
   It also has the coefficients of the radial functions' recurrence, and the tensors of a unit vector as a program. */

#include <math.h>

#include "common.h"
#include "generated.h"

#define EACH_COMPONENT(l, m) \
    _Pragma("GCC unroll 8") for (int l = 0; l < N_RANKS; l++) \
        _Pragma("GCC unroll 16") for (int m = 0; m < 2 * l + 1; m++)
#define OFFSET(l, m, species) (FIRST[l] + (m * N_TYPES + (species)) * OF_RANK[l])

/* Add to a, or write it. */
void density(const int64_t *first, const int64_t *species, const real *r, const real *y, real *a, int64_t n_atoms,
             int64_t is_more, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t i = 0; i < n_atoms; i++) {
        real *restrict ai = a + i * N_PLANES;
        if (!is_more) memset(ai, 0, N_PLANES * sizeof(real));
        for (int64_t p = first[i]; p < first[i + 1]; p++) {
            const real *restrict rp = r + p * N_RADIAL, *restrict yp = y + p * N_HARMONICS;
            EACH_COMPONENT(l, m) {
                real *restrict to = ai + OFFSET(l, m, species[p]);
                for (int n = 0; n < OF_RANK[l]; n++) to[n] += rp[n] * yp[l * l + m];
            }
        }
    }
}

/* Derivatives of sum of g A with respect to r and y, where they are wanted (not NULL); added, or written. */
void contract(const int64_t *first, const int64_t *species, const real *g, const real *r, const real *y, real *dr,
              real *dy, int64_t n_atoms, int64_t is_more, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t i = 0; i < n_atoms; i++) {
        const real *restrict gi = g + i * N_PLANES;
        for (int64_t p = first[i]; p < first[i + 1]; p++) {
            if (dr) {
                const real *restrict yp = y + p * N_HARMONICS;
                real *restrict to = dr + p * N_RADIAL;
                if (!is_more) memset(to, 0, N_RADIAL * sizeof(real));
                EACH_COMPONENT(l, m) {
                    const real *restrict from = gi + OFFSET(l, m, species[p]);
                    for (int n = 0; n < OF_RANK[l]; n++) to[n] += from[n] * yp[l * l + m];
                }
            }
            if (dy) {
                const real *restrict rp = r + p * N_RADIAL;
                real *restrict to = dy + p * N_HARMONICS;
                EACH_COMPONENT(l, m) {
                    const real *restrict from = gi + OFFSET(l, m, species[p]);
                    real sum = is_more ? to[l * l + m] : 0;
                    for (int n = 0; n < OF_RANK[l]; n++) sum += from[n] * rp[n];
                    to[l * l + m] = sum;
                }
            }
        }
    }
}

/* Radial functions and tensors of a vector of pairs, and slopes. */
typedef struct {
    lanes r[N_RADIAL], slope[N_RADIAL], y[N_HARMONICS], unit[3], inverse, p[2 * N_TENSOR_PLANES];
} pairs;

typedef double doubles __attribute__((vector_size(N_LANES * sizeof(double))));

#define REALS(values) __builtin_convertvector(values, lanes)

/* n pairs; further lanes get a vector that does no harm. */
static void evaluate(const real *vectors, int64_t n, pairs *to)
{
    doubles x[3], r, sine, cosine;
    for (int c = 0; c < N_LANES; c++) {
        double square = 0;
        for (int a = 0; a < 3; a++) {
            x[a][c] = c < n ? vectors[3 * c + a] : 0.5 * CUTOFF;
            square += x[a][c] * x[a][c];
        }
        r[c] = sqrt(square);
        sine[c] = sin(M_PI / CUTOFF * r[c]);
        cosine[c] = cos(M_PI / CUTOFF * r[c]);
    }
    const doubles inverse = 1.0 / r;
    to->inverse = REALS(inverse);
    for (int a = 0; a < 3; a++) to->p[a] = to->unit[a] = REALS(x[a] * inverse);
    tensors(to->p);
    to->y[0] = (lanes){0} + 1;
    for (int k = 1; k < N_HARMONICS; k++) to->y[k] = (real)SIZE_OF_HARMONIC[k] * to->p[TENSOR_OUTPUTS[k]];
    doubles inside;
    for (int c = 0; c < N_LANES; c++) inside[c] = r[c] < CUTOFF;
    /* sin and cos of multiples of the angle, divided by r; the derivative of sin(k t) / r */
    doubles s0 = inside * sine * inverse, c0 = inside * cosine * inverse;
    doubles s1 = 2.0 * cosine * s0, c1 = 2.0 * cosine * c0 - inside * inverse;
    doubles d0 = M_PI / CUTOFF * c0 - s0 * inverse, value = {0}, slope = {0};
    for (int n_radial = 0; n_radial < N_RADIAL; n_radial++) {
        const doubles d1 = (n_radial + 2) * (M_PI / CUTOFF) * c1 - s1 * inverse;
        const double a = OF_FIRST[n_radial], b = OF_SECOND[n_radial], e = OF_BEFORE[n_radial];
        value = a * s0 + b * s1 + e * value;
        slope = a * d0 + b * d1 + e * slope;
        to->r[n_radial] = REALS(value);
        to->slope[n_radial] = REALS(slope);
        const doubles s2 = 2.0 * cosine * s1 - s0, c2 = 2.0 * cosine * c1 - c0;
        s0 = s1, c0 = c1, s1 = s2, c1 = c2, d0 = d1;
    }
}

void density_of_vectors(const int64_t *first, const int64_t *species, const real *vectors, real *a, int64_t n_atoms,
                        int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t i = 0; i < n_atoms; i++) {
        real *restrict ai = a + i * N_PLANES;
        memset(ai, 0, N_PLANES * sizeof(real));
        for (int64_t p = first[i]; p < first[i + 1]; p += N_LANES) {
            const int64_t n_pairs = first[i + 1] - p < N_LANES ? first[i + 1] - p : N_LANES;
            pairs of;
            evaluate(vectors + 3 * p, n_pairs, &of);
            for (int64_t c = 0; c < n_pairs; c++) {
                real r[N_RADIAL];
                for (int n = 0; n < N_RADIAL; n++) r[n] = of.r[n][c];
                EACH_COMPONENT(l, m) {
                    real *restrict to = ai + OFFSET(l, m, species[p + c]);
                    const real y = of.y[l * l + m][c];
                    for (int n = 0; n < OF_RANK[l]; n++) to[n] += r[n] * y;
                }
            }
        }
    }
}

/* Derivative of sum of g A with respect to the vectors. */
void gradient_of_vectors(const int64_t *first, const int64_t *species, const real *vectors, const real *g, real *to,
                         int64_t n_atoms, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t i = 0; i < n_atoms; i++) {
        const real *restrict gi = g + i * N_PLANES;
        for (int64_t p = first[i]; p < first[i + 1]; p += N_LANES) {
            const int64_t n_pairs = first[i + 1] - p < N_LANES ? first[i + 1] - p : N_LANES;
            pairs of;
            evaluate(vectors + 3 * p, n_pairs, &of);
            lanes along = {0}, dy[N_HARMONICS];
            memset(dy, 0, sizeof dy);
            for (int64_t c = 0; c < n_pairs; c++) {
                real r[N_RADIAL], slope[N_RADIAL], total = 0;
                for (int n = 0; n < N_RADIAL; n++) r[n] = of.r[n][c], slope[n] = of.slope[n][c];
                EACH_COMPONENT(l, m) {
                    const real *restrict from = gi + OFFSET(l, m, species[p + c]);
                    real of_r = 0, of_slope = 0;
                    for (int n = 0; n < OF_RANK[l]; n++) of_r += from[n] * r[n], of_slope += from[n] * slope[n];
                    dy[l * l + m][c] = of_r;
                    total += of_slope * of.y[l * l + m][c];
                }
                along[c] = total;
            }
            lanes *d = of.p + N_TENSOR_PLANES, radial = {0};
            for (int a = 0; a < 3; a++) d[a] = (lanes){0};
            for (int k = 1; k < N_HARMONICS; k++) d[TENSOR_OUTPUTS[k]] = (real)SIZE_OF_HARMONIC[k] * dy[k];
            tensors_gradient(of.p);
            for (int a = 0; a < 3; a++) radial += of.unit[a] * d[a];
            for (int a = 0; a < 3; a++) {
                const lanes found = of.unit[a] * along + (d[a] - of.unit[a] * radial) * of.inverse;
                for (int64_t c = 0; c < n_pairs; c++) to[3 * (p + c) + a] = found[c];
            }
        }
    }
}
