"""Fine-tuning: which parameters of given weights are trained on, at which rates, and what becomes of old knowledge."""

import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from pydantic import Field, PositiveFloat
from torch import nn

from hiphop_train import files
from hiphop_train.errors import ConfigError, did_you_mean
from hiphop_train.potential import Network, Potential
from hiphop_train.training.schedules import MONITOR

NewE0 = Literal["keep", "fit", "new_level"]
Forgetting = Literal["warn", "stop"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(gt=0, le=1)]
Limit = Annotated[float, Field(gt=1)]


class Finetuning:
    """How given weights are trained on.

    Parameters
    ----------
    freeze : parts or patterns of names of parameters that are not trained
    layer_decay : rate of each layer as a fraction of that of the layer above it
    rates : part or pattern -> factor on the rate; where several fit, the last counts
    e0 : keep, fit to the new energies, or add a level of theory
    old_data : auto, off, or a run directory or checkpoint, whose data are taken
    replay : share of old training structures in an epoch
    forgetting_limit : factor over an error before the training; None for none
    on_forgetting : what is done beyond it
    """

    def __init__(
        self,
        freeze: list[str] | None = None,
        layer_decay: Decay = 1.0,
        rates: dict[str, PositiveFloat] | None = None,
        e0: NewE0 = "keep",
        old_data: str = "auto",
        replay: Fraction = 0.0,
        forgetting_limit: Limit | None = 2.0,
        on_forgetting: Forgetting = "warn",
    ) -> None:
        self.freeze = freeze or []
        self.layer_decay = layer_decay
        self.rates = rates or {}
        self.e0 = e0
        self.old_data = old_data
        self.replay = replay
        self.forgetting_limit = forgetting_limit
        self.on_forgetting = on_forgetting
        if replay and old_data == "off":
            raise ConfigError(f"finetune.replay={replay} replays old data, but finetune.old_data=off; leave out one")
        if replay and e0 == "fit":
            raise ConfigError(
                "finetune.e0=fit gives old structures wrong energies while finetune.replay trains on them; keep both "
                "E0, finetune.e0=new_level, or give finetune.e0=keep"
            )

    def plain(self) -> dict[str, Any]:
        """Return the section of a configuration that builds this."""
        return {"_target_": f"{type(self).__module__}.{type(self).__qualname__}", **vars(self)}

    def prepare(self, potential: Potential) -> None:
        """Freeze parameters of a potential.

        Raises
        ------
        ConfigError
            if a pattern fits no parameter, or nothing would be left to train
        """
        names = parameters(potential)
        for pattern in self.freeze:
            for name in fitting(pattern, names, "freeze"):
                names[name].requires_grad_(False)
        if not any(parameter.requires_grad for parameter in names.values()):
            raise ConfigError(f"finetune.freeze={self.freeze} freezes all parameters; nothing would be trained")

    def groups(self, potential: Potential, rate: float) -> list[dict[str, Any]]:
        """Return the optimizer's groups: those of the highest rate first, each with the parameters that train at it.

        Parameters
        ----------
        potential : whose parameters are trained
        rate : of the uppermost layer
        """
        names = parameters(potential)
        factors = dict.fromkeys(names, 1.0)
        for pattern, factor in self.rates.items():
            for name in fitting(pattern, names, "rates"):
                factors[name] = factor
        depth = layers(potential)
        top = max(depth.values())
        by_factor: dict[float, list[nn.Parameter]] = {}
        for name, parameter in names.items():
            if parameter.requires_grad:
                factor = factors[name] * self.layer_decay ** (top - depth[name])
                by_factor.setdefault(factor, []).append(parameter)
        return [{"params": by_factor[factor], "lr": factor * rate} for factor in sorted(by_factor, reverse=True)]


def parameters(potential: Potential) -> dict[str, nn.Parameter]:
    """Return the network's parameters by name, as ``representation.embedding.weight``."""
    network = potential.terms[0]
    assert isinstance(network, Network)
    return dict(network.named_parameters())


def fitting(pattern: str, names: Mapping[str, Any], key: str) -> list[str]:
    """Return the names within a part, or of a pattern.

    Raises
    ------
    ConfigError
        if there are none
    """
    found = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
    if not found:
        parts = sorted({".".join(name.split(".")[:n]) for name in names for n in (1, 2, 3)} - {""})
        raise ConfigError(
            f"finetune.{key}: '{pattern}' fits no parameter{did_you_mean(pattern, parts)}\n"
            f"  parts: {', '.join(part for part in parts if part.count('.') < 2)}\n"
            "  patterns: * stands for any characters, as in 'readout.*.bias'"
        )
    return found


def layers(potential: Potential) -> dict[str, int]:
    """Return the layer of each parameter, from 0 at the input.

    A representation with parameters has its embedding (and whatever all its blocks share) below its blocks, and the
    readout above them; where it has none, as with symmetry functions, the layers are those of the readout's networks.
    """
    names = list(parameters(potential))
    learned = any(name.startswith("representation.") for name in names)
    numbers = {}
    for name in names:
        if name.startswith("representation."):
            block = re.match(r"representation\.\w+\.(\d+)\.", name)
            numbers[name] = -1 if block is None else int(block[1])
        else:
            inner = re.findall(r"\.(\d+)(?=\.)", name)
            numbers[name] = 10**6 if learned else int(inner[-1]) if inner else 0
    ranks = {number: rank for rank, number in enumerate(sorted(set(numbers.values())))}
    return {name: ranks[number] for name, number in numbers.items()}


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
