"""Twins of Allegro, which never form the tensors of the pairs.

A layer multiplies the tensors of a pair by a matrix that depends on its receiving atom alone: after layer L they are
M_i^L ... M_i^1 V_ij. Networks see their scalars only, which are the products of V_ij, harmonics with weights, with the
first row of the matrices' product. That row is formed once per atom, from left to right.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Dict, Iterable, List, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from hiphop_train.accelerate.compiled_tensors import CompiledTensors
from hiphop_train.accelerate.pair_products import Pairs, R, S, compile_pair_products, first_pairs
from hiphop_train.accelerate.polynomial_kernels import Kernels, evaluate_compiled
from hiphop_train.accelerate.polynomial_source import header
from hiphop_train.accelerate.polynomials import NOTHING, Program, Writer
from hiphop_train.accelerate.twin import Setting, Twin, adopt, why_no_kernels
from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.allegro import Allegro, AllegroLayer, product_paths, rows_of, scalars_and_weights
from hiphop_train.models.base import Representation
from hiphop_train.nn.couplings import TensorType, coupling, harmonics
from hiphop_train.nn.scaled import ScaledLinear
from hiphop_train.readout.base import Readout
from hiphop_train.readout.pairs import PairEnergy
from hiphop_train.types import Graph


@cache
def row_program(
    types: tuple[TensorType, ...], types_out: tuple[TensorType, ...], l_max: int, is_first: bool
) -> Program:
    """Write the product of a row with the matrix of an atom, r_c = sum_p W_p sum_kn a_k C_kcn A_n.

    Parameters
    ----------
    types, types_out, l_max : of the matrices, see `EnvironmentMatrices`
    is_first : whether the row is the unit vector of the scalars, so that the first row of the matrix results

    Returns
    -------
    program : from the components of a (none if first), of A, and the weights W of the paths (if first, of those to
        scalars) to those of r
    """
    paths = [path for path in product_paths(types, l_max, types_out) if path.result == 0 or not is_first]
    n_row = 0 if is_first else sum(each.size() for each in types_out)
    n_environment = (l_max + 1) ** 2
    writer = Writer(n_row + n_environment + len(paths))
    terms: list[dict[tuple[int, int], float]] = [{} for _ in range(sum(each.size() for each in types))]
    for number, path in enumerate(paths):
        of_path = coupling(types[path.source].rank, path.rank, types_out[path.result].rank).tolist()
        weight = n_row + n_environment + number
        weighted = [writer.sum({(n_row + path.rank**2 + n, weight): 1.0}) for n in range(2 * path.rank + 1)]
        to, given = rows_of(types, path.source), rows_of(types_out, path.result)
        for k, plane in enumerate(of_path):
            for c, row in enumerate(plane):
                for n, factor in enumerate(row):
                    if factor:
                        product = (weighted[n], NOTHING) if is_first else (given.start + k, weighted[n])
                        terms[to.start + c][product] = factor
    return writer.finish([writer.sum(each) for each in terms])


@dataclass(frozen=True)
class RowKernels:
    """Products of a row with the matrices of a layer in C.

    Attributes
    ----------
    first : the first row of the matrices themselves
    further : products with other rows; None in the last layer, which has scalars alone
    n_scalar_paths : number of paths to scalars, the first ones
    """

    first: Kernels
    further: Optional[Kernels]
    n_scalar_paths: int

    def row(self, row: Optional[Tensor], environment: Tensor, weight: Tensor) -> Tensor:
        """Multiply.

        Parameters
        ----------
        row : (n_atoms, n_out, n_tensors), a; None for the unit vector of the scalars
        environment : (n_atoms, (l_max + 1)^2, n_tensors), A
        weight : (n_paths, n_tensors), W

        Returns
        -------
        row : (n_atoms, n_in, n_tensors)
        """
        kernels = self.first if row is None else self.further
        assert kernels is not None
        weight = weight.narrow(0, 0, self.n_scalar_paths) if row is None else weight
        weights = weight.unsqueeze(0).expand(len(environment), -1, -1)
        given = [environment, weights] if row is None else [row, environment, weights]
        return evaluate_compiled(kernels, torch.cat(given, dim=1).transpose(0, 1)).transpose(0, 1)


def compile_rows(layer: AllegroLayer, is_last: bool, setting: Setting) -> RowKernels:
    """Compile the products with the matrices of a layer."""
    l_max = layer.weighted_harmonics.n_ranks - 1

    def compiled(is_first: bool) -> Kernels:
        program = row_program(tuple(layer.types), tuple(layer.types_out), l_max, is_first)
        library = setting.compile("polynomial.c", generated=header(program), in_vectors=False)
        return Kernels(library, program.n_inputs, len(program.outputs))

    n_scalar_paths = sum(path.result == 0 for path in layer.matrices.paths)
    return RowKernels(compiled(True), None if is_last else compiled(False), n_scalar_paths)


class CompiledAllegro(Representation):
    """Allegro in C, but for its networks.

    Parameters
    ----------
    plain : the model
    setting : compiles
    """

    average_neighbours: Tensor

    def __init__(self, plain: Allegro, setting: Setting) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes, sites="pairs", counts_neighbours=True)
        adopt(self, plain)
        self.embedding, self.tensor_weights, self.projection = plain.embedding, plain.tensor_weights, plain.projection
        self.layers, self.l_max, self.n_features = plain.layers, plain.l_max, plain.n_features
        self.n_tensors = plain.n_tensors
        self.library = compile_pair_products(plain.l_max + 1, setting)
        self.unit_tensors = CompiledTensors(plain.l_max, setting)
        self.norms = [norm for rank in range(plain.l_max + 1) for norm in [harmonic_norm(rank)] * (2 * rank + 1)]
        layers = [layer for layer in plain.layers if isinstance(layer, AllegroLayer)]
        self.rows = [compile_rows(layer, layer is layers[-1], setting) for layer in layers]

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the scalars of the pairs: of each pair alone, and after each layer."""
        start = first_pairs(graph.pair_i, len(graph.species))
        if start is not None:
            return self.levels(graph, start)
        order = torch.argsort(graph.pair_i, stable=True)
        pair_i, pair_j, pair_shift, pair_vectors = (
            each.index_select(0, order) for each in (graph.pair_i, graph.pair_j, graph.pair_shift, graph.pair_vectors)
        )
        graph = graph._replace(pair_i=pair_i, pair_j=pair_j, pair_shift=pair_shift, pair_vectors=pair_vectors)
        start = first_pairs(pair_i, len(graph.species))
        assert start is not None
        original = torch.argsort(order)
        return [level.index_select(0, original) for level in self.levels(graph, start)]

    def levels(self, graph: Graph, start: Tensor) -> List[Tensor]:
        """Return the scalars of sorted pairs; `start` is from `first_pairs`."""
        n_pairs, n_ranks = len(graph.pair_i), self.l_max + 1
        pairs = Pairs(self.library, n_ranks, self.n_tensors, start, n_pairs)
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        unit = graph.pair_vectors / distance[:, None]
        values = self.unit_tensors(unit) * torch.tensor(self.norms, dtype=unit.dtype)
        alone = self.embedding(graph, distance)
        tensor_weights = self.tensor_weights(alone).reshape(n_pairs, n_ranks, self.n_tensors)
        sizes = [self.n_features, n_ranks * self.n_tensors]
        new, weights = of_parts([self.projection], [alone], sizes)
        scalars, environments = [new.to(values.dtype)], []
        factor = torch.rsqrt(self.average_neighbours)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, AllegroLayer)
            of_ranks = weights.reshape(n_pairs, n_ranks, self.n_tensors)
            environments.append(factor * pairs.partial(R, (None, None, values, of_ranks)))
            row = self.first_row(number, environments)
            invariant = pairs.partial(S, (None, row, values, tensor_weights))
            is_last = number == len(self.layers) - 1
            found = of_parts(layer.latent.layers, [*scalars, invariant], sizes[:1] if is_last else sizes)
            scalars.append(found[0].to(values.dtype))
            weights = found[-1]
        return scalars

    def first_row(self, last: int, environments: Sequence[Tensor]) -> Tensor:
        """Return the first row of M^last ... M^0, (n_atoms, (l_max + 1)^2, n_tensors)."""
        row: Optional[Tensor] = None
        for number in range(last, -1, -1):
            layer = self.layers[number]
            assert isinstance(layer, AllegroLayer)
            row = self.rows[number].row(row, environments[number], layer.matrices.weight)
        assert row is not None
        return row


def of_parts(layers: Iterable[nn.Module], parts: List[Tensor], widths: List[int]) -> List[Tensor]:
    """Apply a network of `nn.scaled` to features that are given and wanted in parts, which are never copied together.

    Parameters
    ----------
    layers : of the network
    parts : (n_pairs, any) each
    widths : of the parts of the results

    Returns
    -------
    results : [(n_pairs, width)]
    """
    weights = [layer.factor * layer.weight for layer in layers if isinstance(layer, ScaledLinear)]
    for weight in weights[:-1]:
        parts = [silu(_product(parts, weight))]
    return [_product(parts, columns) for columns in torch.split(weights[-1], widths, dim=1)]


def _product(parts: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Multiply the parts, side by side, by a matrix."""
    first, *others = torch.split(weight, [part.shape[1] for part in parts])
    total = parts[0] @ first
    for part, rows in zip(parts[1:], others, strict=True):
        total = torch.addmm(total, part, rows)
    return total


class PairEnergyByParts(Readout):
    """Energies of pairs from the features of all levels, which are not copied together.

    Parameters
    ----------
    plain : the readout
    """

    average_neighbours: Tensor

    def __init__(self, plain: PairEnergy) -> None:
        super().__init__(is_hierarchical=False, sites="pairs", counts_neighbours=True)
        adopt(self, plain)
        self.network = plain.network

    def forward(self, levels: List[Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Return energies (n_atoms, 1), in units of the potential's energy scale."""
        of_pairs = of_parts(self.network.layers, levels, [1])[0]
        of_atoms = segment_sum(of_pairs, graph.pair_i, len(graph.species))
        return {"energies": of_atoms * torch.rsqrt(2.0 * self.average_neighbours)}


def harmonic_norm(rank: int) -> float:
    """Return the factor sqrt((2 l + 1)!! / l!) of harmonics, see `nn.couplings.harmonics`."""
    return math.sqrt(math.prod(range(1, 2 * rank + 2, 2)) / math.factorial(rank))


class AllegroByRows(Representation):
    """The same in torch, for TorchScript and where nothing can be compiled.

    Parameters
    ----------
    plain : the model
    """

    average_neighbours: Tensor

    def __init__(self, plain: Allegro) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes, sites="pairs", counts_neighbours=True)
        adopt(self, plain)
        self.embedding, self.tensor_weights, self.projection = plain.embedding, plain.tensor_weights, plain.projection
        self.weighted_harmonics, self.layers = plain.weighted_harmonics, plain.layers
        self.l_max, self.n_features = plain.l_max, plain.n_features

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the scalars of the pairs: of each pair alone, and after each layer."""
        n_atoms = graph.species.shape[0]
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        values = harmonics(graph.pair_vectors / distance[:, None], self.l_max)
        alone = self.embedding(graph, distance)
        tensors = self.weighted_harmonics(values, self.tensor_weights(alone))
        first, weights = scalars_and_weights(self.projection(alone), self.n_features, values.dtype)
        scalars = [first]
        factor = torch.rsqrt(self.average_neighbours)
        matrices: List[Tensor] = []
        for layer in self.layers:
            sums = segment_sum(self.weighted_harmonics(values, weights), graph.pair_i, n_atoms)
            matrices.append(layer.matrices(factor * sums))  # type: ignore[operator]
            row = matrices[-1][:, 0]
            for k in range(len(matrices) - 2, -1, -1):
                row = (row[:, :, None] * matrices[k]).sum(1)
            invariant = (row.index_select(0, graph.pair_i) * tensors).sum(1)
            found = layer.latent(torch.cat(scalars + [invariant], dim=1))  # type: ignore[operator]
            new, weights = scalars_and_weights(found, self.n_features, values.dtype)
            scalars.append(new)
        return scalars


TWINS = [
    Twin("tensors", "C, a row per atom", Allegro, CompiledAllegro, why_not=why_no_kernels),
    Twin("pair energies", "in parts", PairEnergy, lambda plain, setting: PairEnergyByParts(plain)),
    Twin(
        "tensors",
        "a row per atom",
        Allegro,
        lambda plain, setting: AllegroByRows(plain),
        purposes=("training", "inference", "export"),
    ),
]
