"""TensorNet of torchmd-net 3.1, and ours with its weights."""

import contextlib
import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from hiphop_train.models.tensornet import TensorNet
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.atomwise import AtomwiseEnergy
from hiphop_train.types import Graph
from tests.references.common import ELEMENTS, perturb, settle

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "two layers": {"cutoff": 4.0, "n_features": 6, "n_interactions": 2, "n_radial": 8, "group": "O(3)"},
    "rotations only": {"cutoff": 3.5, "n_features": 4, "n_interactions": 1, "n_radial": 12, "group": "SO(3)"},
}
PUBLISHED: dict[str, Any] = {"cutoff": 4.5, "n_features": 128, "n_interactions": 2, "n_radial": 32, "group": "O(3)"}


class Pairs(nn.Module):
    """Our pairs in place of the library's own search, each atom's pair with itself among them."""

    def __init__(self) -> None:
        super().__init__()
        self.edge_index = self.vectors = torch.empty(0)

    def forward(self, positions: Tensor, batch: Tensor, box: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return indices, distances and vectors."""
        itself = (self.edge_index[0] == self.edge_index[1]) & (self.vectors == 0).all(1)
        squares = self.vectors.square().sum(1)
        distance = torch.where(itself, 0.0, torch.where(itself, 1.0, squares).sqrt())
        return self.edge_index, distance, self.vectors


class Reference:
    """The library's model on a graph of ours; forces follow by ours."""

    def __init__(self, module: nn.Module, head: nn.Module) -> None:
        self.module = nn.ModuleList([module, head])

    def __call__(self, graph: Graph, forces: bool = True, training: bool = False) -> dict[str, Tensor]:
        """Return energy (n_systems,) and forces (n_atoms, 3)."""
        module, head = self.module
        n_atoms = len(graph.species)
        itself = torch.arange(n_atoms)
        vectors = graph.pair_vectors.detach().requires_grad_(True)
        edges = torch.stack([torch.cat([graph.pair_i, itself]), torch.cat([graph.pair_j, itself])])
        module.distance.edge_index = edges
        module.distance.vectors = torch.cat([-vectors, torch.zeros(n_atoms, 3, dtype=vectors.dtype)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            features = module(graph.species, graph.positions.to(vectors.dtype), graph.system)[0]
            of_atoms = head(features)[:, 0]
            energy = torch.zeros(graph.n_systems, dtype=torch.float64).index_add(0, graph.system, of_atoms.double())
            gradient = torch.autograd.grad(energy.sum(), vectors, create_graph=training)[0]
        zero = torch.zeros(n_atoms, 3, dtype=gradient.dtype)
        found = zero.index_add(0, graph.pair_i, gradient).index_add(0, graph.pair_j, -gradient)
        return {"energy": energy, "forces": found}


def make(settings: dict[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Potential, Reference]:
    """Return ours with the library's weights, and the library's: in double precision by its torch operations.

    Its warp operations, which it takes in single precision, err by 5e-9 in double.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from torchmdnet.models import tensornet as library
        from torchmdnet.models.output_modules import Scalar
    names = ("compose_tensor", "decompose_tensor", "tensor_matmul_o3", "tensor_matmul_so3")
    by_warp = {name: getattr(library, name) for name in names}
    if dtype == torch.float64:
        for name in names:
            setattr(library, name, getattr(library, f"_{name}"))
    torch.manual_seed(seed)
    module = library.TensorNet(
        hidden_channels=settings["n_features"],
        num_layers=settings["n_interactions"],
        num_rbf=settings["n_radial"],
        cutoff_upper=settings["cutoff"],
        max_z=len(ELEMENTS),
        equivariance_invariance_group=settings["group"],
        static_shapes=False,
        dtype=dtype,
    ).to(dtype)
    if dtype == torch.float64:
        for part in module.modules():
            if hasattr(part, "opt"):
                part.opt = False
    module.distance = Pairs()
    head = Scalar(settings["n_features"], dtype=dtype).to(dtype)
    perturb(module, seed)
    perturb(head, seed)
    representation = TensorNet(elements=ELEMENTS, **settings)
    readout = AtomwiseEnergy(representation.feature_sizes, [settings["n_features"] // 2], "silu")
    state = module.state_dict()
    found = {"embedding.elements.weight": state["tensor_embedding.emb.weight"]}
    smearing = {name: state[f"distance_expansion.{name}"] for name in ("means", "betas")}
    for kind in ("weight", "bias"):
        found[f"embedding.pairs.{kind}"] = state[f"tensor_embedding.emb2.{kind}"]
        found[f"embedding.norm.{kind}"] = state[f"tensor_embedding.init_norm.{kind}"]
        projections = [state[f"tensor_embedding.distance_proj{k}.{kind}"] for k in (1, 2, 3)]
        found[f"embedding.radial.layers.0.{kind}"] = torch.cat(projections)
        found[f"norm.{kind}"], found[f"linear.{kind}"] = state[f"out_norm.{kind}"], state[f"linear.{kind}"]
        for n in range(2):
            found[f"embedding.scalars.{n}.{kind}"] = state[f"tensor_embedding.linears_scalar.{n}.{kind}"]
    found |= {f"embedding.radial.{name}": value for name, value in smearing.items()}
    for n in range(3):
        found[f"embedding.mixing.layers.{n}.weight"] = state[f"tensor_embedding.linears_tensor.{n}.weight"]
    for k in range(settings["n_interactions"]):
        ours, theirs = f"interactions.{k}.", f"layers.{k}."
        found |= {f"{ours}radial.{name}": value for name, value in smearing.items()}
        for n in range(3):
            for kind in ("weight", "bias"):
                found[f"{ours}radial.layers.{n}.{kind}"] = state[f"{theirs}linears_scalar.{n}.{kind}"]
            found[f"{ours}before.layers.{n}.weight"] = state[f"{theirs}linears_tensor.{n}.weight"]
            found[f"{ours}after.layers.{n}.weight"] = state[f"{theirs}linears_tensor.{n + 3}.weight"]
    weights = {f"terms.0.representation.{name}": value for name, value in found.items()}
    for n, name in enumerate(("output_network.layers.0", "output_network.layers.2")):
        for kind in ("weight", "bias"):
            weights[f"terms.0.readout.network.{2 * n}.{kind}"] = head.state_dict()[f"{name}.{kind}"]
    network = Network(representation.to(dtype), readout.to(dtype))
    potential = settle(network, settings["cutoff"], weights)
    reference = Reference(module.eval(), head.output_network)
    if dtype == torch.float64:
        for name, value in by_warp.items():
            setattr(library, name, value)
        plain = {name: getattr(library, f"_{name}") for name in names}
        reference = _WithOperations(reference, library, plain)  # type: ignore[assignment]
    return potential, reference


class _WithOperations:
    """A reference that is evaluated with other operations in the library's module."""

    def __init__(self, reference: Reference, library: Any, operations: dict[str, Any]) -> None:
        self.reference, self.library, self.operations = reference, library, operations
        self.module = reference.module

    def __call__(self, graph: Graph, forces: bool = True, training: bool = False) -> dict[str, Tensor]:
        before = {name: getattr(self.library, name) for name in self.operations}
        try:
            for name, value in self.operations.items():
                setattr(self.library, name, value)
            return self.reference(graph, forces, training)
        finally:
            for name, value in before.items():
                setattr(self.library, name, value)
