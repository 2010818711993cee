"""A tensor field network built of e3nn's tensor products and spherical harmonics, and ours with the same weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from hiphop_train.models.tfn import TFN
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.atomwise import AtomwiseEnergy
from hiphop_train.types import Graph
from tests.references.common import ELEMENTS, perturb

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "as published": {
        "cutoff": 4.0,
        "n_features": 4,
        "n_interactions": 3,
        "l_max": 1,
        "n_gaussians": 6,
        "radial_activation": "relu",
    },
    "second rank": {"cutoff": 3.5, "n_features": 3, "n_interactions": 3, "l_max": 2, "n_gaussians": 5},
}
PUBLISHED: dict[str, Any] = {"cutoff": 5.0, "n_features": 16, "n_interactions": 3, "l_max": 1, "n_gaussians": 20}


class Theirs(nn.Module):
    """The paper's layers on e3nn's irreducible representations; parameters are read from our potential."""

    def __init__(self, potential: Potential, settings: dict[str, Any]) -> None:
        super().__init__()
        from e3nn import o3

        self.potential = potential
        self.settings = settings
        self.harmonics = o3.Irreps.spherical_harmonics(settings["l_max"])
        width = settings["n_features"]
        representation = potential.terms[0].representation
        self.products = nn.ModuleList()
        self.layers: list[tuple[Any, Any, list[tuple[int, int, int]]]] = []
        types = [(0, 1)]
        for types_out in representation.types:
            given = o3.Irreps([(width, each) for each in types])
            middle, paths = [], []
            for a, (rank, parity) in enumerate(types):
                for b in range(settings["l_max"] + 1):
                    for c, (wanted, other) in enumerate(types_out):
                        if abs(rank - b) <= wanted <= rank + b and parity * (-1) ** b == other:
                            paths.append((a, b, c))
                            middle.append((width, (wanted, other)))
            instructions = [(a, b, k, "uvu", True) for k, (a, b, _) in enumerate(paths)]
            product = o3.TensorProduct(
                given, self.harmonics, o3.Irreps(middle), instructions, shared_weights=False, internal_weights=False
            )
            self.products.append(product)
            self.layers.append((product, o3.Irreps(middle), paths))
            types = [tuple(each) for each in types_out]

    def radial(self, layer: Any, distance: Tensor) -> Tensor:
        """Gaussians, two layers and the cutoff."""
        n, cutoff = self.settings["n_gaussians"], self.settings["cutoff"]
        centres = torch.arange(n, dtype=distance.dtype) * cutoff / (n - 1)
        expansion = torch.exp(-((distance[:, None] - centres) ** 2) / (cutoff / (n - 1)))
        found = torch.cat([network(expansion) for network in layer.radial.networks], dim=1)
        return found * (0.5 * (1 + torch.cos(math.pi * distance / cutoff)))[:, None]

    def forward(self, graph: Graph, vectors: Tensor) -> Tensor:
        """Return energies of the atoms."""
        from e3nn import o3

        network = self.potential.terms[0]
        representation, width = network.representation, self.settings["n_features"]
        n_atoms = len(graph.species)
        itself = torch.arange(n_atoms)
        i, j = torch.cat([graph.pair_i, itself]), torch.cat([graph.pair_j, itself])
        distance = torch.cat([vectors.norm(dim=1), vectors.new_zeros(n_atoms)])
        unit = torch.cat([-vectors / vectors.norm(dim=1, keepdim=True), vectors.new_zeros(n_atoms, 3)])
        values = o3.spherical_harmonics(self.harmonics, unit, normalize=False, normalization="component")
        x = representation.embedding.weight[graph.species]
        for layer, (product, middle, paths) in zip(representation.layers, self.layers, strict=True):
            messages = product(x[j], values, self.radial(layer, distance))
            sums = torch.zeros(n_atoms, messages.shape[1], dtype=x.dtype).index_add(0, i, messages)
            parts = []
            blocks = [sums[:, part].reshape(n_atoms, width, -1) for part in middle.slices()]
            for c, mixing in enumerate(layer.mixing):
                block = torch.cat([blocks[k] for k, path in enumerate(paths) if path[2] == c], dim=1)
                mixed = torch.einsum("nuc,vu->nvc", block, mixing.weight)
                if c == 0:
                    value = softplus(mixed + mixing.bias[None, :, None]) - math.log(2.0)
                else:
                    norm = (mixed.square().sum(2, keepdim=True) + 1e-4).sqrt()
                    bias = layer.activation.biases[c - 1][None, :, None]
                    value = mixed * (softplus(norm + bias) - math.log(2.0)) / norm
                parts.append(value.flatten(1))
            x = torch.cat(parts, dim=1)
        return network.readout.network(x)[:, 0]  # type: ignore[no-any-return]


class Reference:
    """That network on a graph of ours."""

    def __init__(self, module: Theirs) -> None:
        self.module = module

    def __call__(self, graph: Graph, forces: bool = True, training: bool = False) -> dict[str, Tensor]:
        """Return energy (n_systems,) and forces (n_atoms, 3)."""
        vectors = graph.pair_vectors.detach().requires_grad_(True)
        of_atoms = self.module(graph, vectors)
        energy = torch.zeros(graph.n_systems, dtype=torch.float64).index_add(0, graph.system, of_atoms.double())
        gradient = torch.autograd.grad(energy.sum(), vectors, create_graph=training)[0]
        zero = torch.zeros(len(graph.species), 3, dtype=gradient.dtype)
        found = zero.index_add(0, graph.pair_i, gradient).index_add(0, graph.pair_j, -gradient)
        return {"energy": energy, "forces": found}


def make(settings: dict[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Potential, Reference]:
    """Return ours and the network of e3nn's products with its weights."""
    import copy

    torch.manual_seed(seed)
    representation = TFN(elements=ELEMENTS, **settings)
    readout = AtomwiseEnergy(representation.feature_sizes, [8], "shifted_softplus")
    network = Network(representation.to(dtype), readout.to(dtype))
    perturb(network, seed)
    potential = Potential([network], ELEMENTS, settings["cutoff"]).eval()
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # of e3nn's constants
    theirs = Theirs(copy.deepcopy(potential), settings)
    torch.set_default_dtype(default)
    return potential, Reference(theirs)
