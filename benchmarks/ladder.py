"""The architectures compared: each trained for the same wall time on one core, with several seeds.

How many epochs fit into the time is measured first, for each model, under the same load (as many processes at once,
on otherwise idle cores); the learning rate then decays over exactly these epochs. Machines differ: with --as-long-as
the time is that of the known epochs of one model. A finished run is not repeated, neither one in the folder nor one in
the output, so the command can be interrupted and restarted, elsewhere too. `cpu_seconds` are those of the whole
process, start and evaluation included: if they are near the budget but `training_seconds` are not, the machine was busy
with other work.

    python benchmarks/ladder.py tiny runs/ladder-tiny                  # all models on the embedded data
    python benchmarks/ladder.py methane runs/ladder-methane data.path=data/methane.h5 model.elements=[H,C]
    python benchmarks/ladder.py ethanol runs/ladder-ethanol data.path=FILE data.test_path=FILE model.elements=[H,C,O]
    python benchmarks/ladder.py tiny runs/ladder-tiny --as-long-as hiphop --output benchmarks/results/ladder_tiny.json
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
import yaml

from hiphop_train.accelerate import accelerate
from hiphop_train.build import make_data, make_potential
from hiphop_train.checkpoint import load
from hiphop_train.config import load_config
from hiphop_train.evaluation.comparison import Range, Row
from hiphop_train.evaluation.pareto import pareto
from hiphop_train.evaluation.timing import microseconds_per_atom

NAMES = ["bp", "ani", "dtnn", "schnet", "hipnn", "hipnn_ts", "hiphop"]
NAMES += ["tfn", "ace", "nequip", "mace", "allegro", "tensornet", "newtonnet", "alignn"]
MODELS = {name: [f"model={name}"] for name in NAMES}

STUDIES: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "tiny": ([], MODELS),
    "ethanol": (["data=extxyz", "data.batch_size=10"], MODELS),
    "methane": (["data=methane"], {name: [*words, "model.cutoff=6.5"] for name, words in MODELS.items()}),
    "methane, one interaction": (
        ["experiment=methane"],
        {
            "HIP-NN": ["model=hipnn"],
            "HIP-NN-TS l=1": ["model=hipnn_ts", "model.l_max=1"],
            "HIP-NN-TS l=2": ["model=hipnn_ts", "model.l_max=2"],
            "HIP-HOP l=3 n=4": ["model=hiphop"],
        },
    ),
}
CALIBRATION_EPOCHS = 5


def train(run_dir: Path, overrides: list[str]) -> dict[str, Any]:
    """Run hiphop-train on one core, unless it has run; returns the content of metrics.json."""
    cpu_file = run_dir / "cpu_seconds.json"
    if not cpu_file.is_file():
        command = [sys.executable, "-m", "hiphop_train.cli", f"run_dir={run_dir}", *overrides]
        log = run_dir.with_suffix(".log")
        with log.open("w") as output:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"error: {' '.join(command)}\n{log.read_text()[-2000:]}")
        cpu_file.write_text(json.dumps(round(usage.ru_utime + usage.ru_stime, 1)))
    metrics: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text())
    return metrics


def file_name(case: str) -> str:
    """Return the name of a case as part of a path."""
    return case.replace(" ", "-").replace("=", "").replace(",", "")


def record(run_dir: Path) -> dict[str, Any]:
    """Return what is kept of a run."""
    metrics = json.loads((run_dir / "metrics.json").read_text())
    return {
        "epochs": metrics["epochs"],
        "parameters": sum(parameter.numel() for parameter in load(str(run_dir)).potential.parameters()),
        "training_seconds": round(metrics["training_seconds"], 1),
        "cpu_seconds": json.loads((run_dir / "cpu_seconds.json").read_text()),
        "settings": yaml.safe_load((run_dir / "config.yaml").read_text())["model"],
        "errors": {
            f"{split} {kind} {measure}": round(float(table[kind][measure]), 4)
            for split, table in metrics["errors"].items()
            for kind in ("energy", "relative_energy", "forces")
            if kind in table
            for measure in ("mae", "rmse", "median")
        },
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and range over seeds of the errors of the runs of one case."""
    row: dict[str, Any] = {"seeds": len(runs), **{key: runs[0][key] for key in ("epochs", "parameters", "settings")}}
    row |= {key: [run[key] for run in runs] for key in ("training_seconds", "cpu_seconds")}
    for key in runs[0]["errors"]:
        values = [run["errors"][key] for run in runs]
        row[key] = {"mean": round(float(np.mean(values)), 4), "min": min(values), "max": max(values)}
    return row


def show(found: dict[str, Any]) -> None:
    """Print a Markdown table for each test split: mean (lowest to highest)."""
    columns = sorted({key for row in found.values() for key in row if key.endswith(("mae", "rmse", "median"))})
    for split in dict.fromkeys(key.split()[0] for key in columns):
        kinds = [f"{split} {kind} {m}" for kind in ("energy", "forces") for m in ("mae", "rmse", "median")]
        print(f"\n| {split} | parameters | epochs | " + " | ".join(k.removeprefix(split + " ") for k in kinds) + " |")
        print("| --- " * (len(kinds) + 3) + "|")
        for case, row in found.items():
            cells = [f"{row[k]['mean']:.2f} ({row[k]['min']:.2f} to {row[k]['max']:.2f})" for k in kinds]
            print(f"| {case} | {row['parameters']:,} | {row['epochs']} | " + " | ".join(cells) + " |")


def rows_of(result: dict[str, Any], settings: list[str]) -> list[Row]:
    """Return what hiphop-compare draws; all have the same training time.

    Times of an evaluation are measured here, of all models in turn, since the runs may come from several machines.
    """
    torch.manual_seed(0)
    config = load_config("train", settings)
    data = make_data(config.data, make_potential(config.model, torch.float32), torch.float32, 0)
    test = data.splits["test"]
    structures = data.structures.take(test[np.linspace(0, len(test) - 1, 64).astype(int)])
    subjects = []
    for row in result["models"].values():
        potential = make_potential(row["settings"], torch.float32)
        accelerate(potential, torch.float32, torch.device("cpu"), "inference")
        subjects.append((potential, torch.float32, structures))
    times = microseconds_per_atom(subjects)
    rows = []
    for (case, row), rounds in zip(result["models"].items(), times, strict=True):
        errors: dict[str, Any] = {}
        for key, value in row.items():
            if isinstance(value, dict) and "mean" in value:
                split, kind, measure = key.split()
                errors.setdefault(split, {}).setdefault(kind, {})[measure] = Range(*value.values())
        names = [f"{case}-seed{seed}" for seed in range(row["seeds"])]
        per_atom = {"minimum": float(rounds.min()), "median": float(np.median(rounds))}
        same = Range(*[60.0 * result["minutes"]] * 3)
        seeds, epochs = list(range(row["seeds"])), [row["epochs"]] * row["seeds"]
        rows.append(Row(case, case, names, seeds, row["parameters"], epochs, same, errors, per_atom))
    return rows


class Race:
    """The trainings of a study, and its result, which is written after each.

    Parameters
    ----------
    options : of the command line
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.common, cases = STUDIES[options.study]
        self.cases = {case: words for case, words in cases.items() if not options.cases or case in options.cases}
        self.output: Path = options.output or options.folder / "result.json"
        self.result: dict[str, Any] = {"study": options.study, "minutes": options.minutes, "models": {}}
        if self.output.is_file():
            self.result = json.loads(self.output.read_text())
        self.result["overrides"] = [each for each in options.overrides if "path=" not in each]
        self.runs: dict[str, dict[str, Any]] = self.result.setdefault("runs", {})
        self.seconds: dict[str, float] = {}
        self.lock = Lock()

    def epochs(self, case: str) -> int | None:
        """Return of how many epochs a run consists, if that is known."""
        known: int | None = self.result["models"].get(case, {}).get("epochs", self.result.get("epochs", {}).get(case))
        return known

    def calibrate(self, case: str) -> None:
        """Measure the time of an epoch."""
        run_dir = self.options.folder / f"calibration-{file_name(case)}"
        words = STUDIES[self.options.study][1][case]
        settings = [*self.common, *words, *self.options.overrides, f"trainer.max_epochs={CALIBRATION_EPOCHS}"]
        self.seconds[case] = train(run_dir, settings)["training_seconds"] / CALIBRATION_EPOCHS
        print(f"{case}: {self.seconds[case]:.2f} s per epoch", flush=True)

    def run(self, job: tuple[int, str]) -> None:
        """Train, unless it was."""
        seed, case = job
        if str(seed) in self.runs.get(case, {}):
            return
        started = time.monotonic()
        run_dir = self.options.folder / f"{file_name(case)}-seed{seed}"
        settings = [*self.common, *self.cases[case], *self.options.overrides, f"seed={seed}"]
        metrics = train(run_dir, [*settings, f"trainer.max_epochs={self.epochs(case)}"])
        error = metrics["errors"]["test"]
        print(
            f"{case}, seed {seed}: {time.monotonic() - started:.0f} s, test RMSE "
            f"E {error['energy']['rmse']:.2f}, F {error['forces']['rmse']:.2f}",
            flush=True,
        )
        with self.lock:
            self.runs.setdefault(case, {})[str(seed)] = record(run_dir)
            self.result["models"][case] = summary([self.runs[case][key] for key in sorted(self.runs[case])])
            self.write()

    def write(self) -> None:
        """Write the result, in the order of the study."""
        order = [case for case in STUDIES[self.options.study][1] if case in self.result["models"]]
        order += [case for case in self.result["models"] if case not in order]
        self.result["models"] = {case: self.result["models"][case] for case in order}
        self.output.write_text(json.dumps(self.result, indent=1) + "\n")

    def go(self) -> None:
        """Run all."""
        reference: str | None = self.options.as_long_as
        unknown = [case for case in self.cases if self.epochs(case) is None]
        of_reference = 0 if reference is None else self.epochs(reference)
        if of_reference is None:
            raise SystemExit(f"error: {self.output} does not know the epochs of {reference}; give --minutes instead")
        with ThreadPoolExecutor(self.options.processes) as pool:
            list(pool.map(self.calibrate, unknown + [reference] * (bool(unknown) and reference is not None)))
            budget = 60 * self.options.minutes
            if reference is not None and unknown:
                budget = self.seconds[reference] * of_reference
            for case in unknown:
                found = max(1, round(budget / self.seconds[case]))
                self.result.setdefault("epochs", {})[case] = found
                print(f"{case}: {found} epochs", flush=True)
            self.write()
            list(pool.map(self.run, [(seed, case) for seed in range(self.options.seeds) for case in self.cases]))
        show(self.result["models"])


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("folder", type=Path, help="where the runs go")
    parser.add_argument("overrides", nargs="*", help="further settings of all runs")
    parser.add_argument("--minutes", type=float, default=4.0, help="training time of each run (default: %(default)s)")
    parser.add_argument("--as-long-as", metavar="CASE", help="instead: the time that the known epochs of this one take")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="runs at once, one core each (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", help="only these models")
    parser.add_argument("--output", type=Path, help="JSON file of the result (default: result.json in the folder)")
    parser.add_argument("--picture", type=Path, help="draw the result, errors against costs, and train nothing")
    options = parser.parse_intermixed_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    race = Race(options)
    if options.picture:
        rows = rows_of(race.result, [*race.common, *options.overrides])
        split = "test_unseen" if "test_unseen" in rows[0].errors else "test"
        pareto(options.picture, rows, split, f"{options.study}: {split}")
        for row in rows:
            print(f"{row.label}: {row.microseconds_per_atom['minimum']:.0f} µs per atom")
    else:
        race.go()
    return 0


if __name__ == "__main__":
    sys.exit(main())
