"""NewtonNet of the library newtonnet 1.1.1, and ours with its weights."""

from typing import Any

import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from hiphop_train.models.newtonnet import NewtonNet
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.atomwise import AtomwiseEnergy
from hiphop_train.types import Graph
from tests.references.common import ELEMENTS, perturb, settle

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "three layers": {"cutoff": 4.0, "n_features": 8, "n_interactions": 3, "n_radial": 6},
    "one layer": {"cutoff": 3.5, "n_features": 5, "n_interactions": 1, "n_radial": 9},
}
PUBLISHED: dict[str, Any] = {"cutoff": 5.0, "n_features": 128, "n_interactions": 3, "n_radial": 20}
NUMBERS = [atomic_numbers[symbol] for symbol in ELEMENTS]
NETWORKS = {
    "features": "phi_a", "latent": "phi_f_scale", "displacement": "phi_r", "carried.0": "phi_r_ext", "energy": "phi_e",
}  # fmt: skip


class Reference:
    """The library's model on a graph of ours, with as many neighbours per atom as the most crowded one has.

    The library takes distances and unit vectors where they are given; forces follow by ours.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, graph: Graph, forces: bool = True, training: bool = False) -> dict[str, Tensor]:
        """Return energy (n_systems,) and forces (n_atoms, 3)."""
        n_atoms, n_pairs = len(graph.species), len(graph.pair_i)
        counts = torch.bincount(graph.pair_i, minlength=n_atoms)
        widest = int(counts.max())
        place = graph.pair_i * widest + torch.arange(n_pairs) - (counts.cumsum(0) - counts)[graph.pair_i]
        vectors = graph.pair_vectors.detach().requires_grad_(True)

        def table(values: Tensor, fill: float) -> Tensor:
            flat = values.new_full((n_atoms * widest, *values.shape[1:]), fill)
            return flat.index_copy(0, place, values).reshape(1, n_atoms, widest, *values.shape[1:])

        distance = torch.linalg.norm(vectors, dim=1)
        data = {
            "Z": torch.tensor(NUMBERS)[graph.species][None],
            "R": graph.positions.to(vectors.dtype)[None],
            "N": table(graph.pair_j, 0),
            "NM": table(torch.ones_like(distance), 0.0),
            "AM": torch.ones(1, n_atoms, dtype=vectors.dtype),
            "D": table(distance, 1.0),
            "V": table(vectors / distance[:, None], 0.0),
            "F": torch.zeros(1, n_atoms, 3, dtype=vectors.dtype),
        }
        of_atoms = self.module(data)["Ei"][0, :, 0]
        energy = torch.zeros(graph.n_systems, dtype=torch.float64).index_add(0, graph.system, of_atoms.double())
        gradient = torch.autograd.grad(energy.sum(), vectors, create_graph=training)[0]
        zero = torch.zeros(n_atoms, 3, dtype=gradient.dtype)
        found = zero.index_add(0, graph.pair_i, gradient).index_add(0, graph.pair_j, -gradient)
        return {"energy": energy, "forces": found}


def make(settings: dict[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Potential, Reference]:
    """Return ours with the library's weights, and the library's."""
    from newtonnet.layers.activations import get_activation_by_string
    from newtonnet.models import NewtonNet as Theirs

    torch.manual_seed(seed)
    module = Theirs(
        resolution=settings["n_radial"],
        n_features=settings["n_features"],
        activation=get_activation_by_string("swish"),
        n_interactions=settings["n_interactions"],
        cutoff=settings["cutoff"],
    ).to(dtype)
    perturb(module, seed, 0.1 if settings["n_features"] < 32 else 0.01)  # or products overflow single precision
    module.distance_expansion.frequencies.data = torch.pi * torch.arange(1, settings["n_radial"] + 1, dtype=dtype)
    representation = NewtonNet(elements=ELEMENTS, cutoff_power=9, **settings)
    readout = AtomwiseEnergy(representation.feature_sizes, [128, 64], "silu")
    state = module.state_dict()
    weights = {"terms.0.representation.embedding.weight": state["embedding.weight"][NUMBERS]}
    for k in range(settings["n_interactions"]):
        names = {"radial": "phi_rbf", "size": "phi_f"}
        names |= {f"{ours}.{2 * n}": f"{theirs}.{n}" for ours, theirs in NETWORKS.items() for n in (0, 1)}
        for ours, theirs in names.items():
            for kind in ("weight", "bias"):
                name = f"dycalc.{k}.{theirs}.{kind}"
                if name in state and not (k == 0 and theirs.startswith("phi_r_ext")):  # where it multiplies zero
                    weights[f"terms.0.representation.layers.{k}.{ours}.{kind}"] = state[name]
    for n in range(3):
        for kind in ("weight", "bias"):
            weights[f"terms.0.readout.network.{2 * n}.{kind}"] = state[f"atomic_energy.environment.{n}.{kind}"]
    network = Network(representation.to(dtype), readout.to(dtype))
    return settle(network, settings["cutoff"], weights), Reference(module.eval())
