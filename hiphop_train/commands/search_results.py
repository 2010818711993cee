"""What a search has found: table, files, picture, and the best as a command."""

import csv
import io
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from hiphop_train import files
from hiphop_train.evaluation.search_plot import Point, search_plot

SHOWN = 20
"""Rows of the table on the terminal; sweep.csv has all."""


def column(run_dir: Path, name: str) -> dict[int, float]:
    """Return epoch -> value of a column of metrics.csv; empty where there is none yet."""
    try:
        rows = list(csv.DictReader((run_dir / "metrics.csv").read_text().splitlines()))
        return {int(row["epoch"]): float(row[name]) for row in rows if row.get(name)}
    except (OSError, ValueError, KeyError):
        return {}


def tell(optuna: ModuleType, study: Any, folder: Path, command: list[str], keys: list[str], minimised: str) -> None:
    """Print and write what is known of all trials.

    Parameters
    ----------
    optuna, study : the module, and the study
    folder : of the sweep; gets sweep.csv, sweep.png and best.sh
    command : of the trainings, without what is varied
    keys : what is varied
    minimised : column of metrics.csv
    """
    states = optuna.trial.TrialState
    names = {states.COMPLETE: "done", states.PRUNED: "ended early", states.FAIL: "failed", states.RUNNING: "unfinished"}
    rows, points = [], []
    for trial in study.trials:
        values = trial.user_attrs.get("values", {})
        reached = list(trial.intermediate_values.values())
        value = trial.value if trial.state is states.COMPLETE else min(reached, default=None)
        seconds = trial.duration.total_seconds() if trial.duration is not None else None
        rows.append({
            "trial": trial.number, "state": names.get(trial.state, "unfinished"), minimised: value,
            **{key: values.get(key) for key in keys}, "epochs": len(reached), "seconds": seconds,
            "run_dir": folder / f"trial_{trial.number:03d}", "problem": trial.user_attrs.get("problem", ""),
        })  # fmt: skip
        if value is not None:
            points.append(Point(trial.number, value, trial.state is states.COMPLETE, values))
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(folder / "sweep.csv", text.getvalue())
    complete = sorted((row for row in rows if row["state"] == "done"), key=lambda row: row[minimised])
    others = [row for row in rows if row["state"] != "done"]
    _print([*complete, *others], keys, minimised)
    if points:
        search_plot(folder / "sweep.png", points, keys, minimised)
    print(f"sweep      {folder / 'sweep.csv'}, {folder / 'sweep.png'}")
    if complete:
        best = complete[0]
        line = shlex.join([*command, *(f"{key}={best[key]}" for key in keys)])
        files.write_text(
            folder / "best.sh", f"#!/bin/sh\n# {minimised} {best[minimised]:.6g}, {best['run_dir']}\n{line}\n"
        )
        print(f"best       {line}", flush=True)


def _print(rows: list[dict[str, Any]], keys: list[str], minimised: str) -> None:
    table = Table(
        "trial", minimised, *keys, "epochs", "seconds", "state", title="sweep, the best first", title_style=""
    )
    for row in rows[:SHOWN]:
        value = "" if row[minimised] is None else f"{row[minimised]:.4g}"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        table.add_row(
            str(row["trial"]), value, *(str(row[key] or "") for key in keys), str(row["epochs"]), seconds, row["state"]
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if len(rows) > SHOWN:
        print(f"           and {len(rows) - SHOWN} more")
