"""HIP-HOP-NN beside hippynn with the same weights: energy and forces of structures, and training steps.

    python benchmarks/hippynn_speed.py --structures chignolin.pdb dhfr.pdb --features 128 256

Both take turns within one process, and their results are compared before anything is timed. Pairs are given to both;
the vectors between them are part of each step. hippynn runs with its numba kernels. The settings are those published
for ANI-1x: two interactions with three atom layers each, 20 sensitivities, l_max 3, n_max 4, cutoff 6.5 Angstrom.
"""

# mypy: allow-untyped-calls

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase.build import molecule
from torch import Tensor

from hiphop_train import build
from hiphop_train.config import load_config
from hiphop_train.data.batches import BatchDataset
from hiphop_train.data.structures import Collector, Structures
from hiphop_train.graph.assemble import pair_vectors, with_pair_vectors
from hiphop_train.importing.hippynn import convert
from hiphop_train.potential import Potential
from hiphop_train.types import Graph

ELEMENTS = ["H", "C", "N", "O", "S"]
CUTOFF = 6.5  # Angstrom
Result = tuple[Tensor, Tensor]


class Peer(torch.nn.Module):
    """Energies (n_systems,) and forces (n_atoms, 3) of hippynn's network."""

    def __init__(self, n_features: int) -> None:
        import hippynn

        super().__init__()
        hippynn.custom_kernels.set_custom_kernels("numba")
        hippynn.settings.WARN_LOW_DISTANCES = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # beta state
            self.network = hippynn.networks.hiphop.HipHopNNModule(
                n_features=n_features,
                n_sensitivities=20,
                dist_soft_min=0.75,
                dist_soft_max=5.5,
                dist_hard_max=CUTOFF,
                n_atom_layers=3,
                n_interaction_layers=2,
                possible_species=[0, 1, 6, 7, 8, 16],
            )
        self.energy = hippynn.layers.targets.HEnergy(self.network.feature_sizes)

    def forward(self, graph: Graph) -> Result:
        """Evaluate."""
        positions = graph.positions.float().requires_grad_(True)
        vectors = positions[graph.pair_j] - positions[graph.pair_i]
        species = torch.nn.functional.one_hot(graph.species, len(ELEMENTS)).float()
        features = self.network(species, graph.pair_i, graph.pair_j, vectors.norm(dim=1), vectors)
        energy = self.energy(features, graph.system, graph.n_systems)[0].reshape(-1)
        forces = -torch.autograd.grad(energy.sum(), positions, create_graph=self.training)[0]
        return energy, forces


def our_potential(peer: Peer, n_features: int) -> Potential:
    """Return our network with the peer's weights."""
    imported = convert(peer.state_dict(), CUTOFF, "eV", ELEMENTS)
    settings = [
        f"model.{key}={value}" for key, value in imported.model.items() if isinstance(value, int | float | bool)
    ]
    settings += [f"model.elements=[{','.join(ELEMENTS)}]"]
    potential = build.make_potential(load_config("train", ["model=hiphop", *settings]).model, torch.float32)
    potential.load_state_dict({name: value.clone() for name, value in imported.weights.items()}, strict=False)
    return potential


def ours(potential: Potential, graph: Graph) -> Result:
    """Evaluate, from positions on."""
    vectors = pair_vectors(graph.positions, graph.cell, graph.system, graph.pair_i, graph.pair_j, graph.pair_shift)
    outputs = potential(with_pair_vectors(graph, vectors.to(torch.float32)))
    return outputs["energy"], outputs["forces"]


def graph_of(structures: Structures) -> Graph:
    """Return one batch of all structures."""
    index = np.arange(len(structures))
    return BatchDataset(structures, ELEMENTS, CUTOFF, torch.float32)[index, np.ones(len(index))].graph


def from_file(file: Path) -> Structures:
    """Read one structure of a PDB file."""
    atoms = ase.io.read(file, index=0)  # some have an empty model at the end
    collector = Collector(file.name, 1.0, 1.0, 1.0)
    collector.add(file.stem, atoms.numbers, atoms.positions[None], np.zeros(1), None)
    return collector.finish(file.stem)


def clusters(n: int = 32) -> Structures:
    """Return so many geometries of methoxyethane with a water molecule, 15 atoms, random forces."""
    rng = np.random.default_rng(0)
    water = molecule("H2O")
    water.translate([0.0, 0.0, 3.5])
    whole = molecule("CH3CH2OCH3") + water
    positions = whole.positions + 0.05 * rng.standard_normal((n, len(whole), 3))
    collector = Collector("methoxyethane and water", 1.0, 1.0, 1.0)
    collector.add("all", whole.numbers, positions, np.zeros(n), rng.standard_normal(positions.shape))
    return collector.finish("all")


def in_turns(subjects: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Time subjects in turns, milliseconds; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(rounds + 1):
        for name, subject in subjects.items():
            started = time.perf_counter()
            subject()
            if turn:
                times[name].append(1000 * (time.perf_counter() - started))
    return times


def summary(what: dict[str, Any], times: dict[str, list[float]], difference: float) -> dict[str, Any]:
    """Return medians and the ratio with its spread."""
    ratio = np.array(times["hippynn"]) / np.array(times["ours"])
    row = {
        **what,
        "milliseconds": {name: round(float(np.median(values)), 1) for name, values in times.items()},
        "ratio": {
            "median": round(float(np.median(ratio)), 2),
            "lowest": round(float(ratio.min()), 2),
            "highest": round(float(ratio.max()), 2),
        },
        "largest_relative_difference_of_forces": difference,
    }
    print(json.dumps(row), flush=True)
    return row


def difference(first: Result, second: Result) -> float:
    """Largest difference of forces over the largest force."""
    return float((first[1] - second[1]).detach().abs().max() / second[1].detach().abs().max())


def inference(structures: Structures, n_features: int, rounds: int) -> dict[str, Any]:
    """Time energy and forces."""
    torch.manual_seed(0)
    peer = Peer(n_features).eval().requires_grad_(False)
    potential = our_potential(peer, n_features).eval().requires_grad_(False)
    graph = graph_of(structures)
    apart = difference(ours(potential, graph), peer(graph))
    subjects = {"hippynn": lambda: peer(graph), "ours": lambda: ours(potential, graph)}
    what = {"work": "energy and forces", "system": structures.source, "atoms": len(structures.numbers)}
    return summary({**what, "pairs": len(graph.pair_i), "features": n_features}, in_turns(subjects, rounds), apart)


def training(structures: Structures, n_features: int, rounds: int) -> dict[str, Any]:
    """Time whole steps: energy, forces, loss, its derivative, Adam."""
    torch.manual_seed(0)
    peer = Peer(n_features).train()
    potential = our_potential(peer, n_features).train()
    graph = graph_of(structures)
    target = torch.from_numpy(structures.forces).float()
    apart = difference(ours(potential, graph), peer(graph))

    def step(evaluate: Callable[[], Result], optimizer: torch.optim.Optimizer) -> None:
        energy, forces = evaluate()
        loss = (forces - target).square().mean() + energy.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    optimizers = [
        torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-6) for model in (peer, potential)
    ]
    subjects = {
        "hippynn": lambda: step(lambda: peer(graph), optimizers[0]),
        "ours": lambda: step(lambda: ours(potential, graph), optimizers[1]),
    }
    what = {"work": "training step", "system": f"{graph.n_systems} molecules", "atoms": len(structures.numbers)}
    return summary({**what, "pairs": len(graph.pair_i), "features": n_features}, in_turns(subjects, rounds), apart)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=Path, nargs="*", default=[], help="PDB files")
    parser.add_argument("--features", type=int, nargs="*", default=[128])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for n_features in options.features:
        if not options.no_training and n_features == options.features[0]:
            rows.append(training(clusters(), n_features, options.rounds))
        for file in options.structures:
            rows.append(inference(from_file(file), n_features, options.rounds))
    if options.output:
        result = {"threads": options.threads, "rounds": options.rounds, "torch": torch.__version__, "rows": rows}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
