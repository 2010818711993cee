"""Preflight: whether a training fits this machine, how long it takes, and whether its end can be reached."""

import json
import math
import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from omegaconf import DictConfig

from hiphop_train import files
from hiphop_train.checkpoint import to_bytes
from hiphop_train.errors import CheckpointError, StorageError, TrainingError
from hiphop_train.evaluation.plots import rate_test
from hiphop_train.export.torchscript import export
from hiphop_train.potential import Potential
from hiphop_train.training.module import PotentialModule
from hiphop_train.training.rehearsal import GROWN, Rehearsal

TIGHT = 3
"""Factor over what a training writes below which the disk is said to be nearly full."""

NEARLY_ALL = 0.9
"""Share of the memory from which on there is a warning."""


def check_disk(potential: Potential, run_dir: Path) -> None:
    """Compare what a training writes with the space on the disk of its run directory.

    Raises
    ------
    StorageError
        if it does not fit
    """
    weights = sum(value.nbytes for value in potential.state_dict().values())
    state = 4 * weights + 200_000  # weights, their average, two moments; record and metrics
    needed = 4 * state + 2 * weights + 5_000_000  # best, last, previous, one being written; exported file; pictures
    free = shutil.disk_usage(run_dir).free
    if free < needed:
        raise StorageError(
            f"{run_dir}: {_bytes(needed)} will be written and {_bytes(free)} are free; free space there, or choose "
            "another disk: run_dir=PATH (preflight=off does not look)"
        )
    if free < TIGHT * needed:
        files.warn(f"{run_dir}: {_bytes(free)} are free, and {_bytes(needed)} will be written")


def try_export(potential: Potential) -> float:
    """Export the untrained potential to a temporary file and compare it; return the seconds.

    Raises
    ------
    TrainingError
        if that is not possible: better said before a training than after
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            export(potential, Path(folder) / "model.pt", {})
        except CheckpointError as error:
            why = str(error).partition("because ")[2] or str(error)
            raise TrainingError(
                f"the model cannot be exported, as it would be after the training: {why}; put that right, or train "
                "without this check: preflight=off"
            ) from error
    return time.perf_counter() - start


def tell(found: Rehearsal, config: DictConfig, run_dir: Path, module: PotentialModule) -> None:
    """Print what a rehearsal found, warn, and store the full form."""
    fresh = found.growth is not None or module.trainer.world_size > 1
    seconds = try_export(module.potential) if fresh and module.trainer.global_step == 0 else 0.0
    structures, atoms, pairs = found.largest
    share = f" of {_bytes(found.memory)}" if found.memory else ""
    print(
        f"memory     {_bytes(found.peak)}{share} in the largest batch: {structures:,} structures, {atoms:,} atoms, "
        f"{pairs:,} pairs"
    )
    whole = "" if math.isinf(found.whole) else f", about {_time(found.whole)} in all"
    earlier = ", less if it stops early" if (config.callbacks or {}).get("early_stopping") and whole else ""
    print(f"time       about {_time(found.epoch)} per epoch of {found.n_steps:,} steps{whole}{earlier}", flush=True)
    if found.memory and found.peak > NEARLY_ALL * found.memory:
        files.warn(
            f"the largest batch takes {found.peak / found.memory:.0%} of the memory; a smaller one leaves room for the "
            f"unforeseen: data.batch_size={max(1, int(0.7 * config.data.batch_size))}"
        )
    if found.growth is not None and not found.growth < GROWN:
        advice = "a lower one" if found.good_rate is None else f"optimizer.lr={found.good_rate:.1g}"
        grown = "is no longer finite" if math.isinf(found.growth) else f"grows by a factor of {found.growth:.3g}"
        files.warn(
            f"the rate {found.rate:.3g} is too high: the loss of a batch {grown} in ten steps on it; try {advice}"
        )
    if config.preflight == "full":
        _report(found, config, run_dir, module, seconds)


def _report(found: Rehearsal, config: DictConfig, run_dir: Path, module: PotentialModule, seconds: float) -> None:
    """Print and store what only the full form looks at."""
    loader = found.load / max(1, config.data.num_workers)
    slow = "; the loader is the bottleneck: raise data.num_workers" if loader > found.step else ""
    print(f"loader     {1000 * loader:.1f} ms per batch, step {1000 * found.step:.1f} ms{slow}")
    weights = {name: value.detach().cpu() for name, value in module.state_dict().items()}
    content = to_bytes({str(copy): {name: value.clone() for name, value in weights.items()} for copy in range(4)})
    start = time.perf_counter()
    files.write_bytes(run_dir / "preflight.ckpt", content)
    written = time.perf_counter() - start
    (run_dir / "preflight.ckpt").unlink()
    print(f"checkpoint {_bytes(len(content))} in {written:.2f} s, after each epoch and every ten minutes")
    print(f"export     {seconds:.1f} s; the file agrees with the model")
    if found.curve:
        picture = run_dir / "preflight.png"
        rate_test(picture, found.curve, found.rate)
        print(f"rate       {found.rate:.2g}; as it rises, the loss falls up to {found.turns_at:.2g}: {picture}")
    files.write_text(run_dir / "preflight.json", json.dumps(found.plain(), indent=1) + "\n")
    print("preflight  done, nothing was trained; without preflight=full the same command trains", flush=True)


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.3g} {unit}"
        n /= 1000
    raise AssertionError


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
