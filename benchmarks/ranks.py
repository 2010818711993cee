"""Weights and metrics of two processes against those of one, for every loss, schedule and batch mode.

    .venv/bin/python benchmarks/ranks.py             all 72, some ten minutes on two cores
    .venv/bin/python benchmarks/ranks.py --every 9   each ninth

One process trains all of them, two processes of torchrun do the same, in float64 with batches that divide unevenly.
What differs is the order of sums; so weights must agree to 1e-9, and all numbers of metrics.csv to 1e-8 of their value.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "ranks.json"
SMALL = [
    *("model=hipnn", "model.n_features=4", "dtype=float64", "trainer.accelerator=cpu", "callbacks=none"),
    *(
        "trainer.max_epochs=3",
        "trainer.limit_train_batches=4",
        "trainer.limit_val_batches=3",
        "data.eval_batch_size=64",
    ),
]
LOSSES, SCHEDULES = (
    sorted(file.stem for file in (ROOT / "conf" / name).glob("*.yaml")) for name in ("loss", "scheduler")
)
SIZES = {"structures": 7, "atoms": 99, "pairs": 1001}
MODES = [f"data.batch_by={by} data.batch_size={size} data.bucket={n}" for by, size in SIZES.items() for n in (1, 3)]
WEIGHTS, METRICS = 1e-9, 1e-8


def settings(every: int) -> list[list[str]]:
    """Return the overrides of each training."""
    found = []
    for loss, schedule, mode in product(LOSSES, SCHEDULES, MODES):
        more = ["scheduler.patience=0"] if schedule in ("plateau", "raise_batch_size") else []
        found.append([f"loss={loss}", f"scheduler={schedule}", *more, *mode.split()])
    return found[::every]


def train_all(folder: Path, every: int) -> int:
    """Train all in this process, of which torchrun may have started several."""
    from hiphop_train import cli
    from hiphop_train.commands import train

    train.finish = lambda *arguments: {}  # weights and metrics are compared; the final evaluation is not
    more = ["trainer.devices=2", "trainer.strategy=ddp"] if "LOCAL_RANK" in os.environ else []
    for number, words in enumerate(settings(every)):
        if code := cli.run("train", [*SMALL, *words, *more, f"run_dir={folder / str(number)}"]):
            return code
    return 0


def compare(one: Path, two: Path) -> tuple[float, float, int]:
    """Return the largest difference of weights, the largest relative one of metrics, and the number of steps."""
    import torch

    states = [torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (one, two)]
    if states[0]["global_step"] != states[1]["global_step"]:
        raise SystemExit(f"{one}: {states[0]['global_step']} steps, {two}: {states[1]['global_step']}")
    weights = [state["state_dict"] for state in states]
    largest = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])
    rows = [list(csv.DictReader((path / "metrics.csv").read_text().splitlines())) for path in (one, two)]
    relative = 0.0
    for a, b in zip(*rows, strict=True):
        for key in a:
            if a[key] != b[key]:
                relative = max(relative, abs(float(a[key]) - float(b[key])) / abs(float(a[key])))
    return largest, relative, states[0]["global_step"]


def main() -> int:
    """Train, compare, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take each n-th (1)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the result is stored (%(default)s)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder is not None:
        return train_all(given.folder, given.every)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, start in (("one", [sys.executable]), ("two", torchrun)):
            command = [*start, __file__, "--every", str(given.every), "--folder", str(folder / kind)]
            with (folder / f"{kind}.log").open("w") as log:
                code = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
            if code:
                print((folder / f"{kind}.log").read_text()[-3000:], file=sys.stderr)
                return code
        results = []
        for number, words in enumerate(settings(given.every)):
            weights, metrics, steps = compare(folder / "one" / str(number), folder / "two" / str(number))
            results.append({"overrides": words, "steps": steps, "weights": weights, "metrics": metrics})
    worst = {key: max(result[key] for result in results) for key in ("weights", "metrics")}
    print(
        f"{len(results)} trainings: weights of two processes differ from those of one by at most "
        f"{worst['weights']:.1e}, metrics by {worst['metrics']:.1e} of their value"
    )
    given.output.write_text(json.dumps({**worst, "trainings": results}, indent=1) + "\n")
    return int(worst["weights"] > WEIGHTS or worst["metrics"] > METRICS)


if __name__ == "__main__":
    sys.exit(main())
