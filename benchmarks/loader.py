"""Compare loaders, with and without pairs; writes benchmarks/results/loader.json.

    python benchmarks/loader.py [--conformations 204800] [--rounds 7]

All read the same conformations of about 15 atoms in batches of 256, in turns within one run: this package's loader (one
process; with two workers; two processes with four workers each), torchani's (batches made once and kept in HDF5 files,
as `ANIBatchedDataset` reads them, or in memory, as `ANIBatchedInMemoryDataset` yields them), and torchmd-net's
(`MemmappedDataset` with torch_geometric's DataLoader), where it is installed.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import multiprocessing

from hiphop_train.data.batching.dataset import BatchDataset
from hiphop_train.data.batching.loader import BatchLoader
from hiphop_train.data.batching.sampler import BatchSampler
from hiphop_train.data.structures import Structures

BATCH = 256
ELEMENTS = ["H", "C", "N", "O"]
CUTOFF = 6.5  # Angstrom


def make_structures(n: int, folder: Path) -> Structures:
    """Make random conformations, sizes and density like ANI-1x's, in files mapped into memory."""
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.normal(15.3, 4.5, n).round(), 2, 40).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    n_atoms = int(offsets[-1])
    edge = np.repeat(np.cbrt(sizes / 0.07), sizes)[:, None]  # atoms per cubic Angstrom
    arrays = {
        "numbers": rng.choice([1, 6, 7, 8], n_atoms).astype(np.uint8),
        "positions": rng.uniform(size=(n_atoms, 3)) * edge,
        "forces": rng.normal(size=(n_atoms, 3)),
        "cell": np.zeros((n, 3, 3)),
        "pbc": np.zeros((n, 3), np.bool_),
        "energy": rng.normal(size=n),
    }
    mapped: dict[str, Any] = {}
    for name, array in arrays.items():
        array.tofile(folder / name)
        mapped[name] = np.memmap(folder / name, array.dtype, "r", shape=array.shape)
    zeros = np.zeros(n, np.int64)
    return Structures(
        source="random", offsets=offsets, group=zeros, group_names=("all",),
        subset=zeros, subset_names=("all",), theory=zeros, theory_names=("default",), conformation=np.arange(n),
        geometry=np.arange(n).astype(np.uint64),
        labels={key: mapped.pop(key) for key in ("energy", "forces")}, **mapped,
    )  # fmt: skip


def ours(structures: Structures, pairs: bool, workers: int = 0, rank: int = 0, n_ranks: int = 1) -> BatchLoader:
    """Return this package's loader."""
    sampler = BatchSampler(np.arange(len(structures)), BATCH, 0, rank, n_ranks)
    return BatchLoader(BatchDataset(structures, ELEMENTS, CUTOFF, torch.float32, pairs), sampler, workers)


def torchani_batches(structures: Structures) -> list[dict[str, torch.Tensor]]:
    """Return padded batches, as torchani makes them once before training."""
    batches = []
    for share in BatchSampler(np.arange(len(structures)), BATCH, 0):
        chosen = structures.take(share.chosen)
        system = np.repeat(np.arange(len(chosen)), chosen.sizes)
        slot = np.arange(len(system)) - chosen.offsets[system]
        shape = (len(chosen), int(chosen.sizes.max()))
        species = np.full(shape, -1, np.int64)
        coordinates, forces = np.zeros((*shape, 3), np.float32), np.zeros((*shape, 3), np.float32)
        species[system, slot] = chosen.numbers
        coordinates[system, slot], forces[system, slot] = chosen.positions, chosen.forces
        batch = {"species": species, "coordinates": coordinates, "forces": forces, "energies": chosen.energy}
        batches.append({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in batch.items()})
    return batches


def torchani_loaders(structures: Structures, folder: Path) -> dict[str, Iterable[Any]]:
    """Return torchani's two loaders."""
    from torchani.datasets import ANIBatchedDataset, ANIBatchedInMemoryDataset

    batches = torchani_batches(structures)
    (folder / "training").mkdir(parents=True)
    for number, batch in enumerate(batches):
        with h5py.File(folder / "training" / f"{number:05d}.h5", "w") as file:
            for key, value in batch.items():
                file.create_dataset(key, data=value.numpy())
    return {
        "torchani, batches in files": ANIBatchedDataset(folder, split="training").as_dataloader(),
        "torchani, ready batches in memory": ANIBatchedInMemoryDataset(batches).as_dataloader(),
    }


def torchmdnet_loader(structures: Structures, folder: Path) -> Iterable[Any]:
    """Return torchmd-net's loader."""
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader
    from torchmdnet.datasets.memdataset import MemmappedDataset

    class Conformations(MemmappedDataset):  # type: ignore[misc]
        def sample_iter(self, mol_ids: bool = False) -> Iterable[Any]:
            for k in range(len(structures)):
                atoms = slice(structures.offsets[k], structures.offsets[k + 1])
                yield Data(
                    z=torch.tensor(structures.numbers[atoms].astype(np.int64)),
                    pos=torch.tensor(structures.positions[atoms].astype(np.float32)),
                    y=torch.tensor(structures.energy[k]).view(1, 1),
                    neg_dy=torch.tensor(structures.forces[atoms].astype(np.float32)),
                )

    return DataLoader(Conformations(str(folder), properties=("y", "neg_dy")), batch_size=BATCH, shuffle=True)


def one_epoch(loader: Iterable[Any]) -> float:
    """Seconds of one epoch."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def serve(rank: int, structures: Structures, pairs: bool, start: Any, done: Any, rounds: int) -> None:
    """Be one of two ranks: go through the epoch whenever the others are ready."""
    torch.set_num_threads(1)
    loader = ours(structures, pairs, 4, rank, 2)
    one_epoch(loader)  # starts the workers
    for _ in range(rounds):
        start.wait()
        one_epoch(loader)
        done.wait()


def two_ranks(structures: Structures, pairs: bool, rounds: int) -> tuple[Callable[[], float], Callable[[], None]]:
    """Start two ranks of four workers; returns what measures an epoch of both, and what ends them."""
    context = multiprocessing.get_context("fork")
    start, done = context.Barrier(3), context.Barrier(3)
    ranks = [context.Process(target=serve, args=(k, structures, pairs, start, done, rounds)) for k in (0, 1)]
    for process in ranks:
        process.start()

    def measure() -> float:
        start.wait()
        begin = time.perf_counter()
        done.wait()
        return time.perf_counter() - begin

    def end() -> None:
        for process in ranks:
            process.join()

    return measure, end


def summary(seconds: list[float], n: int) -> dict[str, float]:
    """Return median, lowest and highest speed, conformations per second."""
    speeds = n / np.array(seconds)
    values = {"median": np.median(speeds), "lowest": speeds.min(), "highest": speeds.max()}
    return {key: round(float(value)) for key, value in values.items()}


def main() -> None:
    """Measure all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conformations", type=int, default=204_800)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "loader.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        structures = make_structures(options.conformations, folder)
        n = len(structures)
        loaders: dict[str, Iterable[Any]] = {
            "with pairs": ours(structures, True),
            "without pairs": ours(structures, False),
            "with pairs, 2 workers": ours(structures, True, workers=2),
            "without pairs, 2 workers": ours(structures, False, workers=2),
            **torchani_loaders(structures, folder / "torchani"),
        }
        not_run: dict[str, str] = {}
        try:
            loaders["torchmd-net"] = torchmdnet_loader(structures, folder / "torchmdnet")
        except ImportError as error:
            not_run["torchmd-net"] = f"not installed here: {error}"
        ranks = {
            f"{name}, 2 ranks x 4 workers": two_ranks(structures, pairs, options.rounds)
            for name, pairs in (("with pairs", True), ("without pairs", False))
        }
        seconds: dict[str, list[float]] = {key: [] for key in (*loaders, *ranks)}
        for loader in loaders.values():
            one_epoch(loader)  # fills caches
        for _ in range(options.rounds):
            for key, loader in loaders.items():
                seconds[key].append(one_epoch(loader))
            for key, (measure, _) in ranks.items():
                seconds[key].append(measure())
        for _, end in ranks.values():
            end()
    ratios = {}
    for key, others in (
        ("without pairs", [name for name in loaders if name.startswith("torch")]),
        ("with pairs, 2 workers", ["with pairs"]),
        ("without pairs, 2 workers", ["without pairs"]),
        ("with pairs, 2 ranks x 4 workers", ["with pairs"]),
        ("without pairs, 2 ranks x 4 workers", ["without pairs"]),
    ):
        for other in others:
            ratio = np.array(seconds[other]) / np.array(seconds[key])
            ratios[f"{key} / {other}"] = {
                "median": round(float(np.median(ratio)), 2),
                "lowest": round(float(ratio.min()), 2),
                "highest": round(float(ratio.max()), 2),
            }
    result = {
        "conformations": n,
        "atoms": int(structures.offsets[-1]),
        "batch": BATCH,
        "cutoff": CUTOFF,
        "cores": os.cpu_count(),
        "conformations_per_second": {key: summary(value, n) for key, value in seconds.items()},
        "ratios_of_speed": ratios,
        "not_run": not_run,
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
