"""SchNet: continuous-filter convolutions.

Schuett, Kindermans, Sauceda, Chmiela, Tkatchenko, Mueller, arXiv 1706.08566 (2017); Schuett, Sauceda, Kindermans,
Tkatchenko, Mueller, J. Chem. Phys. 148, 241722 (2018).
"""

from collections.abc import Sequence
from typing import Annotated, List, Tuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from hiphop_train.graph.halves import half_of_pairs, sums_both_ways
from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.base import Representation
from hiphop_train.nn.activations import ShiftedSoftplus
from hiphop_train.nn.blocks import functions_with_slopes
from hiphop_train.nn.cutoffs import cosine_cutoff, cosine_cutoff_slope
from hiphop_train.nn.gaussians import gaussian_expansion, gaussian_expansion_with_slope
from hiphop_train.nn.linear import glorot_linear
from hiphop_train.types import Graph

WithSlope = Tuple[Tensor, Tensor]
"""A function of the distance and its slope."""


class Interaction(nn.Module):
    """Continuous-filter convolution between atomwise layers, x_i + U s(V sum_j (A x_j) o W(r_ij) + a) + b.

    s is the shifted softplus. The filters W(r) = f_c(r) (D s(C g(r) + c) + d) are made from the expanded distance by a
    network (arXiv 1706.08566, eq. 2 and fig. 2).

    Parameters
    ----------
    n_features : width of the features and of the filters
    n_gaussians : width of the expanded distance

    Notes
    -----
    Where the two papers differ, this is the later one's form, and schnetpack's: A has no bias, and no activation
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

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def write_filters(self, expansion: WithSlope, cutoff: WithSlope, filters: Tensor, slope: Tensor) -> None:
        """Write W(r) and dW/dr into given tensors, from the same with their slopes; without derivatives."""
        first, activation, second = self.filter_network
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        inner = first(expansion[0])
        inner_slope = torch.sigmoid(inner).mul_(expansion[1] @ first.weight.T)
        outer = second(activation(inner))
        torch.mul(outer, cutoff[0], out=filters)
        torch.mul(inner_slope @ second.weight.T, cutoff[0], out=slope).addcmul_(outer, cutoff[1])

    def forward(self, features: Tensor, filters: Tensor, pair_i: Tensor, pair_j: Tensor, is_half: bool) -> Tensor:
        """Interact.

        Parameters
        ----------
        features : (n_atoms, n_features)
        filters : (n_pairs, n_features)
        pair_i, pair_j : (n_pairs,), receiving and sending atom
        is_half : whether each pair stands for both directions

        Returns
        -------
        features : (n_atoms, n_features)
        """
        sources = self.inward(features)
        if is_half:
            sums = sums_both_ways(filters, sources, pair_i, pair_j)
        else:
            sums = segment_sum(sources.index_select(0, pair_j) * filters, pair_i, features.shape[0])
        result: Tensor = features + self.outward(sums)
        return result


class SchNet(Representation):
    """Embedding of the elements, refined by continuous-filter convolutions.

    Parameters
    ----------
    elements : type names
    cutoff : Angstrom
    n_features : width of the features of all levels and of the filters
    n_interactions : interaction blocks, each with weights of its own; each adds a level
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
        half = half_of_pairs(graph)
        pair_i, pair_j, vectors = graph.pair_i, graph.pair_j, graph.pair_vectors
        if half is not None:
            pair_i, pair_j = pair_i.index_select(0, half), pair_j.index_select(0, half)
            vectors = vectors.index_select(0, half)
        distance = torch.linalg.norm(vectors, dim=1)
        filters: List[Tensor] = []
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            filters += self.filters(distance)
        else:
            filters += self.filters_in_blocks(distance)
        features = self.embedding(graph.species)
        levels = [features]
        for k, interaction in enumerate(self.interactions):
            features = interaction(features, filters[k], pair_i, pair_j, half is not None)
            levels.append(features)
        return levels

    def filters(self, distance: Tensor) -> List[Tensor]:
        """Return the filters (n_pairs, n_features) of each interaction block, for distances (n_pairs,)."""
        expansion = gaussian_expansion(distance, 0.0, self.cutoff, self.n_gaussians)
        cutoff = cosine_cutoff(distance, self.cutoff)[:, None]
        filters: List[Tensor] = []
        for interaction in self.interactions:
            filters.append(interaction.filter_network(expansion) * cutoff)  # type: ignore[operator]
        return filters

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def filters_in_blocks(self, distance: Tensor) -> List[Tensor]:
        """Return the filters, with their slopes where the weights are frozen."""
        if any(p.requires_grad for p in self.interactions.parameters()):
            return self.filters(distance)
        widths = [self.feature_sizes[0]] * len(self.interactions)
        return functions_with_slopes(self.filters, self.write_filters, distance, widths)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def write_filters(self, distance: Tensor, filters: Sequence[Tensor], slopes: Sequence[Tensor]) -> None:
        """Write the filters and dW/dr (n_pairs, n_features) of each interaction block, without derivatives."""
        r = distance[:, None]
        cutoff = cosine_cutoff(r, self.cutoff), cosine_cutoff_slope(r, self.cutoff)
        expansion = gaussian_expansion_with_slope(distance, 0.0, self.cutoff, self.n_gaussians)
        for interaction, value, slope in zip(self.interactions, filters, slopes, strict=True):
            assert isinstance(interaction, Interaction)
            interaction.write_filters(expansion, cutoff, value, slope)
