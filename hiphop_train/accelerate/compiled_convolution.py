"""HIP-NN's convolution in C: messages are accumulated into environments without being stored; differentiable once.

As batched products (`accelerate.table_convolution`), the messages of all pairs are written to memory, reordered and
read again. Here they are computed for a few pairs of one atom at a time, in the L1 cache. Pairs are sorted by receiving
atom, and the reverse of each is in the list, with the same distance and tensors that differ by (-1)^l. The messages an
atom sends are therefore found among the pairs in which it receives, and no list by sender is needed.
"""

from dataclasses import dataclass
from typing import Any, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hiphop_train.accelerate.compiled_tensors import CompiledTensors
from hiphop_train.accelerate.compiler import Library
from hiphop_train.accelerate.hip_layout import environment_first_pays
from hiphop_train.accelerate.pairs import first_pairs
from hiphop_train.accelerate.twin import Setting
from hiphop_train.models.backbone import HIPInteraction
from hiphop_train.types import Graph

WIDTH = 128
"""Features per block; with more, an atom's messages and their derivatives exceed the L1 cache."""
MULTIPLE = 16
"""The number of features must be a multiple of this, so that rows fill the processor's vectors."""


@dataclass(frozen=True)
class ConvolutionKernels:
    """Libraries compiled for a model.

    Attributes
    ----------
    convolution, pairs : compiled from `kernels/convolution.c` and `kernels/pairs.c`
    tensors : irreducible tensors of the unit vectors
    n_types : number of species
    n_sensitivities : of the layers
    """

    convolution: Library
    pairs: Library
    tensors: CompiledTensors
    n_types: int
    n_sensitivities: int


def compile_convolution(l_max: int, n_types: int, n_sensitivities: int, setting: Setting) -> ConvolutionKernels:
    """Compile the kernels for a highest rank of the tensors and a number of sensitivities."""
    sizes = {"N_SENSITIVITIES": n_sensitivities, "N_COMPONENTS": (l_max + 1) ** 2, "WIDTH": WIDTH}
    convolution, pairs = setting.compile("convolution.c", sizes), setting.compile("pairs.c")
    return ConvolutionKernels(convolution, pairs, CompiledTensors(l_max, setting), n_types, n_sensitivities)


class CompiledConvolution:
    """The convolutions of one graph.

    Parameters
    ----------
    graph : any
    kernels : compiled for the model
    start : (n_atoms + 1,), from `first_pairs`
    """

    def __init__(self, graph: Graph, kernels: ConvolutionKernels, start: Tensor) -> None:
        self.library, self.start, self.sender = kernels.convolution, start, graph.pair_j.contiguous()
        distance = torch.linalg.norm(graph.pair_vectors, dim=1, keepdim=True)
        self.distance = distance.squeeze(1)
        self.tensors = kernels.tensors(graph.pair_vectors / distance).contiguous()  # (n_pairs, n_components)
        is_present = torch.bincount(graph.species, minlength=kernels.n_types) > 0
        self.present = torch.nonzero(is_present)[:, 0]  # the species that occur
        sizes = (len(graph.pair_i), len(graph.species), len(self.present), self.tensors.shape[1])
        self.number: Optional[Tensor] = None  # of the sender's species among them, where environment first pays
        if environment_first_pays(*sizes, kernels.n_sensitivities):
            self.number = (torch.cumsum(is_present, 0) - 1).index_select(0, graph.species).index_select(0, graph.pair_j)

    def environment(self, interaction: HIPInteraction, features: Tensor, are_species: bool) -> Tensor:
        """Return A (n_atoms, n_components, n_out), contiguous; see `TableConvolution.environment`."""
        sensitivity, weight = interaction.sensitivity(self.distance).contiguous(), interaction.weight
        if are_species and self.number is not None:
            given = (sensitivity, self.tensors, self.start, self.number, len(self.present), self.library)
            sums: Tensor = _SpeciesSums.apply(*given)  # type: ignore[no-untyped-call]
            return sums @ weight.index_select(0, self.present).flatten(0, 1)
        given_features = (features, weight, self.start, self.sender, self.library)
        environment: Tensor = _Environments.apply(sensitivity, self.tensors, *given_features)  # type: ignore[no-untyped-call]
        return environment

    def in_order_of_atoms(self, scalars: Tensor) -> Tensor:
        """Return the argument, which is in the order of the atoms already."""
        return scalars


def compiled_convolution(graph: Graph, kernels: ConvolutionKernels) -> Optional[CompiledConvolution]:
    """Return the convolutions of a graph; None if its pairs are not sorted or lack a reverse, see `first_pairs`."""
    start = first_pairs(graph, kernels.pairs)
    return None if start is None else CompiledConvolution(graph, kernels, start)


def _parts(n_out: int) -> list[slice]:
    return [slice(k, min(k + WIDTH, n_out)) for k in range(0, n_out, WIDTH)]


def _signs(n_components: int, like: Tensor) -> Tensor:
    """(-1)^l of each component."""
    ranks = torch.arange(n_components).sqrt().floor().long()
    return (1 - 2 * (ranks % 2)).to(like.dtype)


class _Environments(Function):
    """Derivatives with respect to s and T are divided between a pair and its reverse differently than by autograd.

    Forces and virial, which sum over both, are the same.
    """

    @staticmethod
    def forward(
        ctx: Any,
        sensitivity: Tensor,
        tensors: Tensor,
        features: Tensor,
        weight: Tensor,
        start: Tensor,
        sender: Tensor,
        library: Library,
    ) -> Tensor:
        n_atoms, n_components, n_out = len(features), tensors.shape[1], weight.shape[2]
        environment = features.new_empty((n_atoms, n_components, n_out))
        sources = []
        for part in _parts(n_out):
            chosen = weight[..., part].flatten(1).contiguous()
            zeta = features @ chosen
            given = (start, sender, sensitivity, tensors, zeta)
            width = part.stop - part.start
            library.call("environments", *given, environment[..., part], n_atoms, width, n_out)
            sources.append(zeta)
        ctx.save_for_backward(sensitivity, tensors, features, weight, start, sender, *sources)
        ctx.library = library
        return environment

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Optional[Tensor], ...]:
        sensitivity, tensors, features, weight, start, sender, *sources = ctx.saved_tensors
        grad_output = grad_output.contiguous()
        n_atoms, n_components, n_out = grad_output.shape
        grad_sensitivity, grad_tensors = torch.empty_like(sensitivity), torch.empty_like(tensors)
        grad_features = torch.zeros_like(features)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[3] else None
        buffer = torch.empty_like(sources[0])
        signs = _signs(n_components, grad_output)
        for part, zeta in zip(_parts(n_out), sources):
            width = part.stop - part.start
            grad_zeta = buffer.view(-1)[: zeta.numel()].view_as(zeta)
            given = (start, sender, sensitivity, tensors, zeta, grad_output[..., part], signs)
            found = (grad_sensitivity, grad_tensors, grad_zeta)
            ctx.library.call("derivatives", *given, *found, n_atoms, width, n_out, int(part.start > 0))
            grad_features.addmm_(grad_zeta, weight[..., part].flatten(1).T)
            if grad_weight is not None:
                grad_weight[..., part] = (features.T @ grad_zeta).unflatten(1, (-1, width))
        return grad_sensitivity, grad_tensors, grad_features, grad_weight, None, None, None


class _SpeciesSums(Function):
    """Sums over the neighbours of each species, E_i = sum_j s(r_ij) T(r_ij)."""

    @staticmethod
    def forward(
        ctx: Any,
        sensitivity: Tensor,
        tensors: Tensor,
        start: Tensor,
        number: Tensor,
        n_present: int,
        library: Library,
    ) -> Tensor:
        ctx.save_for_backward(sensitivity, tensors, start, number)
        ctx.n_present, ctx.library = n_present, library
        n_atoms = len(start) - 1
        sums = tensors.new_empty((n_atoms, tensors.shape[1], n_present * sensitivity.shape[1]))
        library.call("species_sums", start, number, sensitivity, tensors, sums, n_atoms, n_present)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Optional[Tensor], ...]:
        sensitivity, tensors, start, number = ctx.saved_tensors
        grad_sensitivity, grad_tensors = torch.empty_like(sensitivity), torch.empty_like(tensors)
        given = (start, number, sensitivity, tensors, grad_output.contiguous())
        sizes = (len(grad_output), ctx.n_present)
        ctx.library.call("derivatives_of_species_sums", *given, grad_sensitivity, grad_tensors, *sizes)
        return grad_sensitivity, grad_tensors, None, None, None, None
