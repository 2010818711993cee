"""Twins of NewtonNet: messages are symmetric, so that networks of pairs are evaluated once for both directions.

Where C can be compiled, products over pairs and sums over neighbours are C, with analytic derivatives.
"""

from typing import List, Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from hiphop_train.accelerate.compiler import Library
from hiphop_train.accelerate.pair_sums import Neighbours, carried, neighbours, pulls, symmetric_messages
from hiphop_train.accelerate.pairs import PrepareHalfList, half_list
from hiphop_train.accelerate.precision import full_precision
from hiphop_train.accelerate.silu import silu, silu_of_parts
from hiphop_train.accelerate.twin import Setting, Twin, adopt, why_no_kernels
from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.base import Representation
from hiphop_train.models.newtonnet import Layer, NewtonNet
from hiphop_train.nn.radial import polynomial_cutoff, sine_functions
from hiphop_train.types import Graph


class CompiledNewtonNet(Representation):
    """NewtonNet over a half neighbour list in C.

    Parameters
    ----------
    plain : the model, which takes over if a reverse is missing
    pair_sums, activation : compiled from `kernels/pair_sums.c` and `kernels/silu.c`
    """

    def __init__(self, plain: NewtonNet, pair_sums: Library, activation: Library) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes)
        adopt(self, plain)
        self.original = [plain]  # not a submodule: the same parameters
        self.embedding, self.layers = plain.embedding, plain.layers
        self.n_radial, self.cutoff_power = plain.n_radial, plain.cutoff_power
        self.pair_sums, self.activation = pair_sums, activation
        self.prepare = PrepareHalfList()

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the features of the last layer."""
        features = self.embedding(graph.species)
        served = self.pair_sums.serves(graph.pair_vectors) and self.pair_sums.serves(features)
        half = self.prepare.half_list_of(graph) if served else None
        if half is None:  # also when converted or moved after compilation
            found: List[Tensor] = self.original[0](graph)
            return found
        first, second, vectors = (x.index_select(0, half) for x in (graph.pair_i, graph.pair_j, graph.pair_vectors))
        pairs = neighbours(first, second, len(features), self.pair_sums)
        distance = torch.linalg.norm(vectors, dim=1)
        unit = vectors / distance[:, None]
        cutoff = polynomial_cutoff(distance, self.cutoff, self.cutoff_power)[:, None]
        basis = torch.cat([sine_functions(distance, self.cutoff, self.n_radial), torch.ones_like(cutoff)], 1) * cutoff
        state = [features]
        for layer in self.layers:
            assert isinstance(layer, Layer)
            if len(state) == 1:  # at first, the features are those of species
                sources = self.network(layer.features, self.embedding.weight).index_select(0, graph.species)
            else:
                sources = self.network(layer.features, state[0])
            state = self.interact(layer, state, sources, basis, unit, pairs)
        return state[:1]

    def interact(
        self, layer: Layer, state: List[Tensor], sources: Tensor, basis: Tensor, unit: Tensor, pairs: Neighbours
    ) -> List[Tensor]:
        """Apply a layer to features, forces and displacements, at first the features alone; sources are phi_a."""
        features = state[0]
        n_features, dtype = features.shape[1], features.dtype
        with full_precision(basis):  # bfloat16 would round the geometry
            filters = linear(basis, with_bias(layer.radial))
        messages, sums = symmetric_messages(filters, sources, pairs)
        features = features + sums

        layers = [linear_layers(network) for network in (layer.latent, *layer.carried)]
        bias = pad(layers[0][0].bias, (0, (len(layers) - 1) * n_features))
        hidden = linear(messages, torch.cat([first.weight for first, _ in layers]), bias).to(dtype)
        activated = silu_of_parts(hidden, len(layers), self.activation)
        strength = layer.size(messages).to(dtype)
        # the last layer of a network commutes with the sum over neighbours
        force = linear(pulls(unit * strength, activated[0], pairs), with_bias(layers[0][1])).to(dtype)
        change = self.network(layer.displacement, features)[:, None] * force
        for (_, second), active in zip(layers[1:], activated[1:], strict=True):
            change = change + carried(second(active).to(dtype), state[2], pairs)
        forces, displacements = (force, change) if len(state) == 1 else (state[1] + force, state[2] + change)
        work = (forces * displacements).sum(1)
        return [features - self.network(layer.energy, features) * work, forces, displacements]

    def network(self, layers: nn.Module, inputs: Tensor) -> Tensor:
        """Apply two linear layers with silu between them."""
        first, second = linear_layers(layers)
        outputs: Tensor = second(silu(first(inputs).to(inputs.dtype), self.activation))
        return outputs.to(inputs.dtype)


def linear_layers(network: nn.Module) -> Tuple[nn.Linear, nn.Linear]:
    """Return the two layers of a network with silu between them."""
    assert isinstance(network, nn.Sequential)
    first, _, second = network
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    return first, second


def with_bias(layer: nn.Linear) -> Tensor:
    """Return weights of a linear layer with the bias as last column, which multiplies 1."""
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1)


class HalfListNewtonNet(Representation):
    """NewtonNet over a half neighbour list, or over all pairs if a reverse is missing; TorchScript-safe.

    Parameters
    ----------
    plain : the model
    """

    def __init__(self, plain: NewtonNet) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes)
        adopt(self, plain)
        self.embedding, self.layers = plain.embedding, plain.layers
        self.n_radial, self.cutoff_power = plain.n_radial, plain.cutoff_power

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the features of the last layer."""
        half = half_list(graph)
        first, second, vectors = graph.pair_i, graph.pair_j, graph.pair_vectors
        if half is not None:
            first, second = first.index_select(0, half), second.index_select(0, half)
            vectors = vectors.index_select(0, half)
        distance = torch.linalg.norm(vectors, dim=1)
        unit = (vectors / distance[:, None])[:, :, None]
        expansion = sine_functions(distance, self.cutoff, self.n_radial)
        cutoff = polynomial_cutoff(distance, self.cutoff, self.cutoff_power)[:, None]
        features = self.embedding(graph.species)
        n_atoms = features.shape[0]
        forces = torch.zeros_like(features)[:, None].expand(-1, 3, -1)
        displacements = forces
        for layer in self.layers:
            sources = layer.features(features)  # type: ignore[operator]
            filters = layer.radial(expansion) * cutoff  # type: ignore[operator]
            messages = filters * sources.index_select(0, second) * sources.index_select(0, first)
            sums = segment_sum(messages, first, n_atoms)
            pull = unit * (layer.size(messages) * layer.latent(messages))[:, None]  # type: ignore[operator]
            force = segment_sum(pull, first, n_atoms)
            if half is not None:
                sums = sums + segment_sum(messages, second, n_atoms)
                force = force - segment_sum(pull, second, n_atoms)
            features = features + sums
            change = layer.displacement(features)[:, None] * force  # type: ignore[operator]
            for network in layer.carried:  # type: ignore[union-attr]
                weights = network(messages)[:, None]
                change = change + segment_sum(weights * displacements.index_select(0, second), first, n_atoms)
                if half is not None:
                    change = change + segment_sum(weights * displacements.index_select(0, first), second, n_atoms)
            forces, displacements = forces + force, displacements + change
            features = features - layer.energy(features) * (forces * displacements).sum(1)  # type: ignore[operator]
        return [features]


def _compile(plain: NewtonNet, setting: Setting) -> CompiledNewtonNet:
    pair_sums = setting.compile("pair_sums.c", {"WIDTH": plain.feature_sizes[0]})
    return CompiledNewtonNet(plain, pair_sums, setting.compile("silu.c"))


def _why_not(plain: NewtonNet, setting: Setting) -> str:
    if setting.purpose == "export" or setting.device.type == "cpu":
        return ""
    return f"half neighbour lists pay on CPUs, not on {setting.device.type}"


TWINS = [
    Twin(
        "pairs",
        "half neighbour list, C",
        NewtonNet,
        _compile,
        why_not=why_no_kernels,
        prepare=lambda plain: PrepareHalfList(),
    ),
    Twin(
        "pairs",
        "half neighbour list",
        NewtonNet,
        lambda plain, setting: HalfListNewtonNet(plain),
        purposes=("training", "inference", "export"),
        why_not=_why_not,
    ),
]
