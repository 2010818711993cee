/* Polynomials of many variables from a list of steps, and their first and second derivatives; see accelerate/steps.py.

   Planes [0, n_inputs) are the variables of an element; plane n_inputs + t is the sum over k of
   factor[k] * p[left[k]] * p[right[k]], start[t] <= k < start[t + 1]; the last plane is 1. WIDTH elements (rows of all
   tensors) pass through the steps together. Intermediate results are recomputed for derivatives. */

#include <stdlib.h>

#include "common.h"

enum { WIDTH = 2 * N_LANES };

typedef struct {
    const int32_t *start, *left, *right, *outputs;
    const real *factor, *scale;
    int64_t n_inputs, n_targets, n_outputs;
} program;

/* Columns, and in each the rows; a full block of rows is unrolled. */
#define EACH_ROW(n_columns, ...) \
    if (n_rows == WIDTH) \
        for (int64_t k = 0; k < n_columns; k++) \
            for (int row = 0; row < WIDTH; row++) { __VA_ARGS__ } \
    else \
        for (int64_t k = 0; k < n_columns; k++) \
            for (int64_t row = 0; row < n_rows; row++) { __VA_ARGS__ }

/* Bring rows into the order of the processor's vectors; rows beyond the last are zero. */
static void load(const real *from, int64_t n_columns, int64_t n_rows, real *to)
{
    if (n_rows < WIDTH) memset(to, 0, n_columns * WIDTH * sizeof(real));
    EACH_ROW(n_columns, to[k * WIDTH + row] = from[row * n_columns + k];)
}

static void store(const real *from, int64_t n_columns, int64_t n_rows, real *to)
{
    EACH_ROW(n_columns, to[row * n_columns + k] = from[k * WIDTH + row];)
}

static void store_outputs(const program *s, const real *from, int64_t n_rows, real *to)
{
    EACH_ROW(s->n_outputs, to[row * s->n_outputs + k] = s->scale[k] * from[(int64_t)s->outputs[k] * WIDTH + row];)
}

/* Adjoints of all planes: those of the outputs are given, the others zero. */
static void load_seeds(const program *s, const real *from, int64_t n_rows, real *to)
{
    memset(to, 0, (s->n_inputs + s->n_targets + 1) * WIDTH * sizeof(real));
    EACH_ROW(s->n_outputs, to[(int64_t)s->outputs[k] * WIDTH + row] = s->scale[k] * from[row * s->n_outputs + k];)
}

#define AT(planes, k) ((planes) + (int64_t)(k) * WIDTH)
#define ADD(to, value) put(to, get(to) + (value))

static void forward(const program *s, real *p)
{
    const int64_t one = s->n_inputs + s->n_targets;
    for (int c = 0; c < WIDTH; c++) AT(p, one)[c] = 1;
    for (int64_t t = 0; t < s->n_targets; t++) {
        lanes a = {0}, b = {0};
        for (int32_t k = s->start[t]; k < s->start[t + 1]; k++) {
            const real *l = AT(p, s->left[k]), *r = AT(p, s->right[k]), f = s->factor[k];
            a += f * get(l) * get(r);
            b += f * get(l + N_LANES) * get(r + N_LANES);
        }
        real *to = AT(p, s->n_inputs + t);
        put(to, a);
        put(to + N_LANES, b);
    }
}

static void backward(const program *s, const real *p, real *a)
{
    for (int64_t t = s->n_targets - 1; t >= 0; t--) {
        const lanes a0 = get(AT(a, s->n_inputs + t)), a1 = get(AT(a, s->n_inputs + t) + N_LANES);
        for (int32_t k = s->start[t]; k < s->start[t + 1]; k++) {
            const int64_t left = s->left[k], right = s->right[k];
            const real f = s->factor[k];
            ADD(AT(a, left), f * a0 * get(AT(p, right)));
            ADD(AT(a, left) + N_LANES, f * a1 * get(AT(p, right) + N_LANES));
            ADD(AT(a, right), f * a0 * get(AT(p, left)));
            ADD(AT(a, right) + N_LANES, f * a1 * get(AT(p, left) + N_LANES));
        }
    }
}

/* Derivatives of all planes p along the direction given by those of the inputs. */
static void tangents(const program *s, const real *p, real *d)
{
    memset(AT(d, s->n_inputs + s->n_targets), 0, WIDTH * sizeof(real));
    for (int64_t t = 0; t < s->n_targets; t++) {
        lanes sum[2] = {{0}, {0}};
        for (int32_t k = s->start[t]; k < s->start[t + 1]; k++) {
            const int64_t left = s->left[k], right = s->right[k];
            for (int c = 0; c < 2; c++) {
                const int64_t at = c * N_LANES;
                sum[c] += s->factor[k] * (get(AT(d, left) + at) * get(AT(p, right) + at) +
                                          get(AT(p, left) + at) * get(AT(d, right) + at));
            }
        }
        for (int c = 0; c < 2; c++) put(AT(d, s->n_inputs + t) + c * N_LANES, sum[c]);
    }
}

/* Adjoints a, and their derivatives b along the direction of the tangents d. */
static void backward_with_tangents(const program *s, const real *p, const real *d, real *a, real *b)
{
    for (int64_t t = s->n_targets - 1; t >= 0; t--) {
        for (int32_t k = s->start[t]; k < s->start[t + 1]; k++) {
            const int64_t left = s->left[k], right = s->right[k];
            const real f = s->factor[k];
            for (int c = 0; c < 2; c++) {
                const int64_t at = c * N_LANES;
                const lanes at_ = f * get(AT(a, s->n_inputs + t) + at), bt = f * get(AT(b, s->n_inputs + t) + at);
                const lanes pl = get(AT(p, left) + at), pr = get(AT(p, right) + at);
                const lanes dl = get(AT(d, left) + at), dr = get(AT(d, right) + at);
                ADD(AT(a, left) + at, at_ * pr);
                ADD(AT(b, left) + at, bt * pr + at_ * dr);
                ADD(AT(a, right) + at, at_ * pl);
                ADD(AT(b, right) + at, bt * pl + at_ * dl);
            }
        }
    }
}

/* Call a body with the rows of each block, and room for planes, in parallel. Returns 0 without memory. */
#define EACH_BLOCK(n_rooms, ...) \
    const int64_t size = (s->n_inputs + s->n_targets + 1) * WIDTH; \
    int is_complete = 1; \
    _Pragma("omp parallel num_threads(n_threads) reduction(& : is_complete)") \
    { \
        real *p = aligned_alloc(64, ((n_rooms) * size * sizeof(real) + 63) / 64 * 64); \
        is_complete = p != NULL; \
        _Pragma("omp for schedule(dynamic)") \
        for (int64_t first = 0; first < n_rows; first += WIDTH) { \
            if (!p) continue; \
            const int64_t n = n_rows - first < WIDTH ? n_rows - first : WIDTH; \
            __VA_ARGS__ \
        } \
        free(p); \
    } \
    return is_complete;

int evaluate(const program *s, const real *x, real *y, int64_t n_rows, int n_threads)
{
    EACH_BLOCK(1, {
        load(x + first * s->n_inputs, s->n_inputs, n, p);
        forward(s, p);
        store_outputs(s, p, n, y + first * s->n_outputs);
    })
}

/* dx = sum over outputs of g dy/dx */
int gradient(const program *s, const real *x, const real *g, real *dx, int64_t n_rows, int n_threads)
{
    EACH_BLOCK(2, {
        load(x + first * s->n_inputs, s->n_inputs, n, p);
        forward(s, p);
        load_seeds(s, g + first * s->n_outputs, n, p + size);
        backward(s, p, p + size);
        store(p + size, s->n_inputs, n, dx + first * s->n_inputs);
    })
}

/* Derivatives of sum over inputs of v dx, dx as above, with respect to g and x. */
int gradient_of_gradient(const program *s, const real *x, const real *g, const real *v, real *to_g, real *to_x,
                         int64_t n_rows, int n_threads)
{
    EACH_BLOCK(4, {
        real *d = p + size, *a = p + 2 * size, *b = p + 3 * size;
        load(x + first * s->n_inputs, s->n_inputs, n, p);
        forward(s, p);
        load(v + first * s->n_inputs, s->n_inputs, n, d);
        tangents(s, p, d);
        store_outputs(s, d, n, to_g + first * s->n_outputs);
        load_seeds(s, g + first * s->n_outputs, n, a);
        memset(b, 0, size * sizeof(real));
        backward_with_tangents(s, p, d, a, b);
        store(b, s->n_inputs, n, to_x + first * s->n_inputs);
    })
}
