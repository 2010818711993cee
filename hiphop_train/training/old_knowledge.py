"""What becomes of old knowledge in fine-tuning."""

import math
from typing import Any, get_args

from lightning.pytorch import Callback, LightningModule, Trainer

from hiphop_train import files
from hiphop_train.training.finetuning import Forgetting
from hiphop_train.training.schedules import MONITOR

SHOWN = {"energy": "E", "forces": "F"}


class OldKnowledge(Callback):
    """Watches the validation errors of old data.

    Parameters
    ----------
    before : target -> mean absolute error before the training, kcal/mol(/Angstrom)
    limit : factor over them; None for none
    action : beyond it
    """

    def __init__(self, before: dict[str, float], limit: float | None, action: Forgetting) -> None:
        assert action in get_args(Forgetting)
        self.before, self.limit, self.action = before, limit, action
        self._best = math.inf
        self._kept: dict[str, float] = {}
        self._lost = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, and keep the errors of the weights that become best.ckpt."""
        found = {key: float(trainer.callback_metrics[f"old/{key}_mae"]) for key in self.before}
        score = float(trainer.callback_metrics[MONITOR])
        if score < self._best:
            self._best, self._kept = score, found
        worst = max(found, key=lambda key: found[key] / max(self.before[key], 1e-12))
        lost = self.limit is not None and found[worst] > self.limit * self.before[worst]
        if lost and not self._lost:
            ends = self.action == "stop"
            if trainer.is_global_zero:
                epoch, then = trainer.current_epoch + 1, "ends here" if ends else "goes on"
                files.warn(
                    f"old knowledge is lost, by epoch {epoch}: {self._said(found)} on old data, more than "
                    f"finetune.forgetting_limit={self.limit:g} times; the training {then}. What helps: "
                    "finetune.replay=0.3, a lower optimizer.lr, finetune.freeze, finetune.layer_decay=0.5"
                )
            trainer.should_stop = trainer.should_stop or ends
        self._lost = lost

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what became of the old data."""
        if trainer.is_global_zero and self._kept:
            print(f"old data   {self._said(self._kept)}, validation MAE of best.ckpt", flush=True)

    def _said(self, now: dict[str, float]) -> str:
        pairs = [f"{SHOWN.get(key, key)} {self.before[key]:.3f} -> {now[key]:.3f}" for key in self.before]
        return f"{', '.join(pairs)} kcal/mol(/A)"

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"best": self._best, "kept": self._kept, "lost": self._lost}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what earlier starts have seen."""
        self._best, self._kept, self._lost = state_dict["best"], state_dict["kept"], state_dict["lost"]
