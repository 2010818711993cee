"""Construction of objects from configuration sections; the only module that calls Hydra's instantiate.

Dependencies between parts are passed here: the model's elements and cutoff to the data, its elements and feature sizes
to the readout, the run directory to loggers and checkpoints.
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from ase.data import atomic_numbers
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import Field, PositiveInt

from hiphop_train.accelerate import Choice, MatmulPrecision, Precision
from hiphop_train.data.formats.base import Reader
from hiphop_train.errors import ConfigError, HipHopError, did_you_mean
from hiphop_train.models.base import Representation
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.base import Readout

if TYPE_CHECKING:
    from hiphop_train.data.module import DataModule  # Lightning's, whose import takes seconds: many need no data

DTYPES = {"float32": torch.float32, "float64": torch.float64}

LARGEST_CUTOFF = 50.0
"""Angstrom; ten times the usual. The number of pairs grows with its cube."""

DATA_VARIABLES = (
    "root",
    "path",
    "val_path",
    "test_path",
    "energy_key",
    "forces_key",
    "stress_key",
    "virial_key",
    "dipole_key",
    "level",
    "format",
    "exclude",
    "charged",
)
"""Keys of the data section that are shortcuts for the command line; other keys of the section refer to them."""

OWN_KEYS: dict[str, dict[str, Any]] = {
    "trainer": {
        "compile": Choice,
        "precision": Precision,
        "matmul_precision": MatmulPrecision,
        "bad_batches": Literal["skip", "roll_back", "stop"],
        "max_bad_batches": PositiveInt,
        "shard_optimizer": bool,
        "spike": Annotated[float | int, Field(gt=1)],
    }
}
"""Keys that this package reads from sections of other packages' classes, with their types."""

HANDED_OVER: dict[str, tuple[str, ...]] = {
    "model.readout": ("feature_sizes", "elements"),
    "model.readout.energy": ("feature_sizes", "elements"),
    "data": ("elements", "cutoff", "dtype", "seed"),
    "optimizer": ("params",),
    "trainer": (
        "callbacks",
        "plugins",
        "logger",
        "use_distributed_sampler",
        "inference_mode",
        "default_root_dir",
        "enable_progress_bar",
        "precision",
    ),
    "logger": ("run_dir",),
}
"""Arguments passed here instead of being set by the configuration."""


def make_potential(model: Mapping[str, Any] | DictConfig, dtype: torch.dtype, n_theories: int = 1) -> Potential:
    """Build a potential with random weights, zero E0 and unit scale.

    Parameters
    ----------
    model : the model section, readout included
    dtype : floating-point type of the network
    n_theories : number of levels of theory, each with its E0
    """
    section: Any = OmegaConf.to_container(OmegaConf.create(dict(model)), resolve=True)
    _check_model(section)
    readout_section = section.pop("readout")
    representation: Representation = _instantiate(section, "model")
    features = {"feature_sizes": representation.feature_sizes, "elements": representation.elements}
    readout: Readout = _instantiate(_with_needed(readout_section, "model.readout", features), "model.readout")
    if representation.sites != readout.sites:
        raise ConfigError(
            f"model.readout: {type(readout).__name__} reads features of {readout.sites}, but the features of "
            f"{type(representation).__name__} live on {representation.sites}; keep the readout of the model's yaml"
        )
    network = Network(representation.to(dtype), readout.to(dtype))
    return Potential([network], representation.elements, representation.cutoff, n_theories)


def learning_rate(target: str) -> float:
    """Return the learning rate of a model's class, by its name; nothing is imported that is not ours."""
    try:
        model = get_object(target) if str(target).startswith("hiphop_train.models.") else None
    except (ImportError, ValueError):  # which is said where the model is built
        model = None
    return float(getattr(model, "learning_rate", Representation.learning_rate))


def _check_model(section: dict[str, Any]) -> None:
    """Check what all models have in common, before one is built of it."""
    elements, cutoff = section.get("elements"), section.get("cutoff")
    if isinstance(elements, list):
        if not elements:
            raise ConfigError("model.elements is empty; list the elements, such as 'model.elements=[H,C,N,O]'")
        for symbol in elements:
            if symbol not in atomic_numbers or symbol == "X":
                raise ConfigError(
                    f"model.elements: '{symbol}' is not an element{did_you_mean(str(symbol), atomic_numbers)}"
                )
            if elements.count(symbol) > 1:
                raise ConfigError(f"model.elements: '{symbol}' is listed twice")
    if isinstance(cutoff, int | float) and not 0 < cutoff <= LARGEST_CUTOFF:
        raise ConfigError(f"model.cutoff={cutoff}: must be between 0 and {LARGEST_CUTOFF:g} Angstrom")


def make_data(
    data: Mapping[str, Any] | DictConfig, potential: Potential, dtype: torch.dtype, seed: int
) -> "DataModule":
    """Build the data module for a potential."""
    section = data.copy() if isinstance(data, DictConfig) else OmegaConf.create(dict(data))
    OmegaConf.resolve(section)
    with open_dict(section):
        for key in DATA_VARIABLES:
            section.pop(key, None)
    module: DataModule = _instantiate(
        section,
        "data",
        elements=potential.elements,
        cutoff=potential.cutoff,
        dtype=dtype,
        seed=seed,
    )
    return module


def make_reader(section: DictConfig) -> Reader:
    """Build the reader of a data section alone, without a model."""
    resolved = section.copy()
    OmegaConf.resolve(resolved)
    reader: Reader = _instantiate(resolved.reader, "data.reader")
    return reader


def make_part(section: Mapping[str, Any] | DictConfig, name: str, **handed_over: Any) -> Any:
    """Build a loss, an optimizer or a schedule."""
    return _instantiate(section, name, **handed_over)


def make_parts(section: DictConfig | None, name: str, **handed_over: Any) -> list[Any]:
    """Build several named objects, such as callbacks or loggers."""
    return [
        _instantiate(part, f"{name}.{key!s}", **handed_over)
        for key, part in (section or {}).items()
        if part is not None
    ]


def _with_needed(section: dict[str, Any], name: str, offered: dict[str, Any]) -> dict[str, Any]:
    """Add to a section and its subsections the offered arguments that their targets accept."""
    target = section["_target_"]
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{name}._target_: '{target}' cannot be imported: {error}") from error
    nested = {
        key: _with_needed(part, f"{name}.{key}", offered)
        for key, part in section.items()
        if isinstance(part, dict) and "_target_" in part
    }
    return section | nested | {key: value for key, value in offered.items() if key in parameters}


def _instantiate(section: Mapping[str, Any] | DictConfig, name: str, **handed_over: Any) -> Any:
    try:
        return instantiate(section, _convert_="all", **handed_over)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, HipHopError):
            raise cause from None
        raise ConfigError(f"{name} cannot be built: {cause or error}") from error
