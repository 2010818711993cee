"""Conformations per second of our loader and of torchani's on the same data, in turns; our own is shuffled each epoch.

python benchmarks/loader.py [--rounds 5] [--conformations 20000] [--output benchmarks/results/loader.json]

The data are made here: open molecules of 15 atoms in the mean. Neither of torchani's loaders builds pairs, and both
collate before the first epoch, into batches that stay the same: one reads them from files, one holds them in memory.
Ranks are processes at the same time, each with its share of every batch; their start is part of the time.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from hiphop_train.data.batches import BatchDataset, BatchSampler
from hiphop_train.data.structures import Structures

BATCH = 256
CUTOFF = 6.5


def make_structures(n: int) -> Structures:
    """Random molecules as dense as real ones, with random labels."""
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.normal(15.3, 4.0, n).round(), 2, 40).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    n_atoms = int(offsets[-1])
    direction = rng.normal(size=(n_atoms, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    radius = np.repeat((3 * sizes / (4 * np.pi * 0.09)) ** (1 / 3), sizes)
    none = np.zeros(n, np.int64)
    return Structures(
        source="random",
        offsets=offsets,
        numbers=rng.choice([1, 6, 7, 8], n_atoms).astype(np.uint8),
        positions=(direction * (rng.uniform(size=n_atoms) ** (1 / 3) * radius)[:, None]).astype(np.float32),
        cell=np.broadcast_to(np.zeros((3, 3)), (n, 3, 3)),
        pbc=np.broadcast_to(np.zeros(3, np.bool_), (n, 3)),
        energy=rng.normal(size=n),
        forces=rng.normal(size=(n_atoms, 3)).astype(np.float32),
        has_forces=np.ones(n, np.bool_),
        group=none,
        group_names=("all",),
        subset=none,
        subset_names=("all",),
        level=none,
        level_names=("default",),
        conformation=np.arange(n),
        geometry=np.arange(n).astype(np.uint64),
    )


def our_loader(data: Structures, cutoff: float, workers: int = 0, rank: int = 0, n_ranks: int = 1) -> Iterable[object]:
    dataset = BatchDataset(data, ["H", "C", "N", "O"], cutoff, torch.float32)
    sampler = BatchSampler(np.arange(len(data)), BATCH, 0, rank, n_ranks)
    return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=workers)


def torchani_loaders(data: Structures, folder: Path) -> tuple[Iterable[object], Iterable[object]]:
    """Batches in files, and in memory."""
    os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
    from torchani.datasets import ANIBatchedDataset, ANIBatchedInMemoryDataset, ANIDataset, create_batched_dataset

    store = ANIDataset(folder / "data.h5", verbose=False)
    for n_atoms in np.unique(data.sizes).tolist():
        index = np.flatnonzero(data.sizes == n_atoms)
        part = data.take(index)
        conformers = {
            "species": part.numbers.reshape(-1, n_atoms).astype(np.int64),
            "coordinates": part.positions.reshape(-1, n_atoms, 3),
            "energies": part.energy,
            "forces": part.forces.reshape(-1, n_atoms, 3),
        }
        store.append_conformers(f"{n_atoms:03d}", {k: torch.from_numpy(v) for k, v in conformers.items()})
    splits = {"training": 1.0}
    create_batched_dataset(store, folder / "batched", BATCH, splits=splits, verbose=False, divs_seed=0, batch_seed=0)
    files = ANIBatchedDataset(folder / "batched", split="training")
    memory = ANIBatchedInMemoryDataset([files[k] for k in range(len(files))])
    return files.as_dataloader(), memory.as_dataloader()


def exhaust(loader: Iterable[object]) -> None:
    for _ in loader:
        pass


def in_ranks(data: Structures, n_ranks: int, workers: int) -> None:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(data, workers, rank, n_ranks)) for rank in range(n_ranks)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        if process.exitcode:
            raise RuntimeError("a rank failed")


def _rank(data: Structures, workers: int, rank: int, n_ranks: int) -> None:
    torch.set_num_threads(1)
    exhaust(our_loader(data, CUTOFF, workers, rank, n_ranks))


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--conformations", type=int, default=20_000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "loader.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = make_structures(arguments.conformations)
    with tempfile.TemporaryDirectory() as folder:
        files, memory = torchani_loaders(data, Path(folder))
        runs: dict[str, Callable[[], None]] = {
            "with pairs": lambda: exhaust(our_loader(data, CUTOFF)),
            "without pairs": lambda: exhaust(our_loader(data, 0.0)),
            "torchani, files": lambda: exhaust(files),
            "torchani, memory": lambda: exhaust(memory),
            "1 rank x 1 worker": lambda: in_ranks(data, 1, 1),
            "2 ranks x 4 workers": lambda: in_ranks(data, 2, 4),
        }
        speeds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(arguments.rounds + 1):  # the first warms up
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if turn:
                    speeds[name].append(len(data) / (time.perf_counter() - started))
    pairs = [
        ("without pairs", "torchani, files"),
        ("with pairs", "torchani, files"),
        ("without pairs", "torchani, memory"),
        ("2 ranks x 4 workers", "1 rank x 1 worker"),
    ]
    result = {
        "conformations": len(data),
        "batch": BATCH,
        "cutoff": CUTOFF,
        "rounds": arguments.rounds,
        "conformations_per_second": {name: spread(found) for name, found in speeds.items()},
        "ratios": {f"{a} / {b}": spread([x / y for x, y in zip(speeds[a], speeds[b], strict=True)]) for a, b in pairs},
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
