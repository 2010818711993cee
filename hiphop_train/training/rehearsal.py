"""Before the first epoch: real steps on real batches, whose traces are removed again."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from hiphop_train.data.batching.dataset import Share
from hiphop_train.data.batching.sampler import costs
from hiphop_train.data.module import DataModule
from hiphop_train.memory import forget_peak, free_memory, peak_memory
from hiphop_train.training.guard import Guard, sizes
from hiphop_train.types import Batch

Form = Literal["short", "full", "off"]

FEW = 50
"""Steps of a training that is its own rehearsal."""

PLANNED = {"short": 2_000, "full": 100_000}
"""Batches of an epoch among which the largest is sought."""

TRIED = 10
"""Steps by which a rate is judged."""

RISING = 120
"""Steps in which a full rehearsal raises the rate, from a ten thousandth of the training's to a hundred times it."""

GROWN = 10.0
"""Factor by which the loss of a batch grows in these steps where the rate is too high; Adam's first may double it."""


@dataclass
class Rehearsal:
    """What was found.

    Attributes
    ----------
    largest : structures, atoms and pairs of the largest batch
    peak, memory : bytes in its step, and of the device or machine; 0 if unknown
    step, load : seconds of a usual step, and of making its batch
    validation : seconds of a validation
    n_steps : per epoch
    epoch, whole : seconds of an epoch, and of what is left of the training; infinite without an end
    rate : highest learning rate
    growth : loss of a batch after some steps on it at that rate, relative to before; None if not tried
    good_rate : a lower one at which the loss falls, if it does not at `rate`
    curve : rate and loss, relative to the first, of each step at a rising rate; of a full rehearsal
    turns_at : rate at which that loss, averaged over some steps, was lowest
    """

    largest: tuple[int, int, int] = (0, 0, 0)
    peak: int = 0
    memory: int = 0
    step: float = 0.0
    load: float = 0.0
    validation: float = 0.0
    n_steps: int = 0
    epoch: float = 0.0
    whole: float = 0.0
    rate: float = 0.0
    growth: float | None = None
    good_rate: float | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)
    turns_at: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


class Rehearsed(Exception):  # noqa: N818 (no error)
    """A full rehearsal is all that was asked for."""


class Rehearse(Callback):
    """Makes the steps at the start of a training, and hands the result on.

    After a full one the training ends by `Rehearsed`. Weights, optimizer, random numbers and the order of the data are
    afterwards what they were before.

    Parameters
    ----------
    form : of the rehearsal; short ones leave out trainings of few steps
    guard : knows how to say that memory ended
    tell : gets the result, on the first rank
    """

    def __init__(self, form: Form, guard: Guard, tell: Callable[[Rehearsal], None]) -> None:
        self.form, self.guard, self.tell = form, guard, tell

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rehearse."""
        left = trainer.estimated_stepping_batches - trainer.global_step
        if self.form == "off" or (self.form == "short" and left < FEW):
            return
        found = _Rehearsing(trainer, pl_module, self.guard).all(self.form)
        if trainer.is_global_zero:
            self.tell(found)
        if self.form == "full":
            raise Rehearsed


class _Rehearsing:
    def __init__(self, trainer: Trainer, module: LightningModule, guard: Guard) -> None:
        self.trainer, self.module, self.guard = trainer, module, guard
        self.device = trainer.strategy.root_device
        self.data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.optimizer = trainer.optimizers[0]
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.found = Rehearsal(n_steps=int(trainer.num_training_batches))

    def all(self, form: Form) -> Rehearsal:
        """Make all steps."""
        usual, largest = self._shares(PLANNED[form])
        dataset = self.data.train_dataset()
        start = time.perf_counter()
        batch = self._moved(dataset[usual])
        self.gradients(batch)  # compilation and first allocations take their time
        self._peak(self._moved(dataset[largest]))
        again = self.module.training
        loads, steps = [], []
        for _ in range(3 if form == "short" else 10):
            loads.append(self._seconds(lambda: dataset[usual]))
            steps.append(self._seconds(lambda: self.gradients(batch)))
            if time.perf_counter() - start > 5.0 and form == "short" and self.trainer.world_size == 1:
                break  # of several processes, all must take the same number of steps: each adds to their sums
        self.found.load, self.found.step = min(loads), min(steps)
        self.found.validation = self._validation()
        self.module.train(again)
        self._estimate()
        self._judge_rate(batch, form)
        return self.found

    def _shares(self, most: int) -> tuple[Share, Share]:
        """Return this rank's share of a batch of usual size, and of the largest, in the first epoch."""
        sampler = self.data.train_sampler()
        sampler.set_epoch(self.trainer.current_epoch)
        shares = [share for share, _ in zip(sampler, range(most), strict=False)]
        pairs = [
            float(costs(self.data.train_structures, share.chosen, "pairs", self.data.cutoff).sum()) for share in shares
        ]
        order = np.argsort(pairs, kind="stable")
        return shares[order[len(order) // 2]], shares[order[-1]]

    def _moved(self, batch: Batch) -> Batch:
        return self.data.transfer_batch_to_device(batch, self.device, 0)

    def gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor | None]]:
        """Return loss and gradients; not by backward, which several processes would answer with a reduction."""
        loss: Tensor = self.module._loss(batch)  # type: ignore[operator]
        return loss.detach(), list(torch.autograd.grad(loss, self.trained, allow_unused=True))

    def _seconds(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def _peak(self, batch: Batch) -> None:
        """Make the step of the largest batch; where memory ends, the guard knows the batch."""
        on_gpu = self.device.type == "cuda"
        self.guard.rehearses(batch)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            forget_peak()
        self.gradients(batch)
        moments = 0 if self.optimizer.state else 2 * sum(p.nbytes for p in self.trained)  # of Adam, at the first step
        if on_gpu:
            torch.cuda.synchronize(self.device)
            self.found.peak = torch.cuda.max_memory_allocated(self.device) + moments
            self.found.memory = torch.cuda.get_device_properties(self.device).total_memory
        else:
            self.found.peak = peak_memory() + moments
            self.found.memory = peak_memory() + (free_memory() or 0)
        self.guard.rehearses(None)
        self.found.largest = sizes(batch)

    def _validation(self) -> float:
        """Seconds of a validation, by its first batch."""
        loaders = self.data.val_dataloader()
        loader = loaders[0] if isinstance(loaders, list) else loaders
        n_batches = sum(int(n) for n in self.trainer.num_val_batches if math.isfinite(n))
        if not n_batches or not len(loader):
            return 0.0
        share = next(iter(loader.sampler))
        self.module.eval()

        def work() -> None:
            batch = self._moved(loader.dataset[share])
            with torch.enable_grad():
                self.module.potential(batch.graph)  # type: ignore[operator]

        work()
        return n_batches * self._seconds(work) / max(1, self.trainer.check_val_every_n_epoch or 1)

    def _estimate(self) -> None:
        found, workers = self.found, self.data.num_workers
        each = max(found.step, found.load / workers) if workers else found.step + found.load
        found.epoch = found.n_steps * each + found.validation
        left = float(self.trainer.estimated_stepping_batches) - self.trainer.global_step
        found.whole = left / max(1, found.n_steps) * found.epoch

    def _judge_rate(self, batch: Batch, form: Form) -> None:
        """Try the highest rate on one batch, and lower ones where the loss grows; by one process, at its beginning."""
        self.found.rate = max(group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups)
        if self.trainer.world_size > 1 or self.optimizer.state:
            return
        self.found.growth = self._grown(batch, self.found.rate)
        if not self.found.growth < GROWN:
            rates = [self.found.rate * 10 ** (-k / 2) for k in range(1, 9)]
            self.found.good_rate = next((rate for rate in rates if self._grown(batch, rate) < 1.0), None)
        if form == "full":
            self._raise_rate()

    def _raise_rate(self) -> None:
        """Step on batch after batch at a rising rate, until the loss explodes."""
        dataset, sampler = self.data.train_dataset(), self.data.train_sampler()
        lowest, average = math.inf, 0.0
        with self._undone():
            for number, share in enumerate(itertools.islice(itertools.cycle(sampler), RISING)):
                rate = self.found.rate * 10 ** (6 * number / RISING - 4)
                loss = self._step(self._moved(dataset[share]), rate)
                self.found.curve.append((rate, loss))
                average = loss if number == 0 else 0.8 * average + 0.2 * loss
                if average < lowest:
                    lowest, self.found.turns_at = average, rate
                if not loss < GROWN * self.found.curve[0][1]:
                    break
        first = self.found.curve[0][1]
        self.found.curve = [(rate, loss / first) for rate, loss in self.found.curve if math.isfinite(loss)]

    def _step(self, batch: Batch, rate: float) -> float:
        """Step at a rate; return the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("initial_lr", group["lr"]) / self.found.rate
        loss, gradients = self.gradients(batch)
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            parameter.grad = gradient
        if self.trainer.gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.trained, self.trainer.gradient_clip_val)
        self.optimizer.step()
        return float(loss)

    def _grown(self, batch: Batch, rate: float) -> float:
        """Return the loss of a batch after some steps on it, relative to before."""
        with self._undone():
            before = after = self._step(batch, rate)
            for _ in range(TRIED):
                if not after < 1e3 * GROWN * before:
                    break
                after = self._step(batch, rate)
        return after / before if math.isfinite(after) and before > 0 else math.inf

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Give weights and optimizer, which has made no step, back as they were."""
        weights = [parameter.detach().clone() for parameter in self.trained]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, weight in zip(self.trained, weights, strict=True):
                    parameter.copy_(weight)
                    parameter.grad = None
            self.optimizer.state.clear()
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
