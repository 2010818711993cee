"""Twin of the HIP models for TorchScript: convolutions as batched matrix products, differentiated by autograd."""

from typing import List, Tuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hiphop_train.accelerate.hip_layout import Layout, make_layout
from hiphop_train.accelerate.tables import Table, split_sizes
from hiphop_train.accelerate.twin import adopt
from hiphop_train.models.backbone import HIPBackbone
from hiphop_train.models.base import Representation
from hiphop_train.nn.tensors import irreducible_tensors
from hiphop_train.types import Graph

Blocks = List[Tuple[int, int, int, int]]


class ScriptedHIP(Representation):
    """Same orders of summation as in `accelerate.table_convolution`.

    Parameters
    ----------
    plain : the model
    """

    def __init__(self, plain: HIPBackbone) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes)
        adopt(self, plain)
        self.interactions, self.atom_layers = plain.interactions, plain.atom_layers
        self.n_types = plain.n_types
        self.l_max = plain.l_max
        self.n_sensitivities = plain.n_sensitivities

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return one-hot species and the features after each block."""
        layout = make_layout(graph, self.n_types, self.l_max, self.n_sensitivities)
        distance = torch.linalg.norm(graph.pair_vectors, dim=1, keepdim=True)
        unit = graph.pair_vectors / distance
        is_filled = fill(torch.ones_like(distance), layout.received, 0.0)
        tensors = irreducible_tensors(fill(unit, layout.received, 0.0), self.l_max) * is_filled
        sent_distance = fill(distance, layout.sent, 1e4).squeeze(1)
        features = one_hot(graph.species, self.n_types).to(graph.pair_vectors.dtype)
        levels = [features]
        for interaction, atom_layers in zip(self.interactions, self.atom_layers):
            weight: Tensor = interaction.weight  # type: ignore[assignment]
            by_species = layout.by_species
            if len(levels) == 1 and by_species is not None:
                species_distance = fill(distance, by_species, 1e4).squeeze(1)
                sensitivity = interaction.sensitivity(species_distance)  # type: ignore[operator]
                environment = environment_first(sensitivity, weight, tensors, layout, by_species)
            else:
                environment = message_first(interaction.sensitivity(sent_distance), features, weight, tensors, layout)  # type: ignore[operator]
            scalars = interaction.scalars(environment).index_select(0, layout.received.row)  # type: ignore[operator]
            features = interaction.residual(scalars + interaction.self_interaction(features), features)  # type: ignore[operator]
            features = atom_layers(features)
            levels.append(features)
        return levels


def fill(values: Tensor, table: Table, empty: float) -> Tensor:
    """Write values (n_values, n_columns) to their entries of a table (n_entries, n_columns), `empty` elsewhere."""
    filled = torch.full((table.n_entries, values.shape[1]), empty, dtype=values.dtype, device=values.device)
    return filled.index_copy(0, table.entry, values)


def environment_first(
    sensitivity: Tensor, weight: Tensor, tensors: Tensor, layout: Layout, by_species: Table
) -> Tensor:
    """Return environments (n_atoms, n_components, n_out) for one-hot species as features."""
    sums = sums_of_products(tensors.index_select(0, layout.received_to_species), sensitivity, by_species.blocks)
    sums = sums.transpose(0, 1).index_select(1, layout.species_row)
    weight = weight.index_select(0, layout.present)
    sums = sums.reshape(sums.shape[0], -1, weight.shape[0] * weight.shape[1])  # (n_components, n_atoms, ...)
    return torch.matmul(sums, weight.flatten(0, 1)).transpose(0, 1)


def message_first(sensitivity: Tensor, features: Tensor, weight: Tensor, tensors: Tensor, layout: Layout) -> Tensor:
    """Return environments (n_atoms, n_components, n_out) of features (n_atoms, n_in)."""
    sources = torch.tensordot(features.index_select(0, layout.sent.segment), weight, dims=1)
    messages: List[Tensor] = []
    entries, rows = split_sizes(layout.sent.blocks)
    for block, a, b in zip(layout.sent.blocks, torch.split(sensitivity, entries), torch.split(sources, rows)):
        messages.append(torch.bmm(a.reshape(block[1], block[3], sensitivity.shape[1]), b).flatten(0, 1))
    sent = torch.cat(messages) if len(messages) > 0 else sensitivity.new_zeros((0, weight.shape[2]))
    return sums_of_products(tensors, sent.index_select(0, layout.sent_to_received), layout.received.blocks)


def sums_of_products(left: Tensor, right: Tensor, blocks: Blocks) -> Tensor:
    """Multiply the entries of two tables (n_entries, k), (n_entries, n), and sum over each row, (n_rows, k, n)."""
    sums: List[Tensor] = []
    entries, _ = split_sizes(blocks)
    for block, a, b in zip(blocks, torch.split(left, entries), torch.split(right, entries)):
        transposed = a.reshape(block[1], block[3], left.shape[1]).transpose(1, 2)
        sums.append(torch.bmm(transposed, b.reshape(block[1], block[3], right.shape[1])))
    return torch.cat(sums) if len(sums) > 0 else left.new_zeros((0, left.shape[1], right.shape[1]))
