"""Packing of a file of ANI-1x's size: speed, memory, opening; memory of a training from it and of checking it.

    python benchmarks/packing.py FOLDER --output benchmarks/results/packing.json      # 8 GB of disk, some minutes

The file has the release's structure and counts (3,114 groups, 4,956,005 conformations, about 76 million atoms) with
random labels: coordinates, wb97x_dz and wb97x_tz energies and forces, coupled-cluster energies for a tenth, and arrays
that the reader skips. Memory is the highest RssAnon + RssShmem of the process, sampled every 10 ms: mapped pages of
files do not count, since the system reclaims them when it needs them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

N_GROUPS, N_CONFORMATIONS = 3114, 4_956_005
PACK = """
import sys, time
started = time.perf_counter()
from pathlib import Path
from hiphop_train.config import load_config
from hiphop_train import build
config = load_config("train", ["data=ani1x", f"data.path={sys.argv[1]}"])
reader = build.make_data(config.data, build.make_potential(config.model, build.DTYPES["float32"]), None, 0).reader
from hiphop_train.data.store.pack import pack
ready = time.perf_counter()
packed = pack(reader, Path(sys.argv[2]))
print("seconds", time.perf_counter() - ready, len(packed.structures), len(packed.structures.numbers))
"""
OPEN = """
import sys, time
from pathlib import Path
from hiphop_train.data.store.layout import open_packed
started = time.perf_counter()
packed = open_packed(Path(sys.argv[1]))
packed.structures.take(__import__("numpy").array([0, len(packed.structures) - 1]))
print("seconds", time.perf_counter() - started)
"""
CHECK = """
import sys
from hiphop_train.cli import run
code = run("data", sys.argv[1:])
sys.exit(0 if code == 3 else code)  # 3: random labels contradict everything
"""


def make(file: Path, n_conformations: int) -> None:
    """Write the file; sizes follow the release's mean of 15.3 atoms and spread of 5."""
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.normal(15.3, 5.0, N_GROUPS).round(), 2, 63).astype(int)
    counts = rng.multinomial(n_conformations - N_GROUPS, rng.dirichlet(np.full(N_GROUPS, 0.7))) + 1
    with h5py.File(file, "w") as handle:
        for k, (n_atoms, n) in enumerate(zip(sizes.tolist(), counts.tolist(), strict=True)):
            heavy = max(1, n_atoms // 2)
            numbers = np.sort(np.concatenate([rng.choice([6, 7, 8], heavy), np.ones(n_atoms - heavy, int)]))[::-1]
            group = handle.create_group(f"group{k:04d}")
            group["atomic_numbers"] = numbers.astype("u1")
            # a grid with some noise: no two atoms coincide
            grid = 1.5 * np.stack(np.unravel_index(np.arange(n_atoms), (4, 4, 4)), axis=1)
            positions = np.tile(grid.astype("f4"), (n, 1, 1))
            positions += 0.1 * rng.standard_normal(positions.shape, dtype=np.float32)
            group["coordinates"] = positions
            for theory in ("wb97x_dz", "wb97x_tz"):
                energy = -10.0 * numbers.sum() + 0.02 * rng.standard_normal(n)
                forces = 0.05 * rng.standard_normal(positions.shape, dtype=np.float32)
                if theory == "wb97x_tz":
                    missing = rng.random(n) < 0.1
                    energy[missing], forces[missing] = np.nan, np.nan
                group[f"{theory}.energy"], group[f"{theory}.forces"] = energy, forces
            group["ccsd(t)_cbs.energy"] = np.where(rng.random(n) < 0.9, np.nan, -10.0 * numbers.sum())
            group["wb97x_dz.dipole"] = np.zeros((n, 3), "f4")
            if k % 300 == 0:
                print(f"{k} of {N_GROUPS} groups", file=sys.stderr, flush=True)


def memory(process: int) -> int:
    """Return RssAnon + RssShmem of a process, bytes."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))


def watched(command: list[str]) -> tuple[str, int, float]:
    """Run a command; returns its output, its highest memory in bytes, and its seconds."""
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    highest = [0]

    def watch() -> None:
        while process.poll() is None:
            highest[0] = max(highest[0], memory(process.pid))
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    output = process.communicate()[0]
    thread.join()
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command[:4])}\n{output[-3000:]}")
    return output, highest[0], time.perf_counter() - started


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="for the file and the packed set; the file is made if it does not exist"
    )
    parser.add_argument("--conformations", type=int, default=N_CONFORMATIONS, help="default: %(default)s")
    parser.add_argument("--only-make", action="store_true", help="only make the file")
    parser.add_argument("--output", type=Path, help="JSON file of the result")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    file, packed = options.folder / "ani1x-release.h5", options.folder / "ani1x.packed"
    if not file.is_file():
        make(file.with_suffix(".partial"), options.conformations)
        file.with_suffix(".partial").rename(file)
    if options.only_make:
        return 0
    size = file.stat().st_size
    result: dict[str, Any] = {"file_bytes": size}
    shutil.rmtree(packed, ignore_errors=True)
    output, highest, _ = watched([sys.executable, "-c", PACK, str(file), str(packed)])
    seconds, n_structures, n_atoms = output.split("seconds ")[1].split()
    wanted = size - _skipped(file)
    result |= {
        "structures": int(n_structures),
        "atoms": int(n_atoms),
        "packing_seconds": round(float(seconds), 1),
        "packing_MB_per_s_of_file": round(size / 1e6 / float(seconds), 1),
        "packing_MB_per_s_of_arrays_read": round(wanted / 1e6 / float(seconds), 1),
        "packing_memory_MB": round(highest / 1e6),
        "packed_bytes": sum(part.stat().st_size for part in packed.iterdir()),
    }
    print(json.dumps(result), flush=True)
    output, _, _ = watched([sys.executable, "-c", OPEN, str(packed)])
    result["opening_seconds"] = round(float(output.split("seconds ")[1]), 3)
    settings = ["data=packed", f"data.path={packed}", "data.batch_size=256", "model=hipnn", "model.n_features=16"]
    limits = ["trainer.limit_train_batches=300", "trainer.limit_val_batches=20", "trainer.max_epochs=1"]
    limits += ["data.check=false"]  # random forces contradict everything
    run = options.folder / "run"
    command = [sys.executable, "-m", "hiphop_train.cli", *settings, *limits, f"run_dir={run}", "resume=never"]
    _, highest, seconds = watched(command)
    result |= {"training_memory_MB": round(highest / 1e6), "training_seconds": round(seconds, 1)}
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-c", CHECK, "check", str(packed), "--output", str(options.folder / "check")]
    output, highest, seconds = watched(command)
    print(output)
    result |= {"check_memory_MB": round(highest / 1e6), "check_seconds": round(seconds, 1)}
    print(json.dumps(result, indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _skipped(file: Path) -> int:
    """Return the bytes of the arrays that are not read."""
    with h5py.File(file) as handle:
        names = ("wb97x_tz.energy", "wb97x_tz.forces", "ccsd(t)_cbs.energy", "wb97x_dz.dipole")
        return sum(group[name].id.get_storage_size() for group in handle.values() for name in names)


if __name__ == "__main__":
    sys.exit(main())
