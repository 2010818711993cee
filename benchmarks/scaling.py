"""What docs/scaling.md counts: parameters, what is sent per step, states and their cost, orders of large data sets.

python benchmarks/scaling.py                      some minutes; 10^8 structures take 3 GB
python benchmarks/scaling.py --structures 5e6     smaller sets only
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hiphop_train import build, files
from hiphop_train.accelerate import accelerate
from hiphop_train.checkpoint import to_bytes
from hiphop_train.config import load_config
from hiphop_train.data.batching.sampler import BatchSampler
from hiphop_train.memory import forget_peak, peak_memory
from hiphop_train.training.module import PotentialModule

RESULTS = Path(__file__).parent / "results" / "scaling.json"
MODELS = {
    "hiphop, 96 features": ["model=hiphop"],
    "hiphop, 256 features": ["experiment=ani1x_hiphop_256"],
    "hipnn, 128 features": ["experiment=ani1x_hipnn"],
    "schnet": ["experiment=ani1x_schnet"],
    "ani": ["model=ani"],
}
LINK = {"NVLink, 8 GPUs": 300e9, "InfiniBand, 200 Gbit/s": 25e9, "Ethernet, 25 Gbit/s": 3e9}
"""Bytes per second that a GPU can send, from data sheets."""


class Operations(TorchDispatchMode):
    """Counts the operations of matrix products."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def model(words: list[str]) -> dict[str, Any]:
    """Parameters, time of a step of 64 molecules on this machine, size and cost of a state."""
    config = load_config("train", [*words, "data=tiny", "data.batch_size=64", "data.check=false"])
    torch.manual_seed(0)
    potential = build.make_potential(config.model, torch.float32)
    data = build.make_data(config.data, potential, torch.float32, 0)
    potential.set_statistics(data.statistics().e0, data.statistics().scale)
    optimizer = build.make_part(config.optimizer, "optimizer", params=list(potential.parameters()))
    parts = (build.make_part(config[key], key) for key in ("loss", "scheduler"))
    loss, schedule = parts
    module = PotentialModule(potential, loss, optimizer, schedule, {})
    plain = next(iter(data.train_dataloader()))
    with Operations() as counter:  # of the plain modules: twins compute less
        module.backward(module._loss(plain))
    data.prepare = accelerate(potential, torch.float32, torch.device("cpu"), "training").prepare
    batch = next(iter(data.train_dataloader()))
    times = []
    for _ in range(6):
        start = time.perf_counter()
        optimizer.zero_grad()
        module.backward(module._loss(batch))
        optimizer.step()
        times.append(time.perf_counter() - start)
    weights = {name: value.detach() for name, value in module.state_dict().items()}
    content = {"state_dict": weights, "average": {k: v.clone() for k, v in weights.items()}}
    content["optimizer"] = optimizer.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        sealed = to_bytes(content)
        files.write_bytes(Path(folder) / "last.ckpt", sealed)
        written = time.perf_counter() - start
    n = sum(p.numel() for p in potential.parameters())
    return {
        "parameters": n,
        "Mflop_per_atom": counter.total / len(plain.graph.species) / 1e6,
        "step_ms": 1000 * min(times[1:]),
        "atoms": len(batch.graph.species),
        "state_MB": len(sealed) / 1e6,
        "state_seconds": written,
        "sent_MB": 4 * n * 2 / 1e6,
        "send_ms": {name: 1000 * 8 * n / rate for name, rate in LINK.items()},
    }


def order(n: int, by_atoms: bool) -> dict[str, float]:
    """Time and memory of the order of an epoch of n structures, as each process makes it; in a process of its own."""
    n_atoms = np.random.default_rng(0).integers(2, 40, n)
    index = np.arange(n)
    forget_peak()
    before = peak_memory()
    sampler = BatchSampler(
        index, 4096 if not by_atoms else 65536, 0, 0, 64,
        cost=n_atoms.astype(np.float64) if by_atoms else None, n_atoms=n_atoms if by_atoms else None,
        bucket=50 if by_atoms else 1,
    )  # fmt: skip
    start = time.perf_counter()
    shares = iter(sampler)
    next(shares)
    first = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(200):
        next(shares)
    taken = time.perf_counter() - start
    return {
        "structures": n,
        "first_seconds": first,
        "batch_ms": 1000 * taken / 200,
        "memory_MB": (peak_memory() - before) / 1e6,
    }


def best_interval(state_seconds: float, processes: int, years: float) -> float:
    """Minutes between states that lose least, sqrt(2 d M) (Young, Commun. ACM 17, 530, 1974).

    Parameters
    ----------
    state_seconds : d, of writing a state
    processes : of which each fails once in so many `years`
    """
    between = years * 365.25 * 86400 / processes
    return math.sqrt(2 * state_seconds * between) / 60


def main() -> int:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=float, default=1e8, help="of the largest set (%(default)g)")
    parser.add_argument("--order", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the result is stored (%(default)s)")
    given = parser.parse_args()
    if given.order:
        print(json.dumps(order(int(given.order[0]), given.order[1] == "atoms")))
        return 0
    found: dict[str, Any] = {"models": {}, "orders": {}}
    for name, words in MODELS.items():
        found["models"][name] = row = model(words)
        row["interval_minutes"] = {n: best_interval(row["state_seconds"], n, 5.0) for n in (1, 64, 1024, 8192)}
        print(name, json.dumps(row), flush=True)
    for n in (5_000_000, 20_000_000, 100_000_000):
        for kind in ("structures", "atoms"):
            if n <= given.structures:
                command = [sys.executable, __file__, "--order", str(n), kind]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found["orders"][f"{n:.0e} by {kind}"] = json.loads(done.stdout)
                print(n, kind, done.stdout.strip(), flush=True)
    given.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
