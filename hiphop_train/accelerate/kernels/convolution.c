/* HIP-NN's convolution, and its derivatives; see accelerate/compiled_convolution.py. Sizes: N_SENSITIVITIES,
   N_COMPONENTS of the tensors, WIDTH: maximum number of features per call. */

#include "common.h"

enum { SOME = 8 };  /* pairs at a time */
#define EACH_LANES(f) for (int64_t f = 0; f < n; f += N_LANES)
#define EACH_PAIR(q) _Pragma("GCC unroll 8") for (int q = 0; q < SOME; q++)

#if BYTES == 16 && !IS_SINGLE
static inline real total(lanes values) { return values[0] + values[1]; }
#else
typedef real half __attribute__((vector_size(BYTES / 2)));
typedef real quarter __attribute__((vector_size(BYTES / 4)));
static inline real total(lanes values)
{
    half h[2];
    memcpy(h, &values, sizeof h);
    const half sum = h[0] + h[1];
    quarter q[2];
    memcpy(q, &sum, sizeof q);
    const quarter few = q[0] + q[1];
    real found = 0;
    for (int k = 0; k < N_LANES / 4; k++) found += few[k];
    return found;
}
#endif

/* Rows of the next SOME pairs; beyond the last pair, row `first`, whose factor or message is zero. */
static inline void rows(const real **found, const real *table, int64_t first, int64_t left, int64_t width)
{
    for (int q = 0; q < SOME; q++) found[q] = table + (first + (q < left ? q : 0)) * width;
}

/* Add to each of `count` rows of n numbers a linear combination of SOME rows x. */
static inline void add(real *to, int64_t stride, int count, const real *const *factors, const real *x, int64_t n)
{
    EACH_LANES(f) {
        lanes xq[SOME];
        EACH_PAIR(q) xq[q] = get(x + q * n + f);
        for (int k = 0; k < count; k++) {
            lanes sum = get(to + k * stride + f);
            EACH_PAIR(q) sum += factors[q][k] * xq[q];
            put(to + k * stride + f, sum);
        }
    }
}

/* A_i = sum_j T(r_ij) m_ij, m_ij = sum_nu s_nu(r_ij) zeta_j,nu */
void environments(const int64_t *start, const int64_t *sender, const real *s, const real *t, const real *zeta, real *a,
                  int64_t n_atoms, int64_t n, int64_t row, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t i = 0; i < n_atoms; i++) {
        real m[SOME * WIDTH] __attribute__((aligned(64)));
        real *ai = a + i * N_COMPONENTS * row;
        for (int c = 0; c < N_COMPONENTS; c++) memset(ai + c * row, 0, n * sizeof(real));
        for (int64_t first = start[i]; first < start[i + 1]; first += SOME) {
            const int64_t left = start[i + 1] - first;
            const real *tq[SOME];
            rows(tq, t, first, left, N_COMPONENTS);
            for (int q = 0; q < SOME; q++) {
                if (q >= left) { memset(m + q * n, 0, n * sizeof(real)); continue; }
                const real *z = zeta + sender[first + q] * N_SENSITIVITIES * n, *sq = s + (first + q) * N_SENSITIVITIES;
                EACH_LANES(f) {
                    lanes sum = {0};
                    #pragma GCC unroll 32
                    for (int k = 0; k < N_SENSITIVITIES; k++) sum += sq[k] * get(z + k * n + f);
                    put(m + q * n + f, sum);
                }
            }
            add(ai, row, N_COMPONENTS, tq, m, n);
        }
    }
}

/* Derivatives of sum_i g_i A_i with respect to the messages that atom j sends, over the pairs in which it receives.
   With d_ij = sum_c T_c g_i,c, the derivative with respect to zeta_j,nu is sum_i s_nu d_ij, with respect to s_nu
   sum_f zeta_j,nu d_ij, and with respect to T_c sum_f g_i,c m_ij. */
void derivatives(const int64_t *start, const int64_t *sender, const real *s, const real *t, const real *zeta,
                 const real *g, const real *sign, real *grad_s, real *grad_t, real *grad_zeta,
                 int64_t n_atoms, int64_t n, int64_t row, int64_t is_more, int n_threads)
{
    #pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t j = 0; j < n_atoms; j++) {
        real m[SOME * WIDTH] __attribute__((aligned(64))), d[SOME * WIDTH] __attribute__((aligned(64)));
        const real *z = zeta + j * N_SENSITIVITIES * n;
        real *grad_z = grad_zeta + j * N_SENSITIVITIES * n;
        memset(grad_z, 0, N_SENSITIVITIES * n * sizeof(real));
        for (int64_t first = start[j]; first < start[j + 1]; first += SOME) {
            const int64_t left = start[j + 1] - first;
            const real *sq[SOME];
            rows(sq, s, first, left, N_SENSITIVITIES);
            EACH_LANES(f) {
                lanes sum[SOME];
                EACH_PAIR(q) sum[q] = (lanes){0};
                for (int k = 0; k < N_SENSITIVITIES; k++) {
                    const lanes zk = get(z + k * n + f);
                    EACH_PAIR(q) sum[q] += sq[q][k] * zk;
                }
                EACH_PAIR(q) put(m + q * n + f, sum[q]);
            }
            for (int q = 0; q < SOME; q++) {
                if (q >= left) { memset(d + q * n, 0, n * sizeof(real)); continue; }
                const real *gi = g + sender[first + q] * N_COMPONENTS * row;
                real tq[N_COMPONENTS], *grad_tq = grad_t + (first + q) * N_COMPONENTS;
                lanes of[N_COMPONENTS];
                for (int c = 0; c < N_COMPONENTS; c++) tq[c] = sign[c] * t[(first + q) * N_COMPONENTS + c];
                for (int c = 0; c < N_COMPONENTS; c++) of[c] = (lanes){0};
                EACH_LANES(f) {
                    lanes sum = {0}, mq = get(m + q * n + f);
                    #pragma GCC unroll 36
                    for (int c = 0; c < N_COMPONENTS; c++) {
                        const lanes gc = get(gi + c * row + f);
                        sum += tq[c] * gc;
                        of[c] += gc * mq;
                    }
                    put(d + q * n + f, sum);
                }
                for (int c = 0; c < N_COMPONENTS; c++)
                    grad_tq[c] = (is_more ? grad_tq[c] : 0) + sign[c] * total(of[c]);
            }
            add(grad_z, n, N_SENSITIVITIES, sq, d, n);
            for (int q = 0; q < SOME && q < left; q += 4)
                for (int k = 0; k < N_SENSITIVITIES; k += 4) {
                    lanes of[4][4] = {{{0}}};
                    EACH_LANES(f)
                        _Pragma("GCC unroll 4") for (int y = 0; y < 4; y++) {
                            const lanes zk = get(z + (k + y < N_SENSITIVITIES ? k + y : 0) * n + f);
                            _Pragma("GCC unroll 4") for (int x = 0; x < 4; x++)
                                of[x][y] += zk * get(d + (q + x) * n + f);
                        }
                    _Pragma("GCC unroll 4") for (int x = 0; x < 4; x++)
                        _Pragma("GCC unroll 4") for (int y = 0; y < 4; y++)
                            if (q + x < left && k + y < N_SENSITIVITIES) {
                                real *to = grad_s + (first + q + x) * N_SENSITIVITIES + k + y;
                                *to = (is_more ? *to : 0) + total(of[x][y]);
                            }
                }
        }
    }
}

/* E_i,c,nu of a species = sum_j T_c s_nu over its atoms j; number: index of the sender's species among n_present */
void species_sums(const int64_t *start, const int64_t *number, const real *s, const real *t, real *e,
                  int64_t n_atoms, int64_t n_present, int n_threads)
{
    const int64_t size = N_COMPONENTS * n_present * N_SENSITIVITIES;
    #pragma omp parallel for num_threads(n_threads) schedule(dynamic, 64)
    for (int64_t i = 0; i < n_atoms; i++) {
        memset(e + i * size, 0, size * sizeof(real));
        for (int64_t p = start[i]; p < start[i + 1]; p++) {
            const real *restrict sp = s + p * N_SENSITIVITIES, *restrict tp = t + p * N_COMPONENTS;
            real *restrict ei = e + i * size + number[p] * N_SENSITIVITIES;
            for (int c = 0; c < N_COMPONENTS; c++)
                _Pragma("omp simd") for (int k = 0; k < N_SENSITIVITIES; k++)
                    ei[c * n_present * N_SENSITIVITIES + k] += tp[c] * sp[k];
        }
    }
}

/* Vectors of four numbers: rows of sensitivities seldom fill the processor's vectors. */
typedef real four __attribute__((vector_size(4 * sizeof(real))));
enum { N_FOURS = N_SENSITIVITIES / 4 };

void derivatives_of_species_sums(const int64_t *start, const int64_t *number, const real *s, const real *t,
                                 const real *g, real *grad_s, real *grad_t, int64_t n_atoms, int64_t n_present,
                                 int n_threads)
{
    const int64_t size = N_COMPONENTS * n_present * N_SENSITIVITIES;
    #pragma omp parallel for num_threads(n_threads) schedule(dynamic, 64)
    for (int64_t i = 0; i < n_atoms; i++)
        for (int64_t p = start[i]; p < start[i + 1]; p++) {
            const real *restrict sp = s + p * N_SENSITIVITIES, *restrict tp = t + p * N_COMPONENTS;
            const real *restrict gi = g + i * size + number[p] * N_SENSITIVITIES;
            four of[N_FOURS + 1] = {{0}}, sk[N_FOURS + 1];
            memcpy(sk, sp, N_FOURS * sizeof(four));
            _Pragma("GCC unroll 36") for (int c = 0; c < N_COMPONENTS; c++) {
                const real *restrict gc = gi + c * n_present * N_SENSITIVITIES;
                four sum = {0};
                _Pragma("GCC unroll 16") for (int k = 0; k < N_FOURS; k++) {
                    four gk;
                    memcpy(&gk, gc + 4 * k, sizeof gk);
                    sum += sk[k] * gk;
                    of[k] += tp[c] * gk;
                }
                real rest = 0;
                for (int k = 4 * N_FOURS; k < N_SENSITIVITIES; k++) {
                    rest += sp[k] * gc[k];
                    of[N_FOURS][k - 4 * N_FOURS] += tp[c] * gc[k];
                }
                grad_t[p * N_COMPONENTS + c] = rest + ((sum[0] + sum[1]) + (sum[2] + sum[3]));
            }
            memcpy(grad_s + p * N_SENSITIVITIES, of, N_SENSITIVITIES * sizeof(real));
        }
}
