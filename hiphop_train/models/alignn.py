"""ALIGNN: atomistic line graph neural network.

Choudhary, DeCost, npj Comput. Mater. 7, 185 (2021); as a potential: Choudhary, DeCost, Major, Butler, Thiyagalingam,
Tavazza, Digit. Discov. 2, 346 (2023); details as in the library alignn 2026.8.
"""

from typing import Annotated, List, Literal, NamedTuple, Tuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu

from hiphop_train.errors import ConfigError
from hiphop_train.graph.segments import segment_sum
from hiphop_train.graph.triples import line_graph_within
from hiphop_train.models.base import Representation
from hiphop_train.nn.gaussians import gaussian
from hiphop_train.nn.radial import polynomial_cutoff
from hiphop_train.types import Graph

Cut = Literal["smooth", "published"]


def layer(n_in: int, n_out: int) -> nn.Sequential:
    """Return silu(norm(W x + b)), with torch's initial weights."""
    return nn.Sequential(nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.SiLU())


class Expansion(nn.Module):
    """Gaussians exp(-(x - mu_k)^2 / d) at evenly spaced centres mu_k with spacing d (not squared, as in the library).

    Parameters
    ----------
    first, last : centres of the first and the last Gaussian
    n_gaussians : at least 2
    """

    def __init__(self, first: float, last: float, n_gaussians: int) -> None:
        super().__init__()
        self.first, self.last, self.n_gaussians = first, last, n_gaussians
        self.sharpness = (n_gaussians - 1) / (last - first)

    def forward(self, values: Tensor) -> Tensor:
        """Expand values (n,) as (n, n_gaussians)."""
        centres = torch.linspace(self.first, self.last, self.n_gaussians, dtype=values.dtype, device=values.device)
        return gaussian(self.sharpness * (values[:, None] - centres).square())


class LineGraph(NamedTuple):
    """Triples: pairs of pairs of which one begins where the other ends."""

    before: Tensor
    """(n_triples,) int64: pair A, from atom u to atom v."""
    after: Tensor
    """(n_triples,) int64: pair B, from atom v to atom w, which may be u; ascending."""
    weights: Tensor
    """(n_triples,): between 0 and 1, zero where a pair is as long as the cutoff."""


class EdgeGatedConvolution(nn.Module):
    """Edge-gated graph convolution over any directed graph (npj Comput. Mater. 7, 185, Methods, of the same name).

    For each edge from node j to node i, m_ij = A h_j + B h_i + C e_ij + b and the gate g_ij = w_ij sigmoid(m_ij);
    h_i <- h_i + silu(norm(W h_i + b' + sum_j g_ij * (V h_j + b'') / (sum_j g_ij + epsilon)));
    e_ij <- e_ij + silu(norm(m_ij)).
    The weights w of the edges are 1 in the paper.

    Parameters
    ----------
    n_features : of nodes and of edges
    epsilon : in the denominator
    updates_edges : whether the edges are updated; they need not be if they are not used afterwards
    """

    def __init__(self, n_features: int, epsilon: float, updates_edges: bool) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.sender_gate = nn.Linear(n_features, n_features)  # A
        self.receiver_gate = nn.Linear(n_features, n_features)  # B
        self.edge_gate = nn.Linear(n_features, n_features)  # C
        self.own = nn.Linear(n_features, n_features)  # W
        self.message = nn.Linear(n_features, n_features)  # V
        self.node_norm = nn.LayerNorm(n_features)
        self.edge_norm = nn.ModuleList([nn.LayerNorm(n_features)] if updates_edges else [])  # one or none

    def forward(
        self, nodes: Tensor, edges: Tensor, sender: Tensor, receiver: Tensor, weights: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """Convolve.

        Parameters
        ----------
        nodes : (n_nodes, n_features), h
        edges : (n_edges, n_features), e
        sender, receiver : (n_edges,) int64, nodes j and i
        weights : (n_edges,), w

        Returns
        -------
        nodes : (n_nodes, n_features)
        edges : (n_edges, n_features)
        """
        mixed = (
            self.sender_gate(nodes).index_select(0, sender)
            + self.receiver_gate(nodes).index_select(0, receiver)
            + self.edge_gate(edges)
        )
        gates = weights[:, None] * torch.sigmoid(mixed)
        messages = gates * self.message(nodes).index_select(0, sender)
        total = segment_sum(gates, receiver, nodes.shape[0]) + self.epsilon
        mean = segment_sum(messages, receiver, nodes.shape[0]) / total
        nodes = nodes + silu(self.node_norm(self.own(nodes) + mean))
        for norm in self.edge_norm:
            edges = edges + silu(norm(mixed))
        return nodes, edges


class LineGraphLayer(nn.Module):
    """Convolution over the graph, then over its line graph, whose nodes are the pairs (Methods, "ALIGNN update").

    Parameters
    ----------
    n_features, epsilon : see `EdgeGatedConvolution`
    updates_triples : whether the triples are used afterwards
    """

    def __init__(self, n_features: int, epsilon: float, updates_triples: bool) -> None:
        super().__init__()
        self.of_graph = EdgeGatedConvolution(n_features, epsilon, updates_edges=True)
        self.of_line_graph = EdgeGatedConvolution(n_features, epsilon, updates_edges=updates_triples)

    def forward(
        self, atoms: Tensor, pairs: Tensor, triples: Tensor, graph: Graph, weights: Tensor, line_graph: LineGraph
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Update features of atoms, pairs and triples; `weights` (n_pairs,) are those of the pairs."""
        atoms, pairs = self.of_graph(atoms, pairs, graph.pair_j, graph.pair_i, weights)
        pairs, triples = self.of_line_graph(pairs, triples, line_graph.before, line_graph.after, line_graph.weights)
        return atoms, pairs, triples


def cosines(units: Tensor, line_graph: LineGraph) -> Tensor:
    """Return the cosines of the angles of triples (n_triples,), given the unit vectors of the pairs (n_pairs, 3).

    The angle is that between the two pairs at the atom that they share: 0 where B leads back along A.
    """
    return -(units.index_select(0, line_graph.before) * units.index_select(0, line_graph.after)).sum(1)


class ALIGNN(Representation):
    """Convolutions that alternate between the graph of the atoms and its line graph, so that pairs learn of angles.

    Nodes of the graph are atoms, its edges pairs. Nodes of the line graph are pairs, its edges triples: two pairs of
    which the second begins where the first ends, at an angle.

    Parameters
    ----------
    elements : type names
    cutoff : of the pairs, Angstrom
    three_body_cutoff : of the pairs of a triple, Angstrom, not larger than `cutoff`
    n_features : of atoms, pairs and triples
    n_interactions : convolutions over the graph
    n_line_interactions : how many of these, the first ones, are followed by one over the line graph; after the last one
        it would have no effect and is left out
    n_embedding : width between the two layers of the embeddings of distances and angles
    n_gaussians : in which a distance is expanded
    gaussian_max : centre of the last of these, Angstrom; that of the first is 0
    n_angle_gaussians : in which the cosine of an angle is expanded
    cut : "smooth", or "published", with energies that jump where a pair or a triple enters
    cutoff_power : p of the polynomial by which a smooth cut weights pairs and triples

    Notes
    -----
    The published gates count a pair fully up to the cutoff, and their sum is a denominator with epsilon = 1e-6. A
    smooth cut multiplies the gate of a pair by w(r) = u(r / r_c) and that of a triple by u(r_A / r_3) u(r_B / r_3),
    with the polynomial u of `polynomial_cutoff`. That alone leaves a ratio w g v / (w g + epsilon), which for a single
    neighbour is v until w is as small as epsilon: a jump within 0.01 Angstrom of the cutoff. With epsilon = 1, as if
    each node had one more neighbour that is always open and says nothing, the derivative of the ratio with respect to
    w is at most |v| + |mean|, and energies are as smooth as u: twice continuously differentiable.
    """

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        three_body_cutoff: PositiveFloat,
        n_features: PositiveInt,
        n_interactions: PositiveInt,
        n_line_interactions: NonNegativeInt,
        n_embedding: PositiveInt,
        n_gaussians: Annotated[int, Field(ge=2)],
        gaussian_max: PositiveFloat,
        n_angle_gaussians: Annotated[int, Field(ge=2)],
        cut: Cut = "smooth",
        cutoff_power: Annotated[int, Field(ge=2)] = 5,
    ) -> None:
        if three_body_cutoff > cutoff:
            raise ConfigError(
                f"model.three_body_cutoff={three_body_cutoff}, model.cutoff={cutoff}: must satisfy "
                "three_body_cutoff <= cutoff"
            )
        if n_line_interactions > n_interactions:
            raise ConfigError(
                f"model.n_line_interactions={n_line_interactions}, model.n_interactions={n_interactions}: must satisfy "
                "n_line_interactions <= n_interactions"
            )
        super().__init__(elements, cutoff, [n_features])
        self.n_types = len(elements)
        self.three_body_cutoff = three_body_cutoff
        self.is_smooth = cut == "smooth"
        self.cutoff_power = cutoff_power
        epsilon = 1.0 if self.is_smooth else 1e-6
        n_line = min(n_line_interactions, n_interactions - 1)
        self.atom_embedding = layer(self.n_types, n_features)
        self.pair_embedding = nn.Sequential(
            Expansion(0.0, gaussian_max, n_gaussians), layer(n_gaussians, n_embedding), layer(n_embedding, n_features)
        )
        self.angle_embedding = nn.ModuleList()  # empty without line graph
        if n_line > 0:
            self.angle_embedding.append(
                nn.Sequential(
                    Expansion(-1.0, 1.0, n_angle_gaussians),
                    layer(n_angle_gaussians, n_embedding),
                    layer(n_embedding, n_features),
                )
            )
        self.line_layers = nn.ModuleList(
            LineGraphLayer(n_features, epsilon, updates_triples=k < n_line - 1) for k in range(n_line)
        )
        self.layers = nn.ModuleList(
            EdgeGatedConvolution(n_features, epsilon, updates_edges=k < n_interactions - 1)
            for k in range(n_line, n_interactions)
        )

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the features of the atoms after the last convolution."""
        return [self.features(graph, self.triples(graph))[0]]

    def triples(self, graph: Graph) -> Tensor:
        """List the triples (2, n_triples), see `line_graph_within`; none if the model does not use them."""
        if len(self.line_layers) == 0:
            return torch.stack([graph.pair_i[:0], graph.pair_i[:0]])
        return line_graph_within(graph, self.three_body_cutoff)

    def features(self, graph: Graph, listed: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Return the last features of atoms, pairs and triples, (n, n_features) each, given the list of the triples."""
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        weights = self.weights(distance, self.cutoff)
        before, after = listed.unbind()
        near = self.weights(distance, self.three_body_cutoff)
        line_graph = LineGraph(before, after, near.index_select(0, before) * near.index_select(0, after))
        atoms = self.atom_embedding(one_hot(graph.species, self.n_types).to(distance.dtype))
        pairs = self.pair_embedding(distance)
        triples = pairs[:0]
        for embedding in self.angle_embedding:
            triples = embedding(cosines(graph.pair_vectors / distance[:, None], line_graph))
        for layer in self.line_layers:
            atoms, pairs, triples = layer(atoms, pairs, triples, graph, weights, line_graph)
        for layer in self.layers:
            atoms, pairs = layer(atoms, pairs, graph.pair_j, graph.pair_i, weights)
        return atoms, pairs, triples

    def weights(self, distance: Tensor, cutoff: float) -> Tensor:
        """Return by how much pairs count, w(r) or 1 (n_pairs,)."""
        return polynomial_cutoff(distance, cutoff, self.cutoff_power) if self.is_smooth else torch.ones_like(distance)
