"""Construction of Lightning's trainer."""

import os
from pathlib import Path

import torch
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, open_dict

from hiphop_train import build


def make_trainer(
    trainer: DictConfig, callbacks: list[Callback], loggers: list[Logger], run_dir: Path, states: CheckpointIO
) -> Trainer:
    """Build Lightning's trainer; signals and max_time are left to the callback `training.stopping.Stop`."""
    section = trainer.copy()
    with open_dict(section):
        section.pop("max_time", None)
        for key in build.OWN_KEYS["trainer"]:
            section.pop(key, None)
    if section.accelerator == "auto" and not torch.cuda.is_available():
        section.accelerator = "cpu"  # Lightning would use Apple's MPS, which lacks float64
    built: Trainer = build.make_part(
        section,
        "trainer",
        callbacks=callbacks,
        plugins=[states, *_environment()],
        logger=loggers or False,
        default_root_dir=str(run_dir),
        enable_progress_bar=False,  # ours is among the callbacks
        use_distributed_sampler=False,  # our sampler divides batches over ranks
        inference_mode=False,  # forces need gradients in validation
    )
    built._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return built


def _environment() -> list[ClusterEnvironment]:
    """Return what keeps Lightning from taking one process for the tasks of a job of Slurm.

    The variables of a job are also set in its scripts and shells, where no srun has started several processes.
    """
    if "SLURM_NTASKS" not in os.environ or TorchElasticEnvironment.detect():
        return []
    return [LightningEnvironment()] if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) == 1 else []
