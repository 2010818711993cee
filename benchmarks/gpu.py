"""What docs/gpu.md says, on a GPU: equal numbers, no waiting, time and memory of steps, whole trainings.

    python benchmarks/gpu.py                        all parts, some five minutes on an H100
    python benchmarks/gpu.py equal steps            some of them: waits, equal, steps, tables, dynamics, trainings
    python benchmarks/gpu.py --device cpu --short   whether the script itself works

Each part prints its lines as it goes and is stored at once; a part that fails is written down as that.
"""

import argparse
import faulthandler
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols

from hiphop_train import build
from hiphop_train.accelerate import accelerate, tables
from hiphop_train.benchmark.systems import water
from hiphop_train.config import load_config
from hiphop_train.data.batching.transfer import to_device
from hiphop_train.graph.assemble import make_graph
from hiphop_train.graph.neighbours import neighbours
from hiphop_train.training.module import PotentialModule
from hiphop_train.types import Batch

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "gpu.json"
MODELS = sorted(file.stem for file in (ROOT / "conf" / "model").glob("*.yaml"))
WIDE = {"hipnn", "hipnn_ts", "hiphop", "schnet"}
"""Models whose features are multiplied in wide matrices, for which precision matters."""


class Bench:
    """Device, and whether everything is made small.

    Parameters
    ----------
    device : where the work is done
    short : one round, small batches
    """

    def __init__(self, device: str, short: bool) -> None:
        self.device = torch.device(device)
        self.short = short

    def make(self, model: str, dtype: str, precision: str, size: int) -> tuple[PotentialModule, Batch]:
        """Return module and batch of a training, on the device."""
        config = load_config(
            "train", ["data.check=false", f"model={model}", f"data.batch_size={size}", f"dtype={dtype}"]
        )
        config.optimizer.fused = self.device.type == "cuda"
        torch.manual_seed(0)
        kind = build.DTYPES[dtype]
        potential = build.make_potential(config.model, kind)
        data = build.make_data(config.data, potential, kind, 0)
        statistics_of_labels = data.statistics()
        potential.set_statistics(statistics_of_labels.e0, statistics_of_labels.scale)
        module = PotentialModule(
            potential.to(self.device),
            build.make_part(config.loss, "loss"),
            build.make_part(config.optimizer, "optimizer", params=list(potential.parameters())),
            build.make_part(config.scheduler, "scheduler"),
            {},
        ).to(self.device)
        fast = accelerate(potential, kind, self.device, "training", "auto", precision)
        data.prepare = fast.prepare
        batch = next(iter(data.train_dataloader()))
        return module, self.moved(batch)

    def moved(self, batch: Batch) -> Batch:
        """Return a batch on the device."""
        if self.device.type == "cpu":
            return batch
        there: Batch = to_device(batch, self.device)
        return there

    def milliseconds(self, work: Callable[[], Any], seconds: float = 0.5) -> float:
        """Return the median time of single calls, after a warm-up."""
        for _ in range(1 if self.short else 3):
            work()
        self.wait()
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < 3 or (time.perf_counter() - start < seconds and not self.short):
            before = time.perf_counter()
            work()
            self.wait()
            times.append(1000 * (time.perf_counter() - before))
        return statistics.median(times)

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak(self) -> float:
        """Return the largest memory since the last call, MiB."""
        if self.device.type != "cuda":
            return 0.0
        found = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return found


def step(module: PotentialModule, batch: Batch) -> None:
    """Make a step as a training does."""
    module.optimizer.zero_grad()
    module.backward(module._loss(batch))
    torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0)
    module.optimizer.step()


def waits(bench: Bench) -> Iterator[dict[str, Any]]:
    """Run the tests that refuse a step which waits for the device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "gpu", "--tb=short"]
    done = subprocess.run(
        [*command, "tests/training/test_host_synchronisation.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    yield {"code": done.returncode, "said": done.stdout[-3000:]}


def equal(bench: Bench) -> Iterator[dict[str, Any]]:
    """Compare energies, forces and the gradient of the loss with the CPU's in float64."""
    cpu = Bench("cpu", True)
    for model in MODELS:
        found = {}
        reference = outputs(*cpu.make(model, "float64", "full", 32))
        for dtype, precision in (("float64", "full"), ("float32", "full"), ("float32", "bf16-mixed")):
            ours = outputs(*bench.make(model, dtype, precision, 32))
            for key, value in ours.items():
                error = float((value - reference[key]).square().mean().sqrt())
                size = float(reference[key].square().mean().sqrt())
                found[f"{key}, {dtype if precision == 'full' else precision}"] = error / size
        yield {"model": model, **found}


def outputs(module: PotentialModule, batch: Batch) -> dict[str, torch.Tensor]:
    """Return forces, energy without E0, and gradient, in float64 on the CPU."""
    module.backward(module._loss(batch))
    gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    result = module.potential(batch.graph)
    per_atom = module.potential.e0[batch.graph.theory[batch.graph.system], batch.graph.species]
    e0 = torch.zeros_like(result["energy"]).index_add(0, batch.graph.system, per_atom)
    found = {"energy": result["energy"] - e0, "forces": result["forces"], "gradient": gradient}
    return {key: value.detach().double().cpu() for key, value in found.items()}


def steps(bench: Bench) -> Iterator[dict[str, Any]]:
    """Time training steps by model, precision and size of the batch."""
    for model in MODELS:
        for precision, matmul in (("full", "highest"), ("full", "high"), ("bf16-mixed", "highest")):
            if precision + matmul != "fullhighest" and model not in WIDE:
                continue
            for size in (32,) if bench.short else (32, 256, 1380):
                torch.set_float32_matmul_precision(matmul)
                bench.peak()
                module, batch = bench.make(model, "float32", precision, size)
                taken = bench.milliseconds(lambda m=module, b=batch: step(m, b))
                atoms = len(batch.graph.species)
                yield {
                    "model": model,
                    "precision": precision,
                    "matmul": matmul,
                    "structures": size,
                    "atoms": atoms,
                    "pairs": len(batch.graph.pair_i),
                    "ms": taken,
                    "atoms/s": 1000 * atoms / taken,
                    "peak MiB": bench.peak(),
                }
    torch.set_float32_matmul_precision("highest")


@contextmanager
def entries_of_tables(entries: int, window: int) -> Iterator[None]:
    """Let neighbour tables have blocks of another size."""
    before = tables.make_table.__defaults__
    tables.make_table.__defaults__ = (entries, window)
    try:
        yield
    finally:
        tables.make_table.__defaults__ = before


def tables_of_sizes(bench: Bench) -> Iterator[dict[str, Any]]:
    """Time steps of the HIP models with blocks of neighbour tables of several sizes."""
    for model in ("hipnn", "hipnn_ts", "hiphop"):
        for size in (32,) if bench.short else (32, 256, 1380):
            for entries, window in ((4096, 4096), (1 << 16, 1 << 14), (1 << 20, 1 << 18)):
                with entries_of_tables(entries, window):
                    module, batch = bench.make(model, "float32", "full", size)
                    taken = bench.milliseconds(lambda m=module, b=batch: step(m, b))
                blocks = [v for k, v in batch.graph.extras.items() if k.endswith("blocks")]
                n_blocks, filled = sum(len(b) for b in blocks), sum(int((b[:, 1] * b[:, 3]).sum()) for b in blocks)
                yield {
                    "model": model,
                    "structures": size,
                    "entries": entries,
                    "blocks": n_blocks,
                    "filled": filled,
                    "pairs": len(batch.graph.pair_i),
                    "ms": taken,
                    "peak MiB": bench.peak(),
                }


def dynamics(bench: Bench) -> Iterator[dict[str, Any]]:
    """Time energies and forces of boxes of water, neighbour search included."""
    for model in ("hipnn", "hiphop", "schnet"):
        config = load_config("train", [f"model={model}"])
        for n_atoms in (192,) if bench.short else (192, 3000, 24000):
            torch.manual_seed(0)
            potential = build.make_potential(config.model, torch.float32).to(bench.device)
            accelerate(potential, torch.float32, bench.device, "inference")
            box = water(n_atoms, 0)
            symbols = [potential.elements.index(chemical_symbols[number]) for number in box.numbers]
            species = torch.tensor(symbols, device=bench.device)
            positions = torch.from_numpy(box.positions).to(bench.device)
            cell = torch.from_numpy(box.cell).to(bench.device)
            pbc = torch.ones(3, dtype=torch.bool, device=bench.device)
            system = torch.zeros(n_atoms, dtype=torch.int64, device=bench.device)

            def work(potential: Any = potential, given: Any = (species, positions, cell, pbc, system)) -> Any:
                species, positions, cell, pbc, system = given
                pairs = neighbours(positions, cell, pbc, potential.cutoff)
                return potential(
                    make_graph(species, positions, cell[None], pbc[None], system, 1, *pairs, torch.float32)
                )

            bench.peak()
            taken = bench.milliseconds(work)
            yield {
                "model": model,
                "atoms": n_atoms,
                "ms": taken,
                "us/atom": 1000 * taken / n_atoms,
                "peak MiB": bench.peak(),
            }


def trainings(bench: Bench) -> Iterator[dict[str, Any]]:
    """Run whole trainings by the command line, and faults."""
    epochs = [f"trainer.max_epochs={2 if bench.short else 12}"]
    accelerator = [] if bench.device.type == "cuda" else ["trainer.accelerator=cpu"]
    if bench.device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def run(title: str, *words: str) -> dict[str, Any]:
            start = time.perf_counter()
            command = [sys.executable, "-m", "hiphop_train.cli", *words, *accelerator]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            said = done.stdout[-1500:] + done.stderr[-1500:] if done.returncode else done.stdout[-200:]
            found: dict[str, Any] = {"training": title, "code": done.returncode, "seconds": time.perf_counter() - start}
            metrics = [word.partition("=")[2] for word in words if word.startswith("run_dir=")]
            file = Path(metrics[0]) / "metrics.json"
            if file.is_file():
                found["metrics"] = json.loads(file.read_text())
            return {**found, "said": re.sub(r"\x1b\[[0-9;]*m", "", said)}

        base = ["model=hiphop", "data.num_workers=2", *epochs]
        short = ["model=hipnn", "trainer.max_epochs=4"]
        yield run("stopped after two seconds", *short, "trainer.max_time=00:00:00:02", f"run_dir={folder / 'stopped'}")
        yield run("and on", *short, f"run_dir={folder / 'stopped'}")
        yield run("rate too high", *short, "optimizer.lr=100", f"run_dir={folder / 'high'}")
        yield run("plain", *base, f"run_dir={folder / 'plain'}")
        huge = ["model=hiphop", "model.n_features=4096", "data.batch_size=1380", "trainer.max_epochs=1"]
        if bench.device.type == "cuda":
            yield run("memory too small", *huge, f"run_dir={folder / 'huge'}")
        yield run("TF32", *base, "trainer.matmul_precision=high", f"run_dir={folder / 'tf32'}")
        yield run("bf16", *base, "trainer.precision=bf16-mixed", f"run_dir={folder / 'bf16'}")


PARTS: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "waits": waits,
    "equal": equal,
    "steps": steps,
    "tables": tables_of_sizes,
    "dynamics": dynamics,
    "trainings": trainings,
}


def main() -> int:
    """Run parts, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--short", action="store_true", help="everything small")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the result is stored (%(default)s)")
    given = parser.parse_args()
    bench = Bench(given.device, given.short)
    gpu = torch.cuda.get_device_name() if bench.device.type == "cuda" else platform.processor()
    stored: dict[str, Any] = json.loads(given.output.read_text()) if given.output.is_file() else {}
    stored |= {"device": gpu, "torch": torch.__version__}
    failed = 0
    for name in given.parts or PARTS:
        start = time.perf_counter()
        faulthandler.dump_traceback_later(25, repeat=True)  # a machine that is lent is not waited for in the dark
        stored[name] = []
        print(f"== {name}", flush=True)
        try:
            for row in PARTS[name](bench):
                stored[name].append(row)
                print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
                sys.stdout.flush()
                given.output.write_text(json.dumps(stored, indent=1) + "\n")
                failed += bool(row.get("code")) and row.get("training") not in ("rate too high", "memory too small")
        except Exception:
            failed += 1
            stored[name].append({"failed": traceback.format_exc()[-2000:]})
            traceback.print_exc(limit=6, file=sys.stdout)
        print(f"== {name}: {time.perf_counter() - start:.0f} s", flush=True)
        given.output.write_text(json.dumps(stored, indent=1) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
