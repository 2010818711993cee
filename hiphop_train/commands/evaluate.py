"""hiphop-eval: errors of a trained potential on any data set."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from omegaconf import DictConfig, OmegaConf

from hiphop_train import build, checkpoint, stored
from hiphop_train.accelerate import accelerate
from hiphop_train.commands.progress import progress
from hiphop_train.data.formats.comp6 import COMP6Reader
from hiphop_train.data.module import DataModule
from hiphop_train.errors import CheckpointError, ConfigError, did_you_mean
from hiphop_train.evaluation import plots, report
from hiphop_train.evaluation.errors import error_table, predict, quantiles_by_hierarchicality
from hiphop_train.evaluation.references import POOLED


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluate a checkpoint; return set -> table of errors, as written to errors.json in the output folder."""
    loaded = checkpoint.load(config.checkpoint)
    trained_on = OmegaConf.create(loaded.record["config"])
    dtype = build.DTYPES[trained_on.dtype]
    own = config.get("data") is None
    if own and "data" not in trained_on:
        raise ConfigError(
            f"{loaded.file} contains imported weights ({loaded.record['origin']}) and has no data of its own; choose "
            "what to evaluate on: data=comp6 data.root=FOLDER, data=extxyz data.path=FILE, data=tiny ..."
        )
    if own:
        stored.check(loaded.record["config"]["data"], "data", str(loaded.file))
    section = trained_on.data if own else config.data
    data = build.make_data(section, loaded.potential, dtype, trained_on.get("seed", 0))
    data.progress = progress
    data.use_theories(loaded.record["levels"])
    if own and data.fingerprint() != loaded.record["data_fingerprint"]:
        raise CheckpointError(
            f"the data at {data.structures.source} are not those that {loaded.file} was trained on, so its test split "
            "may contain training structures; restore the original file, or evaluate as other data: data=NAME"
        )
    sets = _sets(config, data, own)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no CUDA device is available; use device=cpu or device=auto")

    fast = accelerate(loaded.potential, dtype, torch.device(device), "inference")
    index = np.concatenate(list(sets.values()))
    structures = data.structures.take(index)
    with progress(f"evaluating on {device}", len(structures)) as advance:
        predictions = predict(loaded.potential, structures, dtype, data.eval_batch_size, device, advance, fast.prepare)
    bounds = np.cumsum([0] + [len(members) for members in sets.values()])
    evaluated: plots.Evaluated = {}
    for name, start, stop in zip(sets, bounds, bounds[1:], strict=False):
        evaluated[name] = (structures.take(np.arange(start, stop)), predictions.cut(structures, start, stop))
    if len(sets) > 1 or not own:
        evaluated[POOLED] = (structures, predictions)

    errors = {name: error_table(*pair) for name, pair in evaluated.items()}
    report.print_errors(errors, f"errors of {loaded.file} on {data.name}", str(data.name))
    if isinstance(data.reader, COMP6Reader) and (missing := data.reader.missing(structures)):
        print(f"COMP6 is not complete here, so published totals are not shown; missing: {', '.join(missing)}")
    pooled = evaluated.get(POOLED) or next(iter(evaluated.values()))
    quantiles = []
    if loaded.potential.is_hierarchical:
        quantiles = quantiles_by_hierarchicality(*pooled)
        report.print_quantiles(quantiles, f"{data.name}, {len(pooled[0]):,} structures")

    folder = Path(config.output_dir) if config.output_dir else loaded.run_dir / "eval" / str(data.name)
    _write(folder, errors, quantiles, evaluated, loaded)
    print(f"results    {folder}")
    return errors


def _sets(config: DictConfig, data: DataModule, own: bool) -> dict[str, Any]:
    """Return the indices of each set to evaluate: test splits of the training's data, subsets of others."""
    if own or config.splits:
        names = list(config.splits or data.test_names)
        for name in names:
            if name not in data.splits:
                raise ConfigError(
                    f"splits: unknown split '{name}'{did_you_mean(name, data.splits)}\n"
                    f"  allowed: {', '.join(data.splits)}"
                )
        if not names:
            raise ConfigError("the training's data have no test split; choose another: splits=[val]")
        return {name: data.splits[name] for name in names}
    subset = data.structures.subset
    names_of = data.structures.subset_names
    found: dict[str, Any] = {}
    for name in dict.fromkeys(names_of):
        found[name] = np.flatnonzero(np.isin(subset, [k for k, other in enumerate(names_of) if other == name]))
    return found


def _write(
    folder: Path,
    errors: dict[str, Any],
    quantiles: list[dict[str, float]],
    evaluated: plots.Evaluated,
    loaded: checkpoint.Loaded,
) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        report.write_json(
            folder / "errors.json", {"checkpoint": str(loaded.file), "errors": errors, "quantiles_by_R": quantiles}
        )
        elements = [atomic_numbers[symbol] for symbol in loaded.potential.elements]
        plots.parity(folder / "parity.png", evaluated, loaded.potential.e0[0].cpu().numpy(), elements)
        if loaded.potential.is_hierarchical:
            plots.error_by_hierarchicality(folder / "error_by_hierarchicality.png", evaluated)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another: output_dir=PATH") from error
