"""Lists of triples, made in the loader."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from hiphop_train.graph.triples import triples_within
from hiphop_train.types import Graph


@dataclass(frozen=True)
class PrepareTriples:
    """Adds the triples to a graph, in the loader: their number depends on distances, which would synchronise a GPU.

    Attributes
    ----------
    cutoff : Angstrom
    listed_by : returns the triples (2, n_triples) of a graph within a cutoff
    """

    cutoff: float
    listed_by: Callable[[Graph, float], Tensor] = triples_within

    @property
    def key(self) -> str:
        """Key of the triples among the extras of a graph."""
        return f"{self.listed_by.__name__}.{self.cutoff}"

    def __call__(self, graph: Graph) -> Graph:
        """Return the graph with its triples among the extras."""
        return graph._replace(extras={**graph.extras, self.key: self.listed_by(graph, self.cutoff)})

    def triples_of(self, graph: Graph) -> Tensor:
        """Return the triples (2, n_triples) in the extras of a graph, or list them."""
        return graph.extras[self.key] if self.key in graph.extras else self.listed_by(graph, self.cutoff)
