"""Errors accumulated as sums, so that they are right over batches and over ranks."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from hiphop_train.types import Outputs
from hiphop_train.units import KCAL_PER_MOL


class Errors(Metric):
    """Mean absolute and root mean square errors of energies and force components, in kcal/mol (per Angstrom)."""

    full_state_update = False
    sums: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # rows: energy, forces; columns: count, absolute error, squared error
        self.add_state("sums", default=torch.zeros(2, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Outputs, labels: Outputs) -> None:
        """Add a batch; labels of weight zero do not count."""
        energy = (outputs["energy"] - labels["energy"]).detach().double() / KCAL_PER_MOL
        forces = (outputs["forces"] - labels["forces"]).detach().double() / KCAL_PER_MOL
        weights = labels["energy_weight"], labels["forces_weight"].repeat_interleave(3)
        for row, (error, weight) in enumerate(zip((energy, forces.flatten()), weights, strict=True)):
            weight = weight.double()
            self.sums[row] += torch.stack([weight.sum(), (weight * error.abs()).sum(), (weight * error.square()).sum()])

    def compute(self) -> dict[str, Tensor]:
        """Return ``energy_mae``, ``energy_rmse``, ``forces_mae``, ``forces_rmse``; those without labels are absent."""
        found = {}
        for row, name in enumerate(("energy", "forces")):
            count, absolute, square = self.sums[row]
            if count > 0:
                found[f"{name}_mae"] = absolute / count
                found[f"{name}_rmse"] = torch.sqrt(square / count)
        return found
