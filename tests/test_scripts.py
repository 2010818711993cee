"""The shell scripts, with stand-ins for the programs that they call: nothing is installed and nothing trained."""

import itertools
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [
    *sorted((ROOT / "scripts").glob("*.sh")),
    *sorted((ROOT / "scripts/slurm").glob("*.sbatch")),
    ROOT / ".ci/run",
]


def program(path: Path, body: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return path


def bash(*command: object, **environment: object) -> subprocess.CompletedProcess[str]:
    """Run a script with none of the caller's HIPHOP_ and SLURM_ variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HIPHOP_", "SLURM_"))}
    clean |= {name: str(value) for name, value in environment.items()}
    return subprocess.run(["bash", *map(str, command)], env=clean, capture_output=True, text=True)


def common(command: str, root: Path = ROOT, **environment: object) -> subprocess.CompletedProcess[str]:
    """Run a command with the functions of common.sh."""
    return bash(
        "-euo", "pipefail", "-c", f"source {shlex.quote(str(root))}/scripts/common.sh; {command}", **environment
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script: Path) -> None:
    assert bash("-n", script).stderr == ""
    assert script.read_text().startswith("#")
    assert os.access(script, os.X_OK) or script.name == "common.sh"


@pytest.mark.parametrize("script", ["install.sh", "quickstart.sh"])
def test_help(script: str) -> None:
    done = bash(ROOT / "scripts" / script, "--help")
    assert done.returncode == 0
    assert f"scripts/{script}" in done.stdout


def test_environment_of_an_unknown_program_is_refused(tmp_path: Path) -> None:
    done = bash(ROOT / "scripts/peers.sh", "mace", "mase", HIPHOP_PEERS=tmp_path / "peers")
    assert done.returncode == 1
    assert "'mase' is unknown" in done.stderr
    assert "Allowed: mace, tensornet" in done.stderr
    assert not (tmp_path / "peers").exists()


class TestPython:
    """Which Python makes the environment."""

    def test_shim_that_fails_is_passed_over(self, tmp_path: Path) -> None:
        program(tmp_path / "python3.11", "exit 127")
        program(tmp_path / "python3.12", f'exec "{sys.executable}" "$@"')
        done = common("find_python", PATH=f"{tmp_path}:{os.environ['PATH']}")
        assert done.stdout == "python3.12\n"

    def test_choice_that_fails_is_an_error(self) -> None:
        done = common("find_python", HIPHOP_PYTHON="/nowhere/python")
        assert done.returncode == 1
        assert "HIPHOP_PYTHON=/nowhere/python is not a working Python" in done.stderr

    def test_none_says_what_to_do(self, tmp_path: Path) -> None:
        for name in ("python3.11", "python3.12", "python3.13", "python3", "python"):
            program(tmp_path / name, "exit 127")
        done = common("find_python", PATH=f"{tmp_path}:{os.environ['PATH']}")
        assert done.returncode == 1
        assert "set HIPHOP_PYTHON" in done.stderr

    def test_other_folder_is_not_emptied(self, tmp_path: Path) -> None:
        (tmp_path / "precious").touch()
        done = common("make_venv", HIPHOP_VENV=tmp_path, HIPHOP_PYTHON=sys.executable)
        assert done.returncode == 1
        assert "not a Python environment" in done.stderr
        assert (tmp_path / "precious").exists()


class TestDevice:
    """Which build of torch."""

    @pytest.mark.parametrize(("status", "device"), [(0, "cuda"), (9, "cpu")])
    def test_follows_nvidia_smi(self, tmp_path: Path, status: int, device: str) -> None:
        program(tmp_path / "nvidia-smi", f"exit {status}")
        assert common("wanted_device", PATH=f"{tmp_path}:{os.environ['PATH']}").stdout == f"{device}\n"

    def test_unknown_device_is_an_error(self) -> None:
        done = common("wanted_device", HIPHOP_DEVICE="gpu")
        assert done.returncode == 1
        assert "Allowed: cpu, cuda" in done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what the scripts need, with an environment whose Python only records how it is called."""
    root = tmp_path / "checkout"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/common.sh", root / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    calls = shlex.quote(str(root / "calls"))
    # torch is not installed; the pip options named in REFUSED fail.
    program(
        root / ".venv/bin/python",
        f'[[ "$*" != *importlib.metadata* ]] || exit 1\n'
        f'[[ "$*" != *" install "* ]] || echo "$*" >> {calls}\n'
        'for word in ${REFUSED:-}; do [[ "$*" != *"$word"* ]] || exit 1; done\n'
        '[[ "$*" != *--report* ]] || echo \'"version": "2.13.0+cpu"\'',
    )
    return root


def calls(root: Path) -> list[str]:
    """Return the calls of pip that would have installed something."""
    path = root / "calls"
    return [line for line in path.read_text().splitlines() if "--dry-run" not in line] if path.exists() else []


class TestInstall:
    """Torch first where there is no GPU, then the project, and nothing twice."""

    def test_local_file_is_taken_first(self, checkout: Path) -> None:
        done = common("install_project ''", checkout, HIPHOP_DEVICE="cpu")
        assert done.returncode == 0, done.stderr
        torch, project = calls(checkout)
        assert "--no-index torch==" in torch
        assert project.endswith(f"-c {checkout}/constraints.txt --editable {checkout}")

    def test_then_the_cpu_index(self, checkout: Path) -> None:
        common("install_project ''", checkout, HIPHOP_DEVICE="cpu", REFUSED="--no-index")
        torch, _ = calls(checkout)
        assert "--index-url https://download.pytorch.org/whl/cpu torch==" in torch

    def test_then_the_ordinary_index(self, checkout: Path) -> None:
        done = common("install_project ''", checkout, HIPHOP_DEVICE="cpu", REFUSED="--no-index --index-url")
        assert done.returncode == 0
        assert "taking PyPI's build" in done.stderr

    def test_cuda_comes_with_the_project(self, checkout: Path) -> None:
        common("install_project ''", checkout, HIPHOP_DEVICE="cuda")
        assert len(calls(checkout)) == 1

    def test_repeated_only_when_something_changed(self, checkout: Path) -> None:
        def count(extras: str) -> int:
            assert common(f"install_project '{extras}'", checkout, HIPHOP_DEVICE="cuda").returncode == 0
            return len(calls(checkout))

        assert [count(""), count(""), count("[test]"), count("[test]"), count("")] == [1, 1, 3, 3, 3]
        with (checkout / "constraints.txt").open("a") as file:
            file.write("# changed\n")
        assert count("") == 4

    @pytest.mark.parametrize(
        ("extras", "wanted"), [("", False), ("[generate]", False), ("[test]", True), ("[dev]", True)]
    )
    def test_references_only_where_tests_are_run(self, checkout: Path, extras: str, wanted: bool) -> None:
        """Without its requirements, which exclude our torchmetrics."""
        done = common(f"install_project '{extras}'", checkout, HIPHOP_DEVICE="cuda")
        assert done.returncode == 0, done.stderr
        found = [
            line for line in calls(checkout) if f"-c {checkout}/constraints.txt --no-deps schnetpack mace-torch" in line
        ]
        assert len(found) == wanted
        pinned = (checkout / "constraints.txt").read_text()
        assert all(f"\n{name}==" in pinned for name in ("schnetpack", "mace-torch", "alignn", "torchmd-net"))

    def test_pinned_versions_are_those_that_the_project_admits(self) -> None:
        """Pip refuses to install anything where a pin contradicts a requirement."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        listed = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
        requirements = [Requirement(line) for line in listed]
        lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
        pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
        assert len(requirements) > 40
        for requirement in requirements:
            if requirement.name != "hiphop-train":  # an extra of another extra
                pin = pins[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(pin), f"{requirement} does not admit the pinned {pin}"

    def test_missing_references_are_an_error_and_is_tried_again(self, checkout: Path) -> None:
        done = common("install_project '[test]'", checkout, HIPHOP_DEVICE="cuda", REFUSED="--no-deps")
        assert done.returncode == 1
        assert "the libraries that the tests compare with could not be installed (schnetpack " in done.stderr
        assert common("install_project '[test]'", checkout, HIPHOP_DEVICE="cuda").returncode == 0
        assert len(calls(checkout)) == 4

    def test_failure_says_what_to_do_and_is_tried_again(self, checkout: Path) -> None:
        done = common("install_project ''", checkout, HIPHOP_DEVICE="cuda", REFUSED="--editable")
        assert done.returncode == 1
        assert f"remove {checkout}/.venv and run this again" in done.stderr
        assert common("install_project ''", checkout, HIPHOP_DEVICE="cuda").returncode == 0
        assert len(calls(checkout)) == 2


class TestQuickstart:
    """The commands in their order."""

    @pytest.fixture
    def quickstart(self, checkout: Path) -> Path:
        """Give the copied environment commands that record how they are called."""
        shutil.copy(ROOT / "scripts/quickstart.sh", checkout / "scripts")
        run_dir = checkout / "runs/one"
        run_dir.mkdir(parents=True)
        (run_dir / "metrics.json").touch()
        program(
            checkout / ".venv/bin/hiphop-train",
            f'if [[ "$1" == --print-run-dir ]]; then echo {shlex.quote(str(run_dir))}; exit; fi\n'
            f'echo "train $*"; exit "${{STATUS:-0}}"',
        )
        program(checkout / ".venv/bin/hiphop-eval", 'echo "eval $*"')
        return checkout / "scripts/quickstart.sh"

    def test_trains_and_evaluates(self, quickstart: Path, checkout: Path) -> None:
        shared = checkout / "data sets"
        (shared / "data/comp6").mkdir(parents=True)
        done = bash(quickstart, "debug=fast", HIPHOP_SHARED=shared)
        assert done.returncode == 0, done.stderr
        run_dir = checkout / "runs/one"
        assert done.stdout.splitlines()[:3] == [
            "train debug=fast",
            f"eval checkpoint={run_dir}",
            f"eval checkpoint={run_dir} data=comp6 data.root={shared}/data/comp6",
        ]
        assert f"  {run_dir}\n    metrics.json\n" in done.stdout

    def test_without_comp6(self, quickstart: Path, checkout: Path) -> None:
        done = bash(quickstart, HIPHOP_SHARED=checkout / "nowhere")
        assert done.returncode == 0, done.stderr
        assert "data=comp6" not in done.stdout
        assert "no COMP6 in" in done.stderr

    def test_failed_training_ends_it(self, quickstart: Path) -> None:
        done = bash(quickstart, STATUS=2)
        assert done.returncode == 1
        assert "the training failed" in done.stderr
        assert "eval" not in done.stdout


class TestCI:
    """A skipped test fails, an expected failure does not."""

    @pytest.mark.parametrize(
        ("cases", "status"),
        [
            ('<testcase classname="a" name="b"/>', 0),
            ('<testcase classname="a" name="b"><skipped type="pytest.xfail" message="known"/></testcase>', 0),
            ('<testcase classname="a" name="b"><skipped type="pytest.skip" message="no GPU"/></testcase>', 1),
            ("", 1),
        ],
    )
    def test_skips(self, tmp_path: Path, cases: str, status: int) -> None:
        for name in (".ci/run", "scripts/common.sh"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
        program(tmp_path / ".venv/bin/python", f'exec "{sys.executable}" "$@"')
        xml = shlex.quote(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
        program(tmp_path / "scripts/test.sh", f'echo {xml} > "${{1#--junitxml=}}"')
        done = bash(tmp_path / ".ci/run")
        assert done.returncode == status
        assert ("skipped: a::b: no GPU" in done.stdout) == ("no GPU" in cases)


class TestSlurm:
    """The job script, with Slurm simulated by the environment."""

    @pytest.fixture
    def job(self, tmp_path: Path) -> dict[str, object]:
        """Return the variables of a job of two nodes with four GPUs each."""
        program(tmp_path / ".venv/bin/hiphop-train", 'echo "$*"')
        program(tmp_path / "bin/srun", 'while [[ "$1" == --* ]]; do shift; done; "$@"; exit "${STATUS:-0}"')
        program(tmp_path / "bin/scontrol", 'echo "scontrol $*"')
        return {
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": tmp_path,
            "SLURM_JOB_ID": 7,
            "SLURM_JOB_NUM_NODES": 2,
            "SLURM_GPUS_ON_NODE": 4,
            "SLURM_NTASKS": 8,
        }

    def sbatch(self, *overrides: str, **job: object) -> subprocess.CompletedProcess[str]:
        """Run the job script."""
        return bash(ROOT / "scripts/slurm/train.sbatch", *overrides, **job)

    def test_fixed_run_directory_and_resume(self, job: dict[str, object], tmp_path: Path) -> None:
        done = self.sbatch("model=hiphop", **job)
        assert done.returncode == 0, done.stderr
        fixed = f"trainer.devices=4 trainer.num_nodes=2 run_dir={tmp_path}/runs/slurm-7 resume=auto"
        assert done.stdout == f"model=hiphop {fixed}\n"

    def test_own_run_directory(self, job: dict[str, object]) -> None:
        assert self.sbatch("run_dir=/scratch/a", **job).stdout.endswith(" run_dir=/scratch/a resume=auto\n")

    @pytest.mark.parametrize("overrides", [["trainer.devices=2"], ["trainer.num_nodes=1"], ["trainer.devices=auto"]])
    def test_mismatch_is_refused(self, job: dict[str, object], overrides: list[str]) -> None:
        done = self.sbatch(*overrides, **job)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "error: " in done.stderr

    def test_tasks_must_match_gpus(self, job: dict[str, object]) -> None:
        done = self.sbatch(**job | {"SLURM_NTASKS": 2})
        assert done.returncode == 2
        assert "2 tasks for 4 devices on each of 2 nodes" in done.stderr

    def test_outside_of_slurm(self) -> None:
        done = self.sbatch()
        assert done.returncode == 2
        assert "Start it with: sbatch" in done.stderr

    @pytest.mark.parametrize(
        ("status", "saves", "requeued"),
        [(143, True, True), (124, True, True), (143, False, False), (1, True, False), (0, True, False)],
    )
    def test_requeued_when_stopped(
        self, job: dict[str, object], tmp_path: Path, status: int, saves: bool, requeued: bool
    ) -> None:
        """Only after something was saved: otherwise each start would end as the one before."""
        if saves:
            folder = tmp_path / "runs/slurm-7/checkpoints"
            program(tmp_path / ".venv/bin/hiphop-train", f"mkdir -p {folder}; echo state > {folder}/last.ckpt")
        done = self.sbatch(**job | {"STATUS": status})
        assert done.returncode == (status if saves else 2)
        assert ("stopped before anything was saved" in done.stderr) == (not saves)
        assert ("scontrol requeue 7" in done.stdout) == requeued
