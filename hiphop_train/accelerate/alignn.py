"""Twin of ALIGNN: convolutions in C, and a line graph that is listed in the loader, atom by atom.

The pairs that end at an atom and those that begin there form one block of the line graph: each of the former precedes
each of the latter, and no two blocks share a pair at the same end. So blocks are independent.
"""

from dataclasses import dataclass
from typing import List

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot

from hiphop_train.accelerate.compiler import Library
from hiphop_train.accelerate.gated_graph import Groups, activate, convolve
from hiphop_train.accelerate.twin import Setting, Twin, adopt
from hiphop_train.models.alignn import ALIGNN, Expansion
from hiphop_train.models.base import Representation
from hiphop_train.types import Graph

KEYS = ("before", "after", "node", "start", "block")


@dataclass(frozen=True)
class PrepareLineGraph:
    """Adds the line graph to a graph, in the loader.

    Attributes
    ----------
    cutoff : of the pairs of a triple, Angstrom
    """

    cutoff: float

    def __call__(self, graph: Graph) -> Graph:
        """Return the graph with its line graph among the extras."""
        made = dict(zip(map(self.key, KEYS), self.make(graph), strict=True))
        return graph._replace(extras={**graph.extras, **made})

    def key(self, name: str) -> str:
        """Key of a tensor among the extras of a graph."""
        return f"line_graph.{self.cutoff}.{name}"

    def line_graph_of(self, graph: Graph) -> list[Tensor]:
        """Return the line graph that a graph carries, or make it."""
        if self.key(KEYS[0]) in graph.extras:
            return [graph.extras[self.key(name)] for name in KEYS]
        return self.make(graph)

    def make(self, graph: Graph) -> list[Tensor]:
        """List the triples, atom by atom.

        Returns
        -------
        before, after : (n_triples,) int64, the pairs of each triple
        node : (n_pairs,) int64, pairs in the order in which they are receivers; those beyond the cutoff are the last
        start : (n_pairs + 1,) int64, the first triple of each
        block : (n_atoms + 2,) int64, the first of the pairs that begin at each atom, in that order
        """
        n_atoms = graph.species.shape[0]
        is_near = torch.linalg.norm(graph.pair_vectors, dim=1) < self.cutoff
        near, far = torch.nonzero(is_near)[:, 0], torch.nonzero(~is_near)[:, 0]
        near = near[torch.argsort(graph.pair_j[near], stable=True)]
        begins = graph.pair_j[near]
        ends = torch.nonzero(is_near)[:, 0]
        n_ending = torch.bincount(graph.pair_i[ends], minlength=n_atoms)
        n_before = n_ending[begins]
        zero = n_before.new_zeros(1)
        start = torch.cat([zero, n_before.cumsum(0), n_before.sum().expand(len(far))])
        after = torch.repeat_interleave(torch.arange(len(near)), n_before)
        rank = torch.arange(len(after)) - start[after]
        before = ends[(n_ending.cumsum(0) - n_ending)[begins][after] + rank]
        block = torch.cat([zero, torch.bincount(begins, minlength=n_atoms).cumsum(0), zero + len(start) - 1])
        return [before, near[after], torch.cat([near, far]), start, block]


class CompiledALIGNN(Representation):
    """ALIGNN with convolutions in C.

    Parameters
    ----------
    plain : the model
    libraries : compiled for each width
    """

    def __init__(self, plain: ALIGNN, libraries: dict[int, Library]) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes)
        adopt(self, plain)
        self.formulas = [plain]  # in a list, so that it is not a submodule
        self.libraries = libraries
        self.library = libraries[plain.feature_sizes[0]]
        self.prepare = PrepareLineGraph(plain.three_body_cutoff)

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the features of the atoms after the last convolution."""
        plain, library = self.formulas[0], self.library
        vectors = graph.pair_vectors
        if not library.serves(vectors):  # converted or moved after compilation
            return plain(graph)  # type: ignore[no-any-return]
        distance = torch.linalg.norm(vectors, dim=1)
        weights = plain.weights(distance, plain.cutoff)
        atoms = self.embed(plain.atom_embedding, one_hot(graph.species, plain.n_types).to(vectors.dtype))
        pairs = self.embed(plain.pair_embedding, distance)
        groups = groups_of(graph)
        if len(plain.line_layers):
            before, after, node, start, block = self.prepare.line_graph_of(graph)
            line_graph = Groups(before, node, start, None, block)
            units = vectors / distance[:, None]
            cosine = -(units.index_select(0, before) * units.index_select(0, after)).sum(1)
            triples = self.embed(plain.angle_embedding[0], cosine)
            near = plain.weights(distance, plain.three_body_cutoff)
            triple_weights = near.index_select(0, before) * near.index_select(0, after)
            for layer in plain.line_layers:
                atoms, pairs = convolve(library, layer.of_graph, atoms, pairs, weights, groups)
                pairs, triples = convolve(library, layer.of_line_graph, pairs, triples, triple_weights, line_graph)
        for layer in plain.layers:
            atoms, pairs = convolve(library, layer, atoms, pairs, weights, groups)
        return [atoms]

    def embed(self, embedding: nn.Module, values: Tensor) -> Tensor:
        """Apply layers of Linear, LayerNorm and SiLU, perhaps after an expansion."""
        layers = [part for part in embedding.modules() if isinstance(part, nn.Linear | nn.LayerNorm | Expansion)]
        for part in layers:
            if isinstance(part, nn.LayerNorm):
                values = activate(self.libraries[part.normalized_shape[0]], values, part.weight, part.bias)
            else:
                values = part(values)
        return values


def groups_of(graph: Graph) -> Groups:
    """Return the pairs by receiver, in blocks of one system each."""
    counts = torch.bincount(graph.pair_i, minlength=graph.species.shape[0])
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    block = torch.searchsorted(graph.system, torch.arange(graph.n_systems + 1))
    return Groups(graph.pair_j, None, start, None, block)


def _make(plain: ALIGNN, setting: Setting) -> CompiledALIGNN:
    widths = {part.normalized_shape[0] for part in plain.modules() if isinstance(part, nn.LayerNorm)}
    return CompiledALIGNN(plain, {width: setting.compile("gated_graph.c", {"N": width}) for width in widths})


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
    )
]
