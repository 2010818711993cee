"""The callback that writes metrics.csv, whatever loggers there are."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from hiphop_train import files
from hiphop_train.errors import StorageError
from hiphop_train.training import metrics_file


class MetricsFile(Callback):
    """Writes a row per epoch; a resumed training continues the same file.

    The rows are in the state of the training too, so that `metrics_file.restore` can write a damaged file again.

    Parameters
    ----------
    path : of the file
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[metrics_file.Row] = []
        self._unwritten = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the rows of the epochs before the one at which the training resumes."""
        self._rows = [row for row in metrics_file.read(self.path) or [] if int(row["epoch"]) <= trainer.current_epoch]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row; where the disk refuses, the next epoch writes it."""
        values = {key: float(value) for key, value in sorted(trainer.callback_metrics.items())}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        epoch = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, "learning_rate": rate}
        self._rows.append({**epoch, **values})
        if trainer.is_global_zero:
            try:
                metrics_file.write(self.path, self._rows)
                self._unwritten = False
            except StorageError as error:
                if not self._unwritten:
                    files.warn(f"{error}; the training goes on meanwhile, and tries again with each epoch")
                self._unwritten = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what could not be written before."""
        if self._unwritten:
            metrics_file.write(self.path, self._rows)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"rows": [{key: str(value) for key, value in row.items()} for row in self._rows]}
