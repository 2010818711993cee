"""Random methane by hippynn itself: same file, split, settings, loss and time as `ladder.py methane`, on one core.

The network is hippynn's, with its numba kernels if numba is installed; the loop around it is the plain one of its
training scripts: Adam with a learning rate of 2.5e-3 and cosine decay, batches of 64, RMSE + MAE of energies and of
forces and the mean of the non-hierarchicality R. How many epochs fit into the time is measured first, unless given.

    python benchmarks/methane_hippynn.py data/methane.h5 --minutes 7
    python benchmarks/methane_hippynn.py data/methane.h5 --cases "HIP-HOP l=3 n=4" --epochs 23
"""

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiphop_train.data.formats.ani1x import ANI1xReader
from hiphop_train.data.splits import RandomSplit
from hiphop_train.units import KCAL_PER_MOL

CASES = {
    "HIP-NN": "Hipnn",
    "HIP-NN-TS l=1": "HipnnVec",
    "HIP-NN-TS l=2": "HipnnQuad",
    "HIP-HOP l=3 n=4": "HipHopNNModule",
}
LEVELS: dict[str, Any] = {"gfn2_xtb": {"energy": "gfn2_xtb.energy", "forces": "gfn2_xtb.forces"}}
FIRST, SECOND = (torch.from_numpy(index) for index in np.nonzero(~np.eye(5, dtype=bool)))


class Model(torch.nn.Module):
    """Energies (n,) in kcal/mol and R (n_atoms,) from positions (n, 5, 3) in Angstrom."""

    def __init__(self, network_class: type, energy_class: type) -> None:
        super().__init__()
        self.network = network_class(
            n_features=32,
            n_sensitivities=20,
            dist_soft_min=0.4,
            dist_soft_max=9.0,
            dist_hard_max=10.3,
            n_atom_layers=3,
            n_interaction_layers=1,
            possible_species=[0, 1, 6],
        )
        self.energy = energy_class(self.network.feature_sizes)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate."""
        n = len(positions)
        start = 5 * torch.arange(n).repeat_interleave(len(FIRST))
        first, second = FIRST.repeat(n) + start, SECOND.repeat(n) + start
        flat = positions.reshape(-1, 3)
        vectors = flat[second] - flat[first]
        species = torch.tensor([[0.0, 1.0]] + 4 * [[1.0, 0.0]]).repeat(n, 1)
        arguments = [species, first, second, vectors.norm(dim=1)]
        if type(self.network).__name__ != "Hipnn":
            arguments.append(vectors)
        energy, _, _, hierarchicality, *_ = self.energy(
            self.network(*arguments), torch.arange(n).repeat_interleave(5), n
        )
        return energy[:, 0], hierarchicality


def rmse_and_mae(error: Tensor) -> Tensor:
    return error.abs().mean() + error.square().mean().sqrt()


class Study:
    """The data, and training on it."""

    def __init__(self, path: str) -> None:
        structures = ANI1xReader(path, LEVELS, "gfn2_xtb", "hartree", "angstrom", "force").read()
        self.index = {
            name: torch.from_numpy(index)
            for name, index in RandomSplit(0.04, 0.16, seed=0).divide(structures, "").items()
        }
        energy = structures.energy - structures.energy[self.index["train"].numpy()].mean()
        self.positions = torch.from_numpy(structures.positions.reshape(-1, 5, 3)).float()
        self.energy = torch.from_numpy(energy / KCAL_PER_MOL).float()
        self.forces = torch.from_numpy(structures.forces.reshape(-1, 5, 3) / KCAL_PER_MOL).float()

    def errors(self, model: Model, index: Tensor, training: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return errors of energies and force components, and R."""
        positions = self.positions[index].requires_grad_(True)
        energy, hierarchicality = model(positions)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=training)
        return energy - self.energy[index], (-gradient - self.forces[index]).flatten(), hierarchicality

    def epoch(self, model: Model, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
        """Go through the training split once."""
        train = self.index["train"]
        for index in train[torch.randperm(len(train))].split(64):
            energy, forces, hierarchicality = self.errors(model, index, training=True)
            loss = rmse_and_mae(energy) + rmse_and_mae(forces) + hierarchicality.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()

    def test(self, model: Model) -> dict[str, dict[str, float]]:
        """Return errors on the test split, kcal/mol(/Angstrom)."""
        parts = [self.errors(model, index, training=False) for index in self.index["test"].split(500)]
        found = {}
        for kind, errors in zip(("energy", "forces"), list(zip(*parts, strict=True))[:2], strict=True):
            error = torch.cat(errors).detach().double()
            rmse = float(error.square().mean().sqrt())
            found[kind] = {"mae": float(error.abs().mean()), "rmse": rmse, "median": float(error.abs().median())}
        return found

    def epochs_in(self, seconds: float, network_class: type, energy_class: type) -> int:
        """Return how many epochs fit into a time."""
        trial = Model(network_class, energy_class)
        optimizer = torch.optim.Adam(trial.parameters(), lr=2.5e-3)
        self.epoch(trial, optimizer, None)  # compiles
        started = time.monotonic()
        self.epoch(trial, optimizer, None)
        return max(1, round(seconds / (time.monotonic() - started)))

    def run(self, network_class: type, energy_class: type, epochs: int) -> dict[str, Any]:
        """Train, and return the errors on the test split."""
        torch.manual_seed(0)
        model = Model(network_class, energy_class)
        optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-3)
        n_steps = epochs * -(-len(self.index["train"]) // 64)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
        started = time.monotonic()
        cpu = time.process_time()
        for _ in range(epochs):
            self.epoch(model, optimizer, schedule)
        seconds = {"training_seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
        return {"epochs": epochs, **{key: round(value, 1) for key, value in seconds.items()}, "test": self.test(model)}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="file of scripts/generate_methane.py")
    parser.add_argument("--minutes", type=float, default=7.0, help="training time of each (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="of each, instead of as many as fit into the time")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kernels", choices=("auto", "numba", "pytorch"), default="auto", help="of hippynn")
    parser.add_argument("--output", type=Path, help="JSON file; results of other cases in it are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ["NUMBA_NUM_THREADS"] = "1"
    import hippynn
    from hippynn.layers.targets import HEnergy
    from hippynn.networks import hiphop, hipnn

    hippynn.custom_kernels.set_custom_kernels(options.kernels)
    study = Study(options.data)
    known = json.loads(options.output.read_text()) if options.output and options.output.is_file() else {}
    found = {"hippynn": hippynn.__version__, "kernels": hippynn.custom_kernels.CUSTOM_KERNELS_ACTIVE, **known}
    for case in options.cases:
        name = CASES[case]
        network_class = getattr(hiphop if name == "HipHopNNModule" else hipnn, name)
        epochs = options.epochs or study.epochs_in(60 * options.minutes, network_class, HEnergy)
        found[case] = study.run(network_class, HEnergy, epochs)
        print(case, json.dumps(found[case]), flush=True)
        if options.output:
            options.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
