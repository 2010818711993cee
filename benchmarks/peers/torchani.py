"""torchani: a network of ANI-2x's shape (one member of its ensemble), which knows H, C, N, O, S, F and Cl."""

import os
from typing import Any

import numpy as np
import torch

from hiphop_train.benchmark.worker import Program, Result, Workload, serve


class TorchANI(Program):
    """Energy and forces by torchani with random weights; its pairs are given, each once."""

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(settings, dtype, device)
        os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
        from torchani.arch import Assembler

        assembler = Assembler()
        assembler.set_symbols(["H", "C", "N", "O", "S", "F", "Cl"])
        assembler.set_global_cutoff_fn("cosine")
        assembler.set_aev_computer(radial="ani2x", angular="ani2x", strategy=settings["strategy"])
        assembler.set_atomic_networks(ctor="ani2x")
        assembler.set_zeros_as_self_energies()
        self.model = assembler.assemble(1).to(device, dtype)
        self.cutoff = float(self.model.cutoff)  # of the radial part

    def describe(self) -> dict[str, Any]:
        """Return version and shape."""
        from importlib.metadata import version

        shown = {"shape": "ANI-2x, one network", "strategy": self.settings["strategy"]}
        return {"version": f"torchani {version('torchani')}", "settings": shown}

    def load(self, work: Workload) -> None:
        """Take the workload: several systems are one for torchani, as no pair joins them."""
        i, j, shift = work.pair_i, work.pair_j, work.pair_shift
        first = np.where(shift[:, 0] != 0, shift[:, 0], np.where(shift[:, 1] != 0, shift[:, 1], shift[:, 2]))
        once = (i < j) | ((i == j) & (first > 0))
        self.pairs = self.tensor(np.stack([j[once], i[once]]))
        self.translations = self.tensor(work.translations()[once], self.dtype)
        self.numbers = self.tensor(work.numbers)[None]
        self.positions = self.tensor(work.positions, self.dtype).requires_grad_(True)
        self.system, self.n_systems = self.tensor(work.system), work.n_systems

    def evaluate(self, search: bool) -> Result:
        """Energy and forces with the given pairs."""
        atomic = self.model.compute_from_external_neighbors(
            self.numbers, self.positions[None], self.pairs, self.translations, atomic=True
        )[0].reshape(-1)
        energy = torch.zeros(self.n_systems, dtype=atomic.dtype, device=self.device)
        energy = energy.index_add(0, self.system, atomic)
        gradient = torch.autograd.grad(energy.sum(), self.positions, create_graph=self.model.training)[0]
        return energy, -gradient


if __name__ == "__main__":
    serve(TorchANI)
