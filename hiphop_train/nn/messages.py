"""Message passing over pairs, as batched matrix products; TorchScript-safe.

HIP-NN's interaction A_i = sum_j sum_nu s_nu(r_ij) T(r_ij) V_nu z_j is evaluated message first: zeta_j = V z_j once per
atom, m_ij = sum_nu s_nu zeta_j,nu in a table with one line per sending atom, and A_i = sum_j T m_ij in a table with
one line per receiving atom. No array of pairs x sensitivities x features is made.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.graph.segments import fill_table, table_slots


class PairTables(NamedTuple):
    """Places of the pairs in the tables by sending and by receiving atom."""

    n_atoms: int
    send_slot: Tensor
    """(n_pairs,) int64."""
    send_width: int
    receive_slot: Tensor
    """(n_pairs,) int64."""
    receive_width: int
    sent_to_received: Tensor
    """(n_atoms * receive_width,) int64: place by sender of what stands at each place by receiver; 0 where nothing."""
    received_to_sent: Tensor
    """(n_atoms * send_width,) int64: the other way round."""


def pair_tables(pair_i: Tensor, pair_j: Tensor, n_atoms: int) -> PairTables:
    """Lay out the pairs once; all interaction layers use the same tables.

    Parameters
    ----------
    pair_i, pair_j : (n_pairs,) int64, receiving and sending atom, in any order of the pairs
    n_atoms : number of atoms
    """
    send_slot, send_width = table_slots(pair_j, n_atoms)
    receive_slot, receive_width = table_slots(pair_i, n_atoms)
    sent_to_received = torch.zeros((n_atoms * receive_width,), dtype=torch.int64, device=pair_i.device)
    sent_to_received[receive_slot] = send_slot
    received_to_sent = torch.zeros((n_atoms * send_width,), dtype=torch.int64, device=pair_i.device)
    received_to_sent[send_slot] = receive_slot
    return PairTables(n_atoms, send_slot, send_width, receive_slot, receive_width, sent_to_received, received_to_sent)


def send(sensitivity: Tensor, sources: Tensor, tables: PairTables) -> Tensor:
    """Form the messages m_ij = sum_nu s_nu(r_ij) zeta_j,nu.

    Parameters
    ----------
    sensitivity : (n_pairs, n_sensitivities)
    sources : (n_atoms, n_sensitivities, n_features), zeta
    tables : from `pair_tables`

    Returns
    -------
    messages : (n_atoms, receive_width, n_features), a line per receiving atom; where no pair stands the value means
        nothing, and `receive` multiplies it by zero
    """
    by_sender = fill_table(sensitivity, tables.send_slot, tables.n_atoms, tables.send_width)
    messages = torch.bmm(by_sender, sources).reshape(-1, sources.shape[2])
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        received = messages.index_select(0, tables.sent_to_received)
    else:
        received = _exchange(messages, tables.sent_to_received, tables.received_to_sent)
    return received.reshape(tables.n_atoms, tables.receive_width, sources.shape[2])


def receive(weights: Tensor, messages: Tensor) -> Tensor:
    """Sum the messages of each receiving atom, A_i,t = sum_j T_t(r_ij) m_ij.

    Parameters
    ----------
    weights : (n_atoms, receive_width, n_components), T laid out with `fill_table`, zero where no pair stands
    messages : (n_atoms, receive_width, n_features), from `send`

    Returns
    -------
    sums : (n_atoms, n_components, n_features)
    """
    return torch.bmm(weights.transpose(1, 2), messages)


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _exchange(messages: Tensor, sent_to_received: Tensor, received_to_sent: Tensor) -> Tensor:
    received: Tensor = _Exchange.apply(messages, sent_to_received, received_to_sent)  # type: ignore[no-untyped-call]
    return received


class _Exchange(Function):
    """Bring rows from one table into the order of another; the derivative brings them back.

    Autograd's own derivative adds row by row, since it cannot know that none comes twice. Places where no pair stands
    get any row, there and back: what stands beside them in the products is zero.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        returned: Tensor = _Exchange.apply(gradient, back, there)  # type: ignore[no-untyped-call]
        return returned, None, None
