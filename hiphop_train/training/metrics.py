"""Errors accumulated as sums, so that they are right over batches and over ranks."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from hiphop_train.targets import TARGETS
from hiphop_train.training.losses import components
from hiphop_train.types import Outputs


class Errors(Metric):
    """Mean absolute and root mean square errors of all targets, in their reported units, per independent component."""

    full_state_update = False
    sums: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.targets = tuple(TARGETS.values())
        # rows: targets; columns: count, absolute error, squared error
        sums = torch.zeros(len(self.targets), 3, dtype=torch.float64)
        self.add_state("sums", default=sums, dist_reduce_fx="sum")

    def update(self, outputs: Outputs, labels: Outputs) -> None:
        """Add a batch; targets that have no output, and labels of weight zero, do not count."""
        for row, target in enumerate(self.targets):
            key = target.key
            if key not in outputs or key not in labels:
                continue
            error = components((outputs[key] - labels[key]).detach().double() / target.reported_factor, target)
            weight = labels[f"{key}_weight"].repeat_interleave(error.shape[1]).double()
            error = error.flatten()
            self.sums[row] += torch.stack([weight.sum(), (weight * error.abs()).sum(), (weight * error.square()).sum()])

    def compute(self) -> dict[str, Tensor]:
        """Return ``energy_mae``, ``energy_rmse``, ``forces_mae`` ...; targets without labels are absent."""
        found = {}
        for (count, absolute, square), target in zip(self.sums, self.targets, strict=True):
            if count > 0:
                found[f"{target.key}_mae"] = absolute / count
                found[f"{target.key}_rmse"] = torch.sqrt(square / count)
        return found
