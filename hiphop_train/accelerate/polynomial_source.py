"""The steps of polynomial programs as a C header, for `kernels/polynomial.c`."""

from collections.abc import Iterable, Sequence

from hiphop_train.accelerate.polynomials import NOTHING, Program, Step

STEPS_PER_PART = 500
"""Steps per C function; compilation time grows faster than linearly with its length."""


def header(program: Program) -> str:
    """Write the macros and functions of a program and its derivatives, as included by `kernels/polynomial.c`."""
    n = program.n_planes
    inputs, outputs = range(program.n_inputs), program.outputs
    constants = [range(program.n_inputs, program.n_inputs + program.n_constants)] if program.n_constants else []
    seeds, adjoints = [n + k for k in outputs], [n + k for k in inputs]
    steps = [*program.steps]
    parts = [_function("evaluate", steps, n, [inputs, *constants], [outputs])]
    steps += program.gradient
    parts.append(_function("gradient", steps, 2 * n, [inputs, *constants, seeds], [adjoints]))
    steps += program.gradient_of_gradient
    given = [inputs, *constants, seeds, [2 * n + k for k in adjoints]]
    results = [[2 * n + k for k in inputs], [2 * n + k for k in seeds]]
    parts.append(_function("second", steps, 4 * n, given, results))
    return "\n".join(parts)


def _function(
    name: str, steps: list[Step], n_planes: int, given: Sequence[Iterable[int]], results: Sequence[Iterable[int]]
) -> str:
    """Write the loads of planes from the given tensors, the steps, and the stores of planes to the results."""
    filled: set[int] = set()
    loads, calls, stores, parts = [], [], [], []
    for tensor, planes in enumerate(given):
        for k, plane in enumerate(planes):
            loads.append(f"LOAD({tensor}, {k}, {plane})")
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
        calls.append(f"{part}(p);")
    for tensor, planes in enumerate(results):
        for k, plane in enumerate(planes):
            stores.append(f"STORE({tensor}, {k}, {f'p[{plane}]' if plane in filled else 'ZERO'})")
    macros = {"PLANES": [str(n_planes)], "LOADS": loads, "STEPS": calls, "STORES": stores}
    for macro, lines in macros.items():
        parts.append(f"#define {name.upper()}_{macro} {' '.join(lines)}\n")
    return "".join(parts)
