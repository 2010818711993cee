"""metrics.csv: a row per epoch, whatever loggers there are."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from hiphop_train import files
from hiphop_train.errors import StorageError

Row = dict[str, Any]


class MetricsFile(Callback):
    """Writes a row per epoch; a resumed training continues the same file.

    The rows are in the state of the training too, so that `restore` can write a damaged file again.

    Parameters
    ----------
    path : of the file
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[Row] = []
        self._unwritten = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the rows of the epochs before the one at which the training resumes."""
        self._rows = [row for row in read(self.path) or [] if int(row["epoch"]) <= trainer.current_epoch]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row; where the disk refuses, the next epoch writes it."""
        values = {key: float(value) for key, value in sorted(trainer.callback_metrics.items())}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        epoch = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, "learning_rate": rate}
        self._rows.append({**epoch, **values})
        if trainer.is_global_zero:
            try:
                write(self.path, self._rows)
                self._unwritten = False
            except StorageError as error:
                if not self._unwritten:
                    files.warn(f"{error}; the training goes on meanwhile, and tries again with each epoch")
                self._unwritten = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what could not be written before."""
        if self._unwritten:
            write(self.path, self._rows)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"rows": [{key: str(value) for key, value in row.items()} for row in self._rows]}


def read(path: Path) -> list[Row] | None:
    """Return the rows of metrics.csv; none where there is no file, None where it is damaged."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        for number, row in enumerate(rows):
            if None in row or None in row.values() or int(row["epoch"]) != number + 1 or not float(row["step"]) > 0:
                return None
            for value in row.values():
                float(value or 0)
    except (OSError, ValueError, KeyError, csv.Error):
        return None
    return rows or None


def write(path: Path, rows: list[Row]) -> None:
    """Replace metrics.csv as a whole.

    Raises
    ------
    StorageError
        if it cannot be written
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


def restore(path: Path, state: dict[str, Any]) -> str | None:
    """Write metrics.csv again where it is damaged, or lacks epochs of the state from which a training goes on.

    Parameters
    ----------
    path : of the file
    state : contents of a checkpoint

    Returns
    -------
    said : what was found and done, or None where all was well
    """
    rows = read(path)
    stored = state["callbacks"].get("MetricsFile", {}).get("rows", [])
    if rows is not None and len(rows) >= len(stored):
        return None
    found = "is damaged" if rows is None else f"lacks epochs after {len(rows)}" if rows else "is missing"
    if rows is None:
        path.rename(path.with_name(f"{path.name}.damaged"))
    if not stored:
        return f"{path} {found}: kept as {path.name}.damaged; it begins anew, the training goes on"
    write(path, stored)
    return f"{path} {found}: written again from the checkpoint"
