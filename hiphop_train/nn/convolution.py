"""Convolution of tensors with the harmonics of the pair vectors, in plain, scriptable operations."""

from typing import List, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from hiphop_train.graph.segments import segment_sum
from hiphop_train.nn.couplings import TensorType, coupling, products, true_types


class Path(NamedTuple):
    """One coupling of a neighbour's tensors with harmonics.

    Attributes
    ----------
    source : index of the type of the neighbour's tensors
    rank : of the harmonics
    result : index of the type of the result
    """

    source: int
    rank: int
    result: int


def convolution_paths(types: Sequence[TensorType], l_max: int, types_out: Sequence[TensorType]) -> List[Path]:
    """Return all couplings of tensors with harmonics up to a rank, ordered by source, rank and result."""
    return [
        Path(source, harmonic.rank, list(types_out).index(result))
        for source, given in enumerate(types)
        for harmonic in true_types(l_max)
        for result in products(given, harmonic)
        if result in types_out
    ]


def reached(types: Sequence[TensorType], l_max: int, wanted: Sequence[TensorType]) -> List[TensorType]:
    """Return those of the wanted types that a convolution of the given ones produces."""
    return [wanted[k] for k in sorted({path.result for path in convolution_paths(types, l_max, wanted)})]


def types_of_layers(
    first: Sequence[TensorType], l_max: int, hidden: Sequence[TensorType], last: Sequence[TensorType], n_layers: int
) -> List[List[TensorType]]:
    """Return the types after each of several convolutions: those that are reached, and that something follows from.

    Parameters
    ----------
    first : types before the first convolution
    l_max : highest rank of the harmonics
    hidden, last : wanted types of all but the last, and of the last
    n_layers : number of convolutions
    """
    found: List[List[TensorType]] = []
    types = list(first)
    for layer in range(n_layers):
        types = reached(types, l_max, hidden if layer < n_layers - 1 else last)
        found.append(types)
    for layer in range(n_layers - 2, -1, -1):
        found[layer] = [each for each in found[layer] if reached([each], l_max, found[layer + 1])]
    return found


class SourceCouplings(nn.Module):
    """All couplings of the tensors of one type with harmonics.

    Parameters
    ----------
    given : type of the neighbours' tensors
    ranks : of the harmonics of each path
    results : type of the result of each path
    l_max : highest rank of the harmonics
    """

    coefficients: Tensor
    path_of_row: Tensor

    def __init__(self, given: TensorType, ranks: List[int], results: List[TensorType], l_max: int) -> None:
        super().__init__()
        self.size = given.size()
        self.n_paths = len(ranks)
        sizes = torch.tensor([result.size() for result in results])
        self.n_rows = int(sizes.sum())
        coefficients = torch.zeros((l_max + 1) ** 2, self.n_rows, self.size, dtype=torch.float64)
        row = 0
        for rank, result in zip(ranks, results):
            block = coupling(given.rank, rank, result.rank).permute(2, 0, 1)  # (2 l + 1, n_rows_of_path, size)
            coefficients[rank * rank : (rank + 1) ** 2, row : row + result.size()] = block
            row += result.size()
        self.register_buffer("coefficients", coefficients.flatten(1), persistent=False)
        path_of_row = torch.repeat_interleave(torch.arange(len(results)), sizes)
        self.register_buffer("path_of_row", path_of_row, persistent=False)

    def forward(self, tensors: Tensor, harmonics: Tensor, radial: Tensor, pair_i: Tensor, pair_j: Tensor) -> Tensor:
        """Sum R_p(r_ij) (x_j Y(r_ij))_p over neighbours.

        Parameters
        ----------
        tensors : (n_atoms, size, width), x
        harmonics : (n_pairs, (l_max + 1)^2), Y
        radial : (n_pairs, n_paths * width), R
        pair_i, pair_j : (n_pairs,) receiving and sending atom

        Returns
        -------
        sums : (n_atoms, n_rows, width), rows are the components of the results, path by path
        """
        n_atoms, width = tensors.shape[0], tensors.shape[2]
        matrices = (harmonics @ self.coefficients).reshape([-1, self.n_rows, self.size])
        messages = torch.bmm(matrices, tensors.index_select(0, pair_j))
        weights = radial.reshape([-1, self.n_paths, width]).index_select(1, self.path_of_row)
        return segment_sum(messages * weights, pair_i, n_atoms)


class TensorConvolution(nn.Module):
    """Sum the products of the neighbours' tensors with harmonics, weighted by radial functions.

    Each coupling of a type of tensors, a rank of harmonics and a type of results has radial functions of its own, one
    per feature ("uvu" in e3nn; arXiv 1802.08219, eq. 3).

    Parameters
    ----------
    types, widths : of the tensors and their numbers of features
    l_max : highest rank of the harmonics
    types_out : of the results

    Attributes
    ----------
    paths : all couplings
    widths_out : features of each type of the results: those of all paths that lead to it
    n_weights : number of radial functions
    """

    def __init__(
        self, types: Sequence[TensorType], widths: List[int], l_max: int, types_out: Sequence[TensorType]
    ) -> None:
        super().__init__()
        self.paths = convolution_paths(types, l_max, types_out)
        self.widths = widths
        self.widths_out = [
            sum(widths[path.source] for path in self.paths if path.result == k) for k in range(len(types_out))
        ]
        self.n_weights = sum(widths[path.source] for path in self.paths)
        self.couplings = nn.ModuleList()
        self.results: List[List[int]] = []  # of each source, path by path
        for source, given in enumerate(types):
            own = [path for path in self.paths if path.source == source]
            results = [types_out[path.result] for path in own]
            self.couplings.append(SourceCouplings(given, [path.rank for path in own], results, l_max))
            self.results.append([path.result for path in own])
        self.sizes = [each.size() for each in types_out]

    def forward(
        self, tensors: List[Tensor], harmonics: Tensor, radial: Tensor, pair_i: Tensor, pair_j: Tensor
    ) -> List[Tensor]:
        """Convolve.

        Parameters
        ----------
        tensors : [(n_atoms, 2 l + 1, width)] of each type
        harmonics : (n_pairs, (l_max + 1)^2)
        radial : (n_pairs, n_weights), ordered as `paths`
        pair_i, pair_j : (n_pairs,) receiving and sending atom

        Returns
        -------
        sums : [(n_atoms, 2 l + 1, width_out)] of each type of results; features ordered as `paths`
        """
        parts: List[List[Tensor]] = [[] for _ in self.sizes]
        start = 0
        for source, couplings in enumerate(self.couplings):
            n_weights = len(self.results[source]) * self.widths[source]
            weights = radial.narrow(1, start, n_weights)
            start += n_weights
            sums = couplings(tensors[source], harmonics, weights, pair_i, pair_j)
            row = 0
            for result in self.results[source]:
                parts[result].append(sums.narrow(1, row, self.sizes[result]))
                row += self.sizes[result]
        return [torch.cat(part, dim=2) for part in parts]
