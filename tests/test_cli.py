"""The commands as a user starts them: one table, one parser, one form of errors."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from hiphop_train.cli import call, run
from hiphop_train.cli.table import COMMANDS
from hiphop_train.config_files import defaults, settings
from hiphop_train.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CONFIGURED = ["train", "eval", "export", "bench"]
SUBCOMMANDS = [("data", name) for name in ("download", "check", "inspect", "pack")]
SUBCOMMANDS += [("import", name) for name in ("hippynn", "neurochem", "mace", "nequip", "allegro", "tensornet")]


def start(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a command as its script does."""
    code = f"import sys; from hiphop_train.cli import {command}_main; sys.argv[0] = 'hiphop'; {command}_main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=100)


def test_table_and_scripts_of_the_package_agree() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {f"hiphop-{name}": f"hiphop_train.cli:{name}_main" for name in COMMANDS}
    for target in scripts.values():
        module, function = target.split(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_usage_and_examples(command: str) -> None:
    done = start(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: hiphop-{command} ")
    assert f"\nexamples:\n  hiphop-{command}" in done.stdout


def test_help_imports_no_heavy_library() -> None:
    """So that it answers in a fraction of a second."""
    code = f"import sys; from hiphop_train.cli import run; [run(name, ['--help']) for name in {list(COMMANDS)}]"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(sorted(sys.modules))"], capture_output=True, text=True, check=True
    )
    for library in ("torch", "numpy", "hydra", "omegaconf", "lightning", "matplotlib", "wandb"):
        assert f"'{library}'" not in done.stdout


@pytest.mark.parametrize("command", CONFIGURED)
def test_help_lists_choices_and_settings_of_the_configuration(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, ["model=hipnn", "--help"]) == 0
    out = capsys.readouterr().out
    for entry in settings(command):
        assert f"\n  {entry.key}={entry.value} " in out
        assert entry.comment in out
    for group, default in defaults(command).items():
        assert f"\n  {group} " in out
        assert default is None or f" {default}*" in out
    if command == "train":
        assert " seed=0                   Seed of the random weights and" in out
        assert "the same at every start.\n" in out  # a comment of two lines is one
        assert "--print-run-dir" in out


@pytest.mark.parametrize(("command", "name"), SUBCOMMANDS)
def test_help_of_subcommands(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, [name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: hiphop-{command} {name} [-h]")


@pytest.mark.parametrize("command", COMMANDS)
def test_version(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, ["--version"]) == 0
    assert capsys.readouterr().out.startswith("hiphop-train ")


@pytest.mark.parametrize(
    ("command", "arguments", "parts"),
    [
        *[
            (name, ["--epochs", "3"], ["unrecognized arguments: --epochs; settings are given as"])
            for name in CONFIGURED
        ],
        ("train", ["--cfg", "jobs"], ["argument -c/--cfg: invalid choice: 'jobs'"]),
        ("train", ["--print-run-dir", "--cfg", "job"], ["--print-run-dir"]),
        ("train", ["--print-run-dir", "sweep=optuna", "optimizer.lr=1e-3,1e-4"], ["--print-run-dir", "sweep="]),
        ("train", ["--multirun", "sweep=optuna", "optimizer.lr=1e-3,1e-4"], ["--multirun", "sweep="]),
        ("eval", ["--print-run-dir"], ["unrecognized arguments: --print-run-dir"]),
        ("train", ["--multi"], ["unrecognized arguments: --multi;"]),
        ("data", [], ["COMMAND"]),
        ("data", ["chek", "x"], ["'chek'", "'check'"]),
        ("data", ["check"], ["FILE"]),
        ("data", ["check", "x", "--element", "H"], ["unrecognized arguments: --element;"]),
        ("data", ["pack", "x", "--elements", "H"], ["unrecognized arguments: --elements;"]),
        ("import", ["hippynn", "a"], ["OUTPUT"]),
        ("import", ["neurochem", "a", "b", "more"], ["unrecognized arguments: more"]),
        ("compare", ["a", "--mixdata"], ["unrecognized arguments: --mixdata"]),
        ("invariants", ["4"], ["N_MAX"]),
        ("invariants", ["4", "four"], ["N_MAX", "'four'"]),
    ],
)
def test_wrong_arguments_are_one_message(
    command: str, arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    for part in [*parts, f"see hiphop-{command}", "--help"]:
        assert part in captured.err
    with pytest.raises(ConfigError):
        call(command, arguments)


def test_settings_may_stand_anywhere_among_flags() -> None:
    given = COMMANDS["data"].parser().parse(["check", "FILE", "data=ase", "--output", "DIR", "data.level=tz"])
    assert (given["file"], given["output"]) == (Path("FILE"), Path("DIR"))
    assert given["overrides"] == ["data=ase", "data.level=tz"]
    given = COMMANDS["train"].parser().parse(["seed=1", "--cfg", "job", "~logger", "-m"])
    assert (given["overrides"], given["cfg"], given["multirun"]) == (["seed=1", "~logger"], "job", True)


def test_misspelt_key_is_answered() -> None:
    done = start("train", "model.cuttoff=5")
    assert done.returncode == 2
    assert "override 'model.cuttoff=5'" in done.stderr
    assert "did you mean 'cutoff'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_hydra_prints_the_configuration() -> None:
    done = start("train", "--cfg", "job", "--package", "model", "model=hipnn")
    assert done.returncode == 0, done.stderr
    assert "hiphop_train.models.hipnn.HIPNN" in done.stdout


def test_hydra_runs_a_sweep_of_other_launchers(tmp_path: Path) -> None:
    """Each job is checked as usual: here all are refused, before anything is read."""
    code = "from hiphop_train.cli import train_main; train_main()"
    arguments = ["-m", "hydra/launcher=basic", "model.cutoff=a,b"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=100, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "model.cutoff: got 'a'" in done.stderr
