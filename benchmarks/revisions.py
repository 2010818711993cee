"""How the present code compares with an earlier commit: times in turns, and whether the numbers are the same.

Each of the two runs in a process of its own. Potentials are untrained, with the default settings of `conf/model` and
the same weights; float32 is timed, float64 compared. Works are energy and forces of each structure, and a training step
of 32 molecules of 15 atoms (energy, forces, loss, gradient, Adam).

    python benchmarks/revisions.py COMMIT --models schnet ani bp --structures FILE.pdb ... --output FILE.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ELEMENTS = [1, 6, 7, 8, 16]
TRAINING = "training step"


class Works:
    """What one revision does, in its own process."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, str], Any] = {}

    def make(self, model: str, work: str, dtype_name: str) -> Any:
        """Return a function that does the work once and returns energies and forces."""
        import torch

        from hiphop_train import build
        from hiphop_train.benchmark import systems
        from hiphop_train.compilation import compile_potential
        from hiphop_train.config import load_config
        from hiphop_train.graph.assemble import make_graph
        from hiphop_train.training import module

        dtype = getattr(torch, dtype_name)
        section = load_config("train", [f"model={model}", "model.elements=[H,C,N,O,S]"]).model
        torch.manual_seed(0)
        potential = build.make_potential(section, dtype)
        compile_potential(potential, "auto", dtype, torch.device("cpu"))
        if work == TRAINING:
            found = systems.batch_of(systems.clusters(32, 0), potential.cutoff)
        else:
            found = systems.work_of(systems.from_file(Path(work)), potential.cutoff)
        arrays = (found.positions, found.cell, found.pbc, found.system)
        positions, cell, pbc, system = (torch.from_numpy(array) for array in arrays)
        species = torch.tensor([ELEMENTS.index(number) for number in found.numbers.tolist()])
        pairs = (torch.from_numpy(found.pair_i), torch.from_numpy(found.pair_j), torch.from_numpy(found.pair_shift))
        graph = make_graph(species, positions, cell, pbc, system, found.n_systems, *pairs, dtype)
        prepare = getattr(potential, "preparation", None)
        if work != TRAINING:
            potential.eval().requires_grad_(False)
            return lambda: potential(graph)
        potential.train()
        graph = prepare(graph) if prepare else graph
        optimizer = torch.optim.Adam(potential.parameters(), lr=1e-6)
        differentiate = getattr(module, "differentiate", lambda loss, potential: loss.backward())

        def step() -> Any:
            outputs = potential(graph)
            optimizer.zero_grad()
            loss = outputs["energy"].square().mean() * 1e-4 + (outputs["forces"] - 0.1).square().mean()
            differentiate(loss, potential)
            optimizer.step()
            return outputs

        return step

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one work some times; energies and forces go to a file where one is named."""
        import numpy as np

        key = (request["model"], request["work"], request["dtype"])
        if key not in self.kept:
            self.kept = {key: self.make(*key)}
        started = time.perf_counter()
        for _ in range(request["count"]):
            outputs = self.kept[key]()
        elapsed = time.perf_counter() - started
        if request["file"]:
            np.savez(request["file"], **{name: outputs[name].detach().numpy() for name in ("energy", "forces")})
        return {"milliseconds": 1000 * elapsed / request["count"]}


def serve(root: str, threads: int) -> None:
    """Answer requests, one JSON a line, with the code of a folder."""
    sys.path.insert(0, root)
    import torch

    import hiphop_train
    from hiphop_train.memory import keep_freed_memory

    assert Path(hiphop_train.__file__).is_relative_to(root), hiphop_train.__file__
    torch.set_num_threads(threads)
    keep_freed_memory()
    works = Works()
    for line in sys.stdin:
        print(json.dumps(works.answer(json.loads(line))), flush=True)


def compare(processes: dict[str, Any], model: str, work: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Time one work by both in turns, and compare their numbers."""
    import numpy as np

    def ask(name: str, dtype: str, count: int, file: Path | None = None) -> float:
        request = {"model": model, "work": work, "dtype": dtype, "count": count, "file": file and str(file)}
        processes[name].stdin.write(json.dumps(request) + "\n")
        processes[name].stdin.flush()
        return float(json.loads(processes[name].stdout.readline())["milliseconds"])

    outputs = {}
    for name in processes:
        ask(name, "float64", 1, folder / f"{name}.npz")
        with np.load(folder / f"{name}.npz") as arrays:
            outputs[name] = dict(arrays)
    differences = {
        key: float(f"{np.abs(outputs['now'][key] - value).max() / np.abs(value).max():.2g}")
        for key, value in outputs["before"].items()
    }
    count = {name: max(1, int(300 / ask(name, "float32", 3))) for name in processes}
    times: dict[str, list[float]] = {name: [] for name in processes}
    for turn in range(rounds):
        for name in list(processes)[:: 1 if turn % 2 else -1]:
            times[name].append(ask(name, "float32", count[name]))
    ratios = sorted(before / now for before, now in zip(times["before"], times["now"], strict=True))
    row = {
        "model": model,
        "work": Path(work).stem,
        **{f"{name}_milliseconds": float(f"{np.median(values):.4g}") for name, values in times.items()},
        "ratio": [round(ratios[k], 2) for k in (rounds // 2, 0, -1)],
        "largest_relative_differences_float64": differences,
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--structures", nargs="*", type=Path, default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subprocess.run(["git", "clone", "-q", "--shared", str(here), str(folder / "before")], check=True)
        subprocess.run(["git", "-C", str(folder / "before"), "checkout", "-q", options.commit], check=True)
        roots = {"before": folder / "before", "now": here}
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
        works = [*(str(file.resolve()) for file in options.structures), TRAINING]
        rows = [compare(processes, model, work, options.rounds, folder) for model in options.models for work in works]
        for process in processes.values():
            process.communicate()
    found = {"before": options.commit, "threads": options.threads, "rounds": options.rounds, "rows": rows}
    options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        main()
