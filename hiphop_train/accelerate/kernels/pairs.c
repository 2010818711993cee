/* Check that the list of pairs is sorted by receiver and contains the reverse of each pair; see accelerate/pairs.py. */

#include "common.h"

/* splitmix64, a hash of 64-bit integers */
static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t key(int64_t i, int64_t j, int64_t x, int64_t y, int64_t z)
{
    return (uint64_t)i * 0x9e3779b97f4a7c15u + (uint64_t)j * 0xd1b54a32d192ed03u + (uint64_t)x * 0xaef17502108ef2d9u +
           (uint64_t)y * 0xf1357aea2e62a9c5u + (uint64_t)z * 0xbf58476d1ce4e5b9u;
}

/* Fill start (n_atoms + 1), the first pair of each receiver. Return 1 if pairs are sorted and the sum of hashed keys over
   pairs (i, j, shift) equals that over reverses (j, i, -shift). Stride 0: all pairs have the same shift. */
int check_pairs(const int64_t *pair_i, const int64_t *pair_j, const int64_t *shift, int64_t *start, int64_t n_pairs,
                int64_t n_atoms, int64_t stride, int n_threads)
{
    int is_sorted = 1;
    uint64_t difference = 0;
    #pragma omp parallel for num_threads(n_threads) schedule(static) reduction(& : is_sorted) reduction(+ : difference)
    for (int64_t p = 0; p < n_pairs; p++) {
        const int64_t i = pair_i[p], j = pair_j[p], *s = shift + p * stride;
        is_sorted &= p == 0 || pair_i[p - 1] <= i;
        difference += mix(key(i, j, s[0], s[1], s[2])) - mix(key(j, i, -s[0], -s[1], -s[2]));
    }
    if (!is_sorted || difference) return 0;
    int64_t atom = 0;
    for (int64_t p = 0; p < n_pairs; p++)
        while (atom <= pair_i[p]) start[atom++] = p;
    while (atom <= n_atoms) start[atom++] = n_pairs;
    return 1;
}
