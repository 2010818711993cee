"""hiphop-train --multirun: every combination of the values given, each in a process of its own, one after another.

A job that fails, however it does, does not stop the others; it is reported at the end.
"""

import itertools
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from hiphop_train.commands import launched
from hiphop_train.commands.run_directory import run_directory, run_name
from hiphop_train.config import load_config, parse_overrides, quoted
from hiphop_train.config_files import config_directory
from hiphop_train.errors import ConfigError, HipHopError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Job:
    """One training of a sweep.

    Attributes
    ----------
    name : the values that distinguish it from the other jobs
    overrides : all of its settings
    run_dir : its run directory; None if its configuration is wrong
    refusal : what is wrong with its configuration
    exit_code : None before it has ended
    problem : what went wrong
    """

    name: str
    overrides: list[str]
    run_dir: Path | None = None
    refusal: HipHopError | None = None
    exit_code: int | None = None
    problem: str = ""


@dataclass
class Running:
    """What the signal handlers need.

    Attributes
    ----------
    process : of the current job
    received : number of the first signal, or None
    """

    process: subprocess.Popen[bytes] | None = None
    received: int | None = None


def sweep(overrides: list[str], flags: list[str], train: launched.Job) -> int:
    """Run all jobs; returns 0, the exit code of the first that failed, or 128 + the signal that stopped the sweep.

    Parameters
    ----------
    overrides : in Hydra's form, of which some give several values: ``model=hipnn,hiphop``, ``seed=range(3)``
    flags : options passed to each job, ``--cfg job`` for instance
    train : called in each job of Slurm
    """
    settings = None
    if launched.is_launched(overrides):
        if flags:
            raise ConfigError(f"{launched.CHOICE} excludes {flags[0]}; leave out one of them")
        overrides, settings = launched.split(overrides)
    jobs = [_check(job) for job in expand(overrides)]
    if jobs[0].refusal is not None and all(job.refusal for job in jobs):
        raise jobs[0].refusal
    if settings is not None:
        _launch(train, jobs, settings)
        return _report(jobs, None, sys.stdout)
    if flags == ["--print-run-dir"]:
        return _print_run_directories(jobs)
    report_to = sys.stderr if flags else sys.stdout  # what a flag prints may be read by a program
    with _forwarded() as running:
        for number, job in enumerate(jobs, start=1):
            if running.received is not None:
                break
            print(f"\njob {number} of {len(jobs)}: {job.name}", file=report_to, flush=True)
            if job.refusal is not None:
                _refuse(job)
            else:
                _run(job, flags, running)
    return _report(jobs, running.received, report_to)


def _print_run_directories(jobs: list[Job]) -> int:
    """Print where each job runs, known without a process for it; return the exit code of the first that is refused."""
    for job in jobs:
        if job.run_dir is None:
            _refuse(job)
        else:
            print(job.run_dir.resolve())
    return next((job.exit_code for job in jobs if job.exit_code), 0)


def _refuse(job: Job) -> None:
    assert job.refusal is not None
    job.exit_code, job.problem = job.refusal.exit_code, str(job.refusal)
    print(f"error: {job.problem}", file=sys.stderr, flush=True)


def _launch(train: launched.Job, jobs: list[Job], settings: dict[str, Any]) -> None:
    """Run the jobs whose configurations are right on Slurm, all at once."""
    for job in jobs:
        if job.refusal is not None:
            _refuse(job)
    sound = [job for job in jobs if job.refusal is None]
    words = [job.overrides for job in sound]
    for job, (code, problem) in zip(sound, launched.launch(train, words, settings), strict=True):
        job.exit_code, job.problem = code, problem


def expand(overrides: list[str]) -> list[Job]:
    """Return a job for each combination of the values given.

    Raises
    ------
    ConfigError
        when an override cannot be read or gives values that cannot be enumerated
    """
    GlobalHydra.instance().clear()
    lists: list[list[str]] = []
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        parsed = parse_overrides(overrides, hydra.config_loader)
        for override in parsed:
            if not override.is_sweep_override():
                lists.append([str(override.input_line)])
            elif override.is_discrete_sweep():
                lists.append([f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()])
            else:
                raise ConfigError(f"override '{override.input_line}': a sweep needs discrete values, KEY=A,B,C")
    for values, given in zip(lists, overrides, strict=True):
        if not values:
            raise ConfigError(f"override '{given}' gives no values")
    jobs = []
    for combination in itertools.product(*lists):
        name = " ".join(value for value, o in zip(combination, parsed, strict=True) if o.is_sweep_override())
        jobs.append(Job(name or " ".join(combination) or "the defaults", list(combination)))
    return jobs


def _check(job: Job) -> Job:
    """Compose the job's configuration, and give it a run directory of its own below a `run_dir` that all share."""
    try:
        config = load_config("train", job.overrides)
        if config.run_dir is not None:
            folder = Path(config.run_dir).expanduser() / run_name(config)
            job.overrides.append(quoted("run_dir", str(folder)))
            config.run_dir = str(folder)
        job.run_dir = run_directory(config)
    except HipHopError as error:
        job.refusal = error
    return job


def _run(job: Job, flags: list[str], running: Running) -> None:
    """Run a job in a process of its own, and keep its last error message."""
    command = [sys.executable, "-m", "hiphop_train.cli", *flags, *job.overrides]
    # In a process group of its own, a job receives Ctrl-C once, from here, and not from the terminal too.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0)
    running.process = process
    if running.received is not None:  # a signal came while the process was being started
        process.send_signal(running.received)
    last_lines: list[str] = []
    relay = threading.Thread(target=_relay, args=(process, last_lines), daemon=True)
    relay.start()
    code = process.wait()
    running.process = None
    relay.join(timeout=10.0)
    job.exit_code = code if code >= 0 else 128 - code
    if code < 0:
        job.problem = f"killed by {signal.Signals(-code).name}"
    elif code > 0:
        job.problem = "\n".join(last_lines[-5:]) or f"ended with exit code {code}"


def _relay(process: subprocess.Popen[bytes], last_lines: list[str]) -> None:
    """Pass on a job's standard error; `last_lines` becomes its last error message, or else its last line."""
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            text = line.decode(errors="replace")
            sys.stderr.write(text)
            sys.stderr.flush()
            if not text.strip():
                continue
            continues = last_lines and last_lines[0].startswith("error: ") and text.startswith("  ")
            last_lines[:] = [*last_lines, text.rstrip()] if continues else [text.rstrip()]


@contextmanager
def _forwarded() -> Iterator[Running]:
    """Forward signals to the current job; after the first, no other job starts."""
    running = Running()

    def handle(number: int, frame: FrameType | None) -> None:
        running.received = running.received or number
        if running.process is not None and running.process.poll() is None:
            running.process.send_signal(number)

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield running
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(jobs: list[Job], received: int | None, report_to: TextIO) -> int:
    """Print how the sweep ended; return its exit code."""
    failed = [job for job in jobs if job.problem]
    done = [job for job in jobs if job.exit_code == 0]
    print(f"\n{len(done)} of {len(jobs)} jobs done", file=report_to, flush=True)
    for job in failed:
        problem = job.problem.removeprefix("error: ")
        print(f"failed     {job.name} (exit code {job.exit_code}): {problem}", file=sys.stderr, flush=True)
    for job in jobs:
        if job.exit_code is None:
            print(f"not started {job.name}", file=sys.stderr, flush=True)
    if len(done) > 1:
        runs = " ".join(shlex.quote(str(job.run_dir)) for job in done)
        print(f"compare    hiphop-compare {runs}", file=report_to, flush=True)
    if received is not None:
        return 128 + received
    return next((job.exit_code or 1 for job in failed), 0)
