/* Edge-gated graph convolution, and normalised activations, with first and second derivatives, see models/alignn.py.

   First derivatives: given the gradients of the results, those of the inputs. Second derivatives: given tangents of the
   inputs (named *_t), Phi is the sum over results of gradient times tangent; written are the tangents of the results and
   the gradients of Phi with respect to the inputs. The Jacobian of a norm is J = r (1 - mean - norm mean(norm .)), see
   normalisation.c. */

#include "exponential.h"
#include "rows.h"

#include <math.h>

#ifndef EPSILON
#define EPSILON 1e-5
#endif

enum { ROWS = 64 }; /* that share one sum of the gradients of parameters */

/* x where the mask is set, y elsewhere */
static inline lanes choose(integers mask, lanes x, lanes y)
{
    return (lanes)((mask & (integers)x) | (~mask & (integers)y));
}

static inline lanes sigmoid(lanes x)
{
    const lanes zero = {0}, negative = choose(x < zero, x, -x);
    const lanes e = exponential(choose(negative < -50, zero - 50, negative)), small = e / (1 + e);
    return choose(x < zero, small, 1 - small);
}

/* The normalised row, in place, and the factor r. */
static inline real normalise(row *x)
{
    const real m = mean(x);
    EACH x->v[k] -= m;
    pad(x, 0);
    const real r = 1 / (real)sqrt(product(x, x) + (real)EPSILON);
    EACH x->v[k] *= r;
    return r;
}

/* J g, in place. */
static inline void through_norm(row *g, const row *norm, real r)
{
    const real m = mean(g), p = product(g, norm);
    EACH g->v[k] = r * (g->v[k] - m - norm->v[k] * p);
    pad(g, 0);
}

typedef struct {
    row weight, bias;
} affine;

/* silu(norm(x) weight + bias), in place */
static inline void activate(row *x, const affine *f)
{
    normalise(x);
    EACH {
        const lanes y = x->v[k] * f->weight.v[k] + f->bias.v[k];
        x->v[k] = y * sigmoid(y);
    }
}

/* Gradient with respect to x, added; and with respect to weight and bias, added, unless `sums` is NULL. */
static inline void activate_gradient(row x, const affine *f, const row *g, row *grad_x, affine *sums)
{
    const real r = normalise(&x);
    row grad;
    EACH {
        const lanes y = x.v[k] * f->weight.v[k] + f->bias.v[k], s = sigmoid(y);
        const lanes grad_y = g->v[k] * s * (1 + y * (1 - s));
        if (sums) {
            sums->weight.v[k] += grad_y * x.v[k];
            sums->bias.v[k] += grad_y;
        }
        grad.v[k] = grad_y * f->weight.v[k];
    }
    through_norm(&grad, &x, r);
    EACH grad_x->v[k] += grad.v[k];
}

/* Tangent of the result, written; gradients of Phi with respect to x and, unless `sums` is NULL, parameters, added. */
static inline void activate_second(row x, const affine *f, const row *g, const row *x_t, row *result_t, row *grad_x,
                                   affine *sums)
{
    const real r = normalise(&x);
    row norm_t = *x_t, first, second;
    through_norm(&norm_t, &x, r);
    EACH {
        const lanes y = x.v[k] * f->weight.v[k] + f->bias.v[k], s = sigmoid(y), y_t = f->weight.v[k] * norm_t.v[k];
        const lanes slope = s * (1 + y * (1 - s)), curvature = s * (1 - s) * (2 + y * (1 - 2 * s));
        const lanes grad_y = g->v[k] * slope, grad_phi = g->v[k] * curvature * y_t;
        result_t->v[k] = slope * y_t;
        if (sums) {
            sums->weight.v[k] += grad_y * norm_t.v[k] + grad_phi * x.v[k];
            sums->bias.v[k] += grad_phi;
        }
        first.v[k] = grad_y * f->weight.v[k];
        second.v[k] = grad_phi * f->weight.v[k];
    }
    through_norm(&second, &x, r);
    const real mean_g = mean(&first), mean_t = mean(x_t), p = product(&x, x_t), q = product(&x, &first);
    const real c = product(&first, x_t) - mean_g * mean_t - 3 * p * q;
    row grad;
    EACH grad.v[k] = second.v[k] - r * r * (p * (first.v[k] - mean_g) + q * (x_t->v[k] - mean_t) + c * x.v[k]);
    pad(&grad, 0);
    EACH grad_x->v[k] += grad.v[k];
}

/* Rows: residual (may be NULL) + silu(norm(x) weight + bias). Gradients of parameters are summed over ROWS rows each. */

#define BLOCKS(...) \
    _Pragma("omp parallel for num_threads(n_threads) schedule(static)") \
    for (int64_t block = 0; block < (n_rows + ROWS - 1) / ROWS; block++) { \
        const affine f = {load(weight), load(bias)}; \
        affine sum = {0}, *sums = grad_parameters ? &sum : NULL; \
        for (int64_t i = block * ROWS; i < n_rows && i < (block + 1) * ROWS; i++) { __VA_ARGS__; } \
        if (sums) { \
            store(grad_parameters + block * 2 * N, &sum.weight); \
            store(grad_parameters + block * 2 * N + N, &sum.bias); \
        } \
    }

void rows(const real *x, const real *weight, const real *bias, const real *residual, real *result, int64_t n_rows,
          int n_threads)
{
    real *const grad_parameters = NULL;
    BLOCKS(
        row y = load(x + i * N);
        activate(&y, &f);
        if (residual) add_to_row(&y, residual + i * N);
        store(result + i * N, &y))
}

void rows_gradient(const real *x, const real *weight, const real *bias, const real *g, real *grad_x,
                   real *grad_parameters, int64_t n_rows, int n_threads)
{
    BLOCKS(
        row grad = {0}; const row g_i = load(g + i * N);
        activate_gradient(load(x + i * N), &f, &g_i, &grad, sums);
        store(grad_x + i * N, &grad))
}

void rows_second(const real *x, const real *weight, const real *bias, const real *g, const real *x_t, real *grad_g,
                 real *grad_x, real *grad_parameters, int64_t n_rows, int n_threads)
{
    BLOCKS(
        row grad = {0}; row result_t; const row g_i = load(g + i * N); const row x_t_i = load(x_t + i * N);
        activate_second(load(x + i * N), &f, &g_i, &x_t_i, &result_t, &grad, sums);
        store(grad_g + i * N, &result_t);
        store(grad_x + i * N, &grad))
}

/* Edges of a graph, grouped by receiver, in blocks of groups of which none shares a sender with another.

   With N = N_FEATURES, nodes: (n_nodes, 4 N), A h, V h, B h + b, W h + b'; edges: C e (n_rows, N), row `place[e]` (NULL:
   e) for edge e;
   mean = sum_j g_ij V h_j / total, total = sum_j g_ij + epsilon; results W h + b' + mean, and
   e + silu(norm(m)) for all edges unless `new_edges` is NULL. */

typedef struct {
    const real *nodes, *edges, *gate_weight, *weight, *bias;
    const int64_t *sender, *node, *start, *place;
} graph;

enum { SENDER, MESSAGE, RECEIVER, OWN };

static inline row of_node(const real *nodes, int64_t node, int part)
{
    return load(nodes + (4 * node + part) * N);
}

static inline int64_t at(const graph *x, int64_t e)
{
    return x->place ? x->place[e] : e;
}

/* m_ij */
static inline row mixed(const graph *x, const real *nodes, const real *edges, int64_t e, const row *receiver)
{
    row m = of_node(nodes, x->sender[e], SENDER);
    const row edge = load(edges + at(x, e) * N);
    EACH m.v[k] += receiver->v[k] + edge.v[k];
    return m;
}

#define GROUPS(...) \
    _Pragma("omp parallel for num_threads(n_threads) schedule(dynamic)") \
    for (int64_t b = 0; b < n_blocks; b++) { \
        const affine f = has_norm ? (affine){load(x.weight), load(x.bias)} : (affine){0}; \
        affine sum = {0}, *sums = grad_parameters ? &sum : NULL; \
        for (int64_t group = block[b]; group < block[b + 1]; group++) { \
            const int64_t i = x.node ? x.node[group] : group, first = x.start[group], end = x.start[group + 1]; \
            __VA_ARGS__; \
        } \
        if (sums) { \
            store(grad_parameters + b * 2 * N, &sum.weight); \
            store(grad_parameters + b * 2 * N + N, &sum.bias); \
        } \
    }

#define GIVEN \
    const real *nodes, const real *edges, const real *gate_weight, const real *weight, const real *bias, \
        const int64_t *sender, const int64_t *node, const int64_t *start, const int64_t *place, const int64_t *block, \
        int64_t n_blocks

#define GRAPH \
    const graph x = {nodes, edges, gate_weight, weight, bias, sender, node, start, place}; \
    const int has_norm = weight != NULL;

void convolve(GIVEN, const real *old_edges, real *new_edges, real *new_nodes, real *means, real *totals, double epsilon,
              int n_threads)
{
    GRAPH real *const grad_parameters = NULL;
    GROUPS(
        const row receiver = of_node(nodes, i, RECEIVER);
        row gates = {0}; row messages = {0}; row own = of_node(nodes, i, OWN);
        for (int64_t e = first; e < end; e++) {
            row m = mixed(&x, nodes, edges, e, &receiver);
            const row message = of_node(nodes, sender[e], MESSAGE);
            EACH {
                const lanes gate = gate_weight[e] * sigmoid(m.v[k]);
                gates.v[k] += gate;
                messages.v[k] += gate * message.v[k];
            }
            if (new_edges) {
                activate(&m, &f);
                add_to_row(&m, old_edges + at(&x, e) * N);
                store(new_edges + e * N, &m);
            }
        }
        EACH {
            gates.v[k] += (real)epsilon;
            messages.v[k] /= gates.v[k];
            own.v[k] += messages.v[k];
        }
        store(new_nodes + i * N, &own);
        store(means + i * N, &messages);
        store(totals + i * N, &gates))
}

/* Gradient of the features of edge e: written, or added where edges share rows. */
static inline void put_edge(const graph *x, real *to, int64_t e, const row *grad)
{
    if (x->place) add_to(to + x->place[e] * N, grad);
    else store(to + e * N, grad);
}

/* Given the gradients g of new nodes and h of new edges (NULL: none); grad_nodes is zero before, and so are, if edges
   share rows, grad_edges and grad_old. Otherwise grad_old would be h, and is NULL. */
void convolve_gradient(GIVEN, const real *means, const real *totals, const real *g, const real *h, real *grad_nodes,
                       real *grad_edges, real *grad_gate_weight, real *grad_old, real *grad_parameters, int n_threads)
{
    GRAPH GROUPS(
        const row receiver = of_node(nodes, i, RECEIVER); const row average = load(means + i * N);
        const row g_i = load(g + i * N); row sum_i = load(totals + i * N);
        row q; row grad_receiver = {0};
        pad(&sum_i, 1);
        EACH q.v[k] = g_i.v[k] / sum_i.v[k];
        for (int64_t e = first; e < end; e++) {
            const row m = mixed(&x, nodes, edges, e, &receiver);
            const row message = of_node(nodes, sender[e], MESSAGE);
            row grad; row grad_message; lanes of_weight = {0};
            EACH {
                const lanes s = sigmoid(m.v[k]), grad_gate = q.v[k] * (message.v[k] - average.v[k]);
                of_weight += s * grad_gate;
                grad.v[k] = gate_weight[e] * s * (1 - s) * grad_gate;
                grad_message.v[k] = gate_weight[e] * s * q.v[k];
            }
            grad_gate_weight[e] = total(of_weight);
            if (h) {
                const row h_e = load(h + e * N);
                if (grad_old) add_to(grad_old + at(&x, e) * N, &h_e);
                activate_gradient(m, &f, &h_e, &grad, sums);
            }
            put_edge(&x, grad_edges, e, &grad);
            add_to(grad_nodes + (4 * sender[e] + SENDER) * N, &grad);
            add_to(grad_nodes + (4 * sender[e] + MESSAGE) * N, &grad_message);
            EACH grad_receiver.v[k] += grad.v[k];
        }
        add_to(grad_nodes + (4 * i + RECEIVER) * N, &grad_receiver);
        store(grad_nodes + (4 * i + OWN) * N, &g_i))
}

/* Given g, h and the tangents of nodes, edges, gate weights and, if edges share rows, old edges. Written: tangents of the
   results, in grad_g and grad_h; gradients of Phi with respect to the others, zero before as above. */
void convolve_second(GIVEN, const real *means, const real *totals, const real *g, const real *h, const real *nodes_t,
                     const real *edges_t, const real *gate_weight_t, const real *old_t, real *grad_g, real *grad_h,
                     real *grad_nodes, real *grad_edges, real *grad_gate_weight, real *grad_parameters, int n_threads)
{
    GRAPH GROUPS(
        const row receiver = of_node(nodes, i, RECEIVER); const row receiver_t = of_node(nodes_t, i, RECEIVER);
        const row average = load(means + i * N); const row g_i = load(g + i * N); row sum_i = load(totals + i * N);
        row q; row gates_t = {0}; row messages_t = {0}; row grad_receiver = {0};
        row own_t = of_node(nodes_t, i, OWN);
        pad(&sum_i, 1);
        EACH q.v[k] = g_i.v[k] / sum_i.v[k];
        for (int64_t e = first; e < end; e++) {
            const row m = mixed(&x, nodes, edges, e, &receiver), m_t = mixed(&x, nodes_t, edges_t, e, &receiver_t);
            const row message = of_node(nodes, sender[e], MESSAGE), message_t = of_node(nodes_t, sender[e], MESSAGE);
            EACH {
                const lanes s = sigmoid(m.v[k]);
                const lanes gate_t = gate_weight_t[e] * s + gate_weight[e] * s * (1 - s) * m_t.v[k];
                gates_t.v[k] += gate_t;
                messages_t.v[k] += gate_t * message.v[k] + gate_weight[e] * s * message_t.v[k];
            }
        }
        row average_t;
        EACH {
            gates_t.v[k] /= sum_i.v[k];
            average_t.v[k] = messages_t.v[k] / sum_i.v[k] - average.v[k] * gates_t.v[k];
            own_t.v[k] += average_t.v[k];
        }
        store(grad_g + i * N, &own_t);
        for (int64_t e = first; e < end; e++) {
            const row m = mixed(&x, nodes, edges, e, &receiver), m_t = mixed(&x, nodes_t, edges_t, e, &receiver_t);
            const row message = of_node(nodes, sender[e], MESSAGE), message_t = of_node(nodes_t, sender[e], MESSAGE);
            row grad; row grad_message; lanes of_weight = {0};
            const real w = gate_weight[e]; const real w_t = gate_weight_t[e];
            EACH {
                const lanes s = sigmoid(m.v[k]), slope = s * (1 - s), offset = message.v[k] - average.v[k];
                const lanes gate_t = w_t * s + w * slope * m_t.v[k];
                const lanes grad_gate = q.v[k] * (message_t.v[k] - average_t.v[k] - gates_t.v[k] * offset);
                const lanes grad_gate_t = q.v[k] * offset;
                of_weight += grad_gate * s + grad_gate_t * slope * m_t.v[k];
                grad.v[k] = grad_gate * w * slope + grad_gate_t * slope * (w_t + w * (1 - 2 * s) * m_t.v[k]);
                grad_message.v[k] = q.v[k] * (gate_t - gates_t.v[k] * w * s);
            }
            grad_gate_weight[e] = total(of_weight);
            if (h) {
                const row h_e = load(h + e * N);
                row edge_t;
                activate_second(m, &f, &h_e, &m_t, &edge_t, &grad, sums);
                if (old_t) add_to_row(&edge_t, old_t + at(&x, e) * N);
                store(grad_h + e * N, &edge_t);
            }
            put_edge(&x, grad_edges, e, &grad);
            add_to(grad_nodes + (4 * sender[e] + SENDER) * N, &grad);
            add_to(grad_nodes + (4 * sender[e] + MESSAGE) * N, &grad_message);
            EACH grad_receiver.v[k] += grad.v[k];
        }
        add_to(grad_nodes + (4 * i + RECEIVER) * N, &grad_receiver))
}
