"""torchmd-net: TensorNet with random weights."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiphop_train.benchmark.worker import Program, Result, Workload, serve


class GivenPairs(nn.Module):
    """Known pairs, replacing torchmd-net's neighbour search."""

    def __init__(self) -> None:
        super().__init__()
        self.index = torch.zeros(2, 0, dtype=torch.int64)
        self.translations: Tensor | None = None

    def forward(self, positions: Tensor, batch: Tensor, box: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return indices (2, n_pairs + n_atoms), distances, vectors r_0 - r_1 of pairs and of atoms with themselves."""
        vectors = positions.index_select(0, self.index[0]) - positions.index_select(0, self.index[1])
        if self.translations is not None:
            vectors = vectors - self.translations
        atoms = torch.arange(positions.shape[0], device=positions.device)
        none = torch.zeros_like(positions)
        index = torch.cat([self.index, torch.stack([atoms, atoms])], dim=1)
        distances = torch.cat([vectors.norm(dim=1), none[:, 0]])
        return index, distances, torch.cat([vectors, none])


class TensorNet(Program):
    """Energy and forces by torchmd-net."""

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(settings, dtype, device)
        self.cutoff = float(settings["cutoff"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchmdnet.models import tensornet
            from torchmdnet.models.model import create_model
        precision = {torch.float32: 32, torch.float64: 64}[dtype]
        self.model = create_model(
            {
                "model": "tensornet",
                "embedding_dimension": settings["n_features"],
                "num_layers": settings["n_layers"],
                "num_rbf": settings["n_rbf"],
                "rbf_type": "expnorm",
                "trainable_rbf": False,
                "activation": "silu",
                "cutoff_lower": 0.0,
                "cutoff_upper": settings["cutoff"],
                "max_z": 100,
                "max_num_neighbors": settings["max_neighbours"],
                "equivariance_invariance_group": "O(3)",
                "static_shapes": False,
                "output_model": "Scalar",
                "reduce_op": "add",
                "prior_model": None,
                "atom_filter": -1,
                "derivative": True,
                "precision": precision,
            }
        ).to(device)
        self.kernels = "warp" if tensornet.OPT else "torch"
        self.given = GivenPairs()
        self.takes_pairs = settings["pairs"] == "given"
        self.finds_pairs = not self.takes_pairs
        if self.takes_pairs:
            self.model.representation_model.distance = self.given

    def describe(self) -> dict[str, Any]:
        """Return version and sizes."""
        from importlib.metadata import version

        shown = {key: self.settings[key] for key in ("n_features", "n_layers", "n_rbf", "cutoff", "pairs")}
        return {
            "version": f"torchmd-net {version('torchmd-net')}",
            "settings": {"network": "TensorNet", **shown, "kernels": self.kernels},
        }

    def load(self, work: Workload) -> None:
        """Take the workload."""
        self.given.index = self.tensor(np.stack([work.pair_i, work.pair_j]))
        self.given.translations = self.tensor(work.translations(), self.dtype) if work.pair_shift.any() else None
        self.numbers = self.tensor(work.numbers)
        self.positions = self.tensor(work.positions, self.dtype)
        self.system = self.tensor(work.system)
        self.box = self.tensor(work.cell, self.dtype) if work.pbc.any() else None

    def evaluate(self, search: bool) -> Result:
        """Energy and forces with the given pairs, or with those that the network finds itself."""
        box = None if self.takes_pairs else self.box
        energy, forces = self.model(self.numbers, self.positions.detach(), self.system, box=box)
        return energy.reshape(-1), forces


if __name__ == "__main__":
    serve(TensorNet)
