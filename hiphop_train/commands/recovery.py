"""What a run directory still has to go on from, after whatever happened to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiphop_train import checkpoint, files
from hiphop_train.errors import CheckpointError
from hiphop_train.training import metrics_file

STATES = ("last.ckpt", "previous.ckpt", "best.ckpt")
"""From the newest; best.ckpt may be newer than previous.ckpt."""


@dataclass(frozen=True)
class Recovered:
    """The newest good state of a run directory.

    Attributes
    ----------
    file : the checkpoint, or None where there has been no state yet
    content : of the file
    damaged : checkpoints that cannot be read -> why
    """

    file: Path | None
    content: dict[str, Any] | None
    damaged: dict[Path, str]

    def sentences(self) -> list[str]:
        """Return what was found and what is done about it, a line each."""
        if self.file is None or not self.damaged:
            return []
        step = f"{self.file.name} (epoch {self.content['epoch'] + 1}, step {self.content['global_step']:,})"  # type: ignore[index]
        return [f"{path}: {why}; the training goes on from {step}" for path, why in self.damaged.items()]


def newest(run_dir: Path) -> Recovered:
    """Find the newest good state.

    Raises
    ------
    CheckpointError
        where there has been one, or results are there, and none is good
    """
    folder = run_dir / "checkpoints"
    damaged: dict[Path, str] = {}
    found: list[tuple[Path, dict[str, Any]]] = []
    for file in (folder / name for name in STATES):
        if not file.is_file():
            continue
        if why := files.damage(file):
            damaged[file] = why
            continue
        content = checkpoint.read(file)
        if "optimizer_states" in content:
            found.append((file, content))
            if file.name == "last.ckpt":
                break
    last = folder / "last.ckpt"
    if found:
        file, content = max(found, key=lambda pair: int(pair[1]["global_step"]))  # the first of equals
        if file != last and last not in damaged and (folder / "previous.ckpt").exists():
            damaged[last] = "it is missing"
        return Recovered(file, content, damaged)
    if damaged:
        reasons = "\n".join(f"  {path.name}: {why}" for path, why in damaged.items())
        raise CheckpointError(
            f"{run_dir} has no state from which its training can go on:\n{reasons}\n"
            "restore one of them from a copy, or start over with resume=never (what is there is kept under another "
            "name)"
        )
    rows = metrics_file.read(run_dir / "metrics.csv")
    results = [name for name in ("metrics.json", "model.pt") if (run_dir / name).exists()]
    if rows is None or len(rows) > 1:  # the first is written before the first state
        results.append("metrics.csv")
    if results:
        raise CheckpointError(
            f"{run_dir} has results of a training ({', '.join(results)}) but no state from which it can go on: "
            "checkpoints/last.ckpt, previous.ckpt and best.ckpt are missing; restore one of them from a copy, or start "
            "over with resume=never (what is there is kept under another name)"
        )
    return Recovered(None, None, {})


def repair(run_dir: Path, recovered: Recovered) -> None:
    """Put aside what is damaged, restore metrics.csv, remove what a killed process was writing; say what was done.

    Only for who holds the lock of the directory.
    """
    for sentence in recovered.sentences():
        files.warn(sentence)
    damaged = set(recovered.damaged)
    best = run_dir / "checkpoints" / "best.ckpt"
    if best not in damaged and best.exists() and (why := files.damage(best)):
        files.warn(f"{best}: {why}; the best of the epochs to come takes its place")
        damaged.add(best)
    for path in damaged:
        if path.exists():
            path.replace(path.with_name(f"{path.name}.damaged"))
    for folder in (run_dir, run_dir / "checkpoints"):
        files.remove_partial(folder)
    if recovered.content is not None and (said := metrics_file.restore(run_dir / "metrics.csv", recovered.content)):
        files.warn(said)


def lacking(run_dir: Path) -> str | None:
    """Say what a completed run lacks of its results and can be made again, or None where they are whole.

    Raises
    ------
    CheckpointError
        if its best state is lost, from which all results are made
    """
    best, model = run_dir / "checkpoints" / "best.ckpt", run_dir / "model.pt"
    why = files.damage(model)
    if lost := files.damage(best):
        potential = f"the exported potential, {model}, is whole" if why is None else f"{model}: {why}"
        raise CheckpointError(
            f"{best}: {lost}; this run was completed, so its best state cannot be found again ({potential}). Restore "
            f"the file from a copy, use the last state, {best.with_name('last.ckpt')}, or train again with "
            "resume=never (what is there is kept under another name)"
        )
    return why and f"{model}: {why}"
