"""The architectures compared: each trained for the same wall time on one core, with several seeds.

How many epochs fit into the time is measured first, for each model, under the same load (as many processes at once,
on otherwise idle cores); the learning rate then decays over exactly these epochs. A finished run is not repeated, so
the command can be interrupted and restarted. `cpu_seconds` are those of the whole process, start and evaluation
included: if they are near the budget but `training_seconds` are not, the machine was busy with other work.

    python benchmarks/ladder.py tiny runs/ladder-tiny                  # all models on the embedded data
    python benchmarks/ladder.py methane runs/ladder-methane --minutes 7 data.path=data/methane.h5
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

NAMES = ["bp", "ani", "dtnn", "schnet", "hipnn", "hipnn_ts", "hiphop"]
NAMES += ["tfn", "ace", "nequip", "mace", "allegro", "tensornet", "newtonnet", "alignn"]
RATES = {"nequip": 5e-3, "mace": 1e-2}
"""Learning rates of models that their authors train at other rates than the default, since their features have unit
variance."""
MODELS = {name: [f"model={name}", *([f"optimizer.lr={RATES[name]}"] if name in RATES else [])] for name in NAMES}

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
CALIBRATION_EPOCHS = 10


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


def checkpoint_parameters(run: Path) -> int:
    """Return the number of learned parameters."""
    from hiphop_train.checkpoint import load

    return sum(parameter.numel() for parameter in load(str(run)).potential.parameters())


def summarise(folder: Path, cases: dict[str, list[str]], seeds: int) -> dict[str, Any]:
    """Return mean and range over seeds of the errors of all finished runs."""
    found: dict[str, Any] = {}
    for case in cases:
        runs = [folder / f"{file_name(case)}-seed{seed}" for seed in range(seeds)]
        runs = [run for run in runs if (run / "cpu_seconds.json").is_file()]
        metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
        if not metrics:
            continue
        row: dict[str, Any] = {
            "seeds": len(metrics),
            "epochs": metrics[0]["epochs"],
            "parameters": checkpoint_parameters(runs[0]),
            "training_seconds": [round(m["training_seconds"], 1) for m in metrics],
            "cpu_seconds": [json.loads((run / "cpu_seconds.json").read_text()) for run in runs],
            "settings": yaml.safe_load((runs[0] / "config.yaml").read_text())["model"],
        }
        for split, table in metrics[0]["errors"].items():
            for kind in ("energy", "relative_energy", "forces"):
                for measure in ("mae", "rmse", "median"):
                    if kind in table:
                        values = [m["errors"][split][kind][measure] for m in metrics]
                        summary = {"mean": np.mean(values), "min": min(values), "max": max(values)}
                        row[f"{split} {kind} {measure}"] = {key: round(float(v), 4) for key, v in summary.items()}
        found[case] = row
    return found


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


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("folder", type=Path, help="where the runs go")
    parser.add_argument("overrides", nargs="*", help="further settings of all runs")
    parser.add_argument("--minutes", type=float, default=4.0, help="training time of each run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="runs at once, one core each (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", help="only these models")
    parser.add_argument("--output", type=Path, help="JSON file of the result")
    options = parser.parse_intermixed_args()
    common, cases = STUDIES[options.study]
    cases = {case: settings for case, settings in cases.items() if not options.cases or case in options.cases}
    options.folder.mkdir(parents=True, exist_ok=True)
    epochs_file = options.folder / "epochs.json"
    epochs: dict[str, int] = json.loads(epochs_file.read_text()) if epochs_file.is_file() else {}

    def calibrate(case: str) -> None:
        if case not in epochs:
            run_dir = options.folder / f"calibration-{file_name(case)}"
            settings = [*common, *cases[case], *options.overrides, f"trainer.max_epochs={CALIBRATION_EPOCHS}"]
            seconds = train(run_dir, settings)["training_seconds"] / CALIBRATION_EPOCHS
            epochs[case] = max(1, round(60 * options.minutes / seconds))
            epochs_file.write_text(json.dumps(epochs, indent=1))
            print(f"{case}: {seconds:.2f} s per epoch, so {epochs[case]} epochs", flush=True)

    def run(job: tuple[int, str]) -> None:
        seed, case = job
        settings = [*common, *cases[case], *options.overrides, f"trainer.max_epochs={epochs[case]}", f"seed={seed}"]
        started = time.monotonic()
        metrics = train(options.folder / f"{file_name(case)}-seed{seed}", settings)
        error = metrics["errors"]["test"]
        print(
            f"{case}, seed {seed}: {time.monotonic() - started:.0f} s, test RMSE "
            f"E {error['energy']['rmse']:.2f}, F {error['forces']['rmse']:.2f}",
            flush=True,
        )

    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(calibrate, cases))
        list(pool.map(run, [(seed, case) for seed in range(options.seeds) for case in cases]))
    found = summarise(options.folder, cases, options.seeds)
    show(found)
    if options.output:
        result = {"study": options.study, "minutes": options.minutes, "overrides": options.overrides, "models": found}
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
