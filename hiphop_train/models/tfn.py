"""Tensor field network: convolutions of tensors with harmonics, self-interaction, and nonlinearities of norms.

Thomas, Smidt, Kearnes, Yang, Li, Kohlhoff, Riley, arXiv 1802.08219 (2018).
"""

from typing import Annotated, List, Literal, Sequence

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from hiphop_train.models.base import Representation
from hiphop_train.nn.activations import ShiftedSoftplus
from hiphop_train.nn.convolution import TensorConvolution, reached, types_of_layers
from hiphop_train.nn.couplings import TensorType, all_types, harmonics, metric
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian, gaussian_offsets
from hiphop_train.nn.linear import glorot_linear
from hiphop_train.types import Graph

RadialActivation = Literal["relu", "shifted_softplus"]


class RadialFilters(nn.Module):
    """R(r) = f_c(r) (W_2 s(W_1 e(r) + b_1) + b_2), a network for each coupling (arXiv 1802.08219, section 4.1.2).

    Parameters
    ----------
    cutoff : Angstrom
    n_gaussians : Gaussians exp(-(r - c)^2 / d) at centres c, d apart from 0 to the cutoff; also the width of the hidden
        layers
    widths : number of functions of each coupling
    activation : s
    """

    def __init__(self, cutoff: float, n_gaussians: int, widths: List[int], activation: RadialActivation) -> None:
        super().__init__()
        self.cutoff, self.n_gaussians = cutoff, n_gaussians
        self.n_out, self.regular_from = sum(widths), 0.0
        self.is_smooth = activation != "relu"
        self.networks = nn.ModuleList(
            nn.Sequential(
                glorot_linear(n_gaussians, n_gaussians),
                nn.ReLU() if activation == "relu" else ShiftedSoftplus(),
                glorot_linear(n_gaussians, width),
            )
            for width in widths
        )

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate at distances (n_pairs,), Angstrom: (n_pairs, sum of the widths)."""
        spacing = self.cutoff / (self.n_gaussians - 1)
        offsets = gaussian_offsets(distance, 0.0, self.cutoff, self.n_gaussians)
        expansion = gaussian(offsets.square() * spacing)
        functions = [network(expansion) for network in self.networks]
        return torch.cat(functions, dim=1) * cosine_cutoff(distance, self.cutoff)[:, None]


class NormActivation(nn.Module):
    """s(x) of even scalars, x s(abs(x) + b) / abs(x) of all others (arXiv 1802.08219, section 4.3).

    Parameters
    ----------
    types : of the tensors, even scalars first
    width : number of features of each
    smallest_norm : what abs(x) is at x = 0, where the root's slope is infinite. The original's 1e-4 is less than what
        rounding to float32 leaves of tensors that vanish by symmetry, so that forces are wrong.
    """

    metrics: Tensor

    def __init__(self, types: Sequence[TensorType], width: int, smallest_norm: float = 0.01) -> None:
        super().__init__()
        self.smallest_norm = smallest_norm
        self.activation = ShiftedSoftplus()
        self.biases = nn.ParameterList(torch.zeros(width) for _ in types[1:])
        self.ranks = [each.rank for each in types]
        size = max(2 * rank + 1 for rank in self.ranks)
        metrics = torch.zeros(len(types), size, size, dtype=torch.float64)
        for k, rank in enumerate(self.ranks):
            metrics[k, : 2 * rank + 1, : 2 * rank + 1] = metric(rank)
        self.register_buffer("metrics", metrics, persistent=False)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """Activate [(n_atoms, 2 l + 1, width)]."""
        found = [self.activation(tensors[0])]
        for k, bias in enumerate(self.biases):
            tensor = tensors[k + 1]
            size = tensor.shape[1]
            contracted = torch.einsum("ncf,cd,ndf->nf", tensor, self.metrics[k + 1, :size, :size], tensor)
            norm = (contracted + self.smallest_norm**2).sqrt()
            found.append(tensor * (self.activation(norm + bias) / norm)[:, None])
        return found


class Layer(nn.Module):
    """x_i <- s(W sum_j R(r_ij) (x_j Y(r_ij)) + b), the atom itself included (arXiv 1802.08219, section 4).

    Parameters
    ----------
    types, types_out : of the tensors and of the results
    width, width_out : number of features of each
    l_max : highest rank of the harmonics
    n_gaussians, cutoff, activation : of the radial functions
    """

    def __init__(
        self,
        types: Sequence[TensorType],
        types_out: Sequence[TensorType],
        width: int,
        width_out: int,
        l_max: int,
        n_gaussians: int,
        cutoff: float,
        activation: RadialActivation,
    ) -> None:
        super().__init__()
        self.width = width
        sent = [k for k, each in enumerate(types) if reached([each], l_max, types_out)]
        self.sent = sent
        given = [types[k] for k in sent]
        self.convolution = TensorConvolution(given, [width] * len(given), l_max, types_out)
        paths = self.convolution.paths
        self.radial = RadialFilters(cutoff, n_gaussians, [width] * len(paths), activation)
        # own tensors enter by the paths of rank 0: the index of the path, and of its features in the result
        self.own: List[List[int]] = []
        for k, path in enumerate(paths):
            if path.rank == 0:
                before = sum(other.result == path.result for other in paths[:k])
                self.own.append([path.source, path.result, k, before])
        self.mixing = nn.ModuleList(
            glorot_linear(n, width_out, bias=k == 0) for k, n in enumerate(self.convolution.widths_out)
        )
        self.activation = NormActivation(types_out, width_out)

    def forward(
        self, tensors: List[Tensor], distance: Tensor, harmonics: Tensor, pair_i: Tensor, pair_j: Tensor
    ) -> List[Tensor]:
        """Map tensors [(n_atoms, 2 l + 1, width)] to [(n_atoms, 2 l + 1, width_out)]."""
        given = [tensors[k] for k in self.sent]
        sums = self.convolution(given, harmonics, self.radial(distance), pair_i, pair_j)
        itself = self.radial(distance.new_zeros(1))[0]
        for source, result, path, before in self.own:
            start, first = path * self.width, before * self.width
            own = itself[start : start + self.width] * given[source]
            n_after = sums[result].shape[2] - first - self.width
            sums[result] = sums[result] + nn.functional.pad(own, (first, n_after))
        mixed: List[Tensor] = []
        for k, layer in enumerate(self.mixing):
            mixed.append(layer(sums[k]))
        activated: List[Tensor] = self.activation(mixed)
        return activated


class TFN(Representation):
    """Tensors of all ranks and parities on the atoms; the last layer's scalars are the features.

    Parameters
    ----------
    elements : type names
    cutoff : Angstrom
    n_features : of each type of tensors
    n_interactions : layers
    l_max : highest rank of tensors and harmonics
    n_gaussians : in which a distance is expanded
    radial_activation : in the networks of the radial functions; the paper's is relu, whose forces jump

    Notes
    -----
    The original code stops at rank 1, has no cutoff, and adds pseudovectors to vectors, so that its energies may change
    under reflection; here both parities are kept apart. Constant factors of the couplings, which its radial networks
    absorb, are those of `nn.couplings`.
    """

    learning_rate = 5e-3

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        n_features: PositiveInt,
        n_interactions: PositiveInt,
        l_max: Literal[0, 1, 2, 3],
        n_gaussians: Annotated[int, Field(ge=2)],
        radial_activation: RadialActivation = "shifted_softplus",
    ) -> None:
        super().__init__(elements, cutoff, [n_features])
        self.l_max = l_max
        self.embedding = nn.Embedding(len(elements), n_features)
        self.layers = nn.ModuleList()
        scalar = TensorType(0, 1)
        types = [scalar]
        self.types = types_of_layers(types, l_max, all_types(l_max), [scalar], n_interactions)
        for types_out in self.types:
            sizes = (n_features, n_features, l_max, n_gaussians, cutoff, radial_activation)
            self.layers.append(Layer(types, types_out, *sizes))
            types = types_out

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the scalars of the last layer."""
        return [self.tensors(graph)[-1][0].squeeze(1)]

    def tensors(self, graph: Graph) -> List[List[Tensor]]:
        """Return the tensors after each layer, [[(n_atoms, 2 l + 1, n_features)]]."""
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        values = harmonics(graph.pair_vectors / -distance[:, None], self.l_max)  # from the sender to the receiver
        tensors = [self.embedding(graph.species)[:, None]]
        found: List[List[Tensor]] = []
        for layer in self.layers:
            tensors = layer(tensors, distance, values, graph.pair_i, graph.pair_j)
            found.append(tensors)
        return found
