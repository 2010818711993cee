"""Twins of ALIGNN: convolutions in C, and a line graph that is listed in the loader, for C atom by atom.

The pairs that end at an atom and those that begin there form one block of the line graph: each of the former precedes
each of the latter, and no two blocks share a pair at the same end. So blocks are independent. Where the reverse of each
pair is in the list, two directions share a distance and two triples an angle; their embeddings are evaluated once.
"""

from dataclasses import dataclass
from typing import List, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot

from hiphop_train.accelerate.compiler import Library
from hiphop_train.accelerate.expansion import expand
from hiphop_train.accelerate.gated_graph import Groups, activate, convolve
from hiphop_train.accelerate.pairs import reverses
from hiphop_train.accelerate.row_tables import RowTable
from hiphop_train.accelerate.triple_lists import PrepareTriples
from hiphop_train.accelerate.twin import Setting, Twin, adopt
from hiphop_train.graph.triples import line_graph_within, pairs_of_pairs
from hiphop_train.models.alignn import ALIGNN, EdgeGatedConvolution, Expansion, LineGraphLayer
from hiphop_train.models.base import Representation
from hiphop_train.types import Graph


class Lists(NamedTuple):
    """What the twin needs of a graph besides the pairs; the last five are empty if the reverse of a pair is missing."""

    before: Tensor
    """(n_triples,) int64: the first pair of each triple."""
    after: Tensor
    """(n_triples,) int64: and the second."""
    node: Tensor
    """(n_pairs,) int64: pairs in the order in which they are receivers; those beyond the cutoff are the last."""
    start: Tensor
    """(n_pairs + 1,) int64: the first triple of each."""
    block: Tensor
    """(n_atoms + 2,) int64: the first of the pairs that begin at each atom, in that order."""
    half: Tensor
    """(n_pairs / 2,) int64: one direction of each pair."""
    place: Tensor
    """(n_pairs,) int64: which of these each pair is, or is the reverse of."""
    first: Tensor
    """(n_angles,) int64: first of two pairs that end at the same atom, each two once."""
    second: Tensor
    """(n_angles,) int64: and the second."""
    angle: Tensor
    """(n_triples,) int64: which of these, or, if the triple leads back, n_angles + the atom between its pairs."""


@dataclass(frozen=True)
class PrepareLineGraph:
    """Adds the line graph to a graph, in the loader.

    Attributes
    ----------
    cutoff : of the pairs of a triple, Angstrom
    """

    cutoff: float

    def __call__(self, graph: Graph) -> Graph:
        """Return the graph with its lists among the extras."""
        made = {self.key(name): tensor for name, tensor in self.make(graph)._asdict().items()}
        return graph._replace(extras={**graph.extras, **made})

    def key(self, name: str) -> str:
        """Key of a tensor among the extras of a graph."""
        return f"line_graph.{self.cutoff}.{name}"

    def lists_of(self, graph: Graph) -> Lists:
        """Return the lists that a graph carries, or make them."""
        if self.key("before") not in graph.extras:
            return self.make(graph)
        return Lists(*(graph.extras[self.key(name)] for name in Lists._fields))

    def make(self, graph: Graph) -> Lists:
        """List the triples, atom by atom, and the angles."""
        n_atoms = graph.species.shape[0]
        is_near = torch.linalg.norm(graph.pair_vectors, dim=1) < self.cutoff
        reverse = reverses(graph) if graph.n_owned == n_atoms else None
        if reverse is not None:
            is_near &= is_near[reverse]  # whose lengths may differ by rounding
        ends, far = torch.nonzero(is_near)[:, 0], torch.nonzero(~is_near)[:, 0]  # by the atom where they end
        begins = ends[torch.argsort(graph.pair_j[ends], stable=True)]  # by the atom where they begin
        atom = graph.pair_j[begins]
        n_ending = torch.bincount(graph.pair_i[ends], minlength=n_atoms)
        first_ending = n_ending.cumsum(0) - n_ending
        n_before = n_ending[atom]
        zero = n_before.new_zeros(1)
        start = torch.cat([zero, n_before.cumsum(0), n_before.sum().expand(len(far))])
        group = torch.repeat_interleave(torch.arange(len(begins)), n_before)
        rank = torch.arange(len(group)) - start[group]  # of the first pair among those that end at the atom
        before = ends[first_ending[atom][group] + rank]
        block = torch.cat([zero, torch.bincount(atom, minlength=n_atoms).cumsum(0), zero + len(start) - 1])
        lists = (before, begins[group], torch.cat([begins, far]), start, block)
        if reverse is None:
            return Lists(*lists, *[zero[:0]] * 5)
        index = torch.arange(len(reverse))
        half = torch.nonzero(index < reverse)[:, 0]
        place = torch.empty_like(index)
        place[half] = place[reverse[half]] = index[: len(half)]
        lower, upper = pairs_of_pairs(graph.pair_i[ends], n_atoms)
        own_rank = torch.arange(len(ends)) - first_ending[graph.pair_i[ends]]
        first_angle = own_rank.cumsum(0) - own_rank  # of those of each pair with the pairs before it
        position = torch.empty_like(index)
        position[ends] = index[: len(ends)]
        other = position[reverse[begins]][group]  # ends where the second pair begins, as the first one does
        least, largest = torch.minimum(rank, own_rank[other]), torch.maximum(position[before], other)
        angle = torch.where(rank == own_rank[other], len(lower) + atom[group], first_angle[largest] + least)
        return Lists(*lists, half, place, ends[lower], ends[upper], angle)


class CompiledALIGNN(Representation):
    """ALIGNN with convolutions in C.

    Parameters
    ----------
    plain : the model
    libraries : compiled for each width
    tables : compiled for tables of as many results as there are features; None makes no tables
    """

    def __init__(self, plain: ALIGNN, libraries: dict[int, Library], tables: Library | None) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes)
        adopt(self, plain)
        self.formulas = [plain]  # in a list, so that it is not a submodule
        self.libraries = libraries
        self.library = libraries[plain.feature_sizes[0]]
        self.prepare = PrepareLineGraph(plain.three_body_cutoff)
        self.tables: dict[str, list[RowTable]] = {}
        if tables is not None:
            self.tables["pairs"] = tables_of(plain.pair_embedding, first_convolution(plain), tables, 0.0, plain.cutoff)
            for layer in list(plain.line_layers)[:1]:
                assert isinstance(layer, LineGraphLayer)
                embedding = plain.angle_embedding[0]
                self.tables["angles"] = tables_of(embedding, layer.of_line_graph, tables, -1.0, 1.0)

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the features of the atoms after the last convolution."""
        plain, library = self.formulas[0], self.library
        vectors = graph.pair_vectors
        if not library.serves(vectors):  # converted or moved after compilation
            return plain(graph)  # type: ignore[no-any-return]
        lists = self.prepare.lists_of(graph)
        has_reverses = len(lists.place) > 0
        distance = torch.linalg.norm(vectors.index_select(0, lists.half) if has_reverses else vectors, dim=1)
        pairs, of_pairs = self.embed("pairs", plain.pair_embedding, distance)
        groups = groups_of(graph, lists.place if has_reverses else None)
        if has_reverses:
            distance = distance.index_select(0, lists.place)
        weights = plain.weights(distance, plain.cutoff)
        one_hot_species = one_hot(graph.species, plain.n_types).to(vectors.dtype)
        atoms, _ = self.embed("atoms", plain.atom_embedding, one_hot_species)
        if len(plain.line_layers):
            cosines = self.cosines(vectors / distance[:, None], lists, len(atoms))
            triples, of_triples = self.embed("angles", plain.angle_embedding[0], cosines)
            place = lists.angle if has_reverses else None
            line_graph = Groups(lists.before, lists.node, lists.start, place, lists.block)
            near = plain.weights(distance, plain.three_body_cutoff)
            triple_weights = near.index_select(0, lists.before) * near.index_select(0, lists.after)
            for layer in plain.line_layers:
                assert isinstance(layer, LineGraphLayer)
                atoms, pairs = convolve(library, layer.of_graph, atoms, pairs, weights, groups, of_pairs)
                given = (triple_weights, line_graph, of_triples)
                pairs, triples = convolve(library, layer.of_line_graph, pairs, triples, *given)
                groups, line_graph = groups._replace(place=None), line_graph._replace(place=None)
                of_pairs, of_triples = None, None
        for layer in plain.layers:
            assert isinstance(layer, EdgeGatedConvolution)
            atoms, pairs = convolve(library, layer, atoms, pairs, weights, groups, of_pairs)
            groups, of_pairs = groups._replace(place=None), None
        return [atoms]

    def cosines(self, units: Tensor, lists: Lists, n_atoms: int) -> Tensor:
        """Return the cosine of each angle and, for triples that lead back, 1 per atom; or those of all triples."""
        if len(lists.place) == 0:
            return -(units.index_select(0, lists.before) * units.index_select(0, lists.after)).sum(1)
        cosine = (units.index_select(0, lists.first) * units.index_select(0, lists.second)).sum(1)
        return torch.cat([cosine, cosine.new_ones(n_atoms)])

    def embed(self, name: str, embedding: nn.Module, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Apply layers of Linear, LayerNorm and SiLU, perhaps after an expansion; or look up the results.

        Returns
        -------
        features : (n, n_features)
        of_edges : C times these, C being that of the first convolution, if it was looked up
        """
        if name in self.tables:
            features, of_edges = (table(values) for table in self.tables[name])
            return features, of_edges
        for part in embedding.modules():
            if isinstance(part, nn.LayerNorm):
                values = activate(self.libraries[part.normalized_shape[0]], values, part.weight, part.bias)
            elif isinstance(part, Expansion):
                values = expand(part, values)
            elif isinstance(part, nn.Linear):
                values = part(values)
        return values, None


class ListedALIGNN(Representation):
    """ALIGNN over a line graph that was listed in the loader.

    Parameters
    ----------
    plain : the model, with convolutions over the line graph
    """

    def __init__(self, plain: ALIGNN) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes)
        adopt(self, plain)
        self.formulas = [plain]  # in a list, so that it is not a submodule
        self.prepare = PrepareTriples(plain.three_body_cutoff, line_graph_within)

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the features of the atoms after the last convolution."""
        return [self.formulas[0].features(graph, self.prepare.triples_of(graph))[0]]


class WithoutBias(nn.Module):
    """A linear layer without its bias."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        """Return (n, n_out) of (n, n_in)."""
        return linear(features, self.layer.weight)


def tables_of(
    embedding: nn.Module, convolution: EdgeGatedConvolution, library: Library, first: float, last: float
) -> list[RowTable]:
    """Return tables of an embedding, and of C times it, for arguments between two bounds."""
    chains = [[embedding], [embedding, WithoutBias(convolution.edge_gate)]]
    return [RowTable(library, chain, first, last) for chain in chains]


def first_convolution(plain: ALIGNN) -> EdgeGatedConvolution:
    """Return the first convolution over the graph."""
    if len(plain.line_layers):
        layer = plain.line_layers[0]
        assert isinstance(layer, LineGraphLayer)
        return layer.of_graph
    convolution = plain.layers[0]
    assert isinstance(convolution, EdgeGatedConvolution)
    return convolution


def groups_of(graph: Graph, place: Tensor | None) -> Groups:
    """Return the pairs by receiver, in blocks of one system each; features of pairs are at the given places."""
    counts = torch.bincount(graph.pair_i, minlength=graph.species.shape[0])
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    block = torch.searchsorted(graph.system, torch.arange(graph.n_systems + 1))
    return Groups(graph.pair_j, None, start, place, block)


def _make(plain: ALIGNN, setting: Setting) -> CompiledALIGNN:
    widths = {part.normalized_shape[0] for part in plain.modules() if isinstance(part, nn.LayerNorm)}
    libraries = {width: setting.compile("gated_graph.c", {"N_FEATURES": width}) for width in widths}
    has_tables = setting.purpose == "inference" and setting.dtype == torch.float32
    tables = setting.compile("table.c", {"N_FEATURES": plain.feature_sizes[0]}) if has_tables else None
    return CompiledALIGNN(plain, libraries, tables)


def _why_not(plain: ALIGNN, setting: Setting) -> str:
    return setting.why_no_kernels() or ("" if setting.precision == "full" else "C computes in full precision only")


TWINS = [
    Twin(
        "gated convolutions",
        "C",
        ALIGNN,
        _make,
        why_not=_why_not,
        prepare=lambda plain: PrepareLineGraph(plain.three_body_cutoff),
    ),
    Twin(
        "line graph",
        "listed in the loader",
        ALIGNN,
        lambda plain, setting: ListedALIGNN(plain),
        why_not=lambda plain, setting: "" if len(plain.line_layers) else "no convolutions over the line graph",
        prepare=lambda plain: PrepareTriples(plain.three_body_cutoff, line_graph_within),
    ),
]
