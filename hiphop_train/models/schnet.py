"""SchNet: continuous-filter convolutions.

Schuett, Kindermans, Sauceda, Chmiela, Tkatchenko, Mueller, arXiv 1706.08566 (2017); Schuett, Sauceda, Kindermans,
Tkatchenko, Mueller, J. Chem. Phys. 148, 241722 (2018).
"""

from typing import Annotated, List

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.base import Representation
from hiphop_train.nn.activations import ShiftedSoftplus
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian_expansion
from hiphop_train.nn.linear import glorot_linear
from hiphop_train.types import Graph


class Interaction(nn.Module):
    """Continuous-filter convolution between atomwise layers, x_i + U s(V sum_j (A x_j) o W(r_ij) + a) + b.

    s is the shifted softplus. A network generates the filters W(r) = f_c(r) (D s(C g(r) + c) + d) from the expanded
    distance (arXiv 1706.08566, eq. 2 and fig. 2).

    Parameters
    ----------
    n_features : width of the features and of the filters
    n_gaussians : width of the expanded distance

    Notes
    -----
    Where the two papers differ, this follows the later one, as schnetpack does: A has no bias, and no activation
    follows the second layer of the filter network.
    """

    def __init__(self, n_features: int, n_gaussians: int) -> None:
        super().__init__()
        self.filter_network = nn.Sequential(
            glorot_linear(n_gaussians, n_features), ShiftedSoftplus(), glorot_linear(n_features, n_features)
        )
        self.inward = glorot_linear(n_features, n_features, bias=False)  # A
        self.outward = nn.Sequential(
            glorot_linear(n_features, n_features), ShiftedSoftplus(), glorot_linear(n_features, n_features)
        )

    def filters(self, expansion: Tensor, cutoff: Tensor) -> Tensor:
        """Return W (n_pairs, n_features) of expanded distances (n_pairs, n_gaussians) and f_c (n_pairs, 1)."""
        filters: Tensor = self.filter_network(expansion) * cutoff
        return filters

    def forward(self, features: Tensor, filters: Tensor, pair_i: Tensor, pair_j: Tensor) -> Tensor:
        """Interact.

        Parameters
        ----------
        features : (n_atoms, n_features)
        filters : (n_pairs, n_features)
        pair_i, pair_j : (n_pairs,), receiving and sending atom

        Returns
        -------
        features : (n_atoms, n_features)
        """
        sources = self.inward(features).to(filters.dtype).index_select(0, pair_j)
        return self.update(features, segment_sum(sources * filters, pair_i, features.shape[0]))

    def update(self, features: Tensor, sums: Tensor) -> Tensor:
        """Return x + U s(V sums + a) + b (n_atoms, n_features)."""
        updated: Tensor = features + self.outward(sums)
        return updated


class SchNet(Representation):
    """Embedding of the elements, refined by continuous-filter convolutions.

    Parameters
    ----------
    elements : type names
    cutoff : Angstrom
    n_features : width of the features of all levels and of the filters
    n_interactions : interaction blocks, each with its own weights; each adds a level
    n_gaussians : Gaussians in which distances are expanded, centred from 0 to the cutoff
    """

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        n_features: PositiveInt,
        n_interactions: PositiveInt,
        n_gaussians: Annotated[int, Field(ge=2)],
    ) -> None:
        super().__init__(elements, cutoff, [n_features] * (n_interactions + 1))
        self.n_gaussians = n_gaussians
        self.embedding = nn.Embedding(len(elements), n_features)
        self.interactions = nn.ModuleList(Interaction(n_features, n_gaussians) for _ in range(n_interactions))

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the embedding and the features after each interaction block."""
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        expansion = gaussian_expansion(distance, 0.0, self.cutoff, self.n_gaussians)
        cutoff = cosine_cutoff(distance, self.cutoff)[:, None]
        features = self.embedding(graph.species)
        levels = [features]
        for interaction in self.interactions:
            filters = interaction.filters(expansion, cutoff)  # type: ignore[operator]
            features = interaction(features, filters, graph.pair_i, graph.pair_j)
            levels.append(features)
        return levels
