"""Message passing over pairs, as batched matrix products; TorchScript-safe.

HIP-NN's interaction A_i = sum_j sum_nu s_nu(r_ij) T(r_ij) V_nu z_j can be summed in two orders. Message first:
zeta_j = V z_j once per atom, m_ij = sum_nu s_nu zeta_j,nu in a table with a line per sending atom, and
A_i = sum_j T m_ij in one with a line per receiving atom. Environment first: E_i = sum_j T s z_j, then V; that is
cheaper in the first layer, where z_j only says which species an atom is, when there are many neighbours. No array of
pairs x sensitivities x features is made either way, and of large systems none of pairs x features.
"""

from typing import Any, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.graph.tables import (
    fill,
    lay_out,
    multiply_rows,
    multiply_sums,
    rows_of_products,
    sums_of_products,
)
from hiphop_train.nn.blocks import PAIRS, in_blocks
from hiphop_train.nn.precision import full_precision
from hiphop_train.nn.tensors import irreducible_tensors
from hiphop_train.types import Graph, Layout, Table

LARGE = 2**24
"""Elements of pairs x features from which on features are taken a few at a time."""
FEATURES_AT_A_TIME = 32


class Pairs(NamedTuple):
    """The pairs, laid out for all interaction layers of a model.

    Where no pair stands, distances lie beyond any cutoff, so that sensitivities are zero, and so are received tensors.
    """

    sent: Table
    """Lines by sending atom."""
    sent_distance: Tensor
    """(n_sent_slots,) Angstrom."""
    received: Table
    """Lines by receiving atom. Atoms that receive are counted by these lines."""
    received_tensors: Tensor
    """(n_received_slots, n_components), T."""
    sent_to_received: Tensor
    """(n_received_slots,) int64: place by sender of what stands at each place by receiver; 0 where nothing."""
    received_to_sent: Tensor
    """(n_sent_slots,) int64: the other way round."""
    present: Tensor
    """(n_present,) int64: the species that are there."""
    by_species: Optional[Table]
    """Lines by receiving atom and species of the sender, where environment first pays; else what follows is empty."""
    species_distance: Tensor
    """(n_by_species_slots,) Angstrom."""
    species_tensors: Tensor
    """(n_by_species_slots, n_components), T."""
    species_line: Tensor
    """(n_atoms * n_present,) int64: line in `by_species` of receiving atoms, in order of `received`, and species."""


def lay_out_pairs(graph: Graph, n_types: int, l_max: int, n_sensitivities: int) -> Pairs:
    """Lay out the pairs once; all interaction layers use the same tables.

    Parameters
    ----------
    graph : with its pairs in any order; where it has a layout, no number is asked for
    n_types : number of species
    l_max : highest rank of the tensors
    n_sensitivities : of the layers, for the choice of the order of summation
    """
    given = graph.layout
    layout = lay_out_indices(graph, n_types, l_max, n_sensitivities) if given is None else given
    distance = torch.linalg.norm(graph.pair_vectors, dim=1, keepdim=True)
    unit = graph.pair_vectors / distance
    far = 1e4  # Angstrom, beyond any cutoff
    received_tensors = fill_tensors(unit, layout.received, l_max)
    species_distance = distance[:0, 0]
    species_tensors = received_tensors[:0]
    by_species = layout.by_species
    if by_species is not None:
        species_distance = fill(distance, by_species, far).squeeze(1)
        species_tensors = exchange(received_tensors, layout.received_to_species, layout.species_to_received)
    return Pairs(
        sent=layout.sent,
        sent_distance=fill(distance, layout.sent, far).squeeze(1),
        received=layout.received,
        received_tensors=received_tensors,
        sent_to_received=layout.sent_to_received,
        received_to_sent=layout.received_to_sent,
        present=layout.present,
        by_species=by_species,
        species_distance=species_distance,
        species_tensors=species_tensors,
        species_line=layout.species_line,
    )


def lay_out_indices(graph: Graph, n_types: int, l_max: int, n_sensitivities: int) -> Layout:
    """Do that part of `lay_out_pairs` that depends on species and pairs alone; asks for numbers, so not on a GPU."""
    pair_i, pair_j, n_atoms = graph.pair_i, graph.pair_j, graph.species.shape[0]
    sent = lay_out(pair_j, n_atoms)
    received = lay_out(pair_i, n_atoms)
    by_species: Optional[Table] = None
    received_to_species = species_to_received = species_line = pair_i[:0]
    is_present = torch.bincount(graph.species, minlength=n_types) > 0
    present = torch.nonzero(is_present)[:, 0]
    n_present = present.shape[0]
    # multiplications of each order, per feature
    n_components = (l_max + 1) ** 2
    if pair_i.shape[0] * (n_sensitivities + n_components) > n_atoms * n_present * n_components * n_sensitivities:
        number = (torch.cumsum(is_present, 0) - 1).index_select(0, graph.species)  # among those that are there
        table = lay_out(pair_i * n_present + number.index_select(0, pair_j), n_atoms * n_present)
        received_to_species, species_to_received = places(received, table), places(table, received)
        numbers = torch.arange(n_present, device=pair_i.device)
        species_line = table.segment_line.index_select(0, (received.line[:, None] * n_present + numbers).flatten())
        by_species = table
    return Layout(
        sent=sent,
        received=received,
        sent_to_received=places(sent, received),
        received_to_sent=places(received, sent),
        present=present,
        by_species=by_species,
        received_to_species=received_to_species,
        species_to_received=species_to_received,
        species_line=species_line,
    )


def with_layout(graph: Graph, n_types: int, l_max: int, n_sensitivities: int) -> Graph:
    """Lay the pairs of a graph out before it goes to a model; the rest is as for `lay_out_pairs`."""
    return graph._replace(layout=lay_out_indices(graph, n_types, l_max, n_sensitivities))


def places(given: Table, asked: Table) -> Tensor:
    """Place in one table of what stands at each place of another (n_slots,) int64; 0 where nothing does."""
    nothing = torch.zeros((asked.n_slots,), dtype=torch.int64, device=asked.slot.device)
    return nothing.scatter(0, asked.slot, given.slot)


def fill_tensors(unit: Tensor, table: Table, l_max: int) -> Tensor:
    """Lay out the irreducible tensors (n_slots, (l_max + 1)^2) of unit vectors (n_pairs, 3) in a table."""
    present = fill(torch.ones_like(unit[:, :1]), table)
    unit = fill(unit, table)
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return irreducible_tensors(unit, l_max) * present
    tensors: Tensor = _tensors_in_blocks(unit, present, l_max)
    return tensors


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _tensors_in_blocks(unit: Tensor, present: Tensor, l_max: int) -> Tensor:
    def tensors(unit: Tensor, present: Tensor) -> Tensor:
        return irreducible_tensors(unit, l_max) * present

    with full_precision(unit):
        return in_blocks(tensors, [unit, present], PAIRS)


def distances(pairs: Pairs, features_are_species: bool) -> Tensor:
    """Return the distances (n_slots,), Angstrom, in the order in which `convolve` takes their sensitivities."""
    if features_are_species and pairs.by_species is not None:
        return pairs.species_distance
    return pairs.sent_distance


def convolve(sensitivity: Tensor, features: Tensor, weight: Tensor, pairs: Pairs, features_are_species: bool) -> Tensor:
    """Sum over the neighbours, A_i = sum_j sum_nu s_nu(r_ij) T(r_ij) V_nu z_j.

    Parameters
    ----------
    sensitivity : (n_slots, n_sensitivities), s at `distances`
    features : (n_atoms, n_in), z
    weight : (n_in, n_sensitivities, n_out), V
    pairs : from `lay_out_pairs`
    features_are_species : whether the features are the species, one-hot

    Returns
    -------
    environment : (n_atoms, n_components, n_out), in memory (n_components, n_atoms, n_out); in order of the lines of
        `pairs.received`: what is made of them goes back to the order of the atoms by `in_order_of_atoms`
    """
    by_species = pairs.by_species
    if features_are_species and by_species is not None:
        sums = sums_of_products(pairs.species_tensors, sensitivity, by_species.blocks)
        sums = sums.transpose(0, 1).index_select(1, pairs.species_line)
        weight = weight.index_select(0, pairs.present)
        sums = sums.reshape(sums.shape[0], -1, weight.shape[0] * weight.shape[1])  # (n_components, n_atoms, ...)
        return torch.matmul(sums, weight.flatten(0, 1)).to(sums.dtype).transpose(0, 1)
    features = features.index_select(0, pairs.sent.line)
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return message_first(sensitivity, features, weight, pairs.received_tensors, pairs)
    environment: Tensor = _message_first(sensitivity, features, weight, pairs.received_tensors, pairs)
    return environment


def message_first(sensitivity: Tensor, features: Tensor, weight: Tensor, tensors: Tensor, pairs: Pairs) -> Tensor:
    """Do as `convolve`, for features (n_atoms, n_in) in order of the lines of `pairs.sent`."""
    sources = torch.tensordot(features, weight, dims=1).to(features.dtype)  # (n_atoms, n_sensitivities, n_out)
    messages = rows_of_products(sensitivity, sources, pairs.sent.blocks)
    messages = exchange(messages, pairs.sent_to_received, pairs.received_to_sent)
    return sums_of_products(tensors, messages, pairs.received.blocks)


def in_order_of_atoms(rows: Tensor, pairs: Pairs) -> Tensor:
    """Bring rows from the order of the lines of `pairs.received` into that of the atoms."""
    return exchange(rows, pairs.received.segment_line, pairs.received.line)


def exchange(rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Bring rows into another order.

    Parameters
    ----------
    rows : (n_rows, n_columns)
    there : (n_found,) int64, row that comes to each place
    back : (n_rows,) int64, place to which each row comes; anything, in both, where the row is of no consequence
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return rows.index_select(0, there)
    exchanged: Tensor = _exchange(rows, there, back)
    return exchanged


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _exchange(rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
    exchanged: Tensor = _Exchange.apply(rows, there, back)  # type: ignore[no-untyped-call]
    return exchanged


class _Exchange(Function):
    """Autograd's own derivative adds row by row, since it cannot know that none comes twice.

    Places where no pair stands get any row, there and back: what stands beside them in the products is zero.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return _exchange(gradient, back, there), None, None


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _message_first(sensitivity: Tensor, features: Tensor, weight: Tensor, tensors: Tensor, pairs: Pairs) -> Tensor:
    """Choose the implementation by size."""
    if pairs.sent.n_slots * weight.shape[2] <= LARGE:
        return message_first(sensitivity, features, weight, tensors, pairs)
    with full_precision(features):  # the derivative makes the messages again, without autocast
        environment: Tensor = _MessageFirst.apply(sensitivity, features, weight, tensors, pairs)  # type: ignore[no-untyped-call]
    return environment


class _MessageFirst(Function):
    """`message_first`, a few features at a time in the same memory; messages are made again for the derivative."""

    @staticmethod
    def forward(
        ctx: Any, sensitivity: Tensor, features: Tensor, weight: Tensor, tensors: Tensor, pairs: Pairs
    ) -> Tensor:
        ctx.save_for_backward(sensitivity, features, weight, tensors)
        ctx.pairs = pairs
        n_atoms, n_out = len(features), weight.shape[2]
        environment = features.new_empty((tensors.shape[1], n_atoms, n_out)).transpose(0, 1)
        sent, received = _buffers(pairs, features)
        for part in _parts(n_out):
            messages = _messages(sensitivity, features, weight[..., part], pairs, sent, received)[0]
            multiply_sums(tensors, messages, pairs.received.blocks, environment[..., part])
        return environment

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            # by views: features come from tensors, through earlier layers, and that way is not this function's
            sensitivity, features, weight, tensors = views = [tensor.view_as(tensor) for tensor in inputs]
            wanted = [tensor for tensor, needed in zip(views, ctx.needs_input_grad) if needed]
            environment = message_first(sensitivity, features, weight, tensors, ctx.pairs)
            found = iter(torch.autograd.grad(environment, wanted, gradient, create_graph=True))
            return (*(next(found) if needed else None for needed in ctx.needs_input_grad[:4]), None)
        sensitivity, features, weight, tensors = inputs
        pairs: Pairs = ctx.pairs
        of_sensitivity, of_features, of_tensors = map(torch.zeros_like, (sensitivity, features, tensors))
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[2] else None
        sent, received = _buffers(pairs, features)
        for part in _parts(weight.shape[2]):
            chosen, pull = weight[..., part], gradient[..., part]
            messages, sources = _messages(sensitivity, features, chosen, pairs, sent, received)
            multiply_rows(messages, pull.transpose(1, 2), pairs.received.blocks, of_tensors, add=True)
            of_received = multiply_rows(tensors, pull, pairs.received.blocks, received[:, : pull.shape[2]])
            of_sent = torch.index_select(of_received, 0, pairs.received_to_sent, out=sent[:, : pull.shape[2]])
            multiply_rows(of_sent, sources.transpose(1, 2), pairs.sent.blocks, of_sensitivity, add=True)
            of_sources = torch.empty_like(sources)
            multiply_sums(sensitivity, of_sent, pairs.sent.blocks, of_sources)
            of_features += of_sources.flatten(1) @ chosen.flatten(1).T
            if of_weight is not None:
                of_weight[..., part] = torch.tensordot(features, of_sources, dims=([0], [0]))
        return of_sensitivity, of_features, of_weight, of_tensors, None


def _parts(n_out: int) -> list[slice]:
    return [slice(k, min(k + FEATURES_AT_A_TIME, n_out)) for k in range(0, n_out, FEATURES_AT_A_TIME)]


def _buffers(pairs: Pairs, like: Tensor) -> Tuple[Tensor, Tensor]:
    shapes = [(table.n_slots, FEATURES_AT_A_TIME) for table in (pairs.sent, pairs.received)]
    return like.new_empty(shapes[0]), like.new_empty(shapes[1])


def _messages(
    sensitivity: Tensor, features: Tensor, weight: Tensor, pairs: Pairs, sent: Tensor, received: Tensor
) -> Tuple[Tensor, Tensor]:
    """Return messages by receiver, and zeta."""
    n = weight.shape[2]
    sources = torch.tensordot(features, weight, dims=1)
    messages = multiply_rows(sensitivity, sources, pairs.sent.blocks, sent[:, :n])
    return torch.index_select(messages, 0, pairs.sent_to_received, out=received[:, :n]), sources
