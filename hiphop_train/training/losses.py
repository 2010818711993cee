"""Losses in kcal/mol and kcal/mol/Angstrom, exact under data parallelism.

A loss with a root in it cannot be averaged over ranks: sums and counts are reduced over all ranks, and only this
rank's part of each sum carries a gradient. With gradients averaged over ranks afterwards, and the loss multiplied by
their number, every rank makes the step of one process on the whole batch.
"""

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, distributed, nn

from hiphop_train.types import Outputs
from hiphop_train.units import KCAL_PER_MOL


def global_sum(local: Tensor) -> Tensor:
    """Sum over all ranks, with the gradient of this rank's part only."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return local
    total = local.detach().clone()
    distributed.all_reduce(total)
    return local + (total - local.detach())


class ErrorLoss(nn.Module):
    """Weighted sum of error measures of one kind of label.

    Parameters
    ----------
    mae, rmse, mse, huber : weights of mean absolute error, root mean square error, mean square error and mean Huber
        loss
    huber_delta : error from which on the Huber loss is linear, kcal/mol or kcal/mol/Angstrom
    """

    def __init__(
        self,
        mae: NonNegativeFloat = 0.0,
        rmse: NonNegativeFloat = 0.0,
        mse: NonNegativeFloat = 0.0,
        huber: NonNegativeFloat = 0.0,
        huber_delta: PositiveFloat = 1.0,
    ) -> None:
        super().__init__()
        self.mae = mae
        self.rmse = rmse
        self.mse = mse
        self.huber = huber
        self.huber_delta = huber_delta

    def forward(self, error: Tensor, weight: Tensor) -> Tensor:
        """Evaluate on errors (n,) with weights (n,), over all ranks; 0 where all weights are."""
        count = global_sum(weight.sum()).clamp(min=1e-12)
        loss = torch.zeros((), dtype=error.dtype, device=error.device)
        if self.mae:
            loss = loss + self.mae * global_sum((weight * error.abs()).sum()) / count
        if self.rmse or self.mse:
            square = global_sum((weight * error.square()).sum()) / count
            # the root's slope is infinite at zero error
            loss = loss + self.mse * square + self.rmse * torch.sqrt(square + 1e-16)
        if self.huber:
            size = error.abs()
            quadratic = 0.5 * error.square() / self.huber_delta
            huber = torch.where(size < self.huber_delta, quadratic, size - 0.5 * self.huber_delta)
            loss = loss + self.huber * global_sum((weight * huber).sum()) / count
        return loss


class Loss(nn.Module):
    """Loss of a batch: energies per structure, force components, and the hierarchicality of the energy's levels.

    Parameters
    ----------
    energy, forces : measures of the errors, in kcal/mol and kcal/mol/Angstrom
    hierarchicality : weight of the regulariser R, the mean over atoms of `hiphop_train.potential.hierarchicality`
    size_exponent : the energy of a structure of n atoms weighs n^-size_exponent; ANI takes 0.5
    """

    def __init__(
        self,
        energy: ErrorLoss,
        forces: ErrorLoss,
        hierarchicality: NonNegativeFloat = 0.0,
        size_exponent: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        self.energy = energy
        self.forces = forces
        self.hierarchicality = hierarchicality
        self.size_exponent = size_exponent

    def forward(self, outputs: Outputs, labels: Outputs, n_atoms: Tensor) -> Tensor:
        """Evaluate over all ranks.

        Parameters
        ----------
        outputs : of the potential, forces included
        labels : with ``energy_weight`` (n_systems,) and ``forces_weight`` (n_atoms,); ``energy_scale`` and
            ``forces_scale`` () multiply means over a batch where batches differ in size, and are 1 by default
        n_atoms : (n_systems,) atoms of each structure; 0 where it only fills up a rank's share
        """
        energy_error = (outputs["energy"] - labels["energy"]) / KCAL_PER_MOL
        energy_weight = labels["energy_weight"]
        if self.size_exponent:
            energy_weight = energy_weight / n_atoms.to(energy_weight.dtype).clamp(min=1.0) ** self.size_exponent
        energy_scale, forces_scale = labels.get("energy_scale", 1.0), labels.get("forces_scale", 1.0)
        loss: Tensor = self.energy(energy_error, energy_weight) * energy_scale
        forces_error = (outputs["forces"] - labels["forces"].to(outputs["forces"].dtype)) / KCAL_PER_MOL
        forces_weight = labels["forces_weight"].to(forces_error.dtype).repeat_interleave(3)
        loss = loss + self.forces(forces_error.flatten(), forces_weight) * forces_scale
        if self.hierarchicality:
            count = global_sum(n_atoms.sum().to(loss.dtype))
            total = global_sum((outputs["hierarchicality"] * n_atoms).sum())
            loss = loss + self.hierarchicality * total / count * forces_scale
        return loss
