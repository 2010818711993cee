"""hippynn: the networks that our HIP models can share weights with, or else the published HIP-HOP-NN."""

# mypy: allow-untyped-calls

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiphop_train.benchmark.peers.protocol import Result, Subject, Work


class Network(nn.Module):
    """A network with hippynn's hierarchical energy, as its own models have it.

    Parameters
    ----------
    settings : ``network`` (module and class), ``arguments`` (its own), ``kernels``, ``atomic_numbers``
    dtype : floating-point type; hippynn makes its constants in the default one at import
    """

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # beta state
                import hippynn

                hippynn.custom_kernels.set_custom_kernels(settings["kernels"])
                hippynn.settings.WARN_LOW_DISTANCES = False
                module, name = settings["network"].split(".")
                made = getattr(importlib.import_module(f"hippynn.networks.{module}"), name)
                self.network = made(possible_species=[0, *settings["atomic_numbers"]], **settings["arguments"])
                self.energy = hippynn.layers.targets.HEnergy(self.network.feature_sizes)
        finally:
            torch.set_default_dtype(default)


class Program(Subject):
    """Energy and forces by hippynn."""

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(settings, dtype, device)
        self.model = Network(settings, dtype).to(device, dtype)
        self.cutoff = float(settings["arguments"]["dist_hard_max"])
        if settings["weights"] is not None:
            self.model.load_state_dict(torch.load(settings["weights"], weights_only=True))

    def describe(self) -> dict[str, Any]:
        """Version, kernels and arguments."""
        from importlib.metadata import version

        shown = {key: self.settings[key] for key in ("network", "arguments", "kernels")}
        return {"version": f"hippynn {version('hippynn')}", "settings": shown}

    def special(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write the weights into a file, or read them from one."""
        file = Path(request["file"])
        if request["weights"] == "write":
            torch.save(self.model.state_dict(), file)
        else:
            self.model.load_state_dict(torch.load(file, weights_only=True))
        return {}

    def load(self, work: Work) -> None:
        """Take the work; hippynn has one-hot species."""
        known = self.tensor(np.array(self.settings["atomic_numbers"]))
        self.species = (self.tensor(work.numbers)[:, None] == known).to(self.dtype)
        self.positions = self.tensor(work.positions, self.dtype).requires_grad_(True)
        self.translations: Tensor | None = None
        if work.pair_shift.any():
            self.translations = self.tensor(work.translations(), self.dtype)
        self.pair_i, self.pair_j = self.tensor(work.pair_i), self.tensor(work.pair_j)
        self.system, self.n_systems = self.tensor(work.system), work.n_systems

    def evaluate(self) -> Result:
        """Energy and forces with the given pairs."""
        vectors = self.positions[self.pair_j] - self.positions[self.pair_i]
        if self.translations is not None:
            vectors = vectors + self.translations
        features = self.model.network(self.species, self.pair_i, self.pair_j, vectors.norm(dim=1), vectors)
        energy = self.model.energy(features, self.system, self.n_systems)[0].reshape(-1)
        gradient = torch.autograd.grad(energy.sum(), self.positions, create_graph=self.model.training)[0]
        return energy, -gradient
