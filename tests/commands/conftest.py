"""Small runs of the real commands."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hiphop_train import cli

Run = Callable[..., tuple[int, str, str]]
FAST = ["debug=fast", "trainer.accelerator=cpu", "model.n_features=8", "pictures=false"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; returns exit code, standard output and standard error."""

    def call(command: str, *arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.run(command, list(arguments))
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of a finished training of a narrow network."""
    path = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        import warnings

        with warnings.catch_warnings():
            assert cli.run("train", [*FAST, "pictures=true", f"run_dir={path}"]) == 0
    return path
