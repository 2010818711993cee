"""Fine-tuning: which parameters of given weights are trained on, and at which rates."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat
from torch import nn

from hiphop_train.errors import ConfigError, did_you_mean
from hiphop_train.potential import Network, Potential

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
