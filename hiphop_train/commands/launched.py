"""The jobs of a sweep as jobs of Slurm, through submitit; conf/hydra/launcher/slurm.yaml says what each asks for."""

import pickle
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hiphop_train.commands.progress import progress
from hiphop_train.config_files import config_directory
from hiphop_train.errors import ConfigError, did_you_mean

CHOICE = "hydra/launcher=slurm"
SETTINGS = "hydra.launcher."
Job = Callable[[list[str]], tuple[int, str]]
"""Trains as overrides say, and returns the exit code and what went wrong."""


def is_launched(overrides: Sequence[str]) -> bool:
    """Whether a sweep chooses this launcher."""
    return CHOICE in overrides


def split(overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate the settings of the launcher from those of the trainings.

    Returns
    -------
    overrides : of the trainings
    settings : of the launcher, with its defaults

    Raises
    ------
    ConfigError
        for a setting that it does not have
    """
    file = config_directory() / "hydra" / "launcher" / "slurm.yaml"
    settings: dict[str, Any] = yaml.safe_load(file.read_text())
    given = [word for word in overrides if word.startswith(SETTINGS)]
    try:
        chosen = OmegaConf.from_dotlist([word.removeprefix(SETTINGS) for word in given])
    except OmegaConfBaseException as error:
        raise ConfigError(f"{SETTINGS}: {error}") from error
    for key in chosen:
        if key not in settings:
            raise ConfigError(
                f"{SETTINGS}{key!s}: unknown key{did_you_mean(str(key), settings)}\n  allowed: {', '.join(settings)}"
            )
    plain = OmegaConf.to_container(OmegaConf.merge(settings, chosen))
    assert isinstance(plain, dict)
    return [word for word in overrides if word not in given and word != CHOICE], {str(k): v for k, v in plain.items()}


def launch(train: Job, jobs: Sequence[list[str]], settings: dict[str, Any]) -> list[tuple[int, str]]:
    """Run trainings as jobs of Slurm, wait for all, and return each one's exit code and what went wrong.

    Parameters
    ----------
    train : called in each job with its overrides
    jobs : overrides of each
    settings : of `split`

    Raises
    ------
    ConfigError
        without submitit or Slurm, or where Slurm refuses the jobs
    """
    folder = Path.cwd() / "runs" / ".submitit"
    jobs_of = executor(settings, folder)
    with refused():
        submitted = jobs_of.map_array(train, jobs)
    print(f"submitted  {len(submitted)} jobs: {', '.join(job.job_id for job in submitted)}; Ctrl-C leaves them running")
    print(f"logs       {folder}", flush=True)
    outcomes: dict[str, tuple[int, str]] = {}
    gone: set[str] = set()
    with progress("trainings on Slurm", len(submitted)) as advance:
        while len(outcomes) < len(submitted):
            time.sleep(1.0)
            queued = _queued([job.job_id for job in submitted])
            for job in submitted:
                if job.job_id in outcomes or not (job.paths.result_pickle.exists() or job.job_id in gone):
                    continue
                outcomes[job.job_id] = _outcome(job)
                advance(1)
            gone = {job.job_id for job in submitted} - queued  # its result may still be on the way: one more look
    return [outcomes[job.job_id] for job in submitted]


def executor(settings: dict[str, Any], folder: Path) -> Any:
    """Return what submits jobs.

    Parameters
    ----------
    settings : of `split`
    folder : for their logs

    Raises
    ------
    ConfigError
        without submitit or Slurm, or for a setting that it refuses
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ConfigError(f'{CHOICE} needs submitit: pip install "hiphop-train[slurm]"') from error
    common = {"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name"}
    common.add("stderr_to_stdout")
    values = {k if k in common else f"slurm_{k}": v for k, v in settings.items() if v is not None}
    retries = values.pop("slurm_max_num_timeout")
    with refused():
        made = submitit.AutoExecutor(folder / "%j", cluster="slurm", slurm_max_num_timeout=retries)
        made.update_parameters(**values)
    return made


@contextmanager
def refused() -> Iterator[None]:
    """Turn what submitit and Slurm refuse into a `ConfigError`."""
    import submitit

    try:
        yield
    except (RuntimeError, TypeError, ValueError, AssertionError, submitit.core.utils.FailedJobError) as error:
        raise ConfigError(f"{CHOICE}: {str(error).strip() or repr(error)}") from error


def ended(job: Any) -> tuple[int, str] | None:
    """Return exit code and problem of a job of `executor`; None while it waits or runs."""
    if not job.paths.result_pickle.exists():
        if job.job_id in _queued([job.job_id]):
            return None
        time.sleep(1.0)  # its result may still be on the way
    return _outcome(job)


def _queued(ids: Sequence[str]) -> set[str]:
    """Return which jobs wait or run; accounting, which not every cluster has, is not needed."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={','.join(ids)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "Invalid job id" not in done.stderr:
        return set(ids)  # the controller does not answer: wait
    return set(done.stdout.split())


def _outcome(job: Any) -> tuple[int, str]:
    """Return exit code and problem of a job that has ended."""
    if not job.paths.result_pickle.exists():
        return (
            1,
            f"job {job.job_id} ended without a result: killed, cancelled or out of its time; log: {job.paths.stderr}",
        )
    outcome, result = pickle.loads(job.paths.result_pickle.read_bytes())  # written by our own job
    return result if outcome == "success" else (1, str(result).strip().splitlines()[-1])
