"""The end of a run: test errors, pictures, exported file, and what to do with it."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers

import hiphop_train
from hiphop_train import checkpoint
from hiphop_train.accelerate import Choice, accelerate
from hiphop_train.build import DTYPES
from hiphop_train.commands.progress import progress
from hiphop_train.data.module import DataModule
from hiphop_train.evaluation import plots, report
from hiphop_train.evaluation.errors import error_table, predict
from hiphop_train.export.torchscript import export
from hiphop_train.potential import Potential


def finish(
    run_dir: Path,
    data: DataModule,
    summary: dict[str, Any],
    device: str,
    choice: Choice,
    trusted: Collection[str],
    pictures: bool = True,
) -> dict[str, Any]:
    """Evaluate the best checkpoint on all test splits, draw, export, and write metrics.json.

    Parameters
    ----------
    run_dir : with checkpoints/
    data : of the training
    summary : what metrics.json contains beside the errors
    device : of the training
    choice : whether C is compiled, see `accelerate`
    trusted : targets of the user's own configuration, see `hiphop_train.stored`
    pictures : whether to draw

    Returns
    -------
    errors : split -> `hiphop_train.evaluation.errors.error_table`
    """
    loaded = checkpoint.load(str(run_dir), trusted)
    dtype = DTYPES[loaded.record["config"]["dtype"]]
    fast = accelerate(loaded.potential, dtype, torch.device(device), "inference", choice)
    splits = [*data.test_names, "val"] if not data.test_names else data.test_names
    evaluated: plots.Evaluated = {}
    with progress("testing", sum(len(data.splits[name]) for name in splits)) as advance:
        for name in splits:
            structures = data.structures.take(data.splits[name])
            predictions = predict(
                loaded.potential, structures, dtype, data.eval_batch_size, device, advance, fast.prepare
            )
            evaluated[name] = (structures, predictions)
    errors = {name: error_table(*pair) for name, pair in evaluated.items()}
    report.print_errors(errors, f"errors of {loaded.file}", str(data.name))

    if pictures:
        _draw(run_dir, evaluated, loaded.potential)
    model = run_dir / "model.pt"
    export(loaded.potential, model, {**loaded.record, "errors": errors})
    content = {**summary, "code_version": hiphop_train.__version__, "checkpoint": loaded.file.name, "errors": errors}
    report.write_json(run_dir / "metrics.json", content)
    print(
        f"evaluate   hiphop-eval checkpoint={run_dir}\n"
        f"use in ASE from hiphop_train import HipHopCalculator; atoms.calc = HipHopCalculator('{model}')"
    )
    return errors


def _draw(run_dir: Path, evaluated: plots.Evaluated, potential: Potential) -> None:
    """Draw what a run directory shows."""
    elements = [atomic_numbers[symbol] for symbol in potential.elements]
    plots.parity(run_dir / "parity.png", evaluated, potential.e0[0].cpu().numpy(), elements)
    if (metrics := run_dir / "metrics.csv").is_file():  # missing when the first epoch was cut short
        plots.learning_curves(run_dir / "learning_curves.png", metrics)
    if potential.is_hierarchical:
        plots.error_by_hierarchicality(run_dir / "error_by_hierarchicality.png", evaluated)
