"""MACE of the library mace-torch, and ours with its weights."""

import contextlib
import io
import warnings
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from hiphop_train.importing.mace import translate
from hiphop_train.models.mace import MACE
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.scaled import LayerEnergies
from hiphop_train.types import Graph
from tests.references.common import ELEMENTS, perturb, settle

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "vectors": {"n_features": 5, "n_interactions": 2, "rank": 1, "l_max": 3, "correlation": 3},
    "scalars": {"n_features": 6, "n_interactions": 2, "rank": 0, "l_max": 2, "correlation": 2},
    "three layers": {"n_features": 4, "n_interactions": 3, "rank": 2, "l_max": 2, "correlation": 3},
    "one layer": {"n_features": 4, "n_interactions": 1, "rank": 1, "l_max": 2, "correlation": 4},
}
OFF_SMALL: dict[str, Any] = {
    "cutoff": 5.0, "n_features": 96, "n_interactions": 2, "rank": 0, "l_max": 3, "correlation": 3,
    "radial_hidden": [64, 64, 64],
}  # fmt: skip
OFF_MEDIUM: dict[str, Any] = {**OFF_SMALL, "n_features": 128, "rank": 1, "cutoff": 5.0}
PUBLISHED = OFF_SMALL
AVERAGE_NEIGHBOURS = 7.5


class Reference:
    """The library's model on a graph of ours."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, graph: Graph, forces: bool = True, training: bool = False) -> dict[str, Tensor]:
        """Return energy (n_systems,) and forces (n_atoms, 3)."""
        n_types = len(ELEMENTS)
        shifts = -torch.einsum("pk,pkx->px", graph.pair_shift.to(graph.cell), graph.cell[graph.system[graph.pair_i]])
        sizes = torch.bincount(graph.system, minlength=graph.n_systems)
        dtype = graph.pair_vectors.dtype
        data = {
            "positions": graph.positions.to(dtype),
            "node_attrs": torch.nn.functional.one_hot(graph.species, n_types).to(dtype),
            "edge_index": torch.stack([graph.pair_j, graph.pair_i]),
            "shifts": shifts.to(dtype),
            "unit_shifts": -graph.pair_shift.to(dtype),  # of the receiver
            "cell": graph.cell.reshape(-1, 3).to(dtype),
            "batch": graph.system,
            "ptr": torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        }
        outputs = self.module(data, training=training, compute_force=forces)
        return {"energy": outputs["energy"], "forces": outputs["forces"]}


def make(settings: dict[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Potential, Reference]:
    """Return ours with the library's weights, and the library's."""
    settings = {"cutoff": 4.0, "radial_hidden": [16], "n_radial": 8, "cutoff_power": 5, **settings}
    width, rank = settings["n_features"], settings["rank"]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from e3nn import o3
        from mace import modules

        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(seed)
        module = modules.ScaleShiftMACE(
            r_max=settings["cutoff"],
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=settings["l_max"],
            interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=settings["n_interactions"],
            num_elements=len(ELEMENTS),
            hidden_irreps=o3.Irreps([(width, (k, (-1) ** k)) for k in range(rank + 1)]),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(len(ELEMENTS)),
            avg_num_neighbors=AVERAGE_NEIGHBOURS,
            atomic_numbers=[atomic_numbers[symbol] for symbol in ELEMENTS],
            correlation=settings["correlation"],
            gate=torch.nn.functional.silu,
            radial_MLP=settings["radial_hidden"],
            use_reduced_cg=False,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
        torch.set_default_dtype(default)
    perturb(module, seed)
    representation = MACE(elements=ELEMENTS, **settings)
    weights = translate(module.state_dict(), representation)
    representation.average_neighbours.fill_(AVERAGE_NEIGHBOURS)
    readout = LayerEnergies(representation.feature_sizes, [16])
    potential = settle(Network(representation.to(dtype), readout.to(dtype)), settings["cutoff"], weights)
    return potential, Reference(module.to(dtype))
