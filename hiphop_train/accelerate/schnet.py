"""Twins of SchNet: filters are evaluated once for both directions of a pair and, in inference, with their slopes."""

from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn

from hiphop_train.accelerate.blocks import functions_with_slopes
from hiphop_train.accelerate.half_lists import sums_both_ways
from hiphop_train.accelerate.pairs import PrepareHalfList, half_list
from hiphop_train.accelerate.slopes import cosine_cutoff_slope, gaussian_expansion_with_slope
from hiphop_train.accelerate.twin import Setting, Twin, adopt
from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.base import Representation
from hiphop_train.models.schnet import Interaction, SchNet
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian_expansion
from hiphop_train.types import Graph


class SchNetTwin(Representation):
    """SchNet over a half neighbour list, or over all pairs if a reverse is missing.

    Parameters
    ----------
    plain : the model
    are_frozen : whether weights are frozen, so that filters are differentiated with respect to the distance alone
    """

    def __init__(self, plain: SchNet, are_frozen: bool) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes)
        adopt(self, plain)
        self.embedding, self.interactions = plain.embedding, plain.interactions
        self.n_gaussians = plain.n_gaussians
        self.are_frozen = are_frozen
        self.prepare = PrepareHalfList()

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the embedding and the features after each interaction block."""
        half = self.prepare.half_list_of(graph)
        pair_i, pair_j, vectors = graph.pair_i, graph.pair_j, graph.pair_vectors
        if half is not None:
            pair_i, pair_j, vectors = (part.index_select(0, half) for part in (pair_i, pair_j, vectors))
        distance = torch.linalg.norm(vectors, dim=1)
        filters = self.frozen_filters(distance) if self.are_frozen else self.filters(distance)
        features = self.embedding(graph.species)
        levels = [features]
        for interaction, filters_of_block in zip(self.interactions, filters):
            assert isinstance(interaction, Interaction)
            if half is None:
                features = interaction(features, filters_of_block, pair_i, pair_j)
            else:
                sources = interaction.inward(features).to(filters_of_block.dtype)
                features = interaction.update(features, sums_both_ways(filters_of_block, sources, pair_i, pair_j))
            levels.append(features)
        return levels

    def filters(self, distance: Tensor) -> List[Tensor]:
        """Return the filters (n_pairs, n_features) of each interaction block, for distances (n_pairs,)."""
        expansion = gaussian_expansion(distance, 0.0, self.cutoff, self.n_gaussians)
        cutoff = cosine_cutoff(distance, self.cutoff)[:, None]
        return [interaction.filters(expansion, cutoff) for interaction in self.interactions]  # type: ignore[operator]

    def frozen_filters(self, distance: Tensor) -> List[Tensor]:
        """Return the same filters, differentiated by their slopes."""
        widths = [self.feature_sizes[0]] * len(self.interactions)
        return functions_with_slopes(self.filters, self.write_filters, distance, widths)

    def write_filters(self, distance: Tensor, filters: Sequence[Tensor], slopes: Sequence[Tensor]) -> None:
        """Write W(r) and dW/dr (n_pairs, n_features) of each interaction block, without recording for autograd."""
        r = distance[:, None]
        cutoff = cosine_cutoff(r, self.cutoff), cosine_cutoff_slope(r, self.cutoff)
        expansion = gaussian_expansion_with_slope(distance, 0.0, self.cutoff, self.n_gaussians)
        for interaction, value, slope in zip(self.interactions, filters, slopes, strict=True):
            assert isinstance(interaction, Interaction)
            _write_filters(interaction, expansion, cutoff, value, slope)


def _write_filters(
    interaction: Interaction,
    expansion: Tuple[Tensor, Tensor],
    cutoff: Tuple[Tensor, Tensor],
    filters: Tensor,
    slope: Tensor,
) -> None:
    """Write W(r) and dW/dr of one block from the expansion and the cutoff function, each with its slope."""
    first, activation, second = interaction.filter_network
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    inner = first(expansion[0])
    inner_slope = torch.sigmoid(inner).mul_(expansion[1] @ first.weight.T)
    outer = second(activation(inner))
    torch.mul(outer, cutoff[0], out=filters)
    torch.mul(inner_slope @ second.weight.T, cutoff[0], out=slope).addcmul_(outer, cutoff[1])


class ScriptedSchNet(Representation):
    """SchNet over a half neighbour list for TorchScript, differentiated by autograd.

    Parameters
    ----------
    plain : the model
    """

    def __init__(self, plain: SchNet) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes)
        adopt(self, plain)
        self.embedding, self.interactions = plain.embedding, plain.interactions
        self.n_gaussians = plain.n_gaussians

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the embedding and the features after each interaction block."""
        half = half_list(graph)
        pair_i, pair_j, vectors = graph.pair_i, graph.pair_j, graph.pair_vectors
        if half is not None:
            pair_i, pair_j = pair_i.index_select(0, half), pair_j.index_select(0, half)
            vectors = vectors.index_select(0, half)
        distance = torch.linalg.norm(vectors, dim=1)
        expansion = gaussian_expansion(distance, 0.0, self.cutoff, self.n_gaussians)
        cutoff = cosine_cutoff(distance, self.cutoff)[:, None]
        features = self.embedding(graph.species)
        n_atoms = features.shape[0]
        levels = [features]
        for interaction in self.interactions:
            filters = interaction.filters(expansion, cutoff)  # type: ignore[operator]
            sources = interaction.inward(features)  # type: ignore[operator]
            sums = segment_sum(sources.index_select(0, pair_j) * filters, pair_i, n_atoms)
            if half is not None:
                sums = sums + segment_sum(sources.index_select(0, pair_i) * filters, pair_j, n_atoms)
            features = interaction.update(features, sums)  # type: ignore[operator]
            levels.append(features)
        return levels


def _make(plain: SchNet, setting: Setting) -> SchNetTwin:
    return SchNetTwin(plain, are_frozen=setting.purpose == "inference")


def _why_not(plain: SchNet, setting: Setting) -> str:
    return "" if setting.device.type == "cpu" else f"half neighbour lists pay on CPUs, not on {setting.device.type}"


TWINS = [
    Twin(
        "filters",
        "half neighbour list",
        SchNet,
        _make,
        why_not=_why_not,
        prepare=lambda plain: PrepareHalfList(),
    ),
    Twin(
        "filters",
        "scripted half neighbour list",
        SchNet,
        lambda plain, setting: ScriptedSchNet(plain),
        purposes=("export",),
    ),
]
