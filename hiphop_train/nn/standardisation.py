"""Centring and scaling of features by their statistics over the training structures; TorchScript-safe."""

import torch
from torch import Tensor, nn


class Standardisation(nn.Module):
    """Centre and scale the features of an atom by its species: (feature - centre) * factor.

    Both are statistics of the training structures, not parameters: they are fitted once, before the first step (see
    `hiphop_train.training.statistics`), and saved with the weights. Until then they are the identity.

    Parameters
    ----------
    n_types, n_features : number of species and of features
    """

    centre: Tensor
    factor: Tensor

    def __init__(self, n_types: int, n_features: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(n_types, n_features, dtype=torch.float64))
        self.register_buffer("factor", torch.ones(n_types, n_features, dtype=torch.float64))

    def forward(self, features: Tensor, species: Tensor) -> Tensor:
        """Standardise features (n_atoms, n_features) of atoms of species (n_atoms,)."""
        centre, factor = self.centre.to(features.dtype), self.factor.to(features.dtype)
        return (features - centre.index_select(0, species)) * factor.index_select(0, species)
