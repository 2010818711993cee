"""ANI: atomic environment vectors of modified symmetry functions, for element-specific networks.

Smith, Isayev, Roitberg, Chem. Sci. 8, 3192 (2017).
"""

import math
from typing import Annotated, List

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import threshold

from hiphop_train.errors import ConfigError
from hiphop_train.graph.segments import segment_sum, segment_sum_of_columns
from hiphop_train.graph.triples import triples_within
from hiphop_train.models.base import Representation
from hiphop_train.nn.channels import functions_of_features, species_pair_index
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian
from hiphop_train.nn.powers import integer_power
from hiphop_train.types import Graph

Shifts = Annotated[List[NonNegativeFloat], Field(min_length=1)]


class ANI(Representation):
    """Atomic environment vectors (AEVs).

    Radial part, one channel per species of the neighbours j (eq. 3):
    G_m = 1/4 sum_j exp(-eta (r_ij - s_m)^2) f_c(r_ij).
    Angular part, one channel per unordered pair of species of the neighbours j and k (eq. 4):
    G_mn = 2 sum_{j<k} ((1 + cos(theta_ijk - phi_n)) / 2)^zeta exp(-eta ((r_ij + r_ik) / 2 - s_m)^2)
    f_c(r_ij) f_c(r_ik).

    The factor 1/4 and the factor 0.95 of cos(theta) are not in the paper, but in all published networks; the latter
    keeps the derivative of the angle finite for collinear atoms.

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
                f"model.angular_cutoff={angular_cutoff}, model.cutoff={cutoff}: must satisfy angular_cutoff <= cutoff"
            )
        if max(angular_sections) > math.pi:
            raise ConfigError(
                f"model.angular_sections contains {max(angular_sections)}; angles must be between 0 and pi, in radians"
            )
        n_types = len(elements)
        n_pair_types = n_types * (n_types + 1) // 2
        n_radial, n_angular = len(radial_shifts), len(angular_shifts) * len(angular_sections)
        functions = functions_of_features(n_types, n_radial, n_angular)
        super().__init__(elements, cutoff, [len(functions)], functions if standardise else None, (n_radial, n_angular))
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
        for name, constant in constants.items():  # not in the state dict: they are in the configuration
            self.register_buffer(name, constant, persistent=False)

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the AEVs (n_atoms, n_features): radial channels by species, then angular ones by pair of species."""
        n_atoms = graph.species.shape[0]
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        sender = graph.species[graph.pair_j]
        channel = graph.pair_i * self.n_types + sender
        radial = segment_sum(self.radial(distance), channel, n_atoms * self.n_types).reshape(n_atoms, -1)
        j, k = triples_within(graph, self.angular_cutoff).unbind()
        pairs = self.pair_terms(graph.pair_vectors, distance)
        angular = segment_sum_of_columns(
            self.angular(pairs.index_select(1, j), pairs.index_select(1, k)),
            self.triple_channel(graph.pair_i, sender, j, k),
            n_atoms * self.n_pair_types,
        )
        return [torch.cat([radial, angular.t().reshape(n_atoms, -1)], dim=1)]

    def radial(self, distance: Tensor) -> Tensor:
        """Return the terms of eq. 3 (n_pairs, n_shifts) for distances (n_pairs,)."""
        radial = gaussian(self.radial_eta * (distance[:, None] - self.radial_shift).square())
        return 0.25 * radial * cosine_cutoff(distance, self.cutoff)[:, None]

    def pair_terms(self, vectors: Tensor, distance: Tensor) -> Tensor:
        """Return unit vector, distance in Angstrom and f_c of each pair (5, n_pairs), for the angular part."""
        cutoff = cosine_cutoff(distance, self.angular_cutoff)
        return torch.cat([vectors.t() / distance, distance[None], cutoff[None]])

    def triple_channel(self, pair_i: Tensor, sender: Tensor, j: Tensor, k: Tensor) -> Tensor:
        """Return the channel of each triple (n_triples,): atom * n_pair_types + pair of species."""
        species = sender.index_select(0, j) * self.n_types + sender.index_select(0, k)
        return pair_i.index_select(0, j) * self.n_pair_types + self.pair_channel.flatten().index_select(0, species)

    def angular(self, pair_j: Tensor, pair_k: Tensor) -> Tensor:
        """Return the terms of eq. 4.

        Parameters
        ----------
        pair_j, pair_k : (5, n_triples), `pair_terms` of the two pairs of each triple

        Returns
        -------
        terms : (n_shifts * n_sections, n_triples)
        """
        cosine = 0.95 * (pair_j[:3] * pair_k[:3]).sum(0)  # (n_triples,)
        sine = torch.sqrt(1.0 - cosine.square())
        mean_distance = 0.5 * (pair_j[3] + pair_k[3])
        cutoff = 2.0 * pair_j[4] * pair_k[4]
        # cos(theta - phi) = cos(theta) cos(phi) + sin(theta) sin(phi)
        turned = self.section_cosine[:, None] * cosine + self.section_sine[:, None] * sine
        angle = self.power(0.5 + 0.5 * turned, self.angular_zeta)  # (n_sections, n_triples)
        radial = gaussian(self.angular_eta * (mean_distance - self.angular_shift[:, None]).square())
        return ((radial * cutoff)[:, None] * angle).flatten(0, 1)

    def power(self, base: Tensor, exponent: float) -> Tensor:
        """Raise to a power, without denormal numbers."""
        base = threshold(base, 1e-20 ** (1.0 / self.angular_zeta), 0.0)
        if exponent != math.floor(exponent):
            return torch.pow(base, exponent)
        return integer_power(base, int(exponent))
