"""Statistics of the training structures that models need, fitted in one visible step before the first epoch.

Centres and factors of features, and the mean number of neighbours.
"""

import torch
from torch import Tensor

from hiphop_train.data.module import DataModule
from hiphop_train.nn.standardisation import Standardisation
from hiphop_train.potential import Network, Potential

LARGEST = 4.0
"""Largest absolute value of a standardised feature in a training structure: features that rarely differ from zero, such
as those of a rare pair of elements, have so small a standard deviation that they would become enormous."""

SMALLEST_SCALE = 0.1
"""Smallest scale of a feature relative to the largest of the same function: what hardly varies in training around the
atoms of one element, or between two elements, may vary more elsewhere."""


class Spread:
    """Mean, standard deviation and largest deviation of each feature over the atoms of each species, batch by batch.

    Parameters
    ----------
    n_types, n_features : number of species and of features
    """

    def __init__(self, n_types: int, n_features: int) -> None:
        self.count = torch.zeros(n_types, 1, dtype=torch.float64)
        self.sum = torch.zeros(n_types, n_features, dtype=torch.float64)
        self.square = torch.zeros(n_types, n_features, dtype=torch.float64)
        self.lowest = torch.full((n_types, n_features), torch.inf, dtype=torch.float64)
        self.highest = torch.full((n_types, n_features), -torch.inf, dtype=torch.float64)

    def add(self, features: Tensor, species: Tensor) -> None:
        """Add atoms: features (n_atoms, n_features), species (n_atoms,)."""
        values = features.to(torch.float64)
        index = species[:, None].expand_as(values)
        self.count[:, 0] += torch.bincount(species, minlength=len(self.count))
        self.sum.index_add_(0, species, values)
        self.square.index_add_(0, species, values.square())
        self.lowest.scatter_reduce_(0, index, values, "amin")
        self.highest.scatter_reduce_(0, index, values, "amax")

    def centre(self) -> Tensor:
        """Return the means (n_types, n_features), 0 for species without atoms."""
        return self.sum / self.count.clamp(min=1.0)

    def factor(self, functions: Tensor) -> Tensor:
        """Return what deviations from the mean are multiplied by (n_types, n_features).

        That is one over the standard deviation, within the bounds of `LARGEST` and `SMALLEST_SCALE`; 1 for species
        without atoms, and for functions without variation.

        Parameters
        ----------
        functions : (n_features,) int64, see `hiphop_train.models.base.Representation`
        """
        mean = self.centre()
        deviation = (self.square / self.count.clamp(min=1.0) - mean.square()).clamp(min=0.0).sqrt()
        largest = torch.maximum(self.highest - mean, mean - self.lowest)
        scale = torch.maximum(deviation, largest / LARGEST).nan_to_num(neginf=0.0)  # species without atoms
        scale_of_function = torch.zeros(int(functions.max()) + 1, dtype=scale.dtype)
        scale_of_function.scatter_reduce_(0, functions, scale.amax(0), "amax")
        scale = torch.maximum(scale, SMALLEST_SCALE * scale_of_function[functions])
        return torch.where((self.count > 0) & (scale > 0), 1.0 / scale, torch.ones_like(scale))


@torch.no_grad()
def fit_representation(potential: Potential, data: DataModule) -> None:
    """Fit what the representation declares: the standardisation of its features, the mean number of neighbours.

    Parameters
    ----------
    potential : with a network as its first term; on the CPU
    data : whose training structures, or evenly chosen ones where there are many, are read once
    """
    network = potential.terms[0]
    assert isinstance(network, Network)
    counting = [part for part in network.modules() if getattr(part, "counts_neighbours", False)]
    if counting:
        n_pairs, n_atoms = 0, 0
        for batch in data.sample_dataloader("train"):
            n_pairs += len(batch.graph.pair_i)
            n_atoms += len(batch.graph.species)
        for part in counting:
            average = part.average_neighbours
            assert isinstance(average, Tensor)
            if n_pairs:  # isolated atoms alone leave it at 1
                average.fill_(n_pairs / n_atoms)
    for standardisation in network.standardisations:
        assert isinstance(standardisation, Standardisation)
        spread = Spread(*standardisation.centre.shape)
        for batch in data.sample_dataloader("train"):
            spread.add(network.representation(batch.graph)[-1], batch.graph.species)
        standardisation.centre.copy_(spread.centre())
        standardisation.factor.copy_(spread.factor(torch.tensor(network.representation.standardised_functions)))
