"""Compare the present code with an earlier commit: times in turns, and whether the numbers are the same.

Each of the two runs in a process of its own, with the same structures and weights; potentials are untrained, with the
default settings of `conf/model`. float32 is timed, float64 compared. The work is energy and forces of each structure
and box of water with given pairs, and a training step on 32 molecules of 15 atoms (energy, forces, loss, gradient,
Adam). Each row has the median times, the ratio before / now (median, lowest, highest of the rounds; above 1 is faster
now), and the largest difference of energies, forces and gradients over the largest value.

    python benchmarks/revisions.py COMMIT --structures FILE.pdb ... --water 100000 --output FILE.json
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
ELEMENTS = ["H", "C", "N", "O", "S"]
NUMBERS = [1, 6, 7, 8, 16]
TRAINING = "training step"
TURN = 300.0
"""Milliseconds that one turn takes at least."""

Outputs = dict[str, torch.Tensor]


# In the process of a revision. What has changed between revisions is imported under its new name, or else the old one.


def accelerated(potential: Any, dtype: torch.dtype, purpose: str) -> Callable[[Any], Any]:
    """Accelerate a potential as its revision does; returns what its loader does to graphs."""
    try:
        from hiphop_train.accelerate import accelerate
    except ImportError:
        from hiphop_train.compilation import compile_potential

        compile_potential(potential, "auto", dtype, torch.device("cpu"))
        return getattr(potential, "preparation", None) or (lambda graph: graph)
    return accelerate(potential, dtype, torch.device("cpu"), purpose).prepare


def make(model: str, work: str, dtype_name: str, weights: str) -> Callable[[], Outputs]:
    """Return a function that does some work once.

    Parameters
    ----------
    model : name in conf/model
    work : file with the structures
    dtype_name : of the network
    weights : file with its state dictionary; written by the first process that needs it
    """
    from hiphop_train import build
    from hiphop_train.config import load_config
    from hiphop_train.graph.assemble import make_graph
    from hiphop_train.graph.neighbours import batch_neighbours

    dtype = getattr(torch, dtype_name)
    section = load_config("train", [f"model={model}", f"model.elements=[{','.join(ELEMENTS)}]"]).model
    torch.manual_seed(0)
    potential = build.make_potential(section, dtype)
    if not Path(weights).is_file():
        torch.save(potential.state_dict(), weights)
    potential.load_state_dict(torch.load(weights, weights_only=True))
    with np.load(work) as arrays:
        numbers, *rest = (arrays[key] for key in ("numbers", "positions", "cell", "pbc", "system"))
    positions, cell, pbc, system = map(torch.from_numpy, rest)
    species = torch.tensor([NUMBERS.index(number) for number in numbers.tolist()])
    pairs = batch_neighbours(positions, torch.bincount(system), cell, pbc, potential.cutoff)[:3]
    graph = make_graph(species, positions, cell, pbc, system, len(cell), *pairs, dtype)
    if Path(work).stem != TRAINING:
        potential.eval().requires_grad_(False)
        accelerated(potential, dtype, "inference")
        return lambda: potential(graph)
    potential.train()
    graph = accelerated(potential, dtype, "training")(graph)
    return training_step(potential, graph)


def training_step(potential: Any, graph: Any) -> Callable[[], Outputs]:
    """Return a function that does a step and returns energies, forces and the gradient of the loss."""
    try:
        from hiphop_train.training.module import differentiate
    except ImportError:

        def differentiate(loss: torch.Tensor, potential: Any) -> None:
            loss.backward()

    optimizer = torch.optim.Adam(potential.parameters(), lr=1e-6)

    def step() -> Outputs:
        outputs = potential(graph)
        optimizer.zero_grad()
        loss = outputs["energy"].square().mean() * 1e-4 + (outputs["forces"] - 0.1).square().mean()
        differentiate(loss, potential)
        optimizer.step()
        found = {name: part.grad.flatten() for name, part in potential.named_parameters() if part.grad is not None}
        return {**outputs, "gradient": torch.cat([found[name] for name in sorted(found)])}

    return step


def answer(kept: dict[tuple[str, ...], Callable[[], Outputs]], request: dict[str, Any]) -> float:
    """Do some work repeatedly; returns the milliseconds of one repetition. Outputs go to a file if one is named.

    Parameters
    ----------
    kept : key -> function of the last work
    request : key (arguments of `make`), count, file, warm_up (whether to do the work once before)
    """
    key = tuple(request["key"])
    if key not in kept:
        kept.clear()
        kept[key] = make(*key)
    call = kept[key]
    outputs: Outputs = {}
    if request["warm_up"] and not request["file"]:  # a training step changes what is compared
        call()
    started = time.perf_counter()
    for _ in range(request["count"]):
        outputs = call()
    elapsed = time.perf_counter() - started
    if request["file"]:
        chosen = {name: value for name, value in outputs.items() if name in ("energy", "forces", "gradient")}
        np.savez(request["file"], **{name: value.detach().numpy() for name, value in chosen.items()})
    return 1000 * elapsed / request["count"]


def make_room() -> bool:
    """Give freed memory back if the other process may need it; returns whether that was done."""
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    if sizes["MemAvailable"] > sizes["MemTotal"] / 2:
        return False
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return True


def serve(root: str, threads: int) -> None:
    """Answer requests, one JSON per line, with the code in a folder."""
    sys.path.insert(0, root)
    import hiphop_train
    from hiphop_train.memory import keep_freed_memory

    assert Path(hiphop_train.__file__).is_relative_to(root), hiphop_train.__file__
    torch.set_num_threads(threads)
    keep_freed_memory()
    kept: dict[tuple[str, ...], Callable[[], Outputs]] = {}
    warm_up = False  # to have the memory again before timing
    for line in sys.stdin:
        milliseconds = answer(kept, {**json.loads(line), "warm_up": warm_up})
        warm_up = make_room()
        print(json.dumps(milliseconds), flush=True)


# In the process of the comparison.


def write_work(folder: Path, structures: Sequence[Path], water: Sequence[int]) -> list[Path]:
    """Write the structures of all work, which both revisions read; returns the files."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from hiphop_train.benchmark import systems

    work = {file.stem: systems.work_of(systems.from_file(file), None) for file in structures}
    work |= {f"water, {n:,} atoms": systems.work_of(systems.water(n, seed=0), None) for n in (n - n % 3 for n in water)}
    work[TRAINING] = systems.batch_of(systems.clusters(32, seed=0), None)
    files = []
    for name, found in work.items():
        files.append(folder / f"{name}.npz")
        found.save(files[-1])
    return files


def compare(processes: dict[str, Any], model: str, work: Path, rounds: int, folder: Path) -> dict[str, Any]:
    """Compare the numbers of both for some work, and time them in turns."""

    def ask(name: str, dtype: str, count: int, file: Path | None = None) -> float:
        key = [model, str(work), dtype, str(folder / f"{model}.pt")]
        request = {"key": key, "count": count, "file": file and str(file)}
        process = processes[name]
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {name}: {model}, {work.stem}: the process ended; its message is above")
        return float(json.loads(line))

    outputs = {}
    for name in processes:
        ask(name, "float64", 1, folder / f"{name}.npz")
        with np.load(folder / f"{name}.npz") as arrays:
            outputs[name] = dict(arrays)
    differences = {
        key: float(f"{np.abs(outputs['now'][key] - value).max() / np.abs(value).max():.2g}")
        for key, value in outputs["before"].items()
    }
    count = {name: max(1, int(TURN / ask(name, "float32", 2))) for name in processes}
    times: dict[str, list[float]] = {name: [] for name in processes}
    for turn in range(rounds):
        for name in list(processes)[:: 1 if turn % 2 else -1]:
            times[name].append(ask(name, "float32", count[name]))
    ratios = sorted(before / now for before, now in zip(times["before"], times["now"], strict=True))
    row = {
        "model": model,
        "work": work.stem,
        **{f"{name}_milliseconds": float(f"{np.median(values):.4g}") for name, values in times.items()},
        "ratio": [round(ratios[k], 2) for k in (rounds // 2, 0, -1)],
        "largest_relative_differences_float64": differences,
    }
    print(json.dumps(row), flush=True)
    return row


def models_of(root: Path) -> set[str]:
    """Return the names of a revision's models."""
    return {file.stem for file in (root / "conf" / "model").glob("*.yaml")}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--models", nargs="+", help="default: all that both revisions have")
    parser.add_argument("--structures", nargs="*", type=Path, default=[], help="files that ASE reads")
    parser.add_argument("--water", nargs="*", type=int, default=[], help="atoms of generated boxes of water")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        roots = {"before": folder / "before", "now": ROOT}
        subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(roots["before"])], check=True)
        subprocess.run(["git", "-C", str(roots["before"]), "checkout", "-q", options.commit], check=True)
        work = write_work(folder, options.structures, options.water)
        processes = {
            name: subprocess.Popen(
                [sys.executable, __file__, "--serve", str(root), str(options.threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=root,
                env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
            )
            for name, root in roots.items()
        }
        rows = []
        try:
            for model in options.models or sorted(models_of(roots["before"]) & models_of(ROOT)):
                rows += [compare(processes, model, file, options.rounds, folder) for file in work]
        finally:
            for process in processes.values():
                process.communicate()
    found = {"before": options.commit, "threads": options.threads, "rounds": options.rounds, "rows": rows}
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main())
