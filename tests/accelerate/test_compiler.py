"""Compiled kernels: values, first and second derivatives are those of torch, whatever the shapes; the cache."""

import copy
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hiphop_train.nn.kernels import CompilationError, compile_kernels
from hiphop_train.nn.normalisation import Normalisation
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from hiphop_train.nn.invariants import Invariants

SHAPES = [(7, 128), (3, 21), (1, 1), (0, 8), (5, 0)]
"""Rows and columns: columns that fill whole vectors of the processor, that do not, and nothing at all."""

CUBES = """
void evaluate(const tensor *given, const tensor *asked, int64_t n_rows, int64_t n_columns, int n_threads)
{
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t i = 0; i < n_columns; i++) {
            const real x = given[0].data[row * given[0].row + i];
            asked[0].data[row * asked[0].row + i] = x * x * x;
        }
}
"""


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


def with_derivatives(function: Callable[[Tensor], Tensor], x: Tensor, *, seed: int) -> list[Tensor]:
    """Value, gradient, and the derivatives of something made of both."""
    generator = torch.Generator().manual_seed(seed)
    x = x.detach().requires_grad_(True)
    value = function(x)
    weights = torch.randn(value.shape, dtype=value.dtype, generator=generator).requires_grad_(True)
    (gradient,) = torch.autograd.grad((value * weights).sum(), x, create_graph=True)
    direction = torch.randn(gradient.shape, dtype=value.dtype, generator=generator)
    factor = torch.randn(value.shape, dtype=value.dtype, generator=generator)
    second = torch.autograd.grad((gradient * direction).sum() + (value * factor).sum(), (x, weights))
    return [value, gradient, *second]


def assert_equal(function: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], x: Tensor) -> None:
    tolerance = 1e-11 if x.dtype == torch.float64 else 3e-5
    for found, expected in zip(with_derivatives(function, x, seed=1), with_derivatives(plain, x, seed=1), strict=True):
        size = float(expected.detach().abs().max()) if expected.numel() else 1.0
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(size, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("key", [("published", 3, 4), ("published", 0, 1), ("flexible", 4, 3)])
def test_invariants(key: tuple[Any, int, int], dtype: torch.dtype) -> None:
    plain, compiled = Invariants(*key), Invariants(*key)
    compiled.compile_for(dtype)
    for n_rows, n_columns in SHAPES:
        x = torch.randn(n_rows, (key[1] + 1) ** 2, n_columns, dtype=dtype)
        for components in (x.transpose(0, 1), x.transpose(0, 1).contiguous(), x.transpose(0, 1).flatten(1)):
            assert_equal(compiled, plain, components)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalisation(dtype: torch.dtype) -> None:
    derived, compiled = Normalisation(), Normalisation()
    compiled.compile_for(dtype)
    for n_rows, n_columns in [*SHAPES[:2], (0, 8)]:
        x = torch.randn(n_rows, 4, n_columns, dtype=dtype) + 0.5
        for values in (x, x.transpose(0, 1)):
            for module in (derived, compiled):
                assert_equal(module, lambda v: layer_norm(v, v.shape[-1:]), values)
    # the variance vanishes; sums are exact, since derivatives would magnify the rounding of the mean a millionfold
    constant = torch.full((2, 3, 16), 0.25, dtype=dtype)
    assert_equal(compiled, derived, constant)


@pytest.mark.parametrize(
    "module", [Invariants("published", 1, 2), Normalisation()], ids=lambda module: type(module).__name__
)
def test_modules_remain_what_they_are(module: Any) -> None:
    """Copies and pickles keep what is compiled, scripts and the state know nothing of it, other types do without."""
    x = torch.randn(4, 3, 16)
    expected = module(x)
    module.compile_for(torch.float32)
    for other in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.kernels == module.kernels
        torch.testing.assert_close(other(x), expected)
    assert not module.state_dict()
    torch.testing.assert_close(torch.jit.script(module)(x), expected)
    torch.testing.assert_close(module(x.double()), expected.double(), rtol=1e-5, atol=1e-5)
    assert isinstance(module, nn.Module)


def test_cache(fresh_cache: Path, compilations: list[list[str]]) -> None:
    first, is_new = compile_kernels(CUBES, torch.float64, 1, 1)
    assert is_new
    again, is_new = compile_kernels(CUBES, torch.float64, 1, 1)
    assert not is_new
    assert again == first
    single, is_new = compile_kernels(CUBES, torch.float32, 1, 1)
    assert is_new
    assert len(compilations) == 2
    assert {first.library, single.library} == set(fresh_cache.iterdir())  # nothing else is left
    x = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert single.evaluate(x).tolist() == first.evaluate(x.double()).tolist() == [[[1.0, 8.0, 27.0]]]


def test_damaged_library_is_made_anew(fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = compile_kernels(CUBES, torch.float64, 1, 1)[0].library
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    damaged = tmp_path / "other" / "hiphop-train" / "kernels" / sound.name
    damaged.parent.mkdir(parents=True)
    damaged.write_text("not a library")
    made, is_new = compile_kernels(CUBES, torch.float64, 1, 1)
    assert is_new
    assert made.library == damaged
    assert damaged.stat().st_size == sound.stat().st_size


def test_what_is_wrong_is_said(fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompilationError, match=r"^\S+ fails: .*error: .*nonsense"):
        compile_kernels("int f(void) { return nonsense; }", torch.float64, 1, 1)
    assert list(fresh_cache.iterdir()) == []
    monkeypatch.setenv("CC", "a-compiler-that-is-not-there -O9")
    with pytest.raises(CompilationError, match=r"no C compiler found \(CC=a-compiler-that-is-not-there -O9\); install"):
        compile_kernels(CUBES, torch.float64, 1, 1)
    monkeypatch.delenv("CC")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CompilationError, match="cannot be made or loaded"):
        compile_kernels(CUBES, torch.float64, 1, 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilationError, match=r"no C compiler found \(cc, gcc, clang\); install gcc"):
        compile_kernels(CUBES, torch.float64, 1, 1)
