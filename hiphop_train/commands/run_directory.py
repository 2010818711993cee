"""The run directory: its name is a function of what defines the run, so that a requeued job finds its checkpoint."""

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from hiphop_train import checkpoint, files
from hiphop_train.commands import recovery
from hiphop_train.commands.lock import NAME, RunLock, first_process
from hiphop_train.commands.run_folder import refuse_foreign
from hiphop_train.errors import CheckpointError, ConfigError, InUseError
from hiphop_train.training.finetuning import Finetuning

INCIDENTAL = {
    "run_dir",
    "resume",
    "preflight",
    "pictures",
    "logger",
    "submit",
    "sweep",
    "data.num_workers",
    "data.eval_batch_size",
    "data.pack",
    "data.packed",
    "trainer.accelerator",
    "trainer.bad_batches",
    "trainer.compile",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.max_time",
    "trainer.log_every_n_steps",
    "trainer.max_bad_batches",
    "trainer.shard_optimizer",
    "trainer.spike",
    "trainer.enable_model_summary",
}
"""What may differ between two starts of one run: where it runs, how it is logged, how faults are answered."""

ADDED: dict[str, Any] = {
    "init_weights": None,
    "finetune": Finetuning().plain(),
    "data.batch_by": "structures",
    "data.bucket": 1,
    "data.format": "extxyz",
    **{f"data.{part}{key}": None for part in ("", "reader.") for key in ("stress_key", "virial_key", "dipole_key")},
    **{f"data.reader.levels.{theory}.dipole": None for theory in ("dz", "tz", "ccx")},
    "data.reader.stress_unit": "eV/angstrom^3",
    "data.reader.stress_sign": "tension_positive",
    "data.reader.virial_unit": "eV",
    "data.reader.dipole_unit": "e*angstrom",
    "loss.stress": {"_target_": "hiphop_train.training.losses.ErrorLoss"},
    "loss.dipole": {"_target_": "hiphop_train.training.losses.ErrorLoss"},
    "trainer.precision": "full",
    "trainer.matmul_precision": "highest",
}
"""What defines a run only where it differs from this, so that runs from before the key existed are found again."""


@dataclass(frozen=True)
class RunDirectory:
    """The directory of a run, and what it already contains.

    Attributes
    ----------
    path : the directory
    start_from : checkpoint from which training resumes, or None
    finished : whether the run has been completed before, with all its results
    recovered : the newest good state of the directory
    """

    path: Path
    start_from: Path | None
    finished: bool
    recovered: recovery.Recovered


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain data."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def definition(config: dict[str, Any]) -> dict[str, Any]:
    """Return what defines a run, as dotted paths."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: dict[str, Any]) -> None:
        for key, value in node.items():
            path = f"{prefix}{key}"
            if path in INCIDENTAL or (path in ADDED and value == ADDED[path]):
                continue
            if isinstance(value, dict):
                visit(f"{path}.", value)
            else:  # readers have moved since: their earlier names find runs again
                flat[path] = checkpoint.former_reader(value) if path == "data.reader._target_" else value

    visit("", config)
    return flat


def run_name(config: DictConfig) -> str:
    """Return the name of a run: a function of what defines it."""
    plain = resolved(config)
    digest = hashlib.sha256(json.dumps(definition(plain), sort_keys=True).encode()).hexdigest()[:8]
    model = plain["model"]["_target_"].split(".")[-2]
    return f"{plain['data']['name']}-{model}-{digest}"


def run_directory(config: DictConfig) -> Path:
    """Return the path of the run directory, made or not."""
    if config.run_dir == "":
        raise ConfigError("run_dir is empty; give a folder, or leave it out")
    if config.run_dir is not None:
        return Path(config.run_dir).expanduser()
    return Path("runs") / run_name(config)


def find(config: DictConfig, lock: RunLock) -> RunDirectory:
    """Inspect the run directory and decide where training starts, without writing anything but the lock.

    Parameters
    ----------
    config : resolved or not
    lock : of the directory; taken where the directory exists, on the first of several processes
    """
    path = run_directory(config)
    if config.resume != "never" or not path.is_dir():
        refuse_foreign(path)
    start_from = _resumed_file(config)
    if path.is_dir() and first_process():
        lock.acquire()
    if config.resume == "never":
        return RunDirectory(path, start_from, False, recovery.Recovered(None, None, {}))
    recovered = recovery.newest(path)
    if recovered.content is None:
        return RunDirectory(path, start_from, False, recovered)
    _refuse_other(path, recovered.content["hiphop_train"]["config"], config)
    finished = config.resume == "auto" and _is_completed(path)
    if finished and (lacks := recovery.lacking(path)):
        files.warn(f"{lacks}; the run was completed before, its results are made again")
        finished = False
    return RunDirectory(path, start_from or recovered.file, finished, recovered)


def _resumed_file(config: DictConfig) -> Path | None:
    """Return the checkpoint that resume=PATH names."""
    if config.resume in ("auto", "never"):
        return None
    if config.init_weights is not None:
        raise ConfigError(
            "resume=PATH and init_weights=PATH exclude each other: resume continues a training as it was, "
            "init_weights starts a new one from given weights; leave out one of them"
        )
    given = Path(config.resume).expanduser()
    if given.is_dir() and (recovered := recovery.newest(given)).file is not None:  # the last state, not the best
        for sentence in recovered.sentences():
            files.warn(sentence)
        return recovered.file
    start_from, _ = checkpoint.find_checkpoint(config.resume, "resume")
    if "optimizer_states" not in checkpoint.read(start_from):
        raise CheckpointError(
            f"{start_from} contains weights only, so no training can resume from it; start one from its weights: "
            f"init_weights={config.resume}"
        )
    return start_from


def check_continuity(run: RunDirectory, config: DictConfig, fingerprint: str) -> None:
    """Raise `CheckpointError` when training would resume with another model or, in one run directory, other data."""
    if run.start_from is None:
        return
    record = checkpoint.read(run.start_from)["hiphop_train"]
    before, now = ({"model": plain["model"], "dtype": plain["dtype"]} for plain in (record["config"], resolved(config)))
    if before != now:
        raise CheckpointError(
            f"{run.start_from} contains another model:\n{_difference(definition(before), definition(now))}\n"
            "give the same model settings, or another checkpoint: resume=PATH"
        )
    if config.resume == "auto" and record["data_fingerprint"] != fingerprint:
        raise CheckpointError(
            f"the data are not those that {run.start_from} was trained on (fingerprint: stored "
            f"{record['data_fingerprint']}, found {fingerprint}); restore the original file, or choose another run_dir"
        )


def make(run: RunDirectory, config: DictConfig, lock: RunLock) -> None:
    """Make the run directory, put right what can be, and store the resolved configuration in it.

    With resume=never, an existing directory is kept under another name.
    """
    try:
        if config.resume == "never" and run.path.exists() and any(path.name != NAME for path in run.path.iterdir()):
            names = (run.path.with_name(f"{run.path.name}.{number}") for number in itertools.count(1))
            aside = next(name for name in names if not name.exists())
            lock.release()
            run.path.rename(aside)
            print(f"kept the earlier run as {aside}")
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the run directory {run.path} cannot be written ({error.strerror}); choose another: run_dir=PATH"
        ) from error
    if not lock.held:
        lock.acquire()
        if recovery.newest(run.path).file is not None:
            raise InUseError(f"{run.path} was used by another process meanwhile; give the command again")
    recovery.repair(run.path, run.recovered)
    files.write_text(run.path / "config.yaml", yaml.safe_dump(resolved(config), sort_keys=False))


def _refuse_other(path: Path, stored: dict[str, Any], config: DictConfig) -> None:
    before, now = definition(stored), definition(resolved(config))
    if before != now:
        raise ConfigError(
            f"{path} contains a run of another configuration:\n{_difference(before, now)}\n"
            "choose another run_dir, or start over with resume=never (the earlier run is kept under another name)"
        )


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return "\n".join(f"  {key}: stored {before.get(key)!r}, requested {now.get(key)!r}" for key in changed[:20])


def _is_completed(path: Path) -> bool:
    try:
        return bool(json.loads((path / "metrics.json").read_text())["status"] == "completed")
    except (OSError, ValueError, KeyError, TypeError):
        return False
