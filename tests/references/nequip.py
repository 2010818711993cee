"""NequIP of the library nequip, and ours with its weights."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from hiphop_train.importing.nequip import translate
from hiphop_train.models.nequip import NequIP
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.scaled import ScaledEnergy
from hiphop_train.types import Graph
from tests.references.common import ELEMENTS, perturb, settle

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "vectors": {"cutoff": 4.0, "n_features": 6, "n_interactions": 2, "l_max": 1, "parity": False, "n_attributes": 5},
    "parity": {"cutoff": 4.0, "n_features": 3, "n_interactions": 4, "l_max": 2, "parity": True, "n_attributes": 4},
    "widths": {
        "cutoff": 4.0, "n_features": [6, 4, 3, 2], "n_interactions": 3, "l_max": 3, "parity": False, "n_attributes": 3,
    },
    "scalars": {"cutoff": 4.0, "n_features": 5, "n_interactions": 1, "l_max": 0, "parity": False, "n_attributes": 5},
}  # fmt: skip
PUBLISHED: dict[str, Any] = {
    "cutoff": 5.0, "n_features": 64, "n_interactions": 4, "l_max": 2, "parity": False, "n_attributes": 64,
    "radial_hidden": [64, 64],
}  # fmt: skip
AVERAGE_NEIGHBOURS = 7.5


class Reference:
    """The library's model on a graph of ours."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, graph: Graph, forces: bool = True, training: bool = False) -> dict[str, Tensor]:
        """Return energy (n_systems,) and forces (n_atoms, 3)."""
        self.module.train(training)
        data = {
            "pos": graph.positions,
            "atom_types": graph.species,
            "edge_index": torch.stack([graph.pair_i, graph.pair_j]),
            "edge_cell_shift": graph.pair_shift.to(graph.positions.dtype),
            "cell": graph.cell.reshape(-1, 3, 3),
            "batch": graph.system,
            "num_atoms": torch.bincount(graph.system, minlength=graph.n_systems),
        }
        outputs = self.module(data)
        return {"energy": outputs["total_energy"].squeeze(1), "forces": outputs["forces"]}


def make(settings: dict[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Potential, Reference]:
    """Return ours with the library's weights, and the library's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nequip.model import NequIPGNNModel
        from nequip.utils.global_state import set_global_state

        default = torch.get_default_dtype()
        set_global_state()  # sets double precision
        hidden = settings.get("radial_hidden", [16])
        module = NequIPGNNModel(
            seed=seed,
            model_dtype=str(dtype).removeprefix("torch."),
            r_max=settings["cutoff"],
            type_names=ELEMENTS,
            num_layers=settings["n_interactions"],
            l_max=settings["l_max"],
            parity=settings["parity"],
            num_features=settings["n_features"],
            type_embed_num_features=settings["n_attributes"],
            radial_mlp_depth=len(hidden),
            radial_mlp_width=hidden[0],
            avg_num_neighbors=AVERAGE_NEIGHBOURS,
            per_type_energy_scales=dict.fromkeys(ELEMENTS, 1.0),
            per_type_energy_shifts=dict.fromkeys(ELEMENTS, 0.0),
        )
        torch.set_default_dtype(default)
    perturb(module, seed)
    representation = NequIP(elements=ELEMENTS, n_radial=8, cutoff_power=6, **{"radial_hidden": hidden, **settings})
    representation.average_neighbours.fill_(AVERAGE_NEIGHBOURS)
    readout = ScaledEnergy(representation.feature_sizes, [])
    state = {name.removeprefix("model.func."): value for name, value in module.named_parameters()}
    potential = settle(
        Network(representation.to(dtype), readout.to(dtype)), settings["cutoff"], translate(state, representation)
    )
    return potential, Reference(module)
