"""HIP-NN's convolution as batched matrix products over neighbour tables, differentiable any number of times.

A_i = sum_j sum_nu s_nu(r_ij) T(r_ij) V_nu z_j can be summed in two orders. Message first: zeta_j = V z_j once per atom,
m_ij = sum_nu s_nu zeta_j,nu in a table with a row per sending atom, and A_i = sum_j T m_ij in one with a row per
receiving atom. Environment first: E_i = sum_j T s z_j, then V; with many neighbours this is cheaper in the first layer,
where z_j is the one-hot species. Neither order allocates an array of pairs x sensitivities x features, nor, for large
systems, one of pairs x features.
"""

from functools import cache
from typing import Any, Tuple

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.accelerate.blocks import PAIRS, in_blocks
from hiphop_train.accelerate.hip_layout import Layout, PrepareLayout
from hiphop_train.accelerate.precision import full_precision
from hiphop_train.accelerate.tables import (
    Table,
    fill,
    multiply_rows,
    multiply_sums,
    rows_of_products,
    sums_of_products,
)
from hiphop_train.models.backbone import HIPInteraction
from hiphop_train.nn.tensors import contract_products, irreducible_tensors, raising_matrix
from hiphop_train.types import Graph

LARGE = 2**24
"""Size of pairs x features above which features are processed in blocks."""
FEATURES_PER_BLOCK = 32

FAR = 1e4
"""Angstrom, beyond any cutoff: the distance in empty entries, where sensitivities are then zero."""


class TableConvolution:
    """The convolutions of one graph, for any order of its pairs.

    Parameters
    ----------
    graph : with or without its layout
    prepare : builds a missing layout
    """

    def __init__(self, graph: Graph, prepare: PrepareLayout) -> None:
        self.layout = layout = prepare.layout_of(graph)
        distance = torch.linalg.norm(graph.pair_vectors, dim=1, keepdim=True)
        unit = graph.pair_vectors / distance
        self.distance = fill(distance, layout.sent, FAR).squeeze(1)  # (n_sent_entries,) Angstrom
        self.tensors = _tensors_in_table(unit, layout.received, prepare.l_max)  # (n_received_entries, n_components)
        if layout.by_species is not None:
            self.species_distance = fill(distance, layout.by_species, FAR).squeeze(1)
            self.species_tensors = exchange(self.tensors, layout.received_to_species, layout.species_to_received)

    def environment(self, interaction: HIPInteraction, features: Tensor, are_species: bool) -> Tensor:
        """Return A (n_atoms, n_components, n_out), in the order of the rows of `layout.received`.

        Parameters
        ----------
        interaction : with sensitivities and V
        features : (n_atoms, n_in), z
        are_species : whether features are the one-hot species
        """
        layout = self.layout
        weight: Tensor = interaction.weight
        if are_species and layout.by_species is not None:
            sensitivity = interaction.sensitivity(self.species_distance)
            sums = sums_of_products(self.species_tensors, sensitivity, layout.by_species.blocks)
            sums = sums.transpose(0, 1).index_select(1, layout.species_row)
            weight = weight.index_select(0, layout.present)
            sums = sums.reshape(sums.shape[0], -1, weight.shape[0] * weight.shape[1])  # (n_components, n_atoms, ...)
            return torch.matmul(sums, weight.flatten(0, 1)).to(sums.dtype).transpose(0, 1)
        sensitivity = interaction.sensitivity(self.distance)
        features = features.index_select(0, layout.sent.segment)
        if layout.sent.n_entries * weight.shape[2] <= LARGE:
            return message_first(sensitivity, features, weight, self.tensors, layout)
        with full_precision(features):  # the derivative repeats the messages without autocast
            environment: Tensor = _MessageFirst.apply(sensitivity, features, weight, self.tensors, layout)  # type: ignore[no-untyped-call]
        return environment

    def in_order_of_atoms(self, scalars: Tensor) -> Tensor:
        """Reorder (n_atoms, ...) from the order of the environments to that of the atoms."""
        return exchange(scalars, self.layout.received.row, self.layout.received.segment)


def message_first(sensitivity: Tensor, features: Tensor, weight: Tensor, tensors: Tensor, layout: Layout) -> Tensor:
    """Return environments (n_atoms, n_components, n_out) of features (n_atoms, n_in) in the order of `layout.sent`."""
    sources = torch.tensordot(features, weight, dims=1).to(features.dtype)  # (n_atoms, n_sensitivities, n_out)
    messages = rows_of_products(sensitivity, sources, layout.sent.blocks)
    messages = exchange(messages, layout.sent_to_received, layout.received_to_sent)
    return sums_of_products(tensors, messages, layout.received.blocks)


def _tensors_in_table(unit: Tensor, table: Table, l_max: int) -> Tensor:
    """Fill a table with the irreducible tensors (n_entries, (l_max + 1)^2) of unit vectors (n_pairs, 3)."""

    def tensors(unit: Tensor, is_filled: Tensor) -> Tensor:
        return tensors_on_device(unit, l_max) * is_filled

    is_filled = fill(torch.ones_like(unit[:, :1]), table)
    with full_precision(unit):
        return in_blocks(tensors, [fill(unit, table), is_filled], PAIRS)


def tensors_on_device(unit: Tensor, l_max: int) -> Tensor:
    """Return `nn.tensors.irreducible_tensors` by matrices that are built and copied to the device once."""
    lowest = irreducible_tensors(unit, min(l_max, 3))
    if l_max <= 3:
        return lowest
    tensors = [lowest.T]
    for rank in range(4, l_max + 1):
        matrix = _raising_matrix(rank, unit.dtype, unit.device)
        tensors.append(contract_products(matrix, tensors[-1][1 - 2 * rank :], unit))
    return torch.cat(tensors).T.contiguous()


@cache
def _raising_matrix(rank: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return raising_matrix(rank).to(device, dtype) / (rank * (2 * rank - 1))


def exchange(rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Reorder rows.

    Parameters
    ----------
    rows : (n_rows, n_columns)
    there : (n_found,) int64, source row of each result; any row for empty entries
    back : (n_rows,) int64, result of each source row; any result for empty entries
    """
    exchanged: Tensor = _Exchange.apply(rows, there, back)  # type: ignore[no-untyped-call]
    return exchanged


class _Exchange(Function):
    """The derivative is an exchange too; autograd would add row by row, since rows might repeat.

    Empty entries receive arbitrary rows in both directions: they are multiplied by zero.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return exchange(grad_output, back, there), None, None


class _MessageFirst(Function):
    """`message_first` in blocks of features that share buffers; messages are recomputed for the derivative."""

    @staticmethod
    def forward(
        ctx: Any, sensitivity: Tensor, features: Tensor, weight: Tensor, tensors: Tensor, layout: Layout
    ) -> Tensor:
        ctx.save_for_backward(sensitivity, features, weight, tensors)
        ctx.layout = layout
        n_atoms, n_out = len(features), weight.shape[2]
        environment = features.new_empty((tensors.shape[1], n_atoms, n_out)).transpose(0, 1)
        sent, received = _buffers(layout, features)
        for part in _parts(n_out):
            messages = _messages(sensitivity, features, weight[..., part], layout, sent, received)[0]
            multiply_sums(tensors, messages, layout.received.blocks, environment[..., part])
        return environment

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor | None, ...]:
        inputs, layout = ctx.saved_tensors, ctx.layout
        if torch.is_grad_enabled():  # differentiated again
            # of views: features depend on tensors through earlier layers, which must not enter this derivative
            sensitivity, features, weight, tensors = views = [tensor.view_as(tensor) for tensor in inputs]
            wanted = [tensor for tensor, needed in zip(views, ctx.needs_input_grad) if needed]
            environment = message_first(sensitivity, features, weight, tensors, layout)
            found = iter(torch.autograd.grad(environment, wanted, grad_output, create_graph=True))
            return (*(next(found) if needed else None for needed in ctx.needs_input_grad[:4]), None)
        sensitivity, features, weight, tensors = inputs
        grad_sensitivity, grad_features, grad_tensors = map(torch.zeros_like, (sensitivity, features, tensors))
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[2] else None
        sent, received = _buffers(layout, features)
        for part in _parts(weight.shape[2]):
            chosen, grad_part = weight[..., part], grad_output[..., part]
            messages, sources = _messages(sensitivity, features, chosen, layout, sent, received)
            multiply_rows(messages, grad_part.transpose(1, 2), layout.received.blocks, grad_tensors, add=True)
            grad_received = multiply_rows(tensors, grad_part, layout.received.blocks, received[:, : grad_part.shape[2]])
            grad_sent = torch.index_select(grad_received, 0, layout.received_to_sent, out=sent[:, : grad_part.shape[2]])
            multiply_rows(grad_sent, sources.transpose(1, 2), layout.sent.blocks, grad_sensitivity, add=True)
            grad_sources = torch.empty_like(sources)
            multiply_sums(sensitivity, grad_sent, layout.sent.blocks, grad_sources)
            grad_features += grad_sources.flatten(1) @ chosen.flatten(1).T
            if grad_weight is not None:
                grad_weight[..., part] = torch.tensordot(features, grad_sources, dims=([0], [0]))
        return grad_sensitivity, grad_features, grad_weight, grad_tensors, None


def _parts(n_out: int) -> list[slice]:
    return [slice(k, min(k + FEATURES_PER_BLOCK, n_out)) for k in range(0, n_out, FEATURES_PER_BLOCK)]


def _buffers(layout: Layout, like: Tensor) -> Tuple[Tensor, Tensor]:
    shapes = [(table.n_entries, FEATURES_PER_BLOCK) for table in (layout.sent, layout.received)]
    return like.new_empty(shapes[0]), like.new_empty(shapes[1])


def _messages(
    sensitivity: Tensor, features: Tensor, weight: Tensor, layout: Layout, sent: Tensor, received: Tensor
) -> Tuple[Tensor, Tensor]:
    """Return messages in the order of `layout.received`, and zeta."""
    n = weight.shape[2]
    sources = torch.tensordot(features, weight, dims=1)
    messages = multiply_rows(sensitivity, sources, layout.sent.blocks, sent[:, :n])
    return torch.index_select(messages, 0, layout.sent_to_received, out=received[:, :n]), sources
