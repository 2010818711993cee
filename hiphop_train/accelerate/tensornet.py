"""Twin of TensorNet: radial functions once for both directions of a pair; sums and products of matrices in C."""

from dataclasses import dataclass
from typing import List

import torch
from torch import Tensor, nn

from hiphop_train.accelerate.compiler import Library
from hiphop_train.accelerate.matrices import change_program, product_program, program_kernels, squares_program
from hiphop_train.accelerate.matrix_sums import Neighbours, carried, embedded, neighbours
from hiphop_train.accelerate.pairs import PrepareHalfList
from hiphop_train.accelerate.polynomial_kernels import Kernels, evaluate_compiled
from hiphop_train.accelerate.silu import silu
from hiphop_train.accelerate.twin import Setting, Twin, adopt, why_no_kernels
from hiphop_train.models.base import Representation
from hiphop_train.models.tensornet import Embedding, FeatureMixing, Interaction, TensorNet
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian
from hiphop_train.nn.radial import ExponentialFunctions
from hiphop_train.types import Graph

SIZES = [1, 3, 5]
"""Components of the parts of a matrix."""


@dataclass(frozen=True)
class Libraries:
    """What is compiled, for one number of features.

    Attributes
    ----------
    sort, sums, activation : from `kernels/pair_sums.c`, `kernels/matrix_sums.c` and `kernels/silu.c`
    bounded, product, change, squares : functions of matrices: X / (abs(X)^2 + 1), A B + B A (or A B), D + D D, and the
        squares of the parts
    """

    sort: Library
    sums: Library
    activation: Library
    bounded: Kernels
    product: Kernels
    change: Kernels
    squares: Kernels


class CompiledTensorNet(Representation):
    """TensorNet over a half neighbour list in C; tensors are planes (9, n_atoms, n_features).

    Parameters
    ----------
    plain : the model, which takes over if a reverse is missing
    libraries : compiled for it
    """

    def __init__(self, plain: TensorNet, libraries: Libraries) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes)
        adopt(self, plain)
        self.original = [plain]  # not a submodule: the same parameters
        self.embedding, self.interactions = plain.embedding, plain.interactions
        self.norm, self.linear = plain.norm, plain.linear
        self.libraries = libraries
        self.prepare = PrepareHalfList()

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return a function of the norms of the parts of the last tensors."""
        sums = self.libraries.sums
        served = sums.serves(graph.pair_vectors) and sums.serves(self.linear.weight)
        half = self.prepare.half_list_of(graph) if served else None
        if half is None:  # also when converted or moved after compilation
            found: List[Tensor] = self.original[0](graph)
            return found
        first, second, vectors = (x.index_select(0, half) for x in (graph.pair_i, graph.pair_j, graph.pair_vectors))
        pairs = neighbours(first, second, len(graph.species), self.libraries.sort, sums)
        distance = torch.linalg.norm(vectors, dim=1)
        directions = _directions(vectors / -distance[:, None])  # from the sending to the receiving atom
        distance = torch.cat([distance, distance.new_zeros(1)])  # the last is that of each atom from itself
        tensors = self.embed(graph.species, distance, directions, pairs)
        for interaction in self.interactions:
            assert isinstance(interaction, Interaction)
            tensors = self.interact(interaction, tensors, distance, pairs)
        norms = _apply(self.libraries.squares, tensors).transpose(0, 1).flatten(1)
        return [self.activated(self.linear(self.norm(norms)), norms)]

    def embed(self, species: Tensor, distance: Tensor, directions: Tensor, pairs: Neighbours) -> Tensor:
        """Return tensors of neighbourhoods, see `models.tensornet.Embedding`."""
        embedding = self.embedding
        assert isinstance(embedding, Embedding)
        dtype = distance.dtype
        receiver, sender = embedding.pairs.weight.chunk(2, dim=1)
        own = (embedding.elements.weight @ receiver.T).to(dtype) + embedding.pairs.bias
        sent = (embedding.elements.weight @ sender.T).to(dtype)
        own, sent = own.index_select(0, species), sent.index_select(0, species)
        directions = directions * cosine_cutoff(distance, self.cutoff)[:, None]
        tensors = embedded(self.functions(embedding.radial, distance), directions, own, sent, pairs)
        scalars = embedding.norm(_apply(self.libraries.squares, tensors).sum(0)).to(dtype)
        for layer in embedding.scalars:
            scalars = self.activated(layer(scalars), tensors)
        factors = scalars.reshape(-1, 3, embedding.n_features).unbind(1)
        mixed = _mixed(embedding.mixing, tensors)
        return torch.cat([part * factor for part, factor in zip(mixed, factors, strict=True)])

    def interact(self, interaction: Interaction, tensors: Tensor, distance: Tensor, pairs: Neighbours) -> Tensor:
        """Return tensors multiplied by their neighbourhoods', see `models.tensornet.Interaction`."""
        tensors = _apply(self.libraries.bounded, tensors)
        own = torch.cat(_mixed(interaction.before, tensors))
        message = carried(self.functions(interaction.radial, distance), own, pairs)
        product = _apply(self.libraries.product, torch.cat([own, message]))
        if interaction.factor != 1.0:
            product = interaction.factor * product
        product = _apply(self.libraries.bounded, product)
        return tensors + _apply(self.libraries.change, torch.cat(_mixed(interaction.after, product)))

    def functions(self, radial: nn.Module, distance: Tensor) -> Tensor:
        """Return radial functions (n_pairs, n_out) of distances (n_pairs,), see `nn.radial.ExponentialFunctions`."""
        if not isinstance(radial, ExponentialFunctions):  # a table
            table: Tensor = radial(distance)
            return table
        cutoff = cosine_cutoff(distance, radial.cutoff)[:, None]
        decay = torch.exp(-5.0 / radial.cutoff * distance)[:, None]
        functions = cutoff * gaussian(radial.betas * (decay - radial.means).square())
        for layer in radial.layers:
            values = layer(functions)
            functions = values.to(functions.dtype) if radial.is_linear else self.activated(values, functions)
        return functions if radial.is_linear else functions * cutoff

    def activated(self, values: Tensor, like: Tensor) -> Tensor:
        """Return silu of values (n, width), which are in bfloat16 under autocast, in the type of another tensor."""
        return silu(values.to(like.dtype), self.libraries.activation)


def _directions(unit: Tensor) -> Tensor:
    """Return 1, u and the free components of u u - 1/3 of unit vectors (n_pairs, 3), and a last row for no vector."""
    left, right = (torch.tensor(axes) for axes in ([0, 0, 0, 1, 1], [0, 1, 2, 1, 2]))  # xx xy xz yy yz
    trace = (left == right).to(unit.dtype) / 3.0
    quadrupole = unit.index_select(1, left) * unit.index_select(1, right) - trace
    components = torch.cat([torch.ones_like(unit[:, :1]), unit, quadrupole], dim=1)
    return torch.cat([components, torch.eye(1, 9, dtype=unit.dtype)])


def _apply(kernels: Kernels, planes: Tensor) -> Tensor:
    """Apply a function to each column of planes (n_inputs, n_atoms, n_features)."""
    return evaluate_compiled(kernels, planes.flatten(1)).reshape(-1, *planes.shape[1:])


def _mixed(mixing: FeatureMixing, tensors: Tensor) -> List[Tensor]:
    """Map the features of the parts, [(2 l + 1, n_atoms, n_features)]."""
    parts = tensors.split_with_sizes(SIZES)
    return [layer(part).to(part.dtype) for layer, part in zip(mixing.layers, parts, strict=True)]


def _compile(plain: TensorNet, setting: Setting) -> CompiledTensorNet:
    sizes = {"WIDTH": plain.feature_sizes[0]}
    libraries = Libraries(
        setting.compile("pair_sums.c", sizes),
        setting.compile("matrix_sums.c", sizes),
        setting.compile("silu.c"),
        Kernels(setting.compile("bounded.c"), 9, 9),
        program_kernels(product_program(plain.group == "O(3)"), setting),
        program_kernels(change_program(), setting),
        program_kernels(squares_program(), setting),
    )
    return CompiledTensorNet(plain, libraries)


TWINS = [
    Twin(
        "pairs",
        "half neighbour list, C",
        TensorNet,
        _compile,
        why_not=why_no_kernels,
        prepare=lambda plain: PrepareHalfList(),
    )
]
