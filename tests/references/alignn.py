"""ALIGNN of the library alignn, and ours with its weights."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from hiphop_train.models.alignn import ALIGNN
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.atomwise import AtomwiseEnergy
from hiphop_train.types import Graph
from tests.references.common import ELEMENTS, perturb, settle

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "two and two": {"three_body_cutoff": 3.0, "n_features": 8, "n_interactions": 4, "n_line_interactions": 2},
    "one line graph": {"three_body_cutoff": 4.0, "n_features": 6, "n_interactions": 2, "n_line_interactions": 1},
    "no line graph": {"three_body_cutoff": 3.0, "n_features": 7, "n_interactions": 2, "n_line_interactions": 0},
}
SIZES: dict[str, Any] = {"n_embedding": 64, "n_gaussians": 80, "n_angle_gaussians": 40}
LIBRARY: dict[str, Any] = {
    "cutoff": 5.0, "three_body_cutoff": 3.5, "n_features": 64, "n_interactions": 4, "n_line_interactions": 2, **SIZES,
}  # fmt: skip
PUBLISHED: dict[str, Any] = {**LIBRARY, "n_features": 256, "n_interactions": 8, "n_line_interactions": 4}
FARTHEST = 8.0
"""Centre of the library's last Gaussian, Angstrom."""


class Reference:
    """The library's model on a graph of ours."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, graph: Graph, forces: bool = True, training: bool = False) -> dict[str, Tensor]:
        """Return energy (n_systems,) and forces (n_atoms, 3), which it computes in any case."""
        self.module.train(training)
        dtype = graph.pair_vectors.dtype
        features = torch.nn.functional.one_hot(graph.species, len(ELEMENTS)).to(dtype)
        shift = -torch.einsum("pk,pkx->px", graph.pair_shift.to(graph.cell), graph.cell[graph.system[graph.pair_i]])
        source, destination = graph.pair_j, graph.pair_i
        if graph.n_systems > 1:
            return self.of_batch(graph, features, shift.to(dtype))
        positions = graph.positions.to(dtype).requires_grad_(True)
        lattice = torch.eye(3, dtype=dtype)  # shifts are given in Angstrom
        outputs = self.module.forward_tensors(positions, lattice, features, source, destination, shift.to(dtype))
        return {"energy": outputs["energy"].reshape(1), "forces": outputs["forces"]}

    def of_batch(self, graph: Graph, features: Tensor, shift: Tensor) -> dict[str, Tensor]:
        """Use the library's training path, which knows of batches, with its own line graph."""
        from alignn.torch_graph_builder import TorchGraph, _line_graph_edges

        positions = graph.positions.to(shift.dtype)
        vectors = positions[graph.pair_i] - positions[graph.pair_j] + shift
        sizes = torch.bincount(graph.system, minlength=graph.n_systems)
        n_pairs = torch.bincount(graph.system[graph.pair_i], minlength=graph.n_systems)
        atoms = TorchGraph(
            len(features), graph.pair_j, graph.pair_i, {"atom_features": features}, {"r": vectors}, sizes, n_pairs
        )
        allowed = vectors.norm(dim=1) <= self.module.three_body_cutoff
        before, after = _line_graph_edges(graph.pair_j, graph.pair_i, len(features), allowed)
        outputs = self.module((atoms, TorchGraph(len(vectors), before, after), None))
        return {"energy": outputs["out"] * sizes, "forces": outputs["grad"]}


def make(settings: dict[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Potential, Reference]:
    """Return ours with the library's weights, cut as published, and the library's."""
    settings = {"cutoff": 4.0, "n_embedding": 5, "n_gaussians": 12, "n_angle_gaussians": 9, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from alignn.models.alignn_atomwise_pure import ALIGNNAtomWisePure, ALIGNNAtomWisePureConfig

        torch.manual_seed(seed)
        module = ALIGNNAtomWisePure(
            ALIGNNAtomWisePureConfig(
                name="alignn_atomwise_pure",
                alignn_layers=settings["n_line_interactions"],
                gcn_layers=settings["n_interactions"] - settings["n_line_interactions"],
                atom_input_features=len(ELEMENTS),
                edge_input_features=settings["n_gaussians"],
                triplet_input_features=settings["n_angle_gaussians"],
                embedding_features=settings["n_embedding"],
                hidden_features=settings["n_features"],
                three_body_cutoff=settings["three_body_cutoff"],
                use_zbl=False,
                use_penalty=False,
            )
        ).to(dtype)
    for embedding in (module.edge_embedding, module.angle_embedding):  # the library rounds both to float32
        expansion = embedding[0]
        expansion.centers = torch.linspace(expansion.vmin, expansion.vmax, expansion.bins, dtype=dtype)
        expansion.gamma = (expansion.bins - 1) / (expansion.vmax - expansion.vmin)
    perturb(module, seed)
    representation = ALIGNN(elements=ELEMENTS, gaussian_max=FARTHEST, cut="published", **settings)
    readout = AtomwiseEnergy(representation.feature_sizes, [], "silu")
    network = Network(representation.to(dtype), readout.to(dtype))
    return settle(network, settings["cutoff"], translate(module, representation)), Reference(module)


NAMES = {
    "src_gate": "sender_gate",
    "dst_gate": "receiver_gate",
    "edge_gate": "edge_gate",
    "src_update": "own",
    "dst_update": "message",
    "bn_nodes": "node_norm",
    "bn_edges": "edge_norm.0",
    "node_update": "of_graph",
    "edge_update": "of_line_graph",
    "alignn_layers": "line_layers",
    "gcn_layers": "layers",
    "edge_embedding": "pair_embedding",
    "angle_embedding": "angle_embedding.0",
}
"""Our names of the library's modules."""


def translate(module: nn.Module, representation: ALIGNN) -> dict[str, Tensor]:
    """Rename the library's weights; those that have no effect there do not exist here."""
    prefix = "terms.0.representation."
    ours = {prefix + name for name, _ in representation.named_parameters()}
    found: dict[str, Tensor] = {}
    for name, value in module.named_parameters():
        parts = [NAMES.get(part, part) for part in name.split(".") if part != "layer"]
        if parts[0] == "fc":
            found["terms.0.readout.network.0." + parts[1]] = value
        elif prefix + ".".join(parts) in ours:
            found[prefix + ".".join(parts)] = value
        else:  # edges after the last convolution, and angles without line graph
            assert "bn_edges" in name or name.startswith("angle_embedding"), name
    return found
