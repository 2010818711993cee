"""Benchmark of an ASE calculator: energy and forces from positions."""

# mypy: allow-untyped-calls

from importlib import import_module
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import all_changes

from hiphop_train.benchmark.worker import Program, Result, Workload, serve


class ASECalculator(Program):
    """Energy and forces by an ASE calculator; by default ours, with the exported file."""

    takes_pairs = False
    finds_pairs = True
    trains = False

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(settings, dtype, device)
        self.same_weights = settings["calculator"] is None
        if self.same_weights:
            from hiphop_train.interfaces.ase import HipHopCalculator

            self.calculator: Any = HipHopCalculator(settings["exported"], str(device))
        else:
            module, _, name = settings["calculator"].rpartition(".")
            self.calculator = getattr(import_module(module), name)(**(settings["arguments"] or {}))

    def describe(self) -> dict[str, Any]:
        """Return ASE's version and the calculator."""
        from importlib.metadata import version

        kind = type(self.calculator)
        shown = {"calculator": f"{kind.__module__}.{kind.__qualname__}", "arguments": self.settings["arguments"]}
        return {"version": f"ase {version('ase')}", "settings": shown}

    def load(self, work: Workload) -> None:
        """Take a single structure."""
        if work.n_systems != 1:
            raise ValueError("an ASE calculator takes one structure at a time")
        self.atoms = Atoms(work.numbers, work.positions, cell=work.cell[0], pbc=work.pbc[0])

    def evaluate(self, search: bool) -> Result:
        """Energy and forces as at a new step, without cached results of the last one."""
        self.calculator.calculate(self.atoms, ["energy", "forces"], all_changes)
        found = self.calculator.results
        return torch.tensor([float(found["energy"])], dtype=torch.float64), torch.as_tensor(found["forces"])


if __name__ == "__main__":
    serve(ASECalculator)
