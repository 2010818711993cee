"""An exported file, run as the ASE calculator runs it: without TorchScript's optimisation."""

from pathlib import Path
from typing import Any

import torch

from hiphop_train.benchmark.peers.protocol import Result, Subject, Work
from hiphop_train.export.torchscript import load


class Program(Subject):
    """Energy and forces by an exported file, from the pairs on or from the positions on."""

    finds_pairs = True
    trains = False

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(settings, dtype, device)
        self.model = load(Path(settings["file"]), str(device))
        self.cutoff = float(self.model.cutoff)

    def describe(self) -> dict[str, Any]:
        """Where it comes from."""
        return {"version": f"TorchScript file, format {self.model.format_version}", "settings": {}}

    def load(self, work: Work) -> None:
        """Take the work."""
        self.species = self.model.species_of(self.tensor(work.numbers))
        self.positions, self.cell = self.tensor(work.positions), self.tensor(work.cell)
        self.pbc, self.system, self.n_systems = self.tensor(work.pbc), self.tensor(work.system), work.n_systems
        self.pairs = (self.tensor(work.pair_i), self.tensor(work.pair_j), self.tensor(work.pair_shift))

    def evaluate(self) -> Result:
        """Energy and forces with the given pairs."""
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            outputs = self.model(
                self.species, self.positions, self.cell, self.pbc, self.system, self.n_systems, *self.pairs,
                len(self.positions), True, False,
            )  # fmt: skip
        return outputs["energy"], outputs["forces"]

    def search_and_evaluate(self) -> Result:
        """Energy, forces and virial from positions."""
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            outputs = self.model.energy_forces(self.species, self.positions, self.cell[0], self.pbc[0])
        return outputs["energy"].reshape(-1), outputs["forces"]
