"""DTNN: deep tensor neural network.

Schuett, Arbabzadah, Chmiela, Mueller, Tkatchenko, Nat. Commun. 8, 13890 (2017).
"""

from typing import Annotated, List

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from hiphop_train.errors import ConfigError
from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.base import Representation
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian_expansion
from hiphop_train.nn.linear import glorot_linear
from hiphop_train.types import Graph


class DTNN(Representation):
    """Coefficients of the atoms, refined by their neighbours through one factorised tensor layer in several passes.

    v_ij = tanh(W_fc ((W_cf c_j + b_1) o (W_df g(r_ij) + b_2)));  c_i^(t+1) = c_i^t + sum_j f_c(r_ij) v_ij

    All passes share their weights. The paper sums over all atoms of a molecule; the cutoff function f_c, which tends to
    1 for a large cutoff, makes the sum smooth, and finite in crystals.

    Parameters
    ----------
    elements : type names
    cutoff : Angstrom
    n_features : coefficients of an atom
    n_factors : width of the factorisation
    n_interactions : passes; each adds a level
    n_gaussians : Gaussians g in which distances are expanded, with the spacing as width
    gaussian_min, gaussian_max : centres of the first and the last Gaussian, Angstrom

    Notes
    -----
    Initialisation as in the paper: coefficients of variance n_features^(-1/2), Glorot's uniform weights, zero biases.
    """

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        n_features: PositiveInt,
        n_factors: PositiveInt,
        n_interactions: PositiveInt,
        n_gaussians: Annotated[int, Field(ge=2)],
        gaussian_min: float,
        gaussian_max: PositiveFloat,
    ) -> None:
        if not gaussian_min < gaussian_max:
            raise ConfigError(
                f"model.gaussian_min={gaussian_min}, model.gaussian_max={gaussian_max}: "
                "must satisfy gaussian_min < gaussian_max"
            )
        super().__init__(elements, cutoff, [n_features] * (n_interactions + 1))
        self.n_interactions = n_interactions
        self.n_gaussians = n_gaussians
        self.gaussian_min = gaussian_min
        self.gaussian_max = gaussian_max
        self.embedding = nn.Embedding(len(elements), n_features)
        self.feature_factors = glorot_linear(n_features, n_factors)  # W_cf, b_1
        self.distance_factors = glorot_linear(n_gaussians, n_factors)  # W_df, b_2
        self.recombination = glorot_linear(n_factors, n_features, bias=False)  # W_fc
        nn.init.normal_(self.embedding.weight, std=n_features**-0.25)

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the coefficients before and after each pass."""
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        expansion = gaussian_expansion(distance, self.gaussian_min, self.gaussian_max, self.n_gaussians)
        distance_factors = self.distance_factors(expansion)  # (n_pairs, n_factors)
        cutoff = cosine_cutoff(distance, self.cutoff)[:, None]
        features = self.embedding(graph.species)
        levels = [features]
        for _ in range(self.n_interactions):
            factors = self.feature_factors(features).index_select(0, graph.pair_j) * distance_factors
            messages = torch.tanh(self.recombination(factors)) * cutoff  # (n_pairs, n_features)
            features = features + segment_sum(messages, graph.pair_i, features.shape[0])
            levels.append(features)
        return levels
