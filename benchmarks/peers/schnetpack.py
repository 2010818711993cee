"""schnetpack: SchNet with random weights."""

import warnings
from typing import Any, TypeVar

import torch

from hiphop_train.benchmark.worker import Program, Result, Workload, serve


class SchNetPack(Program):
    """Energy and forces by schnetpack."""

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(settings, dtype, device)
        self.cutoff = float(settings["cutoff"])
        loader: Any = torch.utils.data.dataloader
        if not hasattr(loader, "T_co"):  # which schnetpack imports, and newer torch lacks
            loader.T_co = TypeVar("T_co", covariant=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import schnetpack
        cutoff, width = self.cutoff, settings["n_features"]
        self.model = schnetpack.model.NeuralNetworkPotential(
            representation=schnetpack.representation.SchNet(
                n_atom_basis=width,
                n_interactions=settings["n_interactions"],
                radial_basis=schnetpack.nn.GaussianRBF(settings["n_gaussians"], cutoff),
                cutoff_fn=schnetpack.nn.CosineCutoff(cutoff),
            ),
            input_modules=[schnetpack.atomistic.PairwiseDistances()],
            output_modules=[
                schnetpack.atomistic.Atomwise(n_in=width, output_key="energy"),
                schnetpack.atomistic.Forces(),
            ],
        ).to(device, dtype)

    def describe(self) -> dict[str, Any]:
        """Return version and sizes."""
        from importlib.metadata import version

        shown = {key: self.settings[key] for key in ("n_features", "n_interactions", "n_gaussians", "cutoff")}
        return {"version": f"schnetpack {version('schnetpack')}", "settings": {"network": "SchNet", **shown}}

    def load(self, work: Workload) -> None:
        """Take the workload under schnetpack's names."""
        self.inputs = {
            "_atomic_numbers": self.tensor(work.numbers),
            "_positions": self.tensor(work.positions, self.dtype),
            "_idx_i": self.tensor(work.pair_i),
            "_idx_j": self.tensor(work.pair_j),
            "_offsets": self.tensor(work.translations(), self.dtype),
            "_idx_m": self.tensor(work.system),
            "_n_atoms": torch.bincount(self.tensor(work.system), minlength=work.n_systems),
            "_cell": self.tensor(work.cell, self.dtype),
            "_pbc": self.tensor(work.pbc),
        }

    def evaluate(self, search: bool) -> Result:
        """Energy and forces with the given pairs."""
        inputs = dict(self.inputs)
        inputs["_positions"] = inputs["_positions"].detach()
        outputs = self.model(inputs)
        return outputs["energy"].reshape(-1), outputs["forces"]


if __name__ == "__main__":
    serve(SchNetPack)
