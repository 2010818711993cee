"""Twin of the symmetric powers of tensors: one compiled program for all products and their weighted sums.

The products share parts: a program evaluates each once (see `contraction_programs`). The weights are planes of the
program as well, variables in training and constants where they are frozen.
"""

from functools import cache
from itertools import product
from typing import List, Sequence

import torch
from torch import Tensor, nn

from hiphop_train.accelerate.contraction_programs import Component, ContractionWriter
from hiphop_train.accelerate.polynomial_kernels import Kernels, evaluate_compiled
from hiphop_train.accelerate.polynomial_source import header
from hiphop_train.accelerate.polynomials import NOTHING, Program
from hiphop_train.accelerate.twin import Setting, Twin, adopt, why_no_kernels
from hiphop_train.nn.contractions import Contraction, bond_index, canonical
from hiphop_train.nn.couplings import projection
from hiphop_train.nn.symmetric_powers import PowersOfRank, SymmetricPowers, normalisation, symmetric_powers


@cache
def power_program(l_max: int, correlation: int, ranks: tuple[int, ...], is_frozen: bool) -> Program:
    """Write the program of `SymmetricPowers`.

    Its variables are the (l_max + 1)^2 components, and the weights of the products of each rank, which are constants if
    frozen; its results the components of each rank.
    """
    products = {rank: _products(l_max, correlation, rank) for rank in ranks}
    n_components, n_weights = (l_max + 1) ** 2, sum(map(len, products.values()))
    writer = ContractionWriter(n_components if is_frozen else n_components + n_weights, n_weights if is_frozen else 0)
    outputs, weight = [], n_components
    for rank in ranks:
        terms: List[dict[tuple[int, int], float]] = [{} for _ in range(2 * rank + 1)]
        for contraction in products[rank]:
            norm = normalisation(contraction, rank)
            for component, sums in enumerate(_components(writer, contraction, rank)):
                if len(sums) == 1 and next(iter(sums.values())) == 1.0:
                    plane = next(iter(sums))
                else:
                    plane = writer.sum({(plane, NOTHING): factor for plane, factor in sums.items()})
                terms[component][weight, plane] = norm
            weight += 1
        outputs += [writer.sum(each) for each in terms]
    return writer.finish(outputs)


def _products(l_max: int, correlation: int, rank: int) -> List[Contraction]:
    return [each for degree in range(1, correlation + 1) for each in symmetric_powers(l_max, degree, rank)]


def _components(writer: ContractionWriter, contraction: Contraction, rank: int) -> List[dict[int, float]]:
    """Return the free components of a product as sums of planes."""
    n_factors = len(contraction.ranks) - (rank > 0)
    factors = contraction.part(tuple(range(n_factors)))
    writer.plan(canonical(factors))
    bonds = bond_index(len(contraction.ranks))
    owners = [k for k in range(n_factors) for _ in range(contraction.bonds[bonds[k, n_factors]])] if rank else []
    matrix = projection(rank)
    found: List[dict[int, float]] = [{} for _ in range(2 * rank + 1)]
    for column, directions in enumerate(product(range(3), repeat=rank)):
        if not bool(matrix[:, column].any()):
            continue
        axes = [[0, 0, 0] for _ in range(n_factors)]
        for owner, direction in zip(owners, directions):
            axes[owner][direction] += 1
        plane = writer.plane(Component(factors, tuple((a[0], a[1], a[2]) for a in axes)))
        for row in range(2 * rank + 1):
            if float(matrix[row, column]) != 0.0:
                found[row][plane] = found[row].get(plane, 0.0) + float(matrix[row, column])
    return [{plane: round(factor, 14) for plane, factor in sums.items() if abs(factor) > 1e-12} for sums in found]


class CompiledPowers(nn.Module):
    """Symmetric powers by a program in C.

    Parameters
    ----------
    plain : the module
    """

    def __init__(self, plain: SymmetricPowers, setting: Setting) -> None:
        super().__init__()
        adopt(self, plain)
        self.original = [plain]
        self.ranks = tuple(each.rank for each in _of_ranks(plain))
        self.is_frozen = setting.purpose == "inference"
        program = power_program(plain.l_max, plain.correlation, self.ranks, self.is_frozen)
        library = setting.compile("polynomial.c", generated=header(program), in_vectors=False)
        self.kernels = Kernels(library, program.n_inputs, len(program.outputs))

    def forward(self, tensors: List[Tensor], species: Tensor) -> List[Tensor]:
        """Evaluate, see `SymmetricPowers`."""
        plain = self.original[0]
        if torch.is_autocast_enabled("cpu"):
            tensors = [each.to(self.kernels.library.dtype) for each in tensors]
        if not self.kernels.library.serves(tensors[0]):  # converted or moved after compilation
            found: List[Tensor] = plain(tensors, species)
            return found
        weights = torch.cat([each.weight for each in _of_ranks(plain)], dim=1)  # (n_types, n_products, width)
        of_atoms = weights.index_select(0, species)
        if self.is_frozen:
            planes, constants = torch.cat(tensors, dim=1).transpose(0, 1), of_atoms.transpose(0, 1)
            results = evaluate_compiled(self.kernels, planes, constants)
        else:
            results = evaluate_compiled(self.kernels, torch.cat([*tensors, of_atoms], dim=1).transpose(0, 1))
        sizes = [2 * rank + 1 for rank in self.ranks]
        return [each.transpose(0, 1) for each in results.split_with_sizes(sizes)]


def _of_ranks(plain: SymmetricPowers) -> Sequence[PowersOfRank]:
    return [each for each in plain.powers if isinstance(each, PowersOfRank)]


TWINS = [
    Twin("powers of tensors", "C", SymmetricPowers, CompiledPowers, why_not=why_no_kernels),
]
