"""Functions in C with their derivatives, compiled for this machine.

Nothing in them depends on the sizes of the tensors, so that one compilation serves all batches. The library stays in
the cache of the user, under a name made of its source, the compiler and the processor.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

REALS = {torch.float32: "float", torch.float64: "double"}

FLAGS = ["-O2", "-march=native", "-fopenmp", "-fPIC", "-shared"]

IN_VECTORS = ["-O3", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"]
"""For loops that run in vectors, sums too; -ffast-math would change the mode of the processor for the whole process."""

PRELUDE = """\
#include <stdint.h>
#include <string.h>
typedef struct { real *data; int64_t plane, row; } tensor;  /* strides of (n_planes, n_rows, n_columns) */
"""


class CompilationError(Exception):
    """Says in one line why nothing can be compiled here."""


class _Tensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("plane", ctypes.c_int64), ("row", ctypes.c_int64))


@dataclass(frozen=True)
class Compiled:
    """A compiled library.

    Attributes
    ----------
    library : file
    dtype : of all tensors
    """

    library: Path
    dtype: torch.dtype

    def serve(self, tensor: Tensor) -> bool:
        """Whether the library is made for a tensor."""
        return tensor.is_cpu and tensor.dtype == self.dtype


@dataclass(frozen=True)
class Kernels(Compiled):
    """A function of one tensor, its gradient and that one's gradient, as functions of a compiled library.

    All tensors are (n_planes, n_rows, n_columns) to the library, of any strides but the last.

    Attributes
    ----------
    n_inputs, n_outputs : planes of the function's argument and of its result
    """

    n_inputs: int
    n_outputs: int

    def evaluate(self, inputs: Tensor) -> Tensor:
        """Evaluate the function: (n_outputs, ...) from (n_inputs, ...)."""
        return self._call("evaluate", [inputs], [self.n_outputs])[0]

    def gradient(self, inputs: Tensor, seeds: Tensor) -> Tensor:
        """Vector-Jacobian product: (n_inputs, ...) from inputs and seeds (n_outputs, ...)."""
        return self._call("gradient", [inputs, seeds], [self.n_inputs])[0]

    def gradient_of_gradient(self, inputs: Tensor, seeds: Tensor, more_seeds: Tensor) -> list[Tensor]:
        """Vector-Jacobian product of `gradient` and seeds (n_inputs, ...), for its inputs and for its seeds."""
        given = [inputs, seeds, more_seeds]
        return self._call("gradient_of_gradient", given, [self.n_inputs, self.n_outputs])

    def _call(self, function: str, given: list[Tensor], sizes: list[int]) -> list[Tensor]:
        shape = given[0].shape[1:]
        tables = [_as_table(tensor) for tensor in given]
        _, n_rows, n_columns = tables[0].shape
        # row by row, which is the order in which a network makes and takes them
        results = [tables[0].new_empty((n_rows, size, n_columns)).transpose(0, 1) for size in sizes]
        assert all(map(self.serve, tables))
        described = [
            (_Tensor * len(some))(*(_Tensor(t.data_ptr(), t.stride(0), t.stride(1)) for t in some))
            for some in (tables, results)
        ]
        extent = (ctypes.c_int64(n_rows), ctypes.c_int64(n_columns), torch.get_num_threads())
        getattr(_loaded(self.library), function)(*described, *extent)
        return [result.reshape((len(result), *shape)) for result in results]


class Compilable(nn.Module, ABC):
    """A module that can be compiled for the machine at hand; its state and, up to rounding, its values stay.

    Attributes
    ----------
    kernels : what was compiled, None before
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = _none_yet()  # TorchScript warns of annotations here

    @abstractmethod
    def compile_for(self, dtype: torch.dtype) -> bool:
        """Compile for a floating-point type; returns whether that was new, or raises `CompilationError`."""


def _none_yet() -> Any:
    return None


def call(library: str, function: str, *arguments: Tensor | int | float) -> None:
    """Call a function of a library, of pointers, 64-bit integers and doubles, and the number of threads at last."""
    given: list[Any] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            given.append(ctypes.c_void_p(argument.data_ptr()))
        else:
            given.append(ctypes.c_double(argument) if isinstance(argument, float) else ctypes.c_int64(argument))
    getattr(_loaded(Path(library)), function)(*given, ctypes.c_int(torch.get_num_threads()))


def _as_table(tensor: Tensor) -> Tensor:
    """Return (n_planes, n_rows, n_columns) with columns side by side; a view where that is possible."""
    table = tensor if tensor.dim() == 3 else tensor.reshape(len(tensor), 1, -1)
    return table if table.stride(2) == 1 else table.contiguous()


@cache
def _loaded(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library))


def _is_sound(library: Path) -> bool:
    if not library.is_file():
        return False
    try:
        _loaded(library)
    except OSError:  # damaged, or for another system: it is made anew
        return False
    return True


def compile_kernels(source: str, dtype: torch.dtype, n_inputs: int, n_outputs: int) -> tuple[Kernels, bool]:
    """Compile, or find in the cache what was compiled before.

    Parameters
    ----------
    source : in C, what follows on `PRELUDE`: functions ``evaluate``, ``gradient`` and ``gradient_of_gradient`` with
        parameters ``(const tensor *given, const tensor *asked, int64_t n_rows, int64_t n_columns, int n_threads)``
    dtype : float32 or float64, in the source ``real``
    n_inputs, n_outputs : see `Kernels`

    Returns
    -------
    kernels : compiled
    is_new : whether they were not in the cache
    """
    library, is_new = compile_library(source, dtype)
    return Kernels(library, dtype, n_inputs, n_outputs), is_new


def compile_library(source: str, dtype: torch.dtype, flags: Sequence[str] = ()) -> tuple[Path, bool]:
    """Compile what follows on `PRELUDE`; returns the file, and whether it was not in the cache.

    Raises
    ------
    CompilationError
        where there is no compiler, or it fails
    """
    compiler = find_compiler()
    text = f"typedef {REALS[dtype]} real;\n{PRELUDE}{source}"
    macros = _output_of([*compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull])  # of compiler and processor
    name = sha256("\0".join([text, *compiler, *FLAGS, *flags, macros]).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hiphop-train" / "kernels"
    library = folder / f"{name}.so"
    try:
        is_new = not _is_sound(library)
        if is_new:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:  # other processes see whole files only
                file, made = Path(scratch) / "source.c", Path(scratch) / "library.so"
                file.write_text(text)
                _output_of([*compiler, *FLAGS, *flags, "-o", str(made), str(file)])
                made.replace(library)
            _loaded(library)
    except OSError as error:
        raise CompilationError(f"{library} cannot be made or loaded: {error}") from error
    return library, is_new


def find_compiler() -> list[str]:
    """Return the command of the C compiler: that of the environment variable CC, or cc, gcc or clang."""
    given = shlex.split(os.environ.get("CC", ""))
    for command in [given] if given else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            return command
    looked_for = f"CC={shlex.join(given)}" if given else "cc, gcc, clang"
    raise CompilationError(f"no C compiler found ({looked_for}); install gcc: apt install gcc libc6-dev")


def _output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CompilationError(f"{command[0]} fails: {next((line for line in lines if 'error' in line), lines[0])}")
    return done.stdout
