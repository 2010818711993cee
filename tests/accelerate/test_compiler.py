"""The compiler: a library in the cache, errors that say what to do; the sources compile without warnings."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hatchling.builders.wheel import WheelBuilder
from torch import Tensor

from hiphop_train.accelerate import densities, polynomial_source, tensor_convolution
from hiphop_train.accelerate.compiler import (
    FLAGS,
    IN_VECTORS,
    REALS,
    SOURCES,
    CompilationError,
    Library,
    compile_library,
    find_compiler,
)
from hiphop_train.accelerate.contraction_programs import contraction_program
from hiphop_train.models.ace import ACE
from hiphop_train.nn.contractions import parse
from hiphop_train.nn.convolution import TensorConvolution
from hiphop_train.nn.couplings import true_types
from tests.conftest import ROOT

CUBES = """
#include "common.h"
void cubes(const real *x, real *y, int64_t n, int n_threads)
{
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * x[i] * x[i] + 0 * n_threads;
}
"""

SIZES = {
    "N_SENSITIVITIES": [1, 3, 8, 20],
    "N_COMPONENTS": [1, 4, 16, 36],
    "N_RANKS": [1, 2, 4],
    "WIDTH": [128],
    "N_FEATURES": [5, 64],
    "EPSILON": [1e-5],
}
"""Values of all macros that the sources expect."""

VECTORS = {"of this processor": "-march=native"}
if platform.machine() == "x86_64":
    VECTORS |= {"without AVX-512": "-mno-avx512f", "without AVX": "-mno-avx"}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Folder with a source for a test."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "common.h").write_text((SOURCES / "common.h").read_text())
    (folder / "cubes.c").write_text(CUBES)
    (folder / "wrong.c").write_text("int f(void) { return nonsense; }")
    return folder


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hiphop-train" / "kernels"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Calls of the compiler that make a library, from now on."""
    found = []
    run = subprocess.run

    def watched(command: list[str], **options: Any) -> Any:
        if "-shared" in command:
            found.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    return found


def cubes(library: Library, x: Tensor) -> list[float]:
    y = torch.empty_like(x)
    library.call("cubes", x, y, len(x))
    return y.tolist()


def test_cache(fresh_cache: Path, sources: Path, compilations: list[list[str]]) -> None:
    first, is_new = compile_library("cubes.c", torch.float64, {}, sources=sources)
    assert is_new
    again, is_new = compile_library("cubes.c", torch.float64, {}, sources=sources)
    assert not is_new
    assert again == first
    single, is_new = compile_library("cubes.c", torch.float32, {}, sources=sources)
    assert is_new
    assert len(compilations) == 2
    made = {first.file, single.file}
    assert made | {file.with_suffix(".sha256") for file in made} == set(fresh_cache.iterdir())  # nothing else remains
    x = torch.tensor([1.0, 2.0, 3.0])
    assert cubes(single, x) == cubes(first, x.double()) == [1.0, 8.0, 27.0]
    assert single.serves(x)
    assert not single.serves(x.double())
    assert not single.serves(x.to("meta"))


@pytest.mark.parametrize("changed", ["sizes", "generated", "in_vectors", "source", "header", "CC"])
def test_what_makes_another_library(
    changed: str, fresh_cache: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = compile_library("cubes.c", torch.float64, {}, sources=sources)
    given: dict[str, Any] = {"sizes": {}}
    if changed == "source":
        (sources / "cubes.c").write_text(CUBES + "/* changed */")
    elif changed == "header":
        (sources / "other.h").write_text("")
    elif changed == "CC":
        monkeypatch.setenv("CC", f"{find_compiler()[0]} -DOTHER")
    else:
        given[changed] = {"sizes": {"SIZE": 1}, "generated": "/* */", "in_vectors": False}[changed]
    other, is_new = compile_library("cubes.c", torch.float64, **given, sources=sources)
    assert is_new
    assert other.file != first.file


def test_damaged_library_is_rebuilt(
    fresh_cache: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = compile_library("cubes.c", torch.float64, {}, sources=sources)[0].file
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    damaged = tmp_path / "other" / "hiphop-train" / "kernels" / sound.name
    damaged.parent.mkdir(parents=True)
    damaged.write_text("not a library")
    made, is_new = compile_library("cubes.c", torch.float64, {}, sources=sources)
    assert is_new
    assert made.file == damaged
    assert damaged.stat().st_size == sound.stat().st_size


def test_errors(fresh_cache: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_cubes() -> None:
        compile_library("cubes.c", torch.float64, {}, sources=sources)

    with pytest.raises(CompilationError, match=r"^\S+ fails: .*error: .*nonsense"):
        compile_library("wrong.c", torch.float64, {}, sources=sources)
    assert list(fresh_cache.iterdir()) == []
    monkeypatch.setenv("CC", "a-missing-compiler -O9")
    with pytest.raises(CompilationError, match=r"no C compiler found \(CC=a-missing-compiler -O9\); install"):
        compile_cubes()
    monkeypatch.delenv("CC")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CompilationError, match="cannot write or load a library"):
        compile_cubes()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilationError, match=r"no C compiler found \(cc, gcc, clang\); install gcc"):
        compile_cubes()


def test_sources_are_files_of_the_package() -> None:
    """Beside the code, and in the wheel."""
    names = {file.name for file in SOURCES.iterdir()}
    assert {Path(name).suffix for name in names} == {".c", ".h"}
    packed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"hiphop_train/accelerate/kernels/{name}" for name in names} <= packed


def contractions() -> str:
    products = ["q_ij q_ij", "q_ij q_ik q_jk"]
    return polynomial_source.header(contraction_program([parse(product) for product in products], 2))


def couplings() -> str:
    convolution = TensorConvolution(true_types(2), [16] * 3, 2, true_types(2))
    return tensor_convolution.header(convolution.couplings[1], 9)


def expansion() -> str:
    return densities.header(ACE(["H", "C"], 4.0, [3, 2], [0, 2]), [0, 6, 18, 38])


GENERATED = {"density.c": expansion, "polynomial.c": contractions, "tensor_convolution.c": couplings}
"""What the file ``generated.h`` of a source contains."""


@pytest.mark.parametrize("vectors", VECTORS.values(), ids=VECTORS.keys())
@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("file", sorted(file.name for file in SOURCES.glob("*.c")))
def test_sources_compile_without_warnings(file: str, dtype: torch.dtype, vectors: str, tmp_path: Path) -> None:
    """At several sizes, as one object each that is not kept."""
    (tmp_path / "generated.h").write_text(GENERATED.get(file, str)())
    flags = [*FLAGS, *IN_VECTORS, vectors, "-fsyntax-only", "-Wall", "-Wextra", "-Wno-sign-compare", "-Wno-psabi"]
    flags += [f"-DREAL={REALS[dtype]}", f"-DIS_SINGLE={int(dtype == torch.float32)}", f"-I{tmp_path}"]
    text = (SOURCES / file).read_text()
    used = {name: values for name, values in SIZES.items() if name in text}
    for number in range(max([len(values) for values in used.values()], default=1)):
        sizes = [f"-D{name}={values[number % len(values)]}" for name, values in used.items()]
        command = [*find_compiler(), *flags, *sizes, str(SOURCES / file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), sizes
