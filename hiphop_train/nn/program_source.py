"""Programs of polynomials in C.

A program (`nn.polynomials`) treats all elements of its planes alike. Step by step, as torch runs it, whole planes
travel between memory and processor a thousand times; in C a few elements at a time go through all the steps, in
registers and the nearest cache.
"""

from collections.abc import Iterable, Sequence

from hiphop_train.nn.polynomials import NOTHING, Program, Step

STEPS_PER_PART = 500
"""In one C function; compilers take more than twice the time for twice the length."""

LANES = """\
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef real lanes __attribute__((vector_size(BYTES)));
enum { N_LANES = BYTES / sizeof(real) };

static inline lanes get(const real *from) { lanes values; memcpy(&values, from, sizeof values); return values; }
static inline void put(real *to, lanes values) { memcpy(to, &values, sizeof values); }
"""


ENDS = """\
/* The same where fewer than N_LANES numbers may be left. */
static inline lanes load(const real *from, int64_t n)
{
    lanes values = {0};
    if (n >= N_LANES) return get(from);
    memcpy(&values, from, n * sizeof(real));
    return values;
}

static inline void store(real *to, lanes values, int64_t n)
{
    if (n >= N_LANES) put(to, values); else memcpy(to, &values, n * sizeof(real));
}
"""


def source(program: Program) -> str:
    """Write a program and its derivatives as functions for `nn.kernels.compile_kernels`."""
    n = program.n_planes
    inputs, outputs = range(program.n_inputs), program.outputs
    seeds, adjoints = [n + k for k in outputs], [n + k for k in inputs]
    steps = [*program.steps]
    parts = [LANES, ENDS, _function("evaluate", steps, n, [inputs], [outputs])]
    steps += program.gradient
    parts.append(_function("gradient", steps, 2 * n, [inputs, seeds], [adjoints]))
    steps += program.gradient_of_gradient
    given = [inputs, seeds, [2 * n + k for k in adjoints]]
    asked = [[2 * n + k for k in inputs], [2 * n + k for k in seeds]]
    parts.append(_function("gradient_of_gradient", steps, 4 * n, given, asked))
    return "\n".join(parts)


def _function(
    name: str, steps: list[Step], n_planes: int, given: Sequence[Iterable[int]], asked: Sequence[Iterable[int]]
) -> str:
    """Write a function that loads planes from given tensors, executes steps, and stores planes in those asked for."""
    filled: set[int] = set()
    loads, calls, stores, parts = [], [], [], []
    for tensor, planes in enumerate(given):
        for k, plane in enumerate(planes):
            loads.append(f"        p[{plane}] = load({_address('given', tensor, k)}, n);")
            filled.add(plane)
    for first in range(0, len(steps), STEPS_PER_PART):
        lines = []
        for target, left, right, factor in steps[first : first + STEPS_PER_PART]:
            product = f"p[{left}]" if right == NOTHING else f"p[{left}] * p[{right}]"
            scaled = product if factor == 1.0 else f"(real){factor!r} * ({product})"
            lines.append(f"    p[{target}] {'+=' if target in filled else '='} {scaled};\n")
            filled.add(target)
        part = f"{name}_{first // STEPS_PER_PART}"
        parts.append(f"static __attribute__((noinline)) void {part}(lanes *p)\n{{\n{''.join(lines)}}}\n")
        calls.append(f"        {part}(p);")
    for tensor, planes in enumerate(asked):
        for k, plane in enumerate(planes):
            value = f"p[{plane}]" if plane in filled else "(lanes){0}"
            stores.append(f"        store({_address('asked', tensor, k)}, {value}, n);")
    body = "\n".join([*loads, *calls, *stores])
    return f"""{"".join(parts)}
void {name}(const tensor *given, const tensor *asked, int64_t n_rows, int64_t n_columns, int n_threads)
{{
    const int64_t n_pieces = (n_columns + N_LANES - 1) / N_LANES;
    #pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < n_rows * n_pieces; i++) {{
        const int64_t row = i / n_pieces, column = i % n_pieces * N_LANES, n = n_columns - column;
        lanes p[{n_planes}];
{body}
    }}
}}
"""


def _address(tensor: str, number: int, plane: int) -> str:
    return f"{tensor}[{number}].data + {plane} * {tensor}[{number}].plane + row * {tensor}[{number}].row + column"
