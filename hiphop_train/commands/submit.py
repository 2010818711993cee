"""hiphop-train submit=slurm: write a job, submit it, say where to look."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field, NonNegativeInt, PositiveInt

from hiphop_train import build, files
from hiphop_train.commands import run_directory
from hiphop_train.commands.lock import RunLock
from hiphop_train.config_files import config_directory
from hiphop_train.errors import ConfigError

Words = Annotated[str, Field(pattern=r"^[^\s]+$")]


@dataclass(frozen=True)
class Slurm:
    """What a job asks for, in sbatch's terms.

    Attributes
    ----------
    time : of one job, such as 24:00:00, or minutes
    nodes, gpus_per_node, tasks_per_node, cpus_per_task : a task for each GPU by default
    memory : of a node, such as 64G
    partition, account, qos, name : of the job
    array : seeds, such as 0-4 or 1,5: a run for each
    options : further ones of sbatch
    """

    time: Annotated[str, Field(pattern=r"^[0-9]+([-:][0-9]+)*$")] | PositiveInt = "24:00:00"
    nodes: PositiveInt = 1
    gpus_per_node: NonNegativeInt = 1
    tasks_per_node: PositiveInt | None = None
    cpus_per_task: PositiveInt = 8
    memory: Words | None = None
    partition: Words | None = None
    account: Words | None = None
    qos: Words | None = None
    name: Words = "hiphop-train"
    array: Annotated[str, Field(pattern=r"^[0-9][0-9,%:-]*$")] | None = None
    options: list[Annotated[str, Field(pattern=r"^-")]] = field(default_factory=list)

    def arguments(self, log: Path) -> list[str]:
        """Return the options of sbatch."""
        given = {
            "job-name": self.name,
            "time": self.time,
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks_per_node or max(1, self.gpus_per_node),
            "gpus-per-node": self.gpus_per_node,
            "cpus-per-task": self.cpus_per_task,
            "mem": self.memory,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "array": self.array,
            "output": log / ("slurm-%A_%a.out" if self.array else "slurm-%j.out"),
        }
        return [f"--{key}={value}" for key, value in given.items() if value is not None] + list(self.options)


def submit(config: DictConfig, overrides: Sequence[str]) -> int:
    """Submit a training whose configuration has been checked; return 0.

    Parameters
    ----------
    config : with a section submit
    overrides : of the command line, which the job takes without those of submit

    Raises
    ------
    ConfigError
        if there is no sbatch, or it refuses the job
    """
    job: Slurm = build.make_part(config.submit, "submit")
    if job.tasks_per_node is not None and job.gpus_per_node not in (0, job.tasks_per_node):
        raise ConfigError(
            f"submit.tasks_per_node={job.tasks_per_node}, submit.gpus_per_node={job.gpus_per_node}: one task per GPU "
            "is needed; leave out tasks_per_node"
        )
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "submit=slurm: there is no sbatch on this machine; submit from a login node of the cluster, or leave out "
            "submit=slurm to train here"
        )
    path = run_directory.run_directory(config).resolve()
    with RunLock(path) as lock:
        if run_directory.find(config, lock).finished:
            print(f"this run was completed before; resume=never starts it over\nrun directory: {path}")
            return 0
    with files.told(path):
        path.mkdir(parents=True, exist_ok=True)
    ours = ("submit", "run_dir", "resume")
    kept = [word for word in overrides if re.split(r"[.=]", word.lstrip("+~"), maxsplit=1)[0] not in ours]
    script = config_directory() / "submit" / "train.sbatch"
    command = shlex.join(["sbatch", "--parsable", *job.arguments(path), str(script), *kept, f"run_dir={path}"])
    written = path / "submit.sh"
    files.write_text(
        written,
        "#!/bin/sh\n# Submits this run; the same again continues it.\n"
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1\n"
        f"HIPHOP_VENV={shlex.quote(sys.prefix)} exec {command}\n",
    )
    done = subprocess.run(["sh", str(written)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"sbatch refuses the job: {done.stderr.strip()}\n  it was submitted by {written}")
    number = done.stdout.strip().partition(";")[0]
    log = path / (f"slurm-{number}_*.out" if job.array else f"slurm-{number}.out")
    print(f"submitted  job {number}; state: squeue --job={number}; end it: scancel {number}")
    print(f"log        {log}\nrun directory: {path}", flush=True)
    return 0
