"""C functions, compiled for this machine.

The sources are in `accelerate/kernels`. Compile-time sizes are defined on the compiler's command line; all other sizes
are arguments, so one library serves all batches. Libraries are cached in the user's cache folder, named by a hash of
the sources, the compiler, its flags and the processor.
"""

import ctypes
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hiphop_train import files

SOURCES = Path(__file__).parent / "kernels"

REALS = {torch.float32: "float", torch.float64: "double"}

FLAGS = ["-O2", "-march=native", "-fopenmp", "-fPIC", "-shared"]

IN_VECTORS = ["-O3", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"]
"""Vectorise loops, including sums; -ffast-math would change the floating-point mode of the whole process."""


class CompilationError(Exception):
    """One-line reason why nothing can be compiled here."""


@dataclass(frozen=True)
class Library:
    """A compiled library.

    Attributes
    ----------
    file : the shared object
    dtype : of its real numbers
    """

    file: Path
    dtype: torch.dtype

    def serves(self, tensor: Tensor) -> bool:
        """Whether the library is compiled for a tensor's dtype and device."""
        return tensor.is_cpu and tensor.dtype == self.dtype

    def call(self, function: str, *arguments: Tensor | ctypes.Array[Any] | int | float | None) -> int:
        """Call a function of pointers (None is NULL), 64-bit integers and doubles, with the number of threads last."""
        given: list[Any] = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                given.append(ctypes.c_void_p(argument.data_ptr()))
            elif isinstance(argument, int):
                given.append(ctypes.c_int64(argument))
            else:
                given.append(ctypes.c_double(argument) if isinstance(argument, float) else argument)
        result: int = getattr(_loaded(self.file), function)(*given, ctypes.c_int(torch.get_num_threads()))
        return result


@cache
def _loaded(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library))


def _is_sound(library: Path) -> bool:
    """Whether a library belongs to the user, is intact and can be loaded; nothing else is ever loaded."""
    checksum = _checksum_file(library)
    if not (library.is_file() and checksum.is_file() and _is_private(library)):
        return False
    if checksum.read_text() != sha256(library.read_bytes()).hexdigest():
        return False
    try:
        _loaded(library)
    except OSError:  # built for another system; it is rebuilt
        return False
    return True


def _checksum_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _is_private(path: Path) -> bool:
    """Whether a path belongs to this user and is not writable by others."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def cache_folder() -> Path:
    """Return the folder of compiled libraries; it is created if missing.

    Raises
    ------
    CompilationError
        if it belongs to another user or is writable by others, who could then inject code
    """
    folder = files.cache_folder() / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder):
        raise CompilationError(
            f"{folder} belongs to another user or is writable by others, so libraries in it are not loaded; "
            f"remove it, or: chmod go-w {folder}"
        )
    return folder


def compile_library(
    file: str,
    dtype: torch.dtype,
    sizes: Mapping[str, object],
    generated: str = "",
    in_vectors: bool = True,
    sources: Path = SOURCES,
) -> tuple[Library, bool]:
    """Compile a source file, or return the cached library.

    Parameters
    ----------
    file : name of the source file
    dtype : float32 or float64; ``REAL`` in C
    sizes : macros defined on the command line
    generated : contents of the file ``generated.h``
    in_vectors : whether sums may be reordered, see `IN_VECTORS`
    sources : folder of the source file and its headers

    Returns
    -------
    library : the compiled library
    is_new : whether it was compiled now, not cached

    Raises
    ------
    CompilationError
        if no compiler is found, or it fails
    """
    compiler = find_compiler()
    flags = [*FLAGS, *(IN_VECTORS if in_vectors else []), f"-DREAL={REALS[dtype]}"]
    flags.append(f"-DIS_SINGLE={int(dtype == torch.float32)}")
    flags += [f"-D{name}={value}" for name, value in sizes.items()]
    texts = [each.read_text() for each in (sources / file, *sorted(sources.glob("*.h")))]
    macros = _output_of([*compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull])  # of compiler and processor
    name = sha256("\0".join([*texts, generated, *compiler, *flags, macros]).encode()).hexdigest()[:24]
    try:
        library = cache_folder() / f"{name}.so"
        is_new = not _is_sound(library)
        if is_new:
            with tempfile.TemporaryDirectory(dir=library.parent) as scratch:  # other processes see complete files only
                made = Path(scratch) / "library.so"
                (Path(scratch) / "generated.h").write_text(generated)
                _output_of([*compiler, *flags, f"-I{scratch}", "-o", str(made), str(sources / file)])
                made.chmod(0o700)
                checksum = _checksum_file(made)
                checksum.write_text(sha256(made.read_bytes()).hexdigest())
                _checksum_file(library).unlink(missing_ok=True)  # no stale checksum beside a new library
                made.replace(library)
                checksum.replace(_checksum_file(library))
            _loaded(library)
    except OSError as error:
        raise CompilationError(f"cannot write or load a library in the kernel cache: {error}") from error
    return Library(library, dtype), is_new


def find_compiler() -> list[str]:
    """Return the command of the C compiler: the environment variable CC if set, else cc, gcc or clang."""
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
        raise CompilationError(f"{command[0]} fails: {next((line for line in lines if 'error: ' in line), lines[0])}")
    return done.stdout
