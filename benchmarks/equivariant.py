"""Equivariant models beside their own libraries: the same weights, in one interleaved run, with equal outputs.

For each model of tests/references at its published size, in float32: energy and forces of proteins, and a training
step on energies and forces (32 molecules of 15 atoms; loss, second derivatives, no optimizer). Each round times both
once, in turn; the figure is the median of the rounds' ratios. The libraries are evaluated on our pairs, so neither's
neighbour search counts. Sulphur is taken for oxygen, since the weights are random.

usage: python benchmarks/equivariant.py [NAME[:VARIANT] ...] [--systems chignolin,dhfr,step] [--rounds 7] [--threads 2]
       [--side ours|library] [--output FILE]
A VARIANT is another size in the reference's module, such as mace:OFF_MEDIUM. With --side, only that side is run, for
its memory. Needs the test extra (scripts/install.sh test) and the proteins of ../shared.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from hiphop_train import memory  # noqa: E402
from hiphop_train.accelerate import accelerate  # noqa: E402
from hiphop_train.benchmark.systems import clusters, from_file, pairs_of  # noqa: E402
from hiphop_train.graph.assemble import make_graph  # noqa: E402
from hiphop_train.types import Graph  # noqa: E402

FOLDER = REPOSITORY.parent / "shared" / "data" / "structures"
ELEMENTS = ["H", "C", "N", "O"]
SYSTEMS = {"chignolin": "chignolin.pdb", "dhfr": "dhfr.pdb"}


def graph_of(name: str, cutoff: float) -> Graph:
    """Return the graph of a protein, or of the molecules of a training step."""
    if name == "step":
        structures = clusters(32, seed=0)
        numbers, positions, sizes = structures.numbers, structures.positions.astype(float), structures.sizes.tolist()
        cell, pbc = structures.cell, structures.pbc
    else:
        system = from_file(FOLDER / SYSTEMS[name])
        numbers, positions, sizes = system.numbers, system.positions, [len(system)]
        cell, pbc = system.cell[None], system.pbc[None]
    pairs = pairs_of(positions, cell, pbc, sizes, cutoff)
    species = torch.tensor(
        [ELEMENTS.index("O" if symbol == "S" else symbol) for symbol in (chemical_symbols[k] for k in numbers)]
    )
    system_of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    tensors = [torch.from_numpy(each) for each in (positions, cell, pbc)]
    found = [torch.from_numpy(each) for each in pairs]
    return make_graph(species, *tensors, system_of, len(sizes), *found, torch.float32)


def loss_of(outputs: dict[str, Tensor], graph: Graph) -> Tensor:
    """Squares of all energies and forces: what a loss differentiates."""
    loss: Tensor = outputs["energy"].square().sum() + outputs["forces"].square().sum()
    return loss


def sides(name: str, variant: str, system: str) -> tuple[Graph, dict[str, Callable[[], list[Tensor]]]]:
    """Return what is timed: each returns the outputs to be compared."""
    module = import_module(f"tests.references.{name}")
    potential, reference = module.make(getattr(module, variant), dtype=torch.float32)
    graph = graph_of(system, potential.cutoff)
    is_step = system == "step"
    potential.train(is_step)
    prepare = accelerate(potential, torch.float32, torch.device("cpu"), "training" if is_step else "inference").prepare
    prepared = prepare(graph)
    ours_parameters, their_parameters = (
        [p for p in m.parameters() if p.requires_grad] for m in (potential, reference.module)
    )

    def ours() -> list[Tensor]:
        outputs = potential(prepared)
        if is_step:
            torch.autograd.grad(loss_of(outputs, graph), ours_parameters)
        return [outputs[key].detach() for key in ("energy", "forces")]

    def library() -> list[Tensor]:
        outputs = reference(graph, training=is_step)
        if is_step:
            torch.autograd.grad(loss_of(outputs, graph), their_parameters, allow_unused=True)
        return [outputs[key].detach() for key in ("energy", "forces")]

    if not is_step:
        reference.module.requires_grad_(False)
    return graph, {"ours": ours, "library": library}


def measure(name: str, variant: str, system: str, rounds: int, side: str | None) -> dict[str, Any]:
    """Time both sides in turn."""
    graph, runs = sides(name, variant, system)
    found: dict[str, Any] = {
        "model": name,
        "size": variant,
        "system": system,
        "n_atoms": len(graph.species),
        "n_pairs": len(graph.pair_i),
    }
    if side:
        for _ in range(3):
            runs[side]()
        return found | {"side": side, "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    (e, f), (e0, f0) = runs["ours"](), runs["library"]()
    found["energy_deviation"] = float((e - e0).abs().max() / e0.abs().max())
    found["force_deviation"] = float((f - f0).abs().max() / f0.abs().max())
    times: dict[str, list[float]] = {key: [] for key in runs}
    for number in range(rounds + 1):
        for key, run in runs.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                times[key].append(time.perf_counter() - started)
    ratios = [b / a for a, b in zip(times["ours"], times["library"], strict=True)]
    found |= {f"{key}_ms": 1e3 * statistics.median(each) for key, each in times.items()}
    return found | {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models, by default all of tests/references")
    parser.add_argument("--systems", default="chignolin,step", help="chignolin, dhfr, step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=["ours", "library"])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    memory.keep_freed_memory()
    modules = sorted(file.stem for file in (REPOSITORY / "tests" / "references").glob("*.py"))
    names = arguments.names or [name for name in modules if name not in ("__init__", "common")]
    results = []
    for given in names:
        name, _, variant = given.partition(":")
        for system in arguments.systems.split(","):
            found = measure(name, variant or "PUBLISHED", system, arguments.rounds, arguments.side)
            results.append(found)
            print(
                "  ".join(
                    f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in found.items()
                ),
                flush=True,
            )
            if arguments.output:
                arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
