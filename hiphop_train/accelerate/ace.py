"""Twin of the atomic cluster expansion: densities and their products in C.

The products share parts, each of which a program evaluates once (see `contraction_programs`, `steps`).
"""

from functools import cache
from itertools import accumulate
from typing import List, Tuple

from torch import Tensor

from hiphop_train.accelerate.contraction_programs import Component, ContractionWriter
from hiphop_train.accelerate.densities import DensityKernel, densities, header, neighbours
from hiphop_train.accelerate.polynomial_kernels import evaluate_compiled
from hiphop_train.accelerate.polynomials import Step
from hiphop_train.accelerate.precision import full_precision
from hiphop_train.accelerate.steps import StepKernels
from hiphop_train.accelerate.twin import Setting, Twin, adopt, why_no_kernels
from hiphop_train.models.ace import ACE
from hiphop_train.models.base import Representation
from hiphop_train.nn.contractions import Contraction
from hiphop_train.nn.labelled_products import ProductsOfGraph
from hiphop_train.nn.tensors import component_index
from hiphop_train.types import Graph


class LabelledWriter(ContractionWriter):
    """Writes contractions of several tensors of each rank.

    Parameters
    ----------
    n_labels : number of tensors of each rank; variables count ranks, then components, then tensors
    """

    def __init__(self, n_labels: Tuple[int, ...]) -> None:
        self.n_labels = n_labels
        self.first = first_planes(n_labels)
        super().__init__(self.first[-1])

    def variable(self, component: Component) -> int:
        """Plane of a free component of one tensor."""
        rank, n_labels = component.contraction.ranks[0], self.n_labels[component.contraction.ranks[0]]
        index = component_index(rank, n_x=component.axes[0][0], n_z=component.axes[0][2]) - rank * rank
        return self.first[rank] + index * n_labels + component.labels[0]


def first_planes(n_labels: Tuple[int, ...]) -> List[int]:
    """Return the first plane of each rank, and the number of planes."""
    return [0, *accumulate((2 * rank + 1) * count for rank, count in enumerate(n_labels))]


@cache
def labelled_program(
    products: Tuple[Tuple[Contraction, Tuple[Tuple[int, ...], ...]], ...], n_labels: Tuple[int, ...]
) -> Tuple[List[Step], List[int]]:
    """Write the evaluation of products.

    Parameters
    ----------
    products : contractions, with the labels of each product
    n_labels : see `LabelledWriter`

    Returns
    -------
    steps, outputs : of a program, see `polynomials.Program`
    """
    writer = LabelledWriter(n_labels)
    outputs = [writer.invariant(graph, each) for graph, labels in products for each in labels]
    return writer.steps, outputs


class CompiledACE(Representation):
    """Atomic cluster expansion in C.

    Parameters
    ----------
    plain : the model
    setting : of the twin
    """

    def __init__(self, plain: ACE, setting: Setting) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes, plain.standardised_functions)
        adopt(self, plain)
        self.original = [plain]  # not a submodule: the same buffers
        self.is_frozen = setting.purpose == "inference"
        n_labels = tuple(plain.n_types * count for count in plain.n_radial_by_rank)
        steps, outputs = labelled_program(tuple((graph, tuple(labels)) for graph, labels in plain.products), n_labels)
        scale: List[float] = []
        for each in plain.evaluators:
            assert isinstance(each, ProductsOfGraph)
            scale += [each.factor] * each.labels.shape[1]
        first = first_planes(n_labels)
        self.products = StepKernels(steps, first[-1], outputs, scale, setting)
        library = setting.compile("density.c", generated=header(plain, first))
        self.kernel = DensityKernel(library, first[-1])

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the functions B (n_atoms, n_functions)."""
        plain = self.original[0]
        pairs = neighbours(graph) if self.kernel.library.serves(graph.pair_vectors) else None
        if pairs is None:  # not sorted, or converted or moved after compilation
            with full_precision(graph.pair_vectors):
                found: List[Tensor] = plain(graph)
            return found
        return [evaluate_compiled(self.products, densities(graph, plain, pairs, self.kernel, self.is_frozen))]


class FullPrecisionACE(Representation):
    """Atomic cluster expansion whose products are not rounded in training with mixed precision.

    Parameters
    ----------
    plain : the model
    setting : of the twin
    """

    def __init__(self, plain: ACE, setting: Setting) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes, plain.standardised_functions)
        adopt(self, plain)
        self.original = [plain]

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the functions B (n_atoms, n_functions)."""
        with full_precision(graph.pair_vectors):
            found: List[Tensor] = self.original[0](graph)
        return found


TWINS = [
    Twin("densities and products", "C", ACE, CompiledACE, why_not=why_no_kernels),
    Twin("densities and products", "in full precision", ACE, FullPrecisionACE, purposes=("training",)),
]
