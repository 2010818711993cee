"""The Lightning module: one training loop for every model."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from hiphop_train.graph.segments import segment_sum
from hiphop_train.potential import Potential
from hiphop_train.targets import derivatives
from hiphop_train.training.losses import Loss
from hiphop_train.training.metrics import Errors
from hiphop_train.training.schedules import MONITOR, Schedule
from hiphop_train.training.sharded import sharded
from hiphop_train.types import Batch


def differentiate(loss: Tensor, potential: nn.Module) -> None:
    """Add the derivatives of a loss to the gradients of the parameters alone.

    By default autograd would also compute those with respect to the pair vectors, which the forces have made leaves of
    the graph: they are not used, and for symmetry functions they take as long as all the rest.
    """
    torch.autograd.backward(loss, inputs=[p for p in potential.parameters() if p.requires_grad])


class PotentialModule(LightningModule):
    """Train a potential on the targets of a loss.

    Parameters
    ----------
    potential : with E0 and scale already fitted
    loss : of a batch, over all ranks
    optimizer : of the potential's parameters
    schedule : of the learning rate or the batch size
    record : plain data that every checkpoint carries (see `hiphop_train.checkpoint`)
    shards : whether several processes divide the optimizer's state

    Attributes
    ----------
    monitored : targets whose validation errors schedules and checkpoints watch
    errors, old_errors : of the validation, and on the validation structures of old data
    untrained : targets of the readout that the loss does not weigh
    latest_loss : of the last step
    """

    latest_loss: Tensor

    def __init__(
        self,
        potential: Potential,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule,
        record: dict[str, Any],
        shards: bool = False,
    ) -> None:
        super().__init__()
        self.potential = potential
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.record = record
        self.shards = shards
        self.errors = Errors()
        self.old_errors = Errors()
        self.monitored = {"energy", "forces", *loss.parts}
        self.untrained = sorted(set(potential.targets) - {"energy", "forces", "stress", *loss.parts})

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss, so scaled that gradients averaged over ranks are those of the whole batch."""
        loss = self._loss(batch)
        self.latest_loss = loss.detach()
        # the loss is that of the whole batch, weighted by its size where sizes differ; ranks' shares are no weights
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=1)
        return loss * self.trainer.world_size

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Differentiate the loss with respect to the parameters, in Lightning's form."""
        differentiate(loss, self.potential)

    def on_validation_epoch_start(self) -> None:
        """Reset the sums."""
        self.errors.reset()
        self.old_errors.reset()

    def validation_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the sums, with all targets that it has labels of; forces need gradients in validation too."""
        with torch.enable_grad():
            outputs = self.potential(batch.graph, **derivatives(batch.labels))
        (self.old_errors if dataloader_idx else self.errors).update(outputs, batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Log the errors in their reported units, and the sum of them that schedules and checkpoints watch."""
        errors = self.errors.compute()
        for name, value in errors.items():
            self.log(f"val/{name}", value)
        if self.old_errors.update_called:
            for name, value in self.old_errors.compute().items():
                self.log(f"old/{name}", value)
        watched = [value for name, value in errors.items() if name.rpartition("_")[0] in self.monitored]
        self.log(MONITOR, torch.stack(watched).sum())

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedulers."""
        n_steps = int(self.trainer.estimated_stepping_batches)
        if self.shards and self.trainer.world_size > 1:
            self.optimizer = sharded(self.optimizer)
            if self.trainer.is_global_zero:
                print(f"optimizer  its state is divided among {self.trainer.world_size} processes", flush=True)
        return [self.optimizer], self.schedule.schedulers(self.optimizer, n_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the record that makes the checkpoint readable without this class."""
        checkpoint["hiphop_train"] = self.record

    def _loss(self, batch: Batch) -> Tensor:
        graph, labels = batch.graph, batch.labels
        outputs = self.potential(graph, **derivatives({"forces", *self.loss.parts}))
        weight = labels["weight"]
        n_atoms = segment_sum(weight.index_select(0, graph.system), graph.system, graph.n_systems)
        loss: Tensor = self.loss(outputs, labels, n_atoms)
        for key in self.untrained:  # data parallelism needs a gradient of every parameter, be it zero
            loss = loss + 0.0 * outputs[key].sum()
        return loss
