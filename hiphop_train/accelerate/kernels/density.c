/* Densities of neighbours, A_i = sum over j of g_n(r_ij) Y^l_m(r_ij) by the species of j, and their derivatives; see
   accelerate/ace.py.

   generated.h has N_TYPES, N_RANKS, N_RADIAL, N_HARMONICS, N_PLANES, and for each rank: OF_RANK, its number of radial
   functions, and FIRST, its first plane. Within a rank, planes count components, then species, then radial functions. */

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
