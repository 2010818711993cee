"""The time of energy and forces over the time that their multiply-adds alone would take on this machine.

The multiply-adds of the matrix products, forward and backward, are counted while the model runs (without those that are
repeated to save memory), those of the invariants from their programs; the machine's rate is that of products of square
matrices, measured in turns with the model. Distances, sensitivities, tensors and activations are not counted.

    python benchmarks/arithmetic_limit.py --structures FILE.pdb ... --features 128 256 --output FILE.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hiphop_train import build
from hiphop_train.accelerate import accelerate, table_convolution
from hiphop_train.accelerate.invariants import program_of
from hiphop_train.benchmark.systems import from_file, work_of
from hiphop_train.config import load_config
from hiphop_train.graph.assemble import make_graph
from hiphop_train.memory import keep_freed_memory
from hiphop_train.nn.invariants import Invariants
from hiphop_train.potential import Potential
from hiphop_train.types import Graph

ELEMENTS = ["H", "C", "N", "O", "S"]
CUTOFF = 6.5
SIZE = 3000
"""Rows and columns of the matrices."""


class Counter(TorchDispatchMode):
    """Counts the floating-point operations of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Add those of one call."""
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            given = {key: value for key, value in (kwargs or {}).items() if key != "out"}
            self.total += flop_registry[func.overloadpacket](*args, **given, out_val=result)
        return result


def potential_of(n_features: int) -> Potential:
    settings = {
        "n_features": n_features,
        "cutoff": CUTOFF,
        "n_sensitivities": 20,
        "soft_max": 5.5,
        "group_norm": "true",
    }
    overrides = [f"model.{key}={value}" for key, value in settings.items()]
    overrides += [f"model.elements=[{','.join(ELEMENTS)}]", "model=hiphop"]
    potential = build.make_potential(load_config("train", overrides).model, torch.float32)
    return potential.eval().requires_grad_(False)


def graph_of(file: Path) -> Graph:
    work = work_of(from_file(file), CUTOFF)
    species = torch.tensor([[1, 6, 7, 8, 16].index(number) for number in work.numbers.tolist()])
    arrays = (work.positions, work.cell, work.pbc, work.system)
    positions, cell, pbc, system = (torch.from_numpy(array) for array in arrays)
    pairs = (torch.from_numpy(work.pair_i), torch.from_numpy(work.pair_j), torch.from_numpy(work.pair_shift))
    return make_graph(species, positions, cell, pbc, system, 1, *pairs, torch.float32)


def multiply_adds(potential: Potential, graph: Graph, n_features: int) -> float:
    """Count those of matrix products as they run without recomputation, and those of the invariants' programs."""
    accelerate(potential, torch.float32, torch.device("cpu"), "training", choice=False)
    large, table_convolution.LARGE = table_convolution.LARGE, 2**62
    with Counter() as counter:
        potential(graph)
    table_convolution.LARGE = large
    program = program_of(Invariants("published", l_max=3, n_max=4))
    n_steps = len(program.steps) + len(program.gradient)
    return counter.total / 2 + 2 * n_steps * len(graph.species) * n_features


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - started)
    return times


def shares(potential: Potential, graph: Graph) -> dict[str, float]:
    """Return the shares of the operations that take most time."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        potential(graph)
    averages = found.key_averages()
    total = sum(entry.self_cpu_time_total for entry in averages)
    largest = sorted(averages, key=lambda entry: -entry.self_cpu_time_total)[:12]
    return {entry.key: round(entry.self_cpu_time_total / total, 3) for entry in largest}


def measure(file: Path, n_features: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    potential, graph = potential_of(n_features), graph_of(file)
    count = multiply_adds(potential, graph, n_features)
    acceleration = accelerate(potential, torch.float32, torch.device("cpu"), "inference")
    square = torch.randn(SIZE, SIZE)
    times = in_turns({"model": lambda: potential(graph), "square": lambda: square @ square}, rounds)
    ratios = sorted(m / (count * s / SIZE**3) for m, s in zip(times["model"], times["square"], strict=True))
    row = {
        "system": file.stem,
        "atoms": len(graph.species),
        "pairs": len(graph.pair_i),
        "features": n_features,
        "accelerated": str(acceleration),
        "multiply_adds": count,
        "rate_of_squares_per_second": round(SIZE**3 / sorted(times["square"])[rounds // 2], -9),
        "milliseconds": round(1000 * sorted(times["model"])[rounds // 2], 1),
        "limit_milliseconds": round(1000 * count * sorted(times["square"])[rounds // 2] / SIZE**3, 1),
        "times_above_the_limit": [round(ratios[k], 2) for k in (rounds // 2, 0, -1)],
        "shares": shares(potential, graph),
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=Path, nargs="+", required=True)
    parser.add_argument("--features", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    rows = [measure(file, n, options.rounds) for file in options.structures for n in options.features]
    if options.output:
        options.output.write_text(
            json.dumps({"threads": options.threads, "torch": torch.__version__, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
