"""Only what this user compiled, as it was written, is ever loaded from the cache of kernels."""

import os
import re
from pathlib import Path

import pytest
import torch

from hiphop_train.accelerate.compiler import SOURCES, CompilationError, compile_library


def compile_pairs() -> tuple[Path, bool]:
    library, is_new = compile_library("pairs.c", torch.float64, {}, sources=SOURCES)
    return library.file, is_new


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiled library in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file, is_new = compile_pairs()
    assert is_new
    assert file.parent == tmp_path / "hiphop-train" / "kernels"
    assert compile_pairs() == (file, False)
    return file


def test_one_changed_byte_is_noticed(library: Path) -> None:
    sound = library.read_bytes()
    replacement = library.with_name("changed")  # another inode: the loaded library is not to change under this process
    replacement.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    replacement.replace(library)
    assert compile_pairs() == (library, True)
    assert library.read_bytes() == sound


def test_a_library_without_its_checksum_is_rebuilt(library: Path) -> None:
    library.with_suffix(".sha256").unlink()
    assert compile_pairs() == (library, True)


def test_a_library_that_others_can_write_is_rebuilt(library: Path) -> None:
    library.chmod(0o777)
    assert compile_pairs() == (library, True)
    assert library.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_is_refused(library: Path) -> None:
    library.parent.chmod(0o777)
    message = f"{library.parent} belongs to another user or is writable by others"
    with pytest.raises(CompilationError, match=re.escape(message)):
        compile_pairs()
    library.parent.chmod(0o700)
    assert compile_pairs() == (library, False)


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_variable_counts_as_unset(value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.chdir(tmp_path)
    assert compile_pairs()[0].parent == tmp_path / ".cache" / "hiphop-train" / "kernels"
    assert sorted(os.listdir(tmp_path)) == [".cache"]
