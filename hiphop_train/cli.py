"""Entry points: compose, check, call; errors become one message and an exit code.

What takes long to import is imported where it is used, so that ``--help`` answers at once.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DESCRIPTIONS = {
    "train": "Train a potential on energies and forces; evaluate it and export it.",
    "eval": "Errors of a trained potential on its test splits or on another data set.",
    "export": "Write a trained potential as one TorchScript file that runs without this package.",
}
EXAMPLES = {
    "train": [
        ("hiphop-train", "the defaults: HIP-HOP-NN on the embedded data, some minutes"),
        ("hiphop-train model=hipnn model.n_features=32", "another architecture, narrower"),
        ("hiphop-train data=extxyz data.path=FILE.xyz", "your own structures"),
        ("hiphop-train data=ani1x data.root=FOLDER trainer.devices=4", "ANI-1x on four GPUs"),
        ("hiphop-train debug=fast", "does everything run?"),
    ],
    "eval": [
        ("hiphop-eval checkpoint=RUN", "the tests of the training's own data"),
        ("hiphop-eval checkpoint=RUN data=comp6 data.root=FOLDER", "the COMP6 benchmark"),
    ],
    "export": [("hiphop-export checkpoint=RUN output=FILE.pt", "")],
}
TO_HYDRA = ("-m", "--multirun", "-c", "--cfg", "-i", "--info", "-p", "--package", "--resolve")


def train_main() -> None:
    """Run hiphop-train."""
    _main("train", _train)


def eval_main() -> None:
    """Run hiphop-eval."""
    _main("eval", _evaluate)


def export_main() -> None:
    """Run hiphop-export."""
    _main("export", _export)


def _train(config: Any) -> int:
    from hiphop_train.commands.train import train

    result = train(config)
    print(f"run directory: {result.run_dir.resolve()}", flush=True)
    return result.exit_code


def _evaluate(config: Any) -> int:
    from hiphop_train.commands.evaluate import evaluate

    evaluate(config)
    return 0


def _export(config: Any) -> int:
    from hiphop_train.commands.export import export_file

    export_file(config)
    return 0


def _main(command: Any, call: Callable[[Any], int]) -> None:
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        print(_help(command))
        sys.exit(0)
    if "--version" in arguments:
        from hiphop_train import __version__

        print(f"hiphop-train {__version__}")
        sys.exit(0)
    if any(argument.split("=")[0] in TO_HYDRA for argument in arguments):
        _run_hydra(command, call)
        return
    sys.exit(_guarded(command, call, arguments))


def _guarded(command: Any, call: Callable[[Any], int], arguments: list[str]) -> int:
    from hiphop_train.errors import ConfigError, HipHopError

    try:
        print_run_dir = command == "train" and "--print-run-dir" in arguments
        overrides = [argument for argument in arguments if argument != "--print-run-dir" or not print_run_dir]
        flags = [argument for argument in overrides if argument.startswith("-")]
        if flags:
            raise ConfigError(f"unknown option '{flags[0]}'; settings are given as key=value, see --help")
        from hiphop_train.config import load_config

        config = load_config(command, overrides)
        if print_run_dir:
            from hiphop_train.commands.run_directory import run_directory

            print(run_directory(config).resolve())
            return 0
        _quieten()
        return call(config)
    except HipHopError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("aborted", file=sys.stderr)
        return 130


def _run_hydra(command: Any, call: Callable[[Any], int]) -> None:
    """Leave sweeps and the inspection of configurations to Hydra; each job is checked as ever."""
    import hydra

    from hiphop_train.config import Source, check, config_directory, without_hydra

    def job(config: Any) -> int:
        plain = without_hydra(config)
        check(plain, command, Source())
        _quieten()
        return call(plain)

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
    )
    for message in expected:
        warnings.filterwarnings("ignore", message=message)


def _help(command: str) -> str:
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
        "Options: --help, --version, --cfg job (print the configuration), --multirun (sweeps, by Hydra)"
        + (", --print-run-dir" if command == "train" else ""),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    train_main()
