"""TensorNet of torchmd-net 3.1, and ours with its weights."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hiphop_train.importing.tensornet import translate
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
    """The library's model on a graph of ours; forces follow by ours.

    In double precision by its torch operations: its warp operations, which it takes in single precision, err by 5e-9.
    """

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
            is_double = vectors.dtype == torch.float64
            with torch_operations(module) if is_double else contextlib.nullcontext():
                features = module(graph.species, graph.positions.to(vectors.dtype), graph.system)[0]
            of_atoms = head(features)[:, 0]
            energy = torch.zeros(graph.n_systems, dtype=torch.float64).index_add(0, graph.system, of_atoms.double())
            gradient = torch.autograd.grad(energy.sum(), vectors, create_graph=training)[0]
        zero = torch.zeros(n_atoms, 3, dtype=gradient.dtype)
        found = zero.index_add(0, graph.pair_i, gradient).index_add(0, graph.pair_j, -gradient)
        return {"energy": energy, "forces": found}


def make(settings: dict[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Potential, Reference]:
    """Return ours with the library's weights, and the library's."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from torchmdnet.models import tensornet as library
        from torchmdnet.models.output_modules import Scalar
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
    module.distance = Pairs()
    head = Scalar(settings["n_features"], dtype=dtype).to(dtype)
    perturb(module, seed)
    perturb(head, seed)
    representation = TensorNet(elements=ELEMENTS, **settings)
    readout = AtomwiseEnergy(representation.feature_sizes, [settings["n_features"] // 2], "silu")
    state = {f"representation_model.{name}": value for name, value in module.state_dict().items()}
    state |= {f"output_model.{name}": value for name, value in head.state_dict().items()}
    weights = translate(state, settings["n_interactions"], range(len(ELEMENTS)), is_old=False)
    network = Network(representation.to(dtype), readout.to(dtype))
    potential = settle(network, settings["cutoff"], weights)
    return potential, Reference(module.eval(), head.output_network)


@contextlib.contextmanager
def torch_operations(module: nn.Module) -> Iterator[None]:
    """Let a model of the library use its torch operations."""
    from torchmdnet.models import tensornet as library

    names = ("compose_tensor", "decompose_tensor", "tensor_matmul_o3", "tensor_matmul_so3")
    by_warp = {name: getattr(library, name) for name in names}
    parts = [part for part in module.modules() if getattr(part, "opt", False)]
    try:
        for name in names:
            setattr(library, name, getattr(library, f"_{name}"))
        for part in parts:
            part.opt = False  # type: ignore[assignment]
        yield
    finally:
        for name, value in by_warp.items():
            setattr(library, name, value)
        for part in parts:
            part.opt = True  # type: ignore[assignment]
