"""Benchmark of an exported file, run as in the ASE calculator, without TorchScript's optimisation."""

from pathlib import Path
from typing import Any

import torch

from hiphop_train.benchmark.worker import Program, Result, Workload, serve
from hiphop_train.export.torchscript import load


class ExportedFile(Program):
    """Energy and forces by an exported file, with given pairs or from positions."""

    finds_pairs = True
    trains = False
    same_weights = True

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(settings, dtype, device)
        self.model: Any = load(Path(settings["exported"]), str(device))
        self.cutoff = float(self.model.cutoff)

    def describe(self) -> dict[str, Any]:
        """Return the format of the file."""
        return {"version": f"TorchScript file, format {self.model.format_version}", "settings": {}}

    def load(self, work: Workload) -> None:
        """Take the workload."""
        self.species = self.model.species_of(self.tensor(work.numbers))
        self.positions, self.cell = self.tensor(work.positions), self.tensor(work.cell)
        self.pbc, self.system, self.n_systems = self.tensor(work.pbc), self.tensor(work.system), work.n_systems
        self.pairs = (self.tensor(work.pair_i), self.tensor(work.pair_j), self.tensor(work.pair_shift))

    def evaluate(self, search: bool) -> Result:
        """Energy and forces with the given pairs, or, with the virial too, from positions."""
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            if search:
                outputs = self.model.energy_forces(self.species, self.positions, self.cell[0], self.pbc[0])
            else:
                outputs = self.model(
                    self.species, self.positions, self.cell, self.pbc, self.system, self.n_systems, *self.pairs,
                    len(self.positions), True, False,
                )  # fmt: skip
        return outputs["energy"].reshape(-1), outputs["forces"]


if __name__ == "__main__":
    serve(ExportedFile)
