"""hiphop-train: train, evaluate, export."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig

from hiphop_train import build, checkpoint, files, stored
from hiphop_train.accelerate import Acceleration, Choice, accelerate
from hiphop_train.accelerate.precision import matmul_precision
from hiphop_train.commands import finetune, preflight, run_directory
from hiphop_train.commands.finish import finish
from hiphop_train.commands.lock import RunLock
from hiphop_train.commands.progress import progress
from hiphop_train.commands.targets import check_targets
from hiphop_train.commands.trainer import make_trainer
from hiphop_train.data.module import DataModule
from hiphop_train.data.splits import store_splits
from hiphop_train.data.statistics import Statistics
from hiphop_train.errors import ConfigError, TrainingError
from hiphop_train.evaluation import report
from hiphop_train.potential import Potential
from hiphop_train.training import callbacks, ranks, stopping
from hiphop_train.training.checkpoint_files import SealedCheckpoints, checkpoints
from hiphop_train.training.finetuning import Finetuning
from hiphop_train.training.guard import Guard, is_out_of_memory
from hiphop_train.training.metrics_file import MetricsFile
from hiphop_train.training.module import PotentialModule
from hiphop_train.training.rehearsal import Rehearse, Rehearsed
from hiphop_train.training.statistics import fit_representation


@dataclass(frozen=True)
class TrainResult:
    """Result of a training.

    Attributes
    ----------
    run_dir : directory of checkpoints, exported file, metrics and pictures
    errors : split -> table of errors; empty on ranks that do not evaluate, and for a run that was completed before
    exit_code : 0; where the training was stopped, 128 + signal, or 124 by trainer.max_time
    """

    run_dir: Path
    errors: dict[str, Any]
    exit_code: int


def train(config: DictConfig) -> TrainResult:
    """Train a potential as configured; evaluate and export it.

    Nothing is written before configuration, data and run directory have been checked. A training that was completed
    or stopped goes on where it was: the same command makes what is still missing.
    """
    ranks.follow()
    limit = stopping.duration(config.trainer.get("max_time"))
    lock = RunLock(run_directory.run_directory(config))
    with stopping.Stop(limit) as stop, lock:
        run = run_directory.find(config, lock)
        if run.finished:
            print("this run was completed before; resume=never starts it over")
            print(f"run directory: {run.path.resolve()}", flush=True)
            return TrainResult(run.path, {}, 0)
        return _train(config, run, lock, stop)


def _train(config: DictConfig, run: run_directory.RunDirectory, lock: RunLock, stop: stopping.Stop) -> TrainResult:
    dtype = build.DTYPES[config.dtype]
    finetuning = _finetuning(config)
    torch.manual_seed(config.seed)
    potential = build.make_potential(config.model, dtype)
    data = build.make_data(config.data, potential, dtype, config.seed)
    data.check_workers()
    data.progress = progress
    loss = build.make_part(config.loss, "loss")
    check_targets(loss, potential, data, config.data)
    run_directory.check_continuity(run, config, data.fingerprint())
    statistics, theories, remarks = _initialise(config, finetuning, potential, data)
    finetuning.prepare(potential)
    watchers = finetune.watch(finetuning, potential, data)
    rates = finetuning.groups(potential, config.optimizer.get("lr", 0.0))
    fitted = {"init_weights": config.init_weights} if statistics is None else statistics.plain()
    record = checkpoint.make_record(run_directory.resolved(config), data.fingerprint(), fitted, theories)
    module = PotentialModule(
        potential,
        loss,
        build.make_part(config.optimizer, "optimizer", params=rates),
        build.make_part(config.scheduler, "scheduler"),
        record,
        bool(config.trainer.get("shard_optimizer", False)),
    )
    clock, states, guard = callbacks.Clock(), SealedCheckpoints(), _guard(config, run.path)
    rehearse = Rehearse(config.preflight, guard, lambda found: preflight.tell(found, config, run.path, module))
    trainer = _make_trainer(config, run, module, [rehearse], [clock, stop, guard, *watchers], states)
    device, precision = trainer.strategy.root_device, config.trainer.get("precision", "full")
    fast = accelerate(potential, dtype, device, "training", _choice(config), precision)
    data.prepare = fast.prepare
    if trainer.is_global_zero:
        run_directory.make(run, config, lock)
        if config.preflight != "off":
            preflight.check_disk(potential, run.path)
        store_splits(run.path / "splits.npz", data.splits, data.checksum)
        _print_start(config, run, module, data, statistics, fast)
        finetune.describe(potential, data, rates, remarks)
        print(f"output     {run.path}", flush=True)
    start_from = None if run.start_from is None else str(run.start_from)
    precision_of_products = matmul_precision(config.trainer.get("matmul_precision", "highest"))
    try:
        scratch = files.scratch(f"{run.path.resolve()} {trainer.global_rank}")
        with precision_of_products, scratch, ranks.lead(trainer.world_size):
            trainer.fit(module, datamodule=data, ckpt_path=start_from, weights_only=True)
    except Rehearsed:
        return TrainResult(run.path, {}, 0)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise TrainingError(guard.out_of_memory()) from error
        if ranks.is_lost(error):
            raise TrainingError(ranks.LOST) from error
        raise
    if not trainer.is_global_zero:
        return TrainResult(run.path, {}, stop.exit_code)
    states.flush()
    return TrainResult(run.path, _finish(config, run, data, trainer, clock, stop), stop.exit_code)


def _finish(
    config: DictConfig,
    run: run_directory.RunDirectory,
    data: DataModule,
    trainer: Trainer,
    clock: callbacks.Clock,
    stop: stopping.Stop,
) -> dict[str, Any]:
    """Evaluate and export, unless a signal asked for a quick end; Ctrl-C is a user's, who waits for results."""
    summary = {
        "status": "stopped" if stop.exit_code else "completed",
        "epochs": trainer.current_epoch,
        "training_seconds": clock.seconds,
    }
    if stop.received not in (None, signal.SIGINT):
        report.write_json(run.path / "metrics.json", summary)
        print(
            f"stopped    the state is saved; the same command goes on\nrun directory: {run.path.resolve()}", flush=True
        )
        return {}
    stop.after_training("in the final evaluation; the training is saved, and the same command makes what is missing")
    trusted = stored.targets(run_directory.resolved(config)["model"])
    device = str(trainer.strategy.root_device)
    errors = finish(run.path, data, summary, device, _choice(config), trusted, config.pictures)
    print(f"run directory: {run.path.resolve()}", flush=True)
    return errors


def _finetuning(config: DictConfig) -> Finetuning:
    """Return how given weights are trained on."""
    found: Finetuning = build.make_part(config.finetune, "finetune")
    if config.init_weights is None and found.plain() != Finetuning().plain():
        usual = Finetuning().plain()
        key = next(key for key, value in found.plain().items() if value != usual[key])
        raise ConfigError(f"finetune.{key} says how given weights are trained on; give them: init_weights=RUN")
    return found


def _initialise(
    config: DictConfig, finetuning: Finetuning, potential: Potential, data: DataModule
) -> tuple[Statistics | None, list[str], list[str]]:
    """Fit E0, scale and standardisation to the training labels, or take everything from given weights.

    Returns
    -------
    statistics : of the training labels; None with given weights
    theories : names of the levels of theory, in the order of E0
    remarks : what there is to say of given weights
    """
    if config.init_weights is not None:
        return None, *finetune.begin(config, finetuning, potential, data)
    statistics = data.statistics()
    potential.set_statistics(statistics.e0, statistics.scale)
    fit_representation(potential, data)
    return statistics, list(data.structures.theory_names), []


def _guard(config: DictConfig, run_dir: Path) -> Guard:
    """Return what answers bad batches."""
    section = config.trainer
    return Guard(
        run_dir, section.get("bad_batches", "skip"), section.get("spike", 1e3), section.get("max_bad_batches", 20)
    )


def _choice(config: DictConfig) -> Choice:
    """Whether C may be compiled."""
    choice: Choice = config.trainer.get("compile", "auto")
    return choice


def _make_trainer(
    config: DictConfig,
    run: run_directory.RunDirectory,
    module: PotentialModule,
    first: list[Callback],
    more: list[Callback],
    states: SealedCheckpoints,
) -> Trainer:
    logged = None if config.preflight == "full" else config.logger  # which would open a run of W&B
    loggers = build.make_parts(logged, "logger", run_dir=run.path)
    watchers = [
        *first,
        *build.make_parts(config.callbacks, "callbacks"),
        *module.schedule.callbacks(),
        MetricsFile(run.path / "metrics.csv"),
        *checkpoints(run.path / "checkpoints"),
        callbacks.progress(),
        *more,
    ]
    return make_trainer(config.trainer, watchers, loggers, run.path, states)


def _print_start(
    config: DictConfig,
    run: run_directory.RunDirectory,
    module: PotentialModule,
    data: DataModule,
    statistics: Statistics | None,
    fast: Acceleration,
) -> None:
    """Print what is trained on what, and where it goes."""
    parts = ", ".join(f"{name} {len(index):,}" for name, index in data.splits.items())
    potential = module.potential
    n_parameters = sum(parameter.numel() for parameter in potential.parameters())
    structures = data.structures
    n_forces = int(structures.has_forces.sum())
    print(f"data       {structures.source}: {parts} structures")
    if n_forces < len(structures):
        print(f"           forces of {n_forces:,} of {len(structures):,}; the others train on energies only")
    for key in sorted(structures.labels.keys() - {"energy", "forces"}):
        print(f"           {key} of {int(structures.has(key).sum()):,} of {len(structures):,}")
    mixed = ", bf16-mixed" if config.trainer.get("precision") == "bf16-mixed" else ""
    print(f"model      {config.model['_target_'].split('.')[-1]}, {n_parameters:,} parameters, {config.dtype}{mixed}")
    for name, energies in zip(structures.theory_names, potential.e0.tolist(), strict=True):
        e0 = ", ".join(f"{symbol} {energy:.3f}" for symbol, energy in zip(potential.elements, energies, strict=True))
        print(f"E0         {e0} eV{f' ({name})' if len(structures.theory_names) > 1 else ''}")
    if statistics is None:
        print(f"weights    {config.init_weights}, with its E0")
    else:
        print(
            f"           {'fitted' if statistics.fitted else 'given'}; residual standard deviation "
            f"{statistics.residual:.3f} eV"
        )
        if statistics.fitted and statistics.rank < len(potential.elements):
            print(
                f"           the training compositions determine only {statistics.rank} of {len(potential.elements)} "
                "values; the solution of least norm is used, so energies are valid for such compositions only"
            )
    print(f"accelerate {fast}")
    for key in module.untrained:
        print(f"untrained  {key}: loss.{key} has no weight, so the model's {key} will be meaningless")
    if run.start_from is not None:
        print(f"resumes    from {run.start_from}")
