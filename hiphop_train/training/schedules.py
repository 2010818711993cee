"""Learning-rate schedules, and the original's raising of the batch size on a plateau."""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau

MONITOR = "val/error"
"""What schedules and checkpoints watch: the sum over targets of MAE + RMSE on the validation split, in their reported
units. Energy and forces are always part of it, as far as they have labels; further targets (stress in GPa, dipole in
debye) are where the loss weighs them, so that a label which is only reported does not choose the checkpoint."""

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Schedule(ABC):
    """What changes while training goes on."""

    @abstractmethod
    def schedulers(self, optimizer: Optimizer, n_steps: int) -> list[dict[str, Any]]:
        """Return learning-rate schedulers in Lightning's form, for a training of `n_steps` steps."""

    @abstractmethod
    def callbacks(self) -> list[Callback]:
        """Return callbacks that the schedule needs."""


class CosineSchedule(Schedule):
    """Rise linearly, then fall along a cosine over the whole training.

    Parameters
    ----------
    warmup_fraction : share of the steps that the rise takes
    final_factor : learning rate at the end, as a share of the highest
    """

    def __init__(self, warmup_fraction: Fraction, final_factor: Fraction) -> None:
        self.warmup_fraction = warmup_fraction
        self.final_factor = final_factor

    def schedulers(self, optimizer: Optimizer, n_steps: int) -> list[dict[str, Any]]:
        """Return one scheduler that advances at every step."""
        warmup = max(1, round(self.warmup_fraction * n_steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            progress = min(1.0, (step - warmup) / max(1, n_steps - warmup))
            return self.final_factor + (1 - self.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))

        return [_at_each("step", LambdaLR(optimizer, factor))]

    def callbacks(self) -> list[Callback]:
        """Return none."""
        return []


class PlateauSchedule(Schedule):
    """Lower the learning rate when the validation loss has not improved for a while, after a linear rise.

    Parameters
    ----------
    factor : by which the rate falls
    patience : epochs without improvement before it falls
    warmup_steps : steps of the rise
    min_rate : lowest learning rate
    stop_rate : the training ends when the rate has fallen below it; 0 never ends it
    """

    def __init__(
        self,
        factor: Fraction,
        patience: NonNegativeInt,
        warmup_steps: NonNegativeInt,
        min_rate: NonNegativeFloat,
        stop_rate: NonNegativeFloat = 0.0,
    ) -> None:
        self.factor = factor
        self.patience = patience
        self.warmup_steps = warmup_steps
        self.min_rate = min_rate
        self.stop_rate = stop_rate

    def schedulers(self, optimizer: Optimizer, n_steps: int) -> list[dict[str, Any]]:
        """Return the rise, at every step, and the plateau, at every epoch."""
        plateau = ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience, min_lr=self.min_rate)
        found = [{**_at_each("epoch", plateau), "monitor": MONITOR}]
        if self.warmup_steps > 0:
            rise = LinearLR(optimizer, start_factor=1 / (self.warmup_steps + 1), total_iters=self.warmup_steps)
            found.append(_at_each("step", rise))
        return found

    def callbacks(self) -> list[Callback]:
        """Return what ends the training at the lowest rate, if anything does."""
        return [_StopBelow(self.stop_rate)] if self.stop_rate > 0 else []


class _StopBelow(Callback):
    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.highest = 0.0  # before it fell: a rise from nothing must not end the training

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        self.highest = max(self.highest, rate)
        if rate < self.rate < self.highest:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"highest": self.highest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.highest = state_dict["highest"]


class ExponentialSchedule(Schedule):
    """Lower the learning rate exponentially, a little at every step.

    Parameters
    ----------
    factor : by which the rate falls in `n_steps` steps
    n_steps : see there
    """

    def __init__(self, factor: Fraction, n_steps: PositiveInt) -> None:
        self.factor = factor
        self.n_steps = n_steps

    def schedulers(self, optimizer: Optimizer, n_steps: int) -> list[dict[str, Any]]:
        """Return one scheduler that advances at every step; the length of the training means nothing to it."""
        return [_at_each("step", LambdaLR(optimizer, lambda step: self.factor ** (step / self.n_steps)))]

    def callbacks(self) -> list[Callback]:
        """Return none."""
        return []


class RaiseBatchSize(Schedule):
    """Raise the batch size on a plateau of the validation loss, and at its limit lower the learning rate.

    This is how HIP-NN is trained: a larger batch has less noise, as a lower learning rate has, at less cost
    (Smith et al., arXiv 1711.00489).

    Parameters
    ----------
    factor : by which the learning rate would fall; the batch size rises by its inverse
    patience : epochs without improvement before that
    max_batch_size : from which on the learning rate falls
    """

    def __init__(self, factor: Fraction, patience: NonNegativeInt, max_batch_size: PositiveInt) -> None:
        self.factor = factor
        self.patience = patience
        self.max_batch_size = max_batch_size

    def schedulers(self, optimizer: Optimizer, n_steps: int) -> list[dict[str, Any]]:
        """Return none: the callback does it."""
        return []

    def callbacks(self) -> list[Callback]:
        """Return the callback that watches the validation loss."""
        return [_BatchSizeRaiser(self.factor, self.patience, self.max_batch_size)]


class _BatchSizeRaiser(Callback):
    def __init__(self, factor: float, patience: int, max_batch_size: int) -> None:
        self.factor = factor
        self.patience = patience
        self.max_batch_size = max_batch_size
        self.best = math.inf
        self.waited = 0
        self.batch_size = 0  # 0 until raised

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.batch_size:
            trainer.datamodule.batch_size = self.batch_size  # type: ignore[attr-defined]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics[MONITOR])
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited <= self.patience:
            return
        self.waited = 0
        data = trainer.datamodule  # type: ignore[attr-defined]
        if data.batch_size < self.max_batch_size:
            # the loader is made anew for every epoch and takes this size then
            data.batch_size = self.batch_size = min(self.max_batch_size, round(data.batch_size / self.factor))
        else:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] *= self.factor

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "batch_size": self.batch_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.waited = state_dict["best"], state_dict["waited"]
        self.batch_size = state_dict["batch_size"]


def _at_each(interval: Literal["step", "epoch"], scheduler: LRScheduler) -> dict[str, Any]:
    return {"scheduler": scheduler, "interval": interval}
