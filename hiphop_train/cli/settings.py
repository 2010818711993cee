"""Commands whose arguments are the settings of a configuration, conf/NAME.yaml: their flags, ``--help`` and calls."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hiphop_train.cli.parser import Parser
from hiphop_train.config_files import config_directory, defaults, options, settings
from hiphop_train.errors import ConfigError

if TYPE_CHECKING:  # they take long to import
    from omegaconf import DictConfig

    from hiphop_train.schema import ConfigName

    Function = Callable[[DictConfig], int]

BACKENDS = ("hydra/launcher", "hydra/sweeper", "hydra.launcher", "hydra.sweeper", "hydra.sweep", "hydra.mode")
"""Overrides that choose another way to run the jobs of a sweep, which is then Hydra's."""


def declare(name: str, parser: Parser) -> None:
    """Declare the flags of a command, and describe its settings."""
    parser.add_argument("-m", "--multirun", action="store_true", help="sweep over all combinations of KEY=A,B,C")
    parser.add_argument("-c", "--cfg", choices=["job", "hydra", "all"], help="print the configuration, usually: job")
    parser.add_argument("-p", "--package", metavar="KEY", help="with --cfg: print this section only")
    parser.add_argument("--resolve", action="store_true", help="with --cfg: resolve interpolations")
    parser.add_argument("-i", "--info", nargs="?", const="all", metavar="WHAT", help="print what Hydra composes from")
    if name == "train":
        parser.add_argument("--print-run-dir", action="store_true", help="print the run directory")
    parser.take_settings(
        "GROUP=NAME chooses a file of conf/GROUP, GROUP.KEY=VALUE sets a value in it, KEY=VALUE one of those below."
    )
    parser.epilog = f"{_choices(name)}\n\n{parser.epilog}\n\nfiles: {config_directory()}"


def call(
    name: "ConfigName",
    function: "Function",
    overrides: list[str],
    multirun: bool,
    cfg: str | None,
    package: str | None,
    resolve: bool,
    info: str | None,
    print_run_dir: bool = False,
) -> int:
    """Compose the configuration and call a command's function with it, or do as a flag says; return the exit code."""
    if name == "train" and any(word.lstrip("+").startswith("sweep=") for word in overrides) and not (cfg or info):
        if multirun or print_run_dir:
            flag = "--multirun" if multirun else "--print-run-dir"
            raise ConfigError(f"{flag} excludes sweep=, which chooses jobs and folders; see hiphop-train --help")
        from hiphop_train.cli import job
        from hiphop_train.commands.search import search

        return search(overrides, job.train)
    elsewhere = any(word.lstrip("+").startswith(BACKENDS) for word in overrides)
    if name == "train" and multirun and (not elsewhere or "hydra/launcher=slurm" in overrides):
        from hiphop_train.cli import job
        from hiphop_train.commands.sweep import sweep

        valued = {"--cfg": cfg, "--package": package, "--info": info}
        flags = [word for flag, value in valued.items() if value is not None for word in (flag, value)]
        flags += ["--resolve"] * resolve + ["--print-run-dir"] * print_run_dir
        return sweep(overrides, flags, job.train)
    if multirun or cfg or package or resolve or info:
        if print_run_dir:
            raise ConfigError("--print-run-dir excludes --cfg, --package, --resolve, --info; see hiphop-train --help")
        _run_hydra(name, function)
        return 0
    from hiphop_train.config import load_config

    config = load_config(name, overrides)
    if print_run_dir:
        from hiphop_train.commands.run_directory import run_directory

        print(run_directory(config).resolve())
        return 0
    if name == "train" and config.get("submit") is not None:
        from hiphop_train.commands.submit import submit

        return submit(config, overrides)
    return _run(function, config)


def _run(function: "Function", config: "DictConfig") -> int:
    from hiphop_train.commands.quiet import quiet
    from hiphop_train.memory import keep_freed_memory

    keep_freed_memory()
    with quiet():
        return function(config)


def _run_hydra(name: "ConfigName", function: "Function") -> None:
    """Leave the inspection of configurations, and sweeps by other launchers, to Hydra; each job is checked as usual.

    Hydra reads the arguments of the process.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from hiphop_train.config import parse_overrides, take_model, take_rate, without_hydra
    from hiphop_train.schema import Source, check

    def job(config: "DictConfig") -> int:
        plain = without_hydra(config)
        take_model(plain, parse_overrides(HydraConfig.get().overrides.task))
        take_rate(plain)
        check(plain, name, Source())
        return _run(function, plain)

    hydra.main(config_path=str(config_directory()), config_name=name, version_base="1.3")(job)()


def _choices(name: str) -> str:
    """List the groups and single settings of a command's configuration, with the comments of the file."""
    lines = []
    groups = defaults(name)
    if groups:
        lines += ["choices (GROUP=NAME; * is the default; each file says what can be set in it):"]
    for group, default in groups.items():
        lines.append(f"  {group:12s} {' '.join(f'{one}*' if one == default else one for one in options(group))}")
    lines += ["", "single settings:"] if lines else ["single settings:"]
    lines += [f"  {f'{entry.key}={entry.value}':24s} {entry.comment}" for entry in settings(name)]
    return "\n".join(lines)
