"""mace: networks of the sizes of MACE-OFF23 with random weights."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiphop_train.benchmark.worker import Program, Result, Workload, serve

SIZES: dict[str, tuple[str, float]] = {
    "small": ("96x0e", 4.5),
    "medium": ("128x0e + 128x1o", 5.0),
    "large": ("192x0e + 192x1o + 192x2e", 5.0),
}
"""MACE-OFF23's hidden representations and cutoffs (Angstrom), arXiv 2312.15211."""


class MACE(Program):
    """Energy and forces by mace."""

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(settings, dtype, device)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            # e3nn's table of constants holds slices, which newer torch reads only if they are allowed
            with warnings.catch_warnings(), torch.serialization.safe_globals([slice]):
                warnings.simplefilter("ignore")
                from e3nn import o3
                from mace import modules
            hidden, cutoff = SIZES[settings["size"]]
            numbers = sorted(settings["atomic_numbers"])
            self.model = modules.ScaleShiftMACE(
                r_max=cutoff,
                num_bessel=8,
                num_polynomial_cutoff=5,
                max_ell=3,
                interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
                interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
                num_interactions=2,
                num_elements=len(numbers),
                hidden_irreps=o3.Irreps(hidden),
                MLP_irreps=o3.Irreps("16x0e"),
                atomic_energies=np.zeros(len(numbers)),
                avg_num_neighbors=15.0,
                atomic_numbers=numbers,
                correlation=3,
                gate=torch.nn.functional.silu,
                radial_MLP=[64, 64, 64],
                atomic_inter_scale=1.0,
                atomic_inter_shift=0.0,
            ).to(device, dtype)
            self.cutoff = cutoff
            self._numbers = numbers
        finally:
            torch.set_default_dtype(default)

    def describe(self) -> dict[str, Any]:
        """Return version and size."""
        from importlib.metadata import version

        size = self.settings["size"]
        shown = {"size": f"MACE-OFF23 {size}", "hidden_irreps": SIZES[size][0], "r_max": self.cutoff}
        shown |= {"max_ell": 3, "correlation": 3, "num_interactions": 2}
        return {"version": f"mace-torch {version('mace-torch')}", "settings": shown}

    def load(self, work: Workload) -> None:
        """Take the workload; mace's pairs have the sender first, and vectors from it to the receiver."""
        known = self.tensor(np.array(self._numbers))
        sizes = np.bincount(work.system, minlength=work.n_systems)
        self.inputs: dict[str, Tensor] = {
            "positions": self.tensor(work.positions, self.dtype),
            "node_attrs": (self.tensor(work.numbers)[:, None] == known).to(self.dtype),
            "edge_index": self.tensor(np.stack([work.pair_j, work.pair_i])),
            "shifts": self.tensor(-work.translations(), self.dtype),
            "unit_shifts": self.tensor(-work.pair_shift, self.dtype),
            "cell": self.tensor(work.cell.reshape(-1, 3), self.dtype),
            "batch": self.tensor(work.system),
            "ptr": self.tensor(np.concatenate([[0], np.cumsum(sizes)])),
        }

    def evaluate(self, search: bool) -> Result:
        """Energy and forces with the given pairs."""
        inputs = dict(self.inputs)
        inputs["positions"] = inputs["positions"].detach()
        outputs = self.model(inputs, training=self.model.training)
        return outputs["energy"], outputs["forces"]


if __name__ == "__main__":
    serve(MACE)
