"""Functions in C, compiled for this machine.

The sources are the files of `accelerate/kernels`. Sizes that the compiler is to know are given on its command line; no
other size matters, so that one library serves all batches. It stays in the user's cache, under a name made of its
sources, the compiler and the processor.
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

SOURCES = Path(__file__).parent / "kernels"

REALS = {torch.float32: "float", torch.float64: "double"}

FLAGS = ["-O2", "-march=native", "-fopenmp", "-fPIC", "-shared"]

IN_VECTORS = ["-O3", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"]
"""For loops that run in vectors, sums too; -ffast-math would change the mode of the processor for the whole process."""


class CompilationError(Exception):
    """Says in one line why nothing can be compiled here."""


@dataclass(frozen=True)
class Library:
    """A compiled library.

    Attributes
    ----------
    file : which it is
    dtype : of its real numbers
    """

    file: Path
    dtype: torch.dtype

    def serves(self, tensor: Tensor) -> bool:
        """Whether the library is made for a tensor."""
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
    """Whether a library is the user's own, as it was written, and loads; nothing else is ever loaded."""
    checksum = _checksum_file(library)
    if not (library.is_file() and checksum.is_file() and _is_private(library)):
        return False
    if checksum.read_text() != sha256(library.read_bytes()).hexdigest():
        return False
    try:
        _loaded(library)
    except OSError:  # for another system: it is rebuilt
        return False
    return True


def _checksum_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _is_private(path: Path) -> bool:
    """Whether a path belongs to this user, and nobody else can write to it."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def cache_folder() -> Path:
    """Return the folder of compiled libraries, made if it is missing.

    Raises
    ------
    CompilationError
        where it belongs to somebody else, or others can write to it: they could have code of theirs run
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hiphop-train" / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder):
        raise CompilationError(
            f"{folder} belongs to another user or can be written by others, so that nothing in it is loaded; "
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
    """Compile a source file, or find in the cache what was compiled before.

    Parameters
    ----------
    file : name of the source
    dtype : float32 or float64; in C, ``REAL``
    sizes : macros that are given on the command line
    generated : contents of the file ``generated.h``
    in_vectors : whether sums may be reordered, see `IN_VECTORS`
    sources : folder of the source, and of the headers that it includes

    Returns
    -------
    library : compiled
    is_new : whether it was not in the cache

    Raises
    ------
    CompilationError
        where there is no compiler, or it fails
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
            with tempfile.TemporaryDirectory(dir=library.parent) as scratch:  # other processes see whole files only
                made = Path(scratch) / "library.so"
                (Path(scratch) / "generated.h").write_text(generated)
                _output_of([*compiler, *flags, f"-I{scratch}", "-o", str(made), str(sources / file)])
                made.chmod(0o700)
                checksum = _checksum_file(made)
                checksum.write_text(sha256(made.read_bytes()).hexdigest())
                _checksum_file(library).unlink(missing_ok=True)  # never that of an older library beside a new one
                made.replace(library)
                checksum.replace(_checksum_file(library))
            _loaded(library)
    except OSError as error:
        raise CompilationError(f"the kernel cache, or a library in it, cannot be made or loaded: {error}") from error
    return Library(library, dtype), is_new


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
        raise CompilationError(f"{command[0]} fails: {next((line for line in lines if 'error: ' in line), lines[0])}")
    return done.stdout
