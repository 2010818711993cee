"""Our weights for hippynn: the import of its state dictionaries, turned around."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hiphop_train.importing.hippynn import convert

OURS = "hiphop_train.models."
PUBLISHED = {
    "n_features": 128,
    "n_sensitivities": 20,
    "dist_soft_min": 0.75,
    "dist_soft_max": 5.5,
    "dist_hard_max": 6.5,
    "n_atom_layers": 3,
    "n_interaction_layers": 2,
}
"""Settings of the HIP-HOP-NN of arXiv 2503.23515."""

INVARIANTS = {"l_max": 3, "n_max": 4, "group_norm": True}


def network_of(model: Mapping[str, Any]) -> tuple[str, dict[str, Any], bool]:
    """Return hippynn's class and arguments for a model section, and whether it is the same network.

    Parameters
    ----------
    model : complete, with the defaults of its target; where hippynn has no such network, it is the published HIP-HOP-NN
    """
    kind = model["_target_"].removeprefix(OURS)
    names = {
        "n_features": "n_features",
        "n_sensitivities": "n_sensitivities",
        "soft_min": "dist_soft_min",
        "soft_max": "dist_soft_max",
        "cutoff": "dist_hard_max",
        "n_atom_layers": "n_atom_layers",
        "n_interactions": "n_interaction_layers",
    }
    if kind == "hiphop.HIPHOP" and model["invariants"] == "published":
        more = {key: model[key] for key in INVARIANTS}
        return "hiphop.HipHopNNModule", {theirs: model[key] for key, theirs in names.items()} | more, True
    if kind == "hipnn.HIPNN":
        return "hipnn.Hipnn", {theirs: model[key] for key, theirs in names.items()}, True
    if kind == "hipnn_ts.HIPNNTS":
        name = {1: "hipnn.HipnnVec", 2: "hipnn.HipnnQuad"}[model["l_max"]]
        return name, {theirs: model[key] for key, theirs in names.items()} | {"cusp_reg": model["cusp"]}, True
    return "hiphop.HipHopNNModule", {**PUBLISHED, **INVARIANTS}, False


def for_hippynn(
    state: Mapping[str, Any], weights: Mapping[str, Tensor], cutoff: float, elements: list[str]
) -> dict[str, Any]:
    """Return a state dictionary of hippynn with our weights; its E0 are zero.

    The importer only moves numbers. So numbers that all differ are sent through it, and say where each of ours comes
    from; ours then go back there.

    Parameters
    ----------
    state : of hippynn's network, whose values do not matter
    weights : state dictionary of our potential
    cutoff : Angstrom
    elements : in the order of hippynn's possible_species
    """
    coded: dict[str, Any] = {}
    first = 1
    for name, value in state.items():
        coded[name] = value
        if isinstance(value, Tensor) and value.is_floating_point():
            count = value.numel()
            coded[name] = torch.arange(first, first + count, dtype=torch.float64).reshape(value.shape)
            first += count
    ours = torch.zeros(first, dtype=torch.float64)  # by their number
    known = torch.zeros(first, dtype=torch.bool)
    scale = float(weights["terms.0.scale"])
    for name, codes in convert(coded, cutoff, "eV", elements).weights.items():
        if name == "terms.0.scale":
            continue
        places = codes.reshape(-1).round().to(torch.int64)
        value = weights[name].to(torch.float64).reshape(-1).cpu()
        if name == "e0":
            value = torch.zeros_like(places, dtype=torch.float64)
        elif ".readout." in name:
            value = value * scale
        ours[places] = value
        known[places] = True
    turned: dict[str, Any] = {}
    for name, value in state.items():
        turned[name] = value
        if isinstance(value, Tensor) and value.is_floating_point():
            places = coded[name].to(torch.int64)
            turned[name] = torch.where(known[places], ours[places], value.to(torch.float64)).to(value.dtype)
    return turned
