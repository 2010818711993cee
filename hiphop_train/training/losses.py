"""Losses in the units that targets are reported in, exact under data parallelism.

A loss with a root in it cannot be averaged over ranks: sums and counts are reduced over all ranks, and only this
rank's part of each sum carries a gradient. With gradients averaged over ranks afterwards, and the loss multiplied by
their number, every rank makes the step of one process on the whole batch.
"""

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, distributed, nn

from hiphop_train.errors import ConfigError
from hiphop_train.targets import TARGETS, Target
from hiphop_train.types import Outputs


def global_sum(local: Tensor) -> Tensor:
    """Sum over all ranks, with the gradient of this rank's part only."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return local
    total = local.detach().clone()
    distributed.all_reduce(total)
    return local + (total - local.detach())


def components(entries: Tensor, target: Target) -> Tensor:
    """Return the independent components (n, n_components) of entries (n, *shape) of a target."""
    flat = entries.flatten(1) if target.shape else entries[:, None]
    # indexing by a list would copy it to the device in every step
    return torch.stack([flat[:, k] for k in target.components], dim=1) if target.is_symmetric else flat


class ErrorLoss(nn.Module):
    """Weighted sum of error measures of one target.

    Parameters
    ----------
    mae, rmse, mse, huber : weights of mean absolute error, root mean square error, mean square error and mean Huber
        loss
    huber_delta : error from which on the Huber loss is linear, in the target's reported unit
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

    @property
    def is_weighted(self) -> bool:
        """Whether any measure has a weight."""
        return any((self.mae, self.rmse, self.mse, self.huber))

    def forward(self, error: Tensor, weight: Tensor) -> Tensor:
        """Evaluate on errors (n,) with weights (n,), over all ranks; 0 where all weights are."""
        count = global_sum(weight.sum()).clamp(min=1e-12)
        loss = torch.zeros((), dtype=error.dtype, device=error.device)
        if self.mae:
            loss = loss + self.mae * global_sum((weight * error.abs()).sum()) / count
        if self.rmse or self.mse:
            square = global_sum((weight * error.square()).sum()) / count
            # the derivative of the square root is infinite at zero error
            loss = loss + self.mse * square + self.rmse * torch.sqrt(square + 1e-16)
        if self.huber:
            size = error.abs()
            quadratic = 0.5 * error.square() / self.huber_delta
            huber = torch.where(size < self.huber_delta, quadratic, size - 0.5 * self.huber_delta)
            loss = loss + self.huber * global_sum((weight * huber).sum()) / count
        return loss


class Loss(nn.Module):
    """Loss of a batch: errors of the targets, and the non-hierarchicality of the energy's levels.

    Each independent component of each entry of a target counts alike; what that is, and the unit of the errors, say the
    records in `hiphop_train.targets`.

    Parameters
    ----------
    energy, forces, stress, dipole : measures of the errors, in kcal/mol, kcal/mol/angstrom, GPa and debye; a target
        without weights is not part of the loss
    hierarchicality : weight of the regulariser R, the mean over atoms of `hiphop_train.potential.hierarchicality`
    size_exponent : extensive targets of a structure of n atoms weigh n^-size_exponent; ANI takes 0.5

    Attributes
    ----------
    parts : ErrorLoss by target; only those with weights
    """

    def __init__(
        self,
        energy: ErrorLoss,
        forces: ErrorLoss,
        stress: ErrorLoss | None = None,
        dipole: ErrorLoss | None = None,
        hierarchicality: NonNegativeFloat = 0.0,
        size_exponent: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        parts = {"energy": energy, "forces": forces, "stress": stress, "dipole": dipole}
        weighted = {key: part for key, part in parts.items() if part is not None and part.is_weighted}
        if not weighted:
            raise ConfigError("loss: all weights are 0, so nothing would be trained; give one: loss.forces.rmse=1")
        self.parts = nn.ModuleDict(weighted)
        self.hierarchicality = hierarchicality
        self.size_exponent = size_exponent

    def forward(self, outputs: Outputs, labels: Outputs, n_atoms: Tensor) -> Tensor:
        """Evaluate over all ranks.

        Parameters
        ----------
        outputs : of the potential, with all targets in `parts`
        labels : the targets, and for each a weight per entry, ``energy_weight`` (n_systems,), ``forces_weight``
            (n_atoms,) ...; ``energy_scale``, ``forces_scale`` ... () multiply means over a batch where batches differ
            in size, and are 1 by default
        n_atoms : (n_systems,) atoms of each structure; 0 where it only fills up a rank's share
        """
        loss = torch.zeros((), dtype=torch.float64, device=n_atoms.device)
        for key, part in self.parts.items():
            target, output, weight = TARGETS[key], outputs[key], labels[f"{key}_weight"]
            error = components((output - labels[key].to(output.dtype)) / target.reported_factor, target)
            if self.size_exponent and target.extensive:
                weight = weight / n_atoms.to(weight.dtype).clamp(min=1.0) ** self.size_exponent
            weight = weight.to(error.dtype).repeat_interleave(error.shape[1])
            loss = loss + part(error.flatten(), weight) * labels.get(f"{key}_scale", 1.0)
        if self.hierarchicality:
            count = global_sum(n_atoms.sum().to(loss.dtype))
            total = global_sum((outputs["hierarchicality"] * n_atoms).sum())
            loss = loss + self.hierarchicality * total / count * labels.get("forces_scale", 1.0)
        return loss
