"""The commands as a user starts them."""

import subprocess
import sys
import time

import pytest


def start(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; from hiphop_train.cli import {command}_main; sys.argv[0] = 'hiphop'; {command}_main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("command", ["train", "eval", "export", "bench"])
def test_help_is_quick_and_complete(command: str) -> None:
    times = []
    for _ in range(3):
        started = time.monotonic()
        done = start(command, "--help")
        times.append(time.monotonic() - started)
    assert done.returncode == 0
    assert f"hiphop-{command}" in done.stdout
    assert min(times) < 1.0
    if command == "train":
        for word in ("hiphop*", "hipnn", "tiny*", "run_dir=", "resume=", "model=hipnn"):
            assert word in done.stdout


def test_help_imports_no_heavy_library() -> None:
    code = "import sys; from hiphop_train.cli import run; run('train', ['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for library in ("torch", "hydra", "lightning", "matplotlib", "wandb"):
        assert f"'{library}'" not in done.stdout


def test_misspelt_key_is_answered() -> None:
    done = start("train", "model.cuttoff=5")
    assert done.returncode == 2
    assert "override 'model.cuttoff=5'" in done.stderr
    assert "did you mean 'cutoff'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_hydra_prints_the_configuration() -> None:
    done = start("train", "--cfg", "job", "model=hipnn")
    assert done.returncode == 0, done.stderr
    assert "hiphop_train.models.hipnn.HIPNN" in done.stdout


def test_version() -> None:
    done = start("train", "--version")
    assert done.stdout.startswith("hiphop-train ")
