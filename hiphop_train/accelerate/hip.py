"""Twins of HIP-NN, HIP-NN-TS and HIP-HOP-NN: the same layers over faster convolutions."""

from typing import List

from torch import Tensor, nn
from torch.nn.functional import one_hot

from hiphop_train.accelerate.blocks import in_blocks
from hiphop_train.accelerate.compiled_convolution import (
    MULTIPLE,
    CompiledConvolution,
    ConvolutionKernels,
    compile_convolution,
    compiled_convolution,
)
from hiphop_train.accelerate.hip_layout import PrepareLayout
from hiphop_train.accelerate.hip_scripted import ScriptedHIP
from hiphop_train.accelerate.table_convolution import TableConvolution
from hiphop_train.accelerate.twin import Setting, Twin, adopt
from hiphop_train.models.backbone import HIPBackbone, HIPInteraction
from hiphop_train.models.base import Representation
from hiphop_train.models.hiphop import Interaction as HIPHOPInteraction
from hiphop_train.types import Graph

ATOMS_PER_BLOCK = 256
"""Atoms whose invariants and intermediate results fit in a processor's cache."""


class HIPTwin(Representation):
    """Layers of a HIP model over neighbour tables or, where only first derivatives are needed, in C.

    Parameters
    ----------
    plain : the model
    kernels : compiled convolution, for evaluation mode; None uses tables there too
    """

    def __init__(self, plain: HIPBackbone, kernels: ConvolutionKernels | None) -> None:
        super().__init__(plain.elements, plain.cutoff, plain.feature_sizes)
        adopt(self, plain)
        self.interactions, self.atom_layers = plain.interactions, plain.atom_layers
        self.n_types = plain.n_types
        self.prepare = prepare_layout(plain)
        self.kernels = kernels

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return one-hot species and the features after each block."""
        convolution = self.convolution(graph)
        features = one_hot(graph.species, self.n_types).to(graph.pair_vectors.dtype)
        levels = [features]
        for interaction, atom_layers in zip(self.interactions, self.atom_layers):
            assert isinstance(interaction, HIPInteraction)
            environment = convolution.environment(interaction, features, are_species=len(levels) == 1)
            scalars = convolution.in_order_of_atoms(interaction.scalars(environment))
            features = interaction.residual(scalars + interaction.self_interaction(features), features)
            features = atom_layers(features)
            levels.append(features)
        return levels

    def convolution(self, graph: Graph) -> TableConvolution | CompiledConvolution:
        """Choose the convolution: C is differentiable once only, and needs sorted pairs with all reverses."""
        if self.kernels is not None and not self.training and self.kernels.convolution.serves(graph.pair_vectors):
            found = compiled_convolution(graph, self.kernels)
            if found is not None:
                return found
        return TableConvolution(graph, self.prepare)


class BlockedInteraction(HIPInteraction):
    """HIP-HOP-NN's interaction, whose invariants are evaluated in blocks of atoms.

    Parameters
    ----------
    plain : the interaction
    """

    def __init__(self, plain: HIPHOPInteraction, setting: Setting) -> None:
        nn.Module.__init__(self)
        adopt(self, plain)
        self.formulas = [plain]  # in a list, so that it is not a submodule

    def scalars(self, environment: Tensor) -> Tensor:
        """Return M norm(invariants(A)) (n_atoms, n_out) of A (n_atoms, (l_max + 1)^2, n_out)."""
        plain = self.formulas[0]
        parameters = list(plain.norm.parameters())
        invariants = in_blocks(plain.normalised_invariants, [environment], ATOMS_PER_BLOCK, parameters)
        return invariants.flatten(1) @ plain.mixing.flatten(0, 1)


def prepare_layout(plain: HIPBackbone) -> PrepareLayout:
    """Return the hook that builds the tables for a model."""
    return PrepareLayout(plain.n_types, plain.l_max, plain.n_sensitivities)


def _why_no_compiled_convolution(plain: HIPBackbone, setting: Setting) -> str:
    n_features = plain.feature_sizes[-1]
    if reason := setting.why_no_kernels():
        return reason
    return f"n_features={n_features} is not a multiple of {MULTIPLE}" if n_features % MULTIPLE else ""


def _compiled(plain: HIPBackbone, setting: Setting) -> HIPTwin:
    return HIPTwin(plain, compile_convolution(plain.l_max, plain.n_types, plain.n_sensitivities, setting))


TWINS = [
    Twin("scalars", "in blocks of atoms", HIPHOPInteraction, BlockedInteraction),
    Twin(
        "convolutions",
        "neighbour tables, C where not differentiated twice",
        HIPBackbone,
        _compiled,
        why_not=_why_no_compiled_convolution,
        prepare=prepare_layout,
    ),
    Twin(
        "convolutions",
        "neighbour tables",
        HIPBackbone,
        lambda plain, setting: HIPTwin(plain, None),
        prepare=prepare_layout,
    ),
    Twin(
        "convolutions",
        "scripted neighbour tables",
        HIPBackbone,
        lambda plain, setting: ScriptedHIP(plain),
        purposes=("export",),
    ),
]
