"""The wheel works without a checkout: it contains the configuration, and its commands run."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object, cwd: Path, code: int = 0) -> str:
    """Run a command apart from the checkout and return what it printed; pytest shows it if its exit code is wrong."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_contains_configuration_and_tiny_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = {f"hiphop_train/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "hiphop_train/data/tiny").glob("*.*")}
    assert any(name.endswith("conf/train.yaml") for name in wanted)
    assert any(name.endswith(".h5") for name in wanted)
    assert not wanted - inside
    beside = {name.split("/")[0] for name in inside} - {"hiphop_train"}
    assert all(name.endswith(".dist-info") for name in beside)  # nothing else lands in site-packages


@pytest.mark.slow
def test_commands_of_the_wheel(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # The dependencies are those of the tests' environment. Its folder comes after the new environment's own, and its
    # .pth files, including that of the editable install, are not read: the wheel takes precedence.
    (site_packages,) = home.glob("lib/python*/site-packages")
    dependencies = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    imported = run(python, "-c", "import hiphop_train; print(hiphop_train.__file__)", cwd=elsewhere)
    assert Path(imported.strip()).is_relative_to(home)

    assert "hiphop-train" in run(home / "bin" / "hiphop-train", "--help", cwd=elsewhere)

    run_dir = tmp_path / "run"
    printed = run(home / "bin" / "hiphop-train", "debug=fast", f"run_dir={run_dir}", cwd=elsewhere)
    assert printed.splitlines()[-1] == f"run directory: {run_dir}"
    assert {"metrics.json", "model.pt"} <= {path.name for path in run_dir.iterdir()}

    # Other programs are timed by files of the checkout, which the wheel does not contain; ours is not.
    refused = run(home / "bin" / "hiphop-bench", "against=[hippynn]", "water=[3]", cwd=elsewhere, code=2)
    assert "the repository's folder benchmarks/peers" in refused
    assert "allowed without one: exported, ase" in refused
    arguments = ["water=[3]", "measure=[md]", "rounds=1", "threads=1", f"output={tmp_path / 'bench.json'}"]
    run(home / "bin" / "hiphop-bench", f"checkpoint={run_dir}", "against=[ase]", *arguments, cwd=elsewhere)
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["md"][0]["ratios"]["ase"]["included"]["median"] > 0
