"""Linear atomic cluster expansion of the library python-ace, and ours with its coefficients."""

from collections import defaultdict
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hiphop_train.graph.assemble import make_graph
from hiphop_train.graph.neighbours import batch_neighbours
from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.ace import ACE
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.linear import LinearEnergy
from hiphop_train.types import Graph
from tests.references.common import ELEMENTS

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "three factors": {"cutoff": 4.0, "n_radial_by_order": [4, 2, 1], "l_max_by_order": [0, 3, 2]},
    "four factors": {
        "cutoff": 4.0, "n_radial_by_order": [3, 1, 1, 1], "l_max_by_order": [0, 4, 3, 1], "standardise": False,
    },
}  # fmt: skip
ONE_ELEMENT: dict[str, Any] = {
    "elements": ["C"], "cutoff": 4.0, "n_radial_by_order": [6, 4, 3, 2], "l_max_by_order": [0, 4, 3, 2],
}  # fmt: skip
PUBLISHED: dict[str, Any] = {
    "cutoff": 5.0, "n_radial_by_order": [12, 4, 2, 1], "l_max_by_order": [0, 3, 2, 1],
}  # fmt: skip

Factors = tuple[tuple[int, int, int], ...]
"""Of a product: species, radial function (from 0) and rank of each factor, sorted."""


class Expansion(NamedTuple):
    """The library's functions of one central element in ours.

    Attributes
    ----------
    matrix : (n_functions, n_functions), theirs = ours @ matrix
    deviation : largest deviation on structures that were not fitted, relative to each function's largest value
    single : entries of the matrix where one function has these factors, by order
    """

    matrix: Tensor
    deviation: float
    single: dict[int, list[float]]


class Reference:
    """The library's evaluator, compiled C++, on a graph of ours.

    Parameters
    ----------
    elements : ours
    coefficients : configuration of the library, with coefficients
    """

    def __init__(self, elements: list[str], configuration: Any) -> None:
        from pyace import ACEBBasisSet, ACECalculator
        from pyace.evaluator import ACEBEvaluator, ACERecursiveEvaluator

        self.module = nn.Module()  # nothing of the library's is torch's
        self.basis = ACEBBasisSet(configuration)
        self.product = self.basis.to_ACECTildeBasisSet()
        self.species = [self.basis.elements_name.index(element) for element in elements]
        self.evaluators = [ACEBEvaluator(self.basis), ACERecursiveEvaluator(self.product)]
        self.evaluators[1].set_recursive(True)
        self.calculators = []
        self.known: tuple[Graph | None, Any] = (None, None)  # a graph and its description, which is not to be timed
        for evaluator in self.evaluators:  # which must outlive the calculators
            calculator = ACECalculator()
            calculator.set_evaluator(evaluator)
            self.calculators.append(calculator)

    def environment(self, graph: Graph) -> Any:
        """Return the library's description of all systems together: atoms, and images behind them."""
        from pyace.catomicenvironment import ACEAtomicEnvironment

        if graph is self.known[0]:
            return self.known[1]
        n_atoms = len(graph.species)
        images = graph.pair_shift.any(1)
        keys = torch.cat([graph.pair_j[:, None], graph.pair_shift], dim=1)
        ghosts, index = torch.unique(keys[images], dim=0, return_inverse=True)
        at = graph.pair_j.clone()
        at[images] = n_atoms + index
        origins = torch.cat([torch.arange(n_atoms), ghosts[:, 0]])
        cell = graph.cell[graph.system[ghosts[:, 0]]]
        moved = graph.positions[ghosts[:, 0]] + (ghosts[:, None, 1:].to(cell) @ cell)[:, 0]
        neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
        for i, j in zip(graph.pair_i.tolist(), at.tolist(), strict=True):
            neighbours[i].append(j)
        found = ACEAtomicEnvironment()
        found.x = torch.cat([graph.positions, moved]).tolist()
        found.species_type = [self.species[k] for k in graph.species[origins].tolist()]
        found.origins = origins.tolist()
        found.neighbour_list = neighbours
        self.known = (graph, found)
        return found

    def __call__(self, graph: Graph, forces: bool = True, training: bool = False) -> dict[str, Tensor]:
        """Return energy (n_systems,) and forces (n_atoms, 3), which the library always computes, for inference only."""
        assert not training, "python-ace's evaluators are not differentiable"
        calculator = self.calculators[1]
        calculator.compute(self.environment(graph), compute_projections=False)
        energies = torch.tensor(calculator.energies, dtype=torch.float64)
        return {
            "energy": segment_sum(energies, graph.system, graph.n_systems),
            "forces": torch.tensor(np.array(calculator.forces), dtype=torch.float64),
        }

    def projections(self, graph: Graph) -> list[list[float]]:
        """Return the functions of each atom."""
        self.calculators[0].compute(self.environment(graph), compute_projections=True)
        found: list[list[float]] = self.calculators[0].projections
        return found

    def functions(self, element: int) -> list[Any]:
        """Return the functions of one of our elements, in the order of their projections."""
        k = self.species[element]
        return [*self.basis.basis_rank1[k], *self.basis.basis[k]]


def configuration(elements: list[str], settings: dict[str, Any], seed: int) -> Any:
    """Make the library's configuration of a linear expansion, with random coefficients."""
    from pyace.multispecies_basisextension import create_multispecies_basis_config

    found = create_multispecies_basis_config(
        {
            "deltaSplineBins": 1e-4,
            "elements": elements,
            "embeddings": {
                "ALL": {
                    "npot": "FinnisSinclairShiftedScaled", "fs_parameters": [1, 1], "ndensity": 1,
                    "rho_core_cut": 1e12, "drho_core_cut": 1,
                }
            },
            "bonds": {
                "ALL": {
                    "radbase": "SBessel", "radparameters": [0.0], "rcut": settings["cutoff"], "dcut": 0.01,
                    "NameOfCutoffFunction": "cos", "core-repulsion": [0.0, 1.0],
                }
            },
            "functions": {
                "ALL": {
                    "nradmax_by_orders": settings["n_radial_by_order"], "lmax_by_orders": settings["l_max_by_order"],
                }
            },
        }
    )  # fmt: skip
    generator = np.random.default_rng(seed)
    for block in found.funcspecs_blocks:
        n_coefficients = np.array(block.get_func_coeffs()).size
        block.set_func_coeffs(0.1 * generator.normal(size=n_coefficients))
    return found


@cache
def clusters(n_elements: int, cutoff: float, seed: int, n_systems: int = 24, n_atoms: int = 8) -> Graph:
    """Return random clusters, denser than molecules so that all functions differ from zero."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n_systems * n_atoms,)
    positions = 0.8 * cutoff * torch.rand(*shape, 3, dtype=torch.float64, generator=generator)
    species = torch.randint(n_elements, shape, generator=generator)
    cell, pbc = torch.zeros(n_systems, 3, 3, dtype=torch.float64), torch.zeros(n_systems, 3, dtype=torch.bool)
    system = torch.arange(n_systems).repeat_interleave(n_atoms)
    pairs = batch_neighbours(positions, torch.full((n_systems,), n_atoms), cell, pbc, cutoff)
    return make_graph(species, positions, cell, pbc, system, n_systems, *pairs, torch.float64)


def factors_of_features(representation: ACE) -> list[Factors]:
    """Return the factors of each of our functions."""
    found = []
    n = representation.n_radial_by_rank
    for graph, labels in representation.products:
        for each in labels:
            vertices = zip(graph.ranks, each, strict=True)
            found.append(tuple(sorted((label // n[rank], label % n[rank], rank) for rank, label in vertices)))
    return found


def expand(representation: ACE, reference: Reference, element: int) -> Expansion:
    """Write the library's functions of an element as sums of ours with the same factors.

    Raises
    ------
    AssertionError
        if the number of functions with the same factors differs
    """
    ours: dict[Factors, list[int]] = defaultdict(list)
    for k, factors in enumerate(factors_of_features(representation)):
        ours[factors].append(k)
    theirs: dict[Factors, list[int]] = defaultdict(list)
    for k, function in enumerate(reference.functions(element)):
        species = [reference.species.index(mu) for mu in function.mus]
        vertices = zip(species, function.ns, function.ls, strict=True)
        theirs[tuple(sorted((mu, n - 1, rank) for mu, n, rank in vertices))].append(k)
    assert {key: len(value) for key, value in ours.items()} == {key: len(value) for key, value in theirs.items()}
    samples = []
    for seed in (0, 1):
        graph = clusters(len(representation.elements), representation.cutoff, seed)
        atoms = torch.nonzero(graph.species == element)[:, 0]
        projections = reference.projections(graph)
        values = torch.tensor([projections[atom] for atom in atoms.tolist()], dtype=torch.float64)
        samples.append((representation(graph)[-1][atoms], values))
    (fitted, wanted), (unseen, expected) = samples
    matrix = torch.zeros(fitted.shape[1], fitted.shape[1], dtype=torch.float64)
    single: dict[int, list[float]] = defaultdict(list)
    for factors, columns in theirs.items():
        rows = ours[factors]
        block = torch.linalg.lstsq(fitted[:, rows], wanted[:, columns]).solution
        matrix[torch.tensor(rows)[:, None], torch.tensor(columns)] = block
        if len(rows) == 1:
            single[len(factors)].append(float(block))
    deviation = (unseen @ matrix - expected).abs().amax(0) / expected.abs().amax(0)
    return Expansion(matrix, float(deviation.max()), single)


def make(settings: dict[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Potential, Reference]:
    """Return ours with the library's coefficients, and the library's."""
    elements = settings.get("elements", ELEMENTS)
    reference = Reference(elements, configuration(elements, settings, seed))
    representation = ACE(**{"elements": elements, **settings})
    readout = LinearEnergy(representation.feature_sizes, elements).to(dtype)
    with torch.no_grad():
        for element in range(len(elements)):
            coefficients = [function.coeffs[0] for function in reference.functions(element)]
            matrix = expand(representation, reference, element).matrix
            readout.weight[element] = (matrix @ torch.tensor(coefficients, dtype=torch.float64)).to(dtype)
    assert readout.weight.all()  # of each element and function; the constants of the elements stay zero
    potential = Potential([Network(representation.to(dtype), readout)], elements, settings["cutoff"])
    return potential.eval(), reference
