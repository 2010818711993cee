"""Entry points: compose, check, call; errors become one message and an exit code.

What takes long to import is imported where it is used, so that ``--help`` answers at once.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from hiphop_train import __version__
from hiphop_train.errors import ConfigError, HipHopError
from hiphop_train.memory import keep_freed_memory

Command = Literal["train", "eval", "export", "bench"]

DESCRIPTIONS = {
    "train": "Train a potential on energies and forces; evaluate it and export it.",
    "eval": "Errors of a trained potential on its test splits or on another data set.",
    "export": "Write a trained potential as one TorchScript file that runs without this package.",
    "bench": "Time and memory of a potential: steps of dynamics, training, and where both go; beside other programs.",
}
EXAMPLES = {
    "train": [
        ("hiphop-train", "the defaults: HIP-HOP-NN on the embedded data, some minutes"),
        ("hiphop-train model=hipnn model.n_features=32", "another architecture, narrower"),
        ("hiphop-train data=extxyz data.path=FILE.xyz", "your own structures"),
        ("hiphop-train data=ani1x data.root=FOLDER trainer.devices=4", "ANI-1x on four GPUs"),
        ("hiphop-train --multirun model=hipnn,hiphop seed=0,1,2", "six trainings, one after another"),
        ("hiphop-train debug=fast", "does everything run?"),
    ],
    "eval": [
        ("hiphop-eval checkpoint=RUN", "the tests of the training's own data"),
        ("hiphop-eval checkpoint=RUN data=comp6 data.root=FOLDER", "the COMP6 benchmark"),
    ],
    "export": [("hiphop-export checkpoint=RUN output=FILE.pt", "")],
    "bench": [
        ("hiphop-bench model.n_features=128 water=[3000,12000,48000]", "how time and memory grow"),
        ("hiphop-bench checkpoint=RUN structures=[FILE.pdb] measure=[md]", "a trained potential on your structure"),
        ("hiphop-bench checkpoint=RUN water=[3000] against=[exported]", "and beside its exported file"),
        ("hiphop-bench against=[hippynn,torchani] structures=[FILE.pdb]", "the same work by other programs, in turns"),
        ("hiphop-bench data=tiny measure=[training,breakdown]", "training, its loader included"),
    ],
}
MULTIRUN = ("-m", "--multirun")
WITH_VALUE = ("-c", "--cfg", "-i", "--info", "-p", "--package")
TO_HYDRA = (*MULTIRUN, *WITH_VALUE, "--resolve")
BACKEND = re.compile(r"\+?hydra[/.](launcher|sweeper|sweep|mode)\b")
"""Overrides that choose another way to run the jobs of a sweep, which are Hydra's business."""


def train_main() -> None:
    """Run hiphop-train."""
    sys.exit(run("train", sys.argv[1:]))


def eval_main() -> None:
    """Run hiphop-eval."""
    sys.exit(run("eval", sys.argv[1:]))


def export_main() -> None:
    """Run hiphop-export."""
    sys.exit(run("export", sys.argv[1:]))


def bench_main() -> None:
    """Run hiphop-bench."""
    sys.exit(run("bench", sys.argv[1:]))


def run(command: Command, arguments: list[str]) -> int:
    """Run a command with its arguments; returns the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(_help(command))
        return 0
    if "--version" in arguments:
        print(f"hiphop-train {__version__}")
        return 0
    if command == "train" and set(MULTIRUN) & set(arguments) and not any(map(BACKEND.match, arguments)):
        return guarded(lambda: _run_sweep(arguments))
    if any(argument.split("=")[0] in TO_HYDRA for argument in arguments):
        _run_hydra(command)
        return 0
    return guarded(lambda: _run_checked(command, arguments))


def guarded(call: Callable[[], int]) -> int:
    """Call, and turn what is wrong with a user's input into one message and an exit code."""
    try:
        return call()
    except HipHopError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("aborted", file=sys.stderr)
        return 130


def _run_checked(command: Command, arguments: list[str]) -> int:
    flags = [argument for argument in arguments if argument.startswith("-")]
    overrides = [argument for argument in arguments if argument not in flags]
    if command == "train" and flags == ["--print-run-dir"]:
        from hiphop_train.commands.run_directory import run_directory
        from hiphop_train.config import load_config

        print(run_directory(load_config(command, overrides)).resolve())
        return 0
    if flags:
        raise ConfigError(f"unknown option '{flags[0]}'; settings are given as key=value, see --help")
    from hiphop_train.config import load_config

    return _call(command, load_config(command, overrides))


def _run_sweep(arguments: list[str]) -> int:
    """Run a sweep; other options than --multirun are each job's."""
    flags: list[str] = []
    overrides: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument.startswith("-") or (before in WITH_VALUE and "=" not in argument):
            flags.append(argument)
        else:
            overrides.append(argument)
    from hiphop_train.commands.sweep import sweep

    return sweep(overrides, [flag for flag in flags if flag not in MULTIRUN])


def _call(command: Command, config: Any) -> int:
    _quieten()
    keep_freed_memory()
    if command == "train":
        from hiphop_train.commands.train import train

        return train(config).exit_code
    if command == "eval":
        from hiphop_train.commands.evaluate import evaluate

        evaluate(config)
        return 0
    if command == "bench":
        from hiphop_train.commands.bench import bench

        bench(config)
        return 0
    from hiphop_train.commands.export import export_file

    export_file(config)
    return 0


def _run_hydra(command: Command) -> None:
    """Leave the inspection of configurations, and other sweeps than our own, to Hydra; each job is checked as ever."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from hiphop_train.config import Source, check, config_directory, take_model, without_hydra

    def job(config: Any) -> int:
        plain = without_hydra(config)
        take_model(plain, list(HydraConfig.get().overrides.task))
        check(plain, command, Source())
        return _call(command, plain)

    hydra.main(config_path=str(config_directory()), config_name=command, version_base="1.3")(job)()


def _quieten() -> None:
    """Silence what Lightning says of every run; real warnings stay."""
    import logging
    import warnings

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    expected = (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*is smaller than the logging interval.*",
        ".*LeafSpec.* is deprecated.*",
        r".*The `srun` command is available on your system but is not used.*",  # who uses Slurm knows
        ".*sync_dist=True.*",  # what we log has been summed over ranks
        r".*add the following callbacks: \['Timer'\].*",  # the earlier start had a time limit, this one has none
        ".*Grad strides do not match bucket view strides.*",
    )
    for message in expected:
        warnings.filterwarnings("ignore", message=message)


def _help(command: Command) -> str:
    folder = next(
        (f for f in (Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf") if f.is_dir()), None
    )
    lines = [f"hiphop-{command}: {DESCRIPTIONS[command]}", "", "Usage: " + f"hiphop-{command} [KEY=VALUE ...]", ""]
    lines += ["Examples:"]
    lines += [f"  {example:62s} {what}".rstrip() for example, what in EXAMPLES[command]]
    if folder is not None:
        text = (folder / f"{command}.yaml").read_text()
        defaults = re.findall(r"^  - (\w+): (\w+)", text, flags=re.M)
        if defaults:
            lines += ["", "Choices (GROUP=NAME; * is the default; each file says what can be set in it):"]
        for group, default in defaults:
            names = sorted(file.stem for file in (folder / group).glob("*.yaml"))
            shown = " ".join(f"{name}*" if name == default else name for name in names)
            lines.append(f"  {group:12s} {shown}")
        lines += ["", "Settings:"]
        body = re.sub(r"^(defaults|hydra):\n(  .*\n)+", "", text, flags=re.M)
        for comment, key, value in re.findall(r"((?:^# .*\n)+)^(\w+): (.*)$", body, flags=re.M):
            note = " ".join(line.removeprefix("# ") for line in comment.splitlines())
            lines.append(f"  {key + '=' + value:24s} {note}")
        lines += ["", f"Files: {folder}"]
    lines += [
        "",
        "Options: --help, --version, --cfg job (print the configuration), --multirun (sweeps: KEY=A,B,C)"
        + (", --print-run-dir" if command == "train" else ""),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    train_main()
