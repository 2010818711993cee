"""hippynn: the network that has our HIP model's weights, or else the published HIP-HOP-NN with random ones."""

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiphop_train.benchmark.worker import Program, Result, Workload, serve

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

ARGUMENTS = {
    "n_features": "n_features",
    "n_sensitivities": "n_sensitivities",
    "soft_min": "dist_soft_min",
    "soft_max": "dist_soft_max",
    "cutoff": "dist_hard_max",
    "n_atom_layers": "n_atom_layers",
    "n_interactions": "n_interaction_layers",
}
"""Our name of a setting -> hippynn's."""

PARAMETERS = {
    "sensitivity.centre": "base_layer.sensitivity.mu",
    "sensitivity.inverse_width": "base_layer.sensitivity.sigma",
    "weight": "base_layer.int_weights",
    "self_interaction.weight": "base_layer.selfint.weight",
    "self_interaction.bias": "base_layer.selfint.bias",
    "mixing": "base_layer.mixing_weights",
    "norm.weight": "base_layer.group_norm.weight",
    "norm.bias": "base_layer.group_norm.bias",
    "linear.weight": "base_layer.weight",
    "linear.bias": "base_layer.bias",
    "residual.update.weight": "res_layer.weight",
    "residual.update.bias": "res_layer.bias",
    "residual.adjust.weight": "adjust_layer.weight",
}
"""Our name of a layer's parameter -> hippynn's."""

AXES = {"weight": (1, 2, 0), "mixing": (1, 0, 2)}
"""Order of our axes in hippynn's tensors, where it differs."""


def network_of(model: Mapping[str, Any]) -> tuple[str, dict[str, Any], bool]:
    """Return hippynn's class and arguments for a model section, and whether it is the same network.

    Parameters
    ----------
    model : complete, with the defaults of its target; if hippynn has no such network, it is the published HIP-HOP-NN
    """
    kind = model["_target_"].removeprefix("hiphop_train.models.")
    has_energy_alone = model["readout"]["_target_"].endswith(".HierarchicalEnergy")
    if has_energy_alone and kind == "hiphop.HIPHOP" and model["invariants"] == "published":
        name, more = "hiphop.HipHopNNModule", {key: model[key] for key in INVARIANTS}
    elif has_energy_alone and kind == "hipnn.HIPNN":
        name, more = "hipnn.Hipnn", {}
    elif has_energy_alone and kind == "hipnn_ts.HIPNNTS":
        name, more = {1: "hipnn.HipnnVec", 2: "hipnn.HipnnQuad"}[model["l_max"]], {"cusp_reg": model["cusp"]}
    else:
        return "hiphop.HipHopNNModule", {**PUBLISHED, **INVARIANTS}, False
    return name, {theirs: model[ours] for ours, theirs in ARGUMENTS.items()} | more, True


def with_our_weights(state: Mapping[str, Any], ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return a state dictionary of `Network` with our weights and zero E0.

    Parameters
    ----------
    state : of the network, whose values do not matter
    ours : state dictionary of our potential
    """
    renamed: dict[str, Tensor] = {}
    for name, value in ours.items():
        if name.startswith("terms.0.representation."):
            layers, n, rest = name.removeprefix("terms.0.representation.").split(".", 2)
            k, rest = ("-1", rest) if layers == "interactions" else rest.split(".", 1)
            block = f"network.blocks.{n}.{int(k) + 1}."
            if rest == "norm_scale":
                scales = (f"{block}base_layer.vecscales", f"{block}base_layer.quadscales")
                renamed |= zip(scales[: len(value)], value, strict=True)
            elif rest in PARAMETERS:
                renamed[block + PARAMETERS[rest]] = value.permute(AXES[rest]) if rest in AXES else value
        elif name.startswith("terms.0.readout.layers."):
            n, kind = name.removeprefix("terms.0.readout.layers.").split(".")
            renamed[f"energy.layers.{int(n) + 1}.{kind}"] = value * ours["terms.0.scale"]
    renamed["energy.layers.0.weight"] = torch.zeros_like(state["energy.layers.0.weight"])
    missing = sorted(renamed.keys() - state.keys())
    if missing:
        raise KeyError(f"hippynn has no {missing[0]}")
    return {
        **state,
        **{name: value.to(state[name]).reshape(state[name].shape) for name, value in renamed.items()},
    }


class Network(nn.Module):
    """A network with hippynn's hierarchical energy, as its own models have it.

    Parameters
    ----------
    name : module and class
    arguments : its own
    numbers : atomic numbers
    dtype : floating-point type; hippynn makes its constants in the default one at import
    kernels : hippynn's implementation of sums over pairs
    """

    def __init__(
        self, name: str, arguments: dict[str, Any], numbers: list[int], dtype: torch.dtype, kernels: str
    ) -> None:
        super().__init__()
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # beta state
                import hippynn

                hippynn.custom_kernels.set_custom_kernels(kernels)
                hippynn.settings.WARN_LOW_DISTANCES = False
                module, _, name = name.partition(".")
                kind = getattr(importlib.import_module(f"hippynn.networks.{module}"), name)
                self.network = kind(possible_species=[0, *numbers], **arguments)
                self.energy = hippynn.layers.targets.HEnergy(self.network.feature_sizes)
        finally:
            torch.set_default_dtype(default)


class Hippynn(Program):
    """Energy and forces by hippynn."""

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(settings, dtype, device)
        self.numbers = settings["atomic_numbers"]
        self.name, self.arguments, self.same_weights = network_of(settings["model"])
        model = Network(self.name, self.arguments, self.numbers, dtype, settings["kernels"]).to(device, dtype)
        self.model = model
        self.cutoff = float(self.arguments["dist_hard_max"])
        self.e0 = np.zeros(119)  # eV, by atomic number
        if self.same_weights:
            ours = torch.load(settings["potential"], weights_only=True)["weights"]
            model.load_state_dict(with_our_weights(model.state_dict(), ours))
            self.e0[self.numbers] = ours["e0"][0].cpu().numpy()

    def describe(self) -> dict[str, Any]:
        """Return version, kernels and arguments."""
        from importlib.metadata import version

        shown = {"network": self.name, "arguments": self.arguments, "kernels": self.settings["kernels"]}
        return {"version": f"hippynn {version('hippynn')}", "settings": shown}

    def load(self, work: Workload) -> None:
        """Take the workload; hippynn has one-hot species."""
        known = self.tensor(np.array(self.numbers))
        self.species = (self.tensor(work.numbers)[:, None] == known).to(self.dtype)
        self.positions = self.tensor(work.positions, self.dtype).requires_grad_(True)
        self.translations: Tensor | None = None
        if work.pair_shift.any():
            self.translations = self.tensor(work.translations(), self.dtype)
        self.pair_i, self.pair_j = self.tensor(work.pair_i), self.tensor(work.pair_j)
        self.system, self.n_systems = self.tensor(work.system), work.n_systems
        self.energy_offset = np.bincount(work.system, self.e0[work.numbers])

    def evaluate(self, search: bool) -> Result:
        """Energy and forces with the given pairs."""
        vectors = self.positions[self.pair_j] - self.positions[self.pair_i]
        if self.translations is not None:
            vectors = vectors + self.translations
        features = self.model.network(self.species, self.pair_i, self.pair_j, vectors.norm(dim=1), vectors)
        energy = self.model.energy(features, self.system, self.n_systems)[0].reshape(-1)
        gradient = torch.autograd.grad(energy.sum(), self.positions, create_graph=self.model.training)[0]
        return energy, -gradient


if __name__ == "__main__":
    serve(Hippynn)
