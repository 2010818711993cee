"""Whether model and data have what the loss asks for."""

from omegaconf import DictConfig

from hiphop_train.data.module import DataModule
from hiphop_train.errors import ConfigError
from hiphop_train.potential import Potential
from hiphop_train.training.losses import Loss


def check_targets(loss: Loss, potential: Potential, data: DataModule, section: DictConfig) -> None:
    """Compare the targets that have a weight in the loss with those of the model and the labels of the training split.

    Energy and forces, which every loss weighs by default, train as far as they have labels.

    Parameters
    ----------
    section : the data section of the configuration

    Raises
    ------
    ConfigError
        when the model has no such output, or no training structure such a label
    """
    structures, train = data.structures, data.splits["train"]
    for key in loss.parts.keys() - {"energy", "forces"}:
        if key not in potential.targets:
            raise ConfigError(
                f"loss.{key} has a weight, but the model has no {key}; its targets are {', '.join(potential.targets)}. "
                f"Choose a readout that has it (model=hiphop_dipole has charges and dipole), or leave out loss.{key}"
            )
        if not structures.has(key)[train].any():
            raise ConfigError(
                f"loss.{key} has a weight, but no training structure of {structures.source} has a {key}; "
                f"{_how_to_read(section, key)}, or leave out loss.{key}"
            )


def _how_to_read(section: DictConfig, key: str) -> str:
    """Name the setting of a data section by which labels are read."""
    if f"{key}_key" in section:
        return f"name the label in the file: data.{key}_key=NAME"
    theories = section.reader.get("levels") or {}
    if any(key in names for names in theories.values()):
        return f"name its array in the file: data.reader.levels.{next(iter(theories))}.{key}=NAME"
    return f"data={section.name} reads none; data=extxyz has data.{key}_key=NAME"
