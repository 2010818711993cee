"""ANI: atomic environment vectors of modified symmetry functions, for networks per element.

Smith, Isayev, Roitberg, Chem. Sci. 8, 3192 (2017).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, List

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import threshold

from hiphop_train.errors import ConfigError
from hiphop_train.graph.segments import segment_sum, segment_sum_of_columns
from hiphop_train.graph.triples import triples_within, with_triples
from hiphop_train.models.base import Representation
from hiphop_train.nn.blocks import functions_with_slopes
from hiphop_train.nn.channels import functions_of_features, species_pair_index
from hiphop_train.nn.cutoffs import cosine_cutoff, cosine_cutoff_slope
from hiphop_train.nn.gaussians import gaussian
from hiphop_train.nn.powers import whole_power
from hiphop_train.nn.triple_terms import plain_sums, sums_in_blocks
from hiphop_train.types import Graph

Shifts = Annotated[List[NonNegativeFloat], Field(min_length=1)]


class ANI(Representation):
    """Atomic environment vectors (AEVs).

    Radial part, one channel for each species of the neighbours j (eq. 3):
    G_m = 1/4 sum_j exp(-eta (r_ij - s_m)^2) f_c(r_ij).
    Angular part, one channel for each unordered pair of species of the neighbours j and k (eq. 4):
    G_mn = 2 sum_{j<k} ((1 + cos(theta_ijk - phi_n)) / 2)^zeta exp(-eta ((r_ij + r_ik) / 2 - s_m)^2)
    f_c(r_ij) f_c(r_ik).

    The factor 1/4 and cos(theta) multiplied with 0.95 are not in the paper, but in all published networks; the latter
    keeps the angle's derivative finite in straight lines.

    Parameters
    ----------
    elements : type names
    cutoff : of the radial part, Angstrom
    angular_cutoff : of the angular part, Angstrom, not larger than `cutoff`
    radial_eta : 1/Angstrom^2
    radial_shifts : s_m of the radial part, Angstrom
    angular_eta : 1/Angstrom^2
    angular_zeta : sharpness in the angle
    angular_shifts : s_m of the angular part, Angstrom
    angular_sections : phi_n, radians, between 0 and pi
    standardise : whether the vectors are centred and scaled by their statistics over the training structures; the
        published networks do not
    """

    radial_shift: Tensor
    angular_shift: Tensor
    section_cosine: Tensor
    section_sine: Tensor
    pair_channel: Tensor

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        angular_cutoff: PositiveFloat,
        radial_eta: PositiveFloat,
        radial_shifts: Shifts,
        angular_eta: PositiveFloat,
        angular_zeta: Annotated[float, Field(ge=1)],
        angular_shifts: Shifts,
        angular_sections: Shifts,
        standardise: bool = False,
    ) -> None:
        if angular_cutoff > cutoff:
            raise ConfigError(
                f"model.angular_cutoff={angular_cutoff}, model.cutoff={cutoff}: it must be angular_cutoff <= cutoff"
            )
        if max(angular_sections) > math.pi:
            raise ConfigError(
                f"model.angular_sections holds {max(angular_sections)}: angles lie between 0 and pi, in radians"
            )
        n_types = len(elements)
        n_pair_types = n_types * (n_types + 1) // 2
        n_radial, n_angular = len(radial_shifts), len(angular_shifts) * len(angular_sections)
        functions = functions_of_features(n_types, n_radial, n_angular)
        preparation = partial(with_triples, cutoff=angular_cutoff)
        super().__init__(elements, cutoff, [len(functions)], functions if standardise else None, preparation)
        self.n_types = n_types
        self.n_pair_types = n_pair_types
        self.angular_cutoff = angular_cutoff
        self.radial_eta = radial_eta
        self.angular_eta = angular_eta
        self.angular_zeta = angular_zeta
        constants = {
            "radial_shift": torch.tensor(radial_shifts, dtype=torch.float64),
            "angular_shift": torch.tensor(angular_shifts, dtype=torch.float64),
            "section_cosine": torch.tensor(angular_sections, dtype=torch.float64).cos(),
            "section_sine": torch.tensor(angular_sections, dtype=torch.float64).sin(),
            "pair_channel": species_pair_index(n_types),
        }
        for name, constant in constants.items():  # not in checkpoints, whose configuration holds them
            self.register_buffer(name, constant, persistent=False)

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the AEVs (n_atoms, n_features): radial channels by species, then angular ones by pair of species."""
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        sender = graph.species[graph.pair_j]
        radial = self.radial(distance, graph.pair_i, sender, graph.species.shape[0])
        given = graph.triples
        triples = triples_within(graph, self.angular_cutoff) if given is None else given
        angular = self.angular(graph.pair_vectors, distance, graph.pair_i, sender, graph.species.shape[0], triples)
        return [torch.cat([radial, angular], dim=1)]

    def radial(self, distance: Tensor, pair_i: Tensor, sender: Tensor, n_atoms: int) -> Tensor:
        """Return the radial part (eq. 3).

        Parameters
        ----------
        distance : (n_pairs,) Angstrom
        pair_i : (n_pairs,) int64, receiving atom
        sender : (n_pairs,) int64, species of the sending atom
        n_atoms : number of atoms

        Returns
        -------
        features : (n_atoms, n_types * n_shifts)
        """
        scripting = torch.jit.is_scripting()  # type: ignore[attr-defined]
        terms = self.radial_terms(distance) if scripting else self.radial_in_blocks(distance)
        sums = segment_sum(terms, pair_i * self.n_types + sender, n_atoms * self.n_types)
        return sums.reshape(n_atoms, -1)

    def radial_terms(self, distance: Tensor) -> Tensor:
        """Return the terms of eq. 3 (n_pairs, n_shifts)."""
        radial = gaussian(self.radial_eta * (distance[:, None] - self.radial_shift).square())
        return 0.25 * radial * cosine_cutoff(distance, self.cutoff)[:, None]

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def radial_in_blocks(self, distance: Tensor) -> Tensor:
        """Return the same with their slopes, where derivatives will not be differentiated."""
        if self.training:
            return self.radial_terms(distance)
        return functions_with_slopes(
            lambda r: [self.radial_terms(r)], self.write_radial, distance, [len(self.radial_shift)]
        )[0]

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def write_radial(self, distance: Tensor, terms: Sequence[Tensor], slopes: Sequence[Tensor]) -> None:
        """Write the terms and their slopes, without derivatives."""
        r = distance[:, None]
        offset = r - self.radial_shift
        radial = gaussian(self.radial_eta * offset.square())
        torch.mul(radial, 0.25 * cosine_cutoff(r, self.cutoff), out=terms[0])
        torch.mul(terms[0], offset, out=slopes[0]).mul_(-2.0 * self.radial_eta)
        slopes[0].addcmul_(radial, 0.25 * cosine_cutoff_slope(r, self.cutoff))

    def angular(
        self, vectors: Tensor, distance: Tensor, pair_i: Tensor, sender: Tensor, n_atoms: int, triples: Tensor
    ) -> Tensor:
        """Return the angular part (eq. 4).

        Parameters
        ----------
        vectors : (n_pairs, 3) Angstrom
        distance, pair_i, sender, n_atoms : as in `radial`
        triples : (2, n_triples) int64, those inside of the angular cutoff

        Returns
        -------
        features : (n_atoms, n_pair_types * n_shifts * n_sections)
        """
        j, k = triples[0], triples[1]
        cutoff = cosine_cutoff(distance, self.angular_cutoff)
        pairs = torch.cat([vectors.t() / distance, distance[None], cutoff[None]])  # (5, n_pairs)
        species = sender.index_select(0, j) * self.n_types + sender.index_select(0, k)
        channel = pair_i.index_select(0, j) * self.n_pair_types + self.pair_channel.flatten().index_select(0, species)
        n_channels = n_atoms * self.n_pair_types
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            terms = self.angular_terms(pairs.index_select(1, j), pairs.index_select(1, k))
            sums = segment_sum_of_columns(terms, channel, n_channels)
        else:
            sums = self.angular_in_blocks(pairs, triples, channel, n_channels)
        return sums.t().reshape(n_atoms, -1)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def angular_in_blocks(self, pairs: Tensor, triples: Tensor, channel: Tensor, n_channels: int) -> Tensor:
        """Sum the terms by channel, (n_shifts * n_sections, n_channels)."""
        if self.training:  # derivatives will be differentiated
            return plain_sums(self.angular_terms, pairs, triples, channel, n_channels)
        return sums_in_blocks(self.angular_terms, pairs, triples, channel, n_channels, self.angular_slopes)

    def angular_terms(self, of_j: Tensor, of_k: Tensor) -> Tensor:
        """Return the terms of eq. 4.

        Parameters
        ----------
        of_j, of_k : (5, n_triples), of the two pairs of each triple: unit vector, distance in Angstrom and f_c

        Returns
        -------
        terms : (n_shifts * n_sections, n_triples)
        """
        cosine = 0.95 * (of_j[:3] * of_k[:3]).sum(0)  # (n_triples,)
        sine = torch.sqrt(1.0 - cosine.square())
        mean_distance = 0.5 * (of_j[3] + of_k[3])
        cutoff = 2.0 * of_j[4] * of_k[4]
        # cos(theta - phi) = cos(theta) cos(phi) + sin(theta) sin(phi)
        turned = self.section_cosine[:, None] * cosine + self.section_sine[:, None] * sine
        angle = self.power(0.5 + 0.5 * turned, self.angular_zeta)  # (n_sections, n_triples)
        radial = gaussian(self.angular_eta * (mean_distance - self.angular_shift[:, None]).square())
        return ((radial * cutoff)[:, None] * angle).flatten(0, 1)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def angular_slopes(self, of_j: Tensor, of_k: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivatives by the numbers of both pairs, (5, n_triples) each, from those by the terms."""
        unit_j, unit_k = of_j[:3], of_k[:3]
        cosine = 0.95 * (unit_j * unit_k).sum(0)
        sine = torch.sqrt(1.0 - cosine.square())
        cutoff = 2.0 * of_j[4] * of_k[4]
        section_cosine, section_sine = self.section_cosine[:, None], self.section_sine[:, None]
        base = 0.5 + 0.5 * (section_cosine * cosine + section_sine * sine)
        steep = self.power(base, self.angular_zeta - 1.0)
        offset = 0.5 * (of_j[3] + of_k[3]) - self.angular_shift[:, None]
        radial = gaussian(self.angular_eta * offset.square())
        products = gradient.view(len(radial), len(base), -1)
        of_angle = (products * (radial * cutoff)[:, None]).sum(0)
        of_radial = (products * (steep * base)).sum(1).mul_(radial)
        turn = section_cosine - section_sine * (cosine / sine)
        of_cosine = (0.95 * 0.5 * self.angular_zeta) * (of_angle * steep).mul_(turn).sum(0)
        of_distance = (-self.angular_eta * cutoff) * (of_radial * offset).sum(0)
        of_cutoff = 2.0 * of_radial.sum(0)
        rest_j, rest_k = of_cutoff * of_k[4], of_cutoff * of_j[4]
        return (
            torch.cat([of_cosine * unit_k, torch.stack([of_distance, rest_j])]),
            torch.cat([of_cosine * unit_j, torch.stack([of_distance, rest_k])]),
        )

    def power(self, base: Tensor, exponent: float) -> Tensor:
        """Raise to a power, without denormal numbers."""
        base = threshold(base, 1e-20 ** (1.0 / self.angular_zeta), 0.0)
        if exponent != math.floor(exponent):
            return torch.pow(base, exponent)
        return whole_power(base, int(exponent))
