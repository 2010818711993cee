"""hiphop-compare: finished runs side by side, errors against costs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf

from hiphop_train import build, checkpoint, stored
from hiphop_train.commands.progress import progress
from hiphop_train.commands.run_directory import definition
from hiphop_train.data.structures import Structures
from hiphop_train.errors import CheckpointError, ConfigError, DataError, HipHopError
from hiphop_train.evaluation import comparison, report
from hiphop_train.evaluation.comparison import Row
from hiphop_train.evaluation.pareto import pareto
from hiphop_train.evaluation.timing import ROUNDS, microseconds_per_atom, processor

N_STRUCTURES = 64
"""Structures of the batch that is timed."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    path : run directory
    config : resolved
    metrics : contents of metrics.json
    loaded : the best potential
    """

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    loaded: checkpoint.Loaded

    @property
    def fingerprint(self) -> str:
        """Checksum of data and split."""
        return str(self.loaded.record["data_fingerprint"])

    @property
    def settings(self) -> dict[str, Any]:
        """What defines the run, but for its seed."""
        return {key: value for key, value in definition(self.config).items() if key != "seed"}


def compare(paths: list[Path], output: Path, mix_data: bool = False) -> list[Row]:
    """Compare runs: tables, and JSON, Markdown and pictures in the output folder.

    Parameters
    ----------
    paths : run directories
    output : folder
    mix_data : whether runs of different data are compared
    """
    runs: list[Run] = []
    for path in dict.fromkeys(paths):
        try:
            runs.append(collect(path))
        except HipHopError as error:
            print(f"skipped    {path}: {error}", flush=True)
    if not runs:
        raise CheckpointError("none of these runs can be compared; the lines above say why")
    _refuse_mixture(runs, mix_data)
    groups = _groups(runs)
    rows = _rows(groups)
    timing = _time(groups, rows)
    data = ", ".join(dict.fromkeys(str(run.config["data"]["name"]) for run in runs))
    captions = _captions(rows, timing)
    sheets = comparison.sheets(rows)
    comparison.print_sheets(sheets, captions)
    try:
        output.mkdir(parents=True, exist_ok=True)
        content = {"data": data, "timing": timing, "rows": [row.plain() for row in rows]}
        report.write_json(output / "comparison.json", content)
        (output / "comparison.md").write_text(comparison.markdown(sheets, captions))
        for split in dict.fromkeys(split for row in rows for split in row.errors):
            pareto(output / f"pareto-{split}.png", rows, split, f"{data}, {split}")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}); choose another: --output DIR") from error
    print(f"results    {output}")
    return rows


def collect(path: Path) -> Run:
    """Read a run directory; raises `CheckpointError` where it is unfinished or damaged."""
    if not path.is_dir():
        raise CheckpointError("is not a folder; give run directories of hiphop-train")
    if not (path / "config.yaml").is_file():
        raise CheckpointError("contains no config.yaml: it is not a run directory of hiphop-train")
    if not (path / "metrics.json").is_file():
        raise CheckpointError("is unfinished, it contains no metrics.json; the same hiphop-train command resumes it")
    try:
        config = yaml.safe_load((path / "config.yaml").read_text())
        metrics = json.loads((path / "metrics.json").read_text())
        status, epochs = str(metrics["status"]), int(metrics["epochs"])
        limited = config["trainer"].get("max_time") is not None
        used = [
            float(metrics["training_seconds"]),
            config["model"]["_target_"],
            config["data"]["name"],
            config["dtype"],
        ]
        used += [int(config["seed"]), *(table["n_structures"] for table in metrics["errors"].values())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise CheckpointError(f"is damaged: config.yaml or metrics.json cannot be read ({error!r})") from error
    if status != "completed" and not limited:
        raise CheckpointError(f"was stopped after epoch {epochs}; the same hiphop-train command resumes it")
    return Run(path, config, metrics, checkpoint.load(str(path)))


def _refuse_mixture(runs: list[Run], mix_data: bool) -> None:
    if mix_data or len({run.fingerprint for run in runs}) == 1:
        return
    lines = [f"  {run.fingerprint}  {run.config['data']['name']:10s} {run.path}" for run in runs]
    raise ConfigError(
        "these runs have different data or splits, so their errors cannot be compared:\n" + "\n".join(lines) + "\n"
        "give runs of the same data, or --mix-data to compare them all the same"
    )


def _groups(runs: list[Run]) -> list[list[Run]]:
    """Group runs that differ only in seed, in the order given."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([run.fingerprint, run.settings], sort_keys=True)
        found.setdefault(key, []).append(run)
    return list(found.values())


def _rows(groups: list[list[Run]]) -> list[Row]:
    names = [group[0].config["model"]["_target_"].split(".")[-2] for group in groups]
    settings = [{**group[0].settings, "data": group[0].config["data"]["name"]} for group in groups]
    labels = comparison.difference_labels(names, settings, [group[0].path.name for group in groups])
    return [
        Row(
            label=label,
            model=name,
            runs=[str(run.path) for run in group],
            seeds=[run.config["seed"] for run in group],
            parameters=sum(parameter.numel() for parameter in group[0].loaded.potential.parameters()),
            epochs=[int(run.metrics["epochs"]) for run in group],
            training_seconds=comparison.range_of([run.metrics["training_seconds"] for run in group]),
            errors=comparison.errors_over_runs([run.metrics["errors"] for run in group]),
        )
        for label, name, group in zip(labels, names, groups, strict=True)
    ]


def _time(groups: list[list[Run]], rows: list[Row]) -> dict[str, Any]:
    """Time one potential of each row, as weights do not change the time; return how it was done."""
    chosen: dict[str, Structures] = {}
    for group in groups:
        if group[0].fingerprint not in chosen:
            same = [run for other in groups for run in other if run.fingerprint == group[0].fingerprint]
            chosen[group[0].fingerprint] = _structures(same)
    subjects = [
        (group[0].loaded.potential, build.DTYPES[group[0].config["dtype"]], chosen[group[0].fingerprint])
        for group in groups
    ]
    with progress("timing", len(subjects) * (ROUNDS + 1)) as advance:
        times = microseconds_per_atom(subjects, ROUNDS, advance)
    for row, rounds in zip(rows, times, strict=True):
        row.microseconds_per_atom = {"minimum": float(rounds.min()), "median": float(np.median(rounds))}
    return {
        "threads": 1,
        "rounds": ROUNDS,
        "batches": [{"structures": len(s), "atoms": len(s.numbers), "source": s.source} for s in chosen.values()],
        "processor": processor(),
        "torch": str(torch.__version__),
    }


def _structures(runs: list[Run]) -> Structures:
    """Evenly spaced structures of the first test split, from the data of the first run whose data still exist."""
    problem = ""
    for run in runs:
        try:
            stored.check(run.config["data"], "data", str(run.path / "config.yaml"))
            section = OmegaConf.create(run.config["data"])
            potential = run.loaded.potential
            data = build.make_data(section, potential, build.DTYPES[run.config["dtype"]], run.config["seed"])
            if data.fingerprint() != run.fingerprint:
                raise DataError(f"the data at {data.structures.source} are not those of the training")
            data.use_theories(run.loaded.record["levels"])
            test = data.splits[(data.test_names or ["val"])[0]]
            return data.structures.take(test[np.linspace(0, len(test) - 1, min(len(test), N_STRUCTURES)).astype(int)])
        except HipHopError as error:
            problem = problem or f"{run.path}: {error}"
    raise DataError(
        f"timing needs the data of one of these runs. {problem}\n"
        "  relative paths in a run's config.yaml are from where it was started: start hiphop-compare there too"
    )


def _captions(rows: list[Row], timing: dict[str, Any]) -> list[str]:
    """Return the caption of each table."""
    batches = "; ".join(f"{batch['structures']} structures, {batch['atoms']} atoms" for batch in timing["batches"])
    seeds = any(len(row.runs) > 1 for row in rows)
    cost = (
        f"µs/atom: energy and forces, neighbour search excluded, one batch of {batches}, {timing['threads']} thread, "
        f"fastest of {timing['rounds']} interleaved rounds, {timing['processor']}. Training times are those of each "
        "run's machine."
    )
    errors = "MAE / RMSE in kcal/mol and kcal/mol/Å" + (", mean over seeds; below: smallest - largest" if seeds else "")
    return [cost, *[errors] * len({split for row in rows for split in row.errors})]
