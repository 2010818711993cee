"""Message passing over pairs, as batched matrix products; TorchScript-safe.

HIP-NN's interaction A_i = sum_j sum_nu s_nu(r_ij) T(r_ij) V_nu z_j can be summed in two orders. Message first:
zeta_j = V z_j once per atom, m_ij = sum_nu s_nu zeta_j,nu in a table with a line per sending atom, and
A_i = sum_j T m_ij in one with a line per receiving atom. Environment first: E_i = sum_j T s z_j, then V; that is
cheaper in the first layer, where z_j only says which species an atom is, when there are many neighbours. No array of
pairs x sensitivities x features is made either way, and of large systems none of pairs x features.
"""

from typing import Any, Tuple

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.graph.tables import multiply_rows, multiply_sums, rows_of_products, sums_of_products
from hiphop_train.nn.fused_convolution import environments, species_sums
from hiphop_train.nn.pairs import Pairs, exchange
from hiphop_train.nn.precision import full_precision

LARGE = 2**24
"""Elements of pairs x features from which on features are taken a few at a time."""
FEATURES_AT_A_TIME = 32


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
    pairs : from `nn.pairs.PairLayout`
    features_are_species : whether the features are the species, one-hot

    Returns
    -------
    environment : (n_atoms, n_components, n_out), in memory (n_components, n_atoms, n_out); in order of the lines of
        `pairs.received`: what is made of them goes back to the order of the atoms by `in_order_of_atoms`
    """
    if not torch.jit.is_scripting() and pairs.library != "":  # type: ignore[attr-defined]
        fused: Tensor = _convolve_fused(sensitivity, features, weight, pairs, features_are_species)
        return fused
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


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _convolve_fused(
    sensitivity: Tensor, features: Tensor, weight: Tensor, pairs: Pairs, features_are_species: bool
) -> Tensor:
    """Do as `convolve`, compiled; environments of atoms stand side by side in memory, in the order of the atoms."""
    tensors, start = pairs.received_tensors, pairs.start
    if features_are_species and len(pairs.sender_number) > 0:
        n_present = len(pairs.present)
        sums = species_sums(sensitivity, tensors, start, pairs.sender_number, n_present, pairs.library)
        return sums @ weight.index_select(0, pairs.present).flatten(0, 1)
    return environments(sensitivity, tensors, features, weight, start, pairs.sender, pairs.library)


def message_first(sensitivity: Tensor, features: Tensor, weight: Tensor, tensors: Tensor, pairs: Pairs) -> Tensor:
    """Do as `convolve`, for features (n_atoms, n_in) in order of the lines of `pairs.sent`."""
    sources = torch.tensordot(features, weight, dims=1).to(features.dtype)  # (n_atoms, n_sensitivities, n_out)
    messages = rows_of_products(sensitivity, sources, pairs.sent.blocks)
    messages = exchange(messages, pairs.sent_to_received, pairs.received_to_sent)
    return sums_of_products(tensors, messages, pairs.received.blocks)


def in_order_of_atoms(rows: Tensor, pairs: Pairs) -> Tensor:
    """Bring rows from the order of the lines of `pairs.received`, where it is used, into that of the atoms."""
    if pairs.library != "":
        return rows
    return exchange(rows, pairs.received.segment_line, pairs.received.line)


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
