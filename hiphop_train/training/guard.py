"""Bad batches: what is done about losses and gradients that are not finite or far outside of the usual."""

import math
from collections import deque
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ase.io
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from hiphop_train import files
from hiphop_train.data.atoms import to_atoms
from hiphop_train.errors import TrainingError
from hiphop_train.training.schedules import MONITOR
from hiphop_train.types import Batch

Policy = Literal["skip", "roll_back", "stop"]
"""Take no step on a bad batch; return to the last saved state with half the rate; end the training."""

USUAL = 200
"""Steps whose losses and gradients make up what is usual."""

FROM = 50
"""Steps before anything but numbers that are not finite is unusual."""

DIVERGED = 1e3
"""Factor over the loss of the first step, that of fitted E0 and scale, above which a training leads away."""

PATIENCE = 20
"""Consecutive steps above it, or those of an epoch if it has fewer."""

DRAWN = 5
"""Bad batches that are written."""

EVERY = 50
"""Steps after which a GPU is asked for what it has seen: each question waits for it."""


class Seen(NamedTuple):
    """What is kept of a step until it is judged: its number, its structures, and [loss, norm, bad] on the device."""

    step: int
    sample: Tensor
    values: Tensor


class Guard(Callback):
    """Watches the loss and the norm of the gradient of each step.

    A step is bad where one of them is not finite, or exceeds `spike` times the 90 % quantile of the last 200. The
    optimizer leaves it out; on a GPU a fused optimizer does so without being asked about it by the host.

    Parameters
    ----------
    run_dir : where the structures of bad batches are written
    policy : what is done besides
    spike : factor over the usual
    most : bad batches after which the training ends
    """

    def __init__(self, run_dir: Path, policy: Policy = "skip", spike: float = 1e3, most: int = 20) -> None:
        self.run_dir, self.policy, self.spike, self.most = run_dir, policy, spike, most
        self.bad = 0
        self.first: float | None = None
        self.largest = (0, 0, 0)
        self._usual: deque[tuple[float, float]] = deque(maxlen=USUAL)
        self._limits: Tensor | None = None
        self._away = 0
        self._seen: list[Seen] = []
        self._batch: Batch | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Keep the batch at hand."""
        self._batch = batch

    def rehearses(self, batch: Batch | None) -> None:
        """Keep the batch of a rehearsal at hand, and let it go."""
        self._batch = batch

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the batch at hand."""
        self._batch = batch

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Judge the step, and leave it out where it is bad."""
        assert self._batch is not None
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        loss: Tensor = pl_module.latest_loss  # type: ignore[assignment]
        values = torch.stack([loss.to(norm), norm])
        if self._limits is None:
            self._limits = torch.full_like(values, math.inf)
        bad = ~(values < self._limits).all()  # of numbers that are not finite, no comparison is true
        if trainer.world_size > 1:
            bad = trainer.strategy.reduce(bad.to(values), reduce_op="max") > 0
        self._seen.append(Seen(trainer.global_step, self._batch.sample, torch.cat([values, bad.to(values)[None]])))
        if values.is_cuda and optimizer.defaults.get("fused"):
            getattr(optimizer, "optim", optimizer).found_inf = bad.to(torch.float32)  # a sharded one holds its own
        elif bool(bad):
            for parameter in pl_module.parameters():
                parameter.grad = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Answer bad steps: at once on a CPU, from time to time on a GPU."""
        graph = self._batch.graph if self._batch is not None else None
        if graph is not None:
            self.largest = max(self.largest, sizes(self._batch), key=lambda size: size[2])  # type: ignore[arg-type]
        if self._seen and (not self._seen[-1].values.is_cuda or len(self._seen) >= EVERY or trainer.is_last_batch):
            self._judge(trainer, pl_module)

    def _judge(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seen, self._seen = self._seen, []
        numbers = torch.stack([each.values for each in seen]).tolist()
        for step, (loss, norm, bad) in zip(seen, numbers, strict=True):
            self.first = loss if self.first is None and math.isfinite(loss) else self.first
            self._away = self._away + 1 if self.first is not None and loss > DIVERGED * self.first else 0
            if bad:
                self._answer(trainer, pl_module, step, loss, norm)
            else:
                self._usual.append((loss, norm))
            if self._away >= min(PATIENCE, trainer.num_training_batches):
                raise TrainingError(
                    f"the training diverges: at step {step.step:,} the loss is {loss:.3g}, after {self.first:.3g} at "
                    f"the first step. {_advice(trainer)}"
                )
        if len(self._usual) >= FROM and self._limits is not None:
            usual = torch.tensor(np.quantile(np.array(self._usual), 0.9, axis=0)).to(self._limits)
            self._limits = self.spike * usual.clamp(min=1e-30)

    def _answer(self, trainer: Trainer, pl_module: LightningModule, step: Seen, loss: float, norm: float) -> None:
        self.bad += 1
        where = self._draw(trainer, step, loss, norm)
        said = f"step {step.step:,}: loss {loss:.3g}, norm of the gradient {norm:.3g}{where}"
        if self.policy == "stop" or self.bad >= self.most:
            reason = "" if self.policy == "stop" else f"{self.bad} bad batches, trainer.max_bad_batches={self.most}; "
            raise TrainingError(f"{reason}{said}. {_advice(trainer)}")
        if self.policy == "roll_back" and self._roll_back(trainer, pl_module):
            said += "; returned to the last saved state, with half the rate"
        if trainer.is_global_zero:
            files.warn(f"bad batch {self.bad} is left out, {said}")

    def _draw(self, trainer: Trainer, step: Seen, loss: float, norm: float) -> str:
        """Write the structures of a bad batch, with labels and running numbers; return a hint."""
        if self.bad > DRAWN:
            return ""
        rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = self.run_dir / "bad_batches" / f"step{step.step:08d}{rank}.xyz"
        structures = trainer.datamodule.train_structures.take(step.sample.cpu().numpy())  # type: ignore[attr-defined]
        infos = [
            {"structure": index, "group": structures.group_names[group], "batch_loss": loss, "batch_gradient": norm}
            for index, group in zip(structures.conformation.tolist(), structures.group.tolist(), strict=True)
        ]
        with files.told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as temporary:
            ase.io.write(temporary, to_atoms(structures, infos), format="extxyz")
        return f", its {len(structures)} structures are in {path}"

    def _roll_back(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Take weights and optimizer of last.ckpt; the order of the data, and the schedule at half the rate, go on."""
        last = self.run_dir / "checkpoints" / "last.ckpt"
        if not last.is_file():
            return False
        content = torch.load(last, map_location="cpu", weights_only=True)
        pl_module.load_state_dict(content.get("current_model_state", content["state_dict"]))
        optimizer = trainer.optimizers[0]
        rates = [{"lr": g["lr"], "initial_lr": g.get("initial_lr", g["lr"])} for g in optimizer.param_groups]
        optimizer.load_state_dict(content["optimizer_states"][0])
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group.update({key: 0.5 * value for key, value in rate.items()})
        for config in trainer.lr_scheduler_configs:
            if hasattr(config.scheduler, "base_lrs"):
                config.scheduler.base_lrs = [0.5 * rate for rate in config.scheduler.base_lrs]
        return True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a training whose validation is not finite, which no state of it could repair."""
        score = float(trainer.callback_metrics.get(MONITOR, 0.0))
        if not math.isfinite(score):
            raise TrainingError(
                f"the validation errors are not finite after step {trainer.global_step:,}, so the weights are not "
                f"usable. {_advice(trainer)}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        usual = [list(pair) for pair in self._usual]
        return {"bad": self.bad, "first": self.first, "away": self._away, "usual": usual}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what earlier starts have seen."""
        self.bad, self.first, self._away = state_dict["bad"], state_dict["first"], state_dict["away"]
        self._usual.extend((loss, norm) for loss, norm in state_dict["usual"])

    def out_of_memory(self) -> str:
        """Say what was being computed as memory ended, and which setting makes it smaller."""
        if self._batch is None:
            return "memory is too small for the data or the model alone"
        systems, atoms, pairs = sizes(self._batch)
        passed = (
            f"the largest that passed had {self.largest[0]:,} structures, {self.largest[1]:,} atoms and "
            f"{self.largest[2]:,} pairs"
            if self.largest[2]
            else "none passed before"
        )
        fits = min(systems // 2, self.largest[0]) if self.largest[2] else systems // 2
        return (
            f"memory ended in a batch of {systems:,} structures, {atoms:,} atoms and {pairs:,} pairs ({passed}); give "
            f"smaller batches: data.batch_size={max(1, fits)} in training, data.eval_batch_size in validation"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was too small: torch says so in several ways."""
    words = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)


def sizes(batch: Batch) -> tuple[int, int, int]:
    """Return the numbers of structures, atoms and pairs of a batch."""
    return batch.graph.n_systems, batch.graph.species.shape[0], batch.graph.pair_i.shape[0]


def _advice(trainer: Trainer) -> str:
    rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
    lower = min(1e-3, rate / 5)
    return (
        f"Most often the rate is too high: it is {rate:.3g}; try optimizer.lr={lower:.2g} in a new run directory, or "
        "from the weights of this one with init_weights=RUN. If single structures are to blame (bad_batches/ in the "
        "run directory), hiphop-data check FILE says more, and trainer.bad_batches=roll_back goes on with half the rate"
    )
