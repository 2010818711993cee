"""Allegro of the library nequip-allegro, and ours with its weights."""

import warnings
from typing import Any

import torch

from hiphop_train.importing.allegro import translate
from hiphop_train.models.allegro import Allegro
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.pairs import PairEnergy
from tests.references.common import ELEMENTS, perturb, settle
from tests.references.nequip import Reference

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "vectors": {"cutoff": 4.0, "n_features": 6, "n_tensors": 4, "n_interactions": 2, "l_max": 1, "parity": False},
    "parity": {"cutoff": 4.0, "n_features": 4, "n_tensors": 3, "n_interactions": 3, "l_max": 2, "parity": True},
    "octupoles": {
        "cutoff": 4.0, "n_features": 4, "n_tensors": 2, "n_interactions": 2, "l_max": 3, "parity": False,
        "two_body_hidden": [7, 7], "latent_hidden": [], "readout_hidden": [],
    },
    "one layer": {"cutoff": 4.0, "n_features": 4, "n_tensors": 3, "n_interactions": 1, "l_max": 2, "parity": True},
    "scalars": {"cutoff": 4.0, "n_features": 4, "n_tensors": 3, "n_interactions": 2, "l_max": 0, "parity": False},
}  # fmt: skip
PUBLISHED: dict[str, Any] = {
    "cutoff": 5.0, "n_features": 64, "n_tensors": 64, "n_interactions": 2, "l_max": 2, "parity": True,
    "two_body_hidden": [64], "latent_hidden": [64], "readout_hidden": [32],
}  # fmt: skip
AVERAGE_NEIGHBOURS = 7.5


def _hidden(name: str, widths: list[int]) -> dict[str, int]:
    """Arguments of the library for hidden layers, which are of equal width there."""
    return {
        f"{name}_hidden_layers_depth": len(widths),
        f"{name}_hidden_layers_width": widths[0] if widths else 1,
    }


def make(settings: dict[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Potential, Reference]:
    """Return ours with the library's weights, and the library's."""
    settings = {"two_body_hidden": [8], "latent_hidden": [8], "readout_hidden": [5], **settings}
    readout_hidden = settings.pop("readout_hidden")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from allegro.model import AllegroModel
        from nequip.utils.global_state import set_global_state

        default = torch.get_default_dtype()
        set_global_state()  # sets double precision
        module = AllegroModel(
            seed=seed,
            model_dtype=str(dtype).removeprefix("torch."),
            r_max=settings["cutoff"],
            type_names=ELEMENTS,
            radial_chemical_embed={"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
            num_layers=settings["n_interactions"],
            l_max=settings["l_max"],
            parity=settings["parity"],
            num_scalar_features=settings["n_features"],
            num_tensor_features=settings["n_tensors"],
            **_hidden("scalar_embed_mlp", settings["two_body_hidden"]),
            **_hidden("allegro_mlp", settings["latent_hidden"]),
            **_hidden("readout_mlp", readout_hidden),
            avg_num_neighbors=AVERAGE_NEIGHBOURS,
            per_type_energy_scales=dict.fromkeys(ELEMENTS, 1.0),
            per_type_energy_shifts=dict.fromkeys(ELEMENTS, 0.0),
        )
        torch.set_default_dtype(default)
    perturb(module, seed)
    representation = Allegro(elements=ELEMENTS, n_radial=8, cutoff_power=6, **settings)
    readout = PairEnergy(representation.feature_sizes, readout_hidden)
    for part in (representation, readout):
        part.average_neighbours.fill_(AVERAGE_NEIGHBOURS)
    state = {name.removeprefix("model.func."): value for name, value in module.named_parameters()}
    weights = translate(state, representation, len(readout_hidden) + 1)
    network = Network(representation.to(dtype), readout.to(dtype))
    return settle(network, settings["cutoff"], weights), Reference(module)
