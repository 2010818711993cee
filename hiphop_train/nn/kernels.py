"""Programs of polynomials as C, compiled for this machine: a kernel each for values, gradient and its gradient.

A program (`nn.polynomials`) treats all elements of its planes alike. Step by step, as torch runs it, whole planes travel
between memory and processor a thousand times; a kernel takes a few elements through all the steps, in registers and the
nearest cache. Nothing in it depends on the sizes of the planes, so that one compilation serves all batches. The library
stays in the cache of the user, under a name made of its source, the compiler and the processor.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from hiphop_train.nn.polynomials import NOTHING, Program, Step

REALS = {torch.float32: "float", torch.float64: "double"}

FLAGS = ["-O2", "-march=native", "-fopenmp", "-fPIC", "-shared"]

STEPS_PER_PART = 500
"""In one C function; compilers take more than twice the time for twice the length."""

PRELUDE = """\
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef real lanes __attribute__((vector_size(BYTES)));
enum { N_LANES = BYTES / sizeof(real) };
typedef struct { real *data; int64_t plane, row; } tensor;  /* strides of (n_planes, n_rows, n_columns) */

static inline lanes load(const real *from, int64_t n)
{
    lanes values = {0};
    if (n >= N_LANES) memcpy(&values, from, sizeof values); else memcpy(&values, from, n * sizeof(real));
    return values;
}

static inline void store(real *to, lanes values, int64_t n)
{
    if (n >= N_LANES) memcpy(to, &values, sizeof values); else memcpy(to, &values, n * sizeof(real));
}
"""


class CannotCompile(Exception):
    """Says in one line why nothing can be compiled here, and what to do about it."""


class _Tensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("plane", ctypes.c_int64), ("row", ctypes.c_int64))


@dataclass(frozen=True)
class Kernels:
    """A compiled program.

    Attributes
    ----------
    program : what was compiled
    dtype : of all tensors
    library : file
    """

    program: Program
    dtype: torch.dtype
    library: Path

    def evaluate(self, inputs: Tensor) -> Tensor:
        """Do as `nn.polynomials.evaluate`, without derivatives."""
        return self._call("evaluate", [inputs], [len(self.program.outputs)])[0]

    def gradient(self, inputs: Tensor, seeds: Tensor) -> Tensor:
        """Vector-Jacobian product: (n_inputs, ...) from inputs and seeds (n_outputs, ...)."""
        return self._call("gradient", [inputs, seeds], [self.program.n_inputs])[0]

    def gradient_of_gradient(self, inputs: Tensor, seeds: Tensor, seeds_of_gradient: Tensor) -> list[Tensor]:
        """Vector-Jacobian product of `gradient`: with respect to its inputs (n_inputs, ...) and seeds (n_outputs, ...)."""
        sizes = [self.program.n_inputs, len(self.program.outputs)]
        return self._call("gradient_of_gradient", [inputs, seeds, seeds_of_gradient], sizes)

    def _call(self, function: str, given: list[Tensor], sizes: list[int]) -> list[Tensor]:
        shape = given[0].shape[1:]
        tables = [_as_table(tensor) for tensor in given]
        _, n_rows, n_columns = tables[0].shape
        # row by row, which is the order in which a network makes and takes them
        results = [tables[0].new_empty((n_rows, size, n_columns)).transpose(0, 1) for size in sizes]
        assert all(table.dtype == self.dtype and table.is_cpu for table in tables)
        described = [
            (_Tensor * len(some))(*(_Tensor(t.data_ptr(), t.stride(0), t.stride(1)) for t in some))
            for some in (tables, results)
        ]
        extent = (ctypes.c_int64(n_rows), ctypes.c_int64(n_columns), torch.get_num_threads())
        getattr(_loaded(self.library), function)(*described, *extent)
        return [result.reshape((len(result), *shape)) for result in results]


def _as_table(tensor: Tensor) -> Tensor:
    """Return (n_planes, n_rows, n_columns) with columns side by side; a view where that is possible."""
    table = tensor if tensor.dim() == 3 else tensor.reshape(len(tensor), 1, -1)
    return table if table.stride(2) == 1 else table.contiguous()


@cache
def _loaded(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library))


def compile_program(program: Program, dtype: torch.dtype) -> tuple[Kernels, bool]:
    """Compile a program, or find in the cache what was compiled before.

    Parameters
    ----------
    program : from `nn.polynomials.Writer.finish`
    dtype : float32 or float64

    Returns
    -------
    kernels : the compiled program
    is_new : whether it was not in the cache

    Raises
    ------
    CannotCompile
        where there is no compiler, or it fails
    """
    compiler = find_compiler()
    text = source(program, REALS[dtype])
    macros = _output_of([*compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull])  # of compiler and processor
    name = sha256("\0".join([text, *compiler, *FLAGS, macros]).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hiphop-train" / "kernels"
    library = folder / f"{name}.so"
    is_new = not library.is_file()
    try:
        if is_new:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:  # other processes see whole files only
                file, made = Path(scratch) / "program.c", Path(scratch) / "program.so"
                file.write_text(text)
                _output_of([*compiler, *FLAGS, "-o", str(made), str(file)])
                made.replace(library)
        _loaded(library)
    except OSError as error:
        raise CannotCompile(f"{library} cannot be made or loaded: {error}") from error
    return Kernels(program, dtype, library), is_new


def find_compiler() -> list[str]:
    """Return the command of the C compiler: that of the environment variable CC, or cc, gcc or clang."""
    given = shlex.split(os.environ.get("CC", ""))
    for command in [given] if given else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            return command
    looked_for = f"CC={shlex.join(given)}" if given else "cc, gcc, clang"
    raise CannotCompile(f"no C compiler found ({looked_for}); install gcc: apt install gcc libc6-dev")


def _output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CannotCompile(f"{command[0]} fails: {next((line for line in lines if 'error' in line), lines[0])}")
    return done.stdout


def source(program: Program, real: str) -> str:
    """Write a program in C.

    Parameters
    ----------
    program : whose values and derivatives are evaluated by functions of the names that `Program` gives to the steps
    real : C's name of the floating-point type
    """
    n = program.n_planes
    inputs, outputs = range(program.n_inputs), program.outputs
    seeds, adjoints = [n + k for k in outputs], [n + k for k in inputs]
    steps = [*program.steps]
    parts = [f"typedef {real} real;\n{PRELUDE}", _function("evaluate", steps, n, [inputs], [outputs])]
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
    """Write a function that loads planes from the tensors given, executes steps, and stores planes in those asked for."""
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
