"""Twins of ANI and Behler-Parrinello: triples are listed in the loader and evaluated in blocks."""

from collections.abc import Sequence
from typing import List

import torch
from torch import Tensor

from hiphop_train.accelerate.blocks import functions_with_slopes
from hiphop_train.accelerate.slopes import cosine_cutoff_slope
from hiphop_train.accelerate.triple_lists import PrepareTriples
from hiphop_train.accelerate.triple_sums import plain_sums, sums_in_blocks
from hiphop_train.accelerate.twin import Twin, adopt
from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.ani import ANI
from hiphop_train.models.base import Representation
from hiphop_train.models.bp import BehlerParrinello
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian
from hiphop_train.types import Graph


class SymmetryFunctions(Representation):
    """Symmetry functions of ANI or Behler-Parrinello over prepared triples, in blocks unless differentiated twice.

    Parameters
    ----------
    plain : the model
    angular_cutoff : Angstrom
    """

    def __init__(self, plain: ANI | BehlerParrinello, angular_cutoff: float) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes, plain.standardised_functions)
        adopt(self, plain)
        self.formulas = [plain]  # in a list, so that it is not a submodule
        self.slopes = ANISlopes(plain) if isinstance(plain, ANI) else None
        self.prepare = PrepareTriples(angular_cutoff)

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return all functions (n_atoms, n_features): radial ones by species, then angular ones by pair of species."""
        plain = self.formulas[0]
        n_atoms = graph.species.shape[0]
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        sender = graph.species[graph.pair_j]
        radial = plain.radial(distance) if self.training or self.slopes is None else self.slopes.radial(distance)
        channel = graph.pair_i * plain.n_types + sender
        radial = segment_sum(radial, channel, n_atoms * plain.n_types).reshape(n_atoms, -1)
        triples = self.prepare.triples_of(graph)
        given = (
            plain.angular,
            plain.pair_terms(graph.pair_vectors, distance),
            triples,
            plain.triple_channel(graph.pair_i, sender, triples[0], triples[1]),
            n_atoms * plain.n_pair_types,
        )
        if self.training:
            angular = plain_sums(*given)
        else:
            angular = sums_in_blocks(*given, None if self.slopes is None else self.slopes.angular)
        if isinstance(plain, BehlerParrinello):
            angular = angular.index_select(0, plain.angular_order)
        return [torch.cat([radial, angular.t().reshape(n_atoms, -1)], dim=1)]


class ANISlopes:
    """Analytic derivatives of ANI's terms.

    Parameters
    ----------
    plain : the model
    """

    def __init__(self, plain: ANI) -> None:
        self.formulas = plain

    def radial(self, distance: Tensor) -> Tensor:
        """Return the radial terms (n_pairs, n_shifts), with their slopes for the derivative."""
        widths = [len(self.formulas.radial_shift)]
        return functions_with_slopes(lambda r: [self.formulas.radial(r)], self.write_radial, distance, widths)[0]

    def write_radial(self, distance: Tensor, terms: Sequence[Tensor], slopes: Sequence[Tensor]) -> None:
        """Write the radial terms and their slopes, without derivatives."""
        plain, r = self.formulas, distance[:, None]
        offset = r - plain.radial_shift
        radial = gaussian(plain.radial_eta * offset.square())
        torch.mul(radial, 0.25 * cosine_cutoff(r, plain.cutoff), out=terms[0])
        torch.mul(terms[0], offset, out=slopes[0]).mul_(-2.0 * plain.radial_eta)
        slopes[0].addcmul_(radial, 0.25 * cosine_cutoff_slope(r, plain.cutoff))

    def angular(self, pair_j: Tensor, pair_k: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return gradients with respect to the values of both pairs, (5, n_triples) each, given that of the terms."""
        plain = self.formulas
        unit_j, unit_k = pair_j[:3], pair_k[:3]
        cosine = 0.95 * (unit_j * unit_k).sum(0)
        sine = torch.sqrt(1.0 - cosine.square())
        cutoff = 2.0 * pair_j[4] * pair_k[4]
        section_cosine, section_sine = plain.section_cosine[:, None], plain.section_sine[:, None]
        base = 0.5 + 0.5 * (section_cosine * cosine + section_sine * sine)
        steep = plain.power(base, plain.angular_zeta - 1.0)
        offset = 0.5 * (pair_j[3] + pair_k[3]) - plain.angular_shift[:, None]
        radial = gaussian(plain.angular_eta * offset.square())
        products = gradient.view(len(radial), len(base), -1)
        grad_angle = (products * (radial * cutoff)[:, None]).sum(0)
        grad_radial = (products * (steep * base)).sum(1).mul_(radial)
        turn = section_cosine - section_sine * (cosine / sine)
        grad_cosine = (0.95 * 0.5 * plain.angular_zeta) * (grad_angle * steep).mul_(turn).sum(0)
        grad_distance = (-plain.angular_eta * cutoff) * (grad_radial * offset).sum(0)
        grad_cutoff = 2.0 * grad_radial.sum(0)
        return (
            torch.cat([grad_cosine * unit_k, torch.stack([grad_distance, grad_cutoff * pair_k[4]])]),
            torch.cat([grad_cosine * unit_j, torch.stack([grad_distance, grad_cutoff * pair_j[4]])]),
        )


TWINS = [
    Twin(
        "triples",
        "listed in the loader, in blocks with slopes where not differentiated twice",
        ANI,
        lambda plain, setting: SymmetryFunctions(plain, plain.angular_cutoff),
        prepare=lambda plain: PrepareTriples(plain.angular_cutoff),
    ),
    Twin(
        "triples",
        "listed in the loader, in blocks where not differentiated twice",
        BehlerParrinello,
        lambda plain, setting: SymmetryFunctions(plain, plain.cutoff),
        why_not=lambda plain, setting: "" if plain.n_angular else "no angular functions",
        prepare=lambda plain: PrepareTriples(plain.cutoff),
    ),
]
