"""Programs that evaluate contractions from the free components of their tensors.

A product of tensors is contracted as a binary tree. Each part is itself a contraction with free indices, whose
components are computed once and shared. A component is identified by how many of each vertex's free indices point
along x, y and z; of several equal components only one is computed.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations, product
from typing import NamedTuple

from hiphop_train.accelerate.polynomials import NOTHING, Program, Writer
from hiphop_train.nn.contractions import Contraction, ascending_orders, bond_index, canonical, n_symmetries
from hiphop_train.nn.tensors import component_index

Axes = tuple[int, int, int]
"""How many indices point along x, y and z."""

Split = tuple[tuple[int, ...], tuple[int, ...]]
"""The vertices of the two parts of a contraction."""


class Component(NamedTuple):
    """One component of a contraction with free indices."""

    contraction: Contraction
    axes: tuple[Axes, ...]
    """Of the free indices of each vertex."""
    labels: tuple[int, ...] = ()
    """Which of several tensors of its rank each vertex is; empty if there is one of each rank."""

    def part(self, vertices: tuple[int, ...]) -> "Component":
        """Select vertices, in the given order."""
        axes = tuple(self.axes[vertex] for vertex in vertices)
        labels = tuple(self.labels[vertex] for vertex in vertices) if self.labels else ()
        return Component(self.contraction.part(vertices), axes, labels)


@cache
def canonical_component(component: Component) -> Component:
    """Return one representative of the components that differ by the order of factors; its contraction is canonical."""
    return max(component.part(order) for order in ascending_orders(component.contraction.ranks))


def contraction_program(contractions: Sequence[Contraction], l_max: int) -> Program:
    """Write the program that evaluates contractions without free indices.

    Parameters
    ----------
    contractions : canonical, all different; the results are in this order
    l_max : highest rank; the variables are the (l_max + 1)^2 free components of the tensors, see `nn.tensors`
    """
    writer = ContractionWriter((l_max + 1) ** 2)
    return writer.finish([writer.invariant(contraction) for contraction in contractions])


class ContractionWriter(Writer):
    """Remembers the planes of all components, and how each contraction is split."""

    def __init__(self, n_inputs: int, n_constants: int = 0) -> None:
        super().__init__(n_inputs, n_constants)
        self.planes: dict[Component, int] = {}
        self.splits: dict[Contraction, Split] = {}

    def invariant(self, contraction: Contraction, labels: tuple[int, ...] = ()) -> int:
        """Plane of a contraction without free indices, of tensors with labels, if any."""
        component = Component(contraction, ((0, 0, 0),) * len(contraction.ranks), labels)
        if len(contraction.ranks) == 1:
            return self.sum({(self.variable(component), NOTHING): 1.0})  # a result needs its own plane
        self.plan(contraction)
        return self.plane(component)

    def variable(self, component: Component) -> int:
        """Plane of a free component of one tensor."""
        return component_index(component.contraction.ranks[0], n_x=component.axes[0][0], n_z=component.axes[0][2])

    def plan(self, contraction: Contraction) -> None:
        """Decide how a canonical contraction, which may have free indices, is split."""
        plans: dict[Contraction, tuple[float, Split]] = {}
        self.cost(contraction, plans)
        self._adopt(contraction, plans)

    def cost(self, contraction: Contraction, plans: dict[Contraction, tuple[float, Split]]) -> float:
        """Estimate the number of products, zero for parts already planned, and record the best split."""
        if len(contraction.ranks) == 1 or contraction in self.splits:
            return 0.0
        if contraction not in plans:
            n_components = math.prod(2 * free + 1 for free in contraction.free_indices()) / n_symmetries(contraction)
            options = []
            for split in _splits(len(contraction.ranks)):
                parts = {canonical(contraction.part(vertices)) for vertices in split}
                n_terms = math.prod(math.comb(count + 2, 2) for *_, count in _cut(contraction, split))
                own = max(n_components, 1.0) * n_terms / (3 - len(parts))  # equal parts: half as many
                options.append((own + sum(self.cost(part, plans) for part in parts), split))
            plans[contraction] = min(options)
        return plans[contraction][0]

    def _adopt(self, contraction: Contraction, plans: dict[Contraction, tuple[float, Split]]) -> None:
        if contraction in plans and contraction not in self.splits:
            self.splits[contraction] = plans[contraction][1]
            for vertices in self.splits[contraction]:
                self._adopt(canonical(contraction.part(vertices)), plans)

    def plane(self, component: Component) -> int:
        """Plane of a component, computed on first use."""
        component = canonical_component(component)
        if component not in self.planes:
            self.planes[component] = self._compute(component)
        return self.planes[component]

    def _compute(self, component: Component) -> int:
        contraction, axes, labels = component
        for vertex, (n_x, n_y, n_z) in enumerate(axes):
            if n_z >= 2:  # traceless: zz = -xx - yy
                others = [(n_x + 2, n_y, n_z - 2), (n_x, n_y + 2, n_z - 2)]
                changed = [(*axes[:vertex], other, *axes[vertex + 1 :]) for other in others]
                return self._sum([(self.plane(Component(contraction, c, labels)), NOTHING, -1) for c in changed])
        if len(axes) == 1:
            return self.variable(component)
        split = self.splits[contraction]
        cut = list(_cut(contraction, split))
        terms = []
        for directions in product(*(_all_axes(count) for *_, count in cut)):
            whole = [list(a) for a in axes]
            for (first, second, _), direction in zip(cut, directions, strict=True):
                for axis in range(3):
                    whole[first][axis] += direction[axis]
                    whole[second][axis] += direction[axis]
            summand = Component(contraction, tuple((a[0], a[1], a[2]) for a in whole), labels)
            left, right = (self.plane(summand.part(vertices)) for vertices in split)
            terms.append((min(left, right), max(left, right), math.prod(map(_n_orders, directions))))
        return self._sum(terms)

    def _sum(self, terms: list[tuple[int, int, int]]) -> int:
        factors: dict[tuple[int, int], float] = {}
        for left, right, factor in terms:
            factors[left, right] = factors.get((left, right), 0.0) + factor
        return self.sum(factors)


@cache
def _splits(n_vertices: int) -> list[Split]:
    """All ways to divide the vertices into two parts, with vertex 0 in the first."""
    others = range(1, n_vertices)
    seconds = [second for size in others for second in combinations(others, size)]
    return [(tuple(k for k in range(n_vertices) if k not in second), second) for second in seconds]


def _cut(contraction: Contraction, split: Split) -> Iterator[tuple[int, int, int]]:
    """Yield (vertex in the first part, vertex in the second, number of bonds) for all bonds between the parts."""
    where = bond_index(len(contraction.ranks))
    for first, second in product(*split):
        if contraction.bonds[where[first, second]]:
            yield first, second, contraction.bonds[where[first, second]]


@cache
def _all_axes(count: int) -> list[Axes]:
    return [(n_x, n_y, count - n_x - n_y) for n_x in range(count, -1, -1) for n_y in range(count - n_x, -1, -1)]


def _n_orders(axes: Axes) -> int:
    """Number of distinct orders of indices with these counts of x, y and z."""
    return math.factorial(sum(axes)) // math.prod(map(math.factorial, axes))
