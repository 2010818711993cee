"""Edge-gated convolutions and normalised activations in C, twice differentiable; see `kernels/gated_graph.c`.

The kernels recompute what is cheap: of a convolution over n edges, only C e and one number per edge are kept. First
derivatives are functions of their own, whose derivatives are kernels too; those of the gradients of parameters, which
no loss needs, are refused.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from hiphop_train.accelerate.compiler import Library
from hiphop_train.models.alignn import EdgeGatedConvolution

ROWS = 64
"""Rows that share one sum of the gradients of parameters, as in the kernel."""


class Groups(NamedTuple):
    """The edges of a graph, grouped by receiver, in blocks of groups of which none shares a sender with another."""

    sender: Tensor
    """(n_edges,) int64."""
    node: Tensor | None
    """(n_groups,) int64: the receiver of each group, each node once; None if these are 0, 1, 2 ..."""
    start: Tensor
    """(n_groups + 1,) int64: first edge of each group."""
    place: Tensor | None
    """(n_edges,) int64: row of the features of each edge; None if these are 0, 1, 2 ..."""
    block: Tensor
    """(n_blocks + 1,) int64: first group of each block."""


def activate(library: Library, inputs: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    """Return residual + silu(norm(inputs) weight + bias), (n_rows, n_features)."""
    result: Tensor = _Rows.apply(library, inputs, weight, bias, residual)  # type: ignore[no-untyped-call]
    return result


def convolve(
    library: Library,
    convolution: EdgeGatedConvolution,
    nodes: Tensor,
    edges: Tensor,
    weights: Tensor,
    groups: Groups,
    of_edges: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what the convolution does.

    Parameters
    ----------
    library : compiled for its number of features
    convolution : with its parameters
    nodes : (n_nodes, n_features)
    edges : (n_edges, n_features), or fewer rows if `groups` has places
    weights : (n_edges,)
    groups : the graph
    of_edges : C e, if it is known

    Returns
    -------
    nodes : (n_nodes, n_features)
    edges : (n_edges, n_features); unchanged if the convolution does not update them
    """
    parts = [convolution.sender_gate, convolution.message, convolution.receiver_gate, convolution.own]
    sender, message, receiver, own = (part.bias for part in parts)
    bias = torch.cat([sender, message, receiver + convolution.edge_gate.bias, own])
    of_nodes = linear(nodes, torch.cat([part.weight for part in parts]), bias)
    if of_edges is None:
        of_edges = linear(edges, convolution.edge_gate.weight)
    norm = list(convolution.edge_norm[0].parameters()) if len(convolution.edge_norm) else [None, None]
    given = (of_nodes, of_edges, weights, *norm, edges if len(convolution.edge_norm) else None)
    sums, new_edges = _Convolve.apply(library, groups, convolution.epsilon, *given)  # type: ignore[no-untyped-call]
    node_norm = convolution.node_norm
    return activate(library, sums, node_norm.weight, node_norm.bias, nodes), edges if new_edges is None else new_edges


def _sums(blocks: int, like: Tensor, are_wanted: bool) -> Tensor | None:
    """Return room for the gradients of weight and bias of each block."""
    return like.new_empty((blocks, 2, len(like))) if are_wanted else None


class _Rows(Function):
    @staticmethod
    def forward(
        ctx: Any, library: Library, inputs: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None
    ) -> Tensor:
        inputs = inputs.contiguous()
        result = torch.empty_like(inputs)
        residual = None if residual is None else residual.contiguous()
        library.call("rows", inputs, weight, bias, residual, result, len(inputs))
        ctx.save_for_backward(inputs, weight, bias)
        ctx.library = library
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needs_parameters = ctx.needs_input_grad[2]
        grad_inputs, parameters = _RowsGradient.apply(ctx.library, needs_parameters, gradient, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        weight, bias = parameters if needs_parameters else (None, None)
        return None, grad_inputs, weight, bias, gradient if ctx.needs_input_grad[4] else None


class _RowsGradient(Function):
    @staticmethod
    def forward(
        ctx: Any,
        library: Library,
        needs_parameters: bool,
        gradient: Tensor,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        gradient, grad_inputs = gradient.contiguous(), torch.empty_like(inputs)
        sums = _sums(-(-len(inputs) // ROWS), weight, needs_parameters)
        library.call("rows_gradient", inputs, weight, bias, gradient, grad_inputs, sums, len(inputs))
        ctx.save_for_backward(gradient, inputs, weight, bias)
        ctx.library = library
        ctx.set_materialize_grads(False)
        return grad_inputs, None if sums is None else sums.sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, tangent: Tensor, of_parameters: Tensor | None) -> tuple[Tensor | None, ...]:
        assert of_parameters is None
        gradient, inputs, weight, bias = ctx.saved_tensors
        grad_gradient, grad_inputs = torch.empty_like(inputs), torch.empty_like(inputs)
        sums = _sums(-(-len(inputs) // ROWS), weight, ctx.needs_input_grad[4])
        given = (inputs, weight, bias, gradient, tangent.contiguous(), grad_gradient, grad_inputs, sums)
        ctx.library.call("rows_second", *given, len(inputs))
        of_weight, of_bias = (None, None) if sums is None else sums.sum(0)
        return None, None, grad_gradient, grad_inputs, of_weight, of_bias


class _Convolve(Function):
    """Inputs: A h, V h, B h, W h; C e; w; parameters of the norm of the edges, and e, or None."""

    @staticmethod
    def forward(ctx: Any, library: Library, groups: Groups, epsilon: float, *tensors: Tensor | None) -> Any:
        nodes, edges, weights, scale, shift, old_edges = tensors
        assert nodes is not None
        assert edges is not None
        assert weights is not None
        n_features = edges.shape[1]
        sums, means, totals = (nodes.new_empty((len(nodes), n_features)) for _ in range(3))
        new_edges = None if scale is None else edges.new_empty((len(weights), n_features))
        given = _given(nodes, edges, weights, scale, shift, groups)
        library.call("convolve", *given, old_edges, new_edges, sums, means, totals, epsilon)
        ctx.save_for_backward(nodes, edges, weights, scale, shift, means, totals)
        ctx.library, ctx.groups = library, groups
        ctx.set_materialize_grads(False)
        return sums, new_edges

    @staticmethod
    def backward(ctx: Any, of_sums: Tensor, of_edges: Tensor | None) -> tuple[Any, ...]:
        needs_parameters = ctx.needs_input_grad[6]
        given = (ctx.library, ctx.groups, needs_parameters, of_sums, of_edges, *ctx.saved_tensors)
        *gradients, of_old, parameters = _ConvolveGradient.apply(*given)  # type: ignore[no-untyped-call]
        scale, shift = parameters if needs_parameters else (None, None)
        return None, None, None, *gradients, scale, shift, of_edges if of_old is None else of_old


class _ConvolveGradient(Function):
    @staticmethod
    def forward(
        ctx: Any, library: Library, groups: Groups, needs_parameters: bool, of_sums: Tensor, of_edges: Tensor | None,
        *saved: Tensor,
    ) -> Any:  # fmt: skip
        nodes, edges, weights, scale, shift, means, totals = saved
        of_sums = of_sums.contiguous()
        of_edges = None if of_edges is None else of_edges.contiguous()
        grad_nodes, grad_weights, grad_edges = torch.zeros_like(nodes), torch.empty_like(weights), _room(edges, groups)
        of_old = None if of_edges is None or groups.place is None else torch.zeros_like(edges)
        sums = _sums(len(groups.block) - 1, scale, needs_parameters)
        given = (*_given(nodes, edges, weights, scale, shift, groups), means, totals, of_sums, of_edges)
        library.call("convolve_gradient", *given, grad_nodes, grad_edges, grad_weights, of_old, sums)
        ctx.save_for_backward(of_sums, of_edges, *saved)
        ctx.library, ctx.groups = library, groups
        ctx.set_materialize_grads(False)
        return grad_nodes, grad_edges, grad_weights, of_old, None if sums is None else sums.sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *tangents: Tensor | None) -> tuple[Any, ...]:
        of_sums, of_edges, nodes, edges, weights, scale, shift, means, totals = ctx.saved_tensors
        groups: Groups = ctx.groups
        nodes_t, edges_t, weights_t, old_t, of_parameters = tangents
        assert of_parameters is None
        given_t = [
            torch.zeros_like(value) if tangent is None else tangent.contiguous()
            for value, tangent in ((nodes, nodes_t), (edges, edges_t), (weights, weights_t))
        ]
        old_t = None if old_t is None else old_t.contiguous()
        grad_sums, grad_weights = torch.empty_like(of_sums), torch.empty_like(weights)
        grad_of_edges = None if of_edges is None else torch.empty_like(of_edges)
        grad_nodes, grad_edges = torch.zeros_like(nodes), _room(edges, groups)
        sums = None if scale is None else _sums(len(groups.block) - 1, scale, ctx.needs_input_grad[8])
        given = (
            *_given(nodes, edges, weights, scale, shift, groups),
            means,
            totals,
            of_sums,
            of_edges,
            *given_t,
            old_t,
        )
        results = (grad_sums, grad_of_edges, grad_nodes, grad_edges, grad_weights)
        ctx.library.call("convolve_second", *given, *results, sums)
        of_scale, of_shift = (None, None) if sums is None else sums.sum(0)
        return None, None, None, *results, of_scale, of_shift, None, None


def _room(edges: Tensor, groups: Groups) -> Tensor:
    """Return room for gradients with respect to the features of edges."""
    return torch.empty_like(edges) if groups.place is None else torch.zeros_like(edges)


def _given(
    nodes: Tensor, edges: Tensor, weights: Tensor, scale: Tensor | None, shift: Tensor | None, groups: Groups
) -> tuple[Any, ...]:
    """Return the arguments with which all kernels of the convolution begin."""
    order = (groups.sender, groups.node, groups.start, groups.place, groups.block, len(groups.block) - 1)
    return nodes, edges, weights, scale, shift, *order
