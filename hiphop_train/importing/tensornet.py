"""TensorNet models of torchmd-net 3.1: checkpoints that its training wrote, plain values and tensors.

They know all atomic numbers up to a highest one; which of these were trained is for the user to say.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from ase.data import atomic_numbers, chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor

from hiphop_train.errors import ConfigError, DataError, HipHopError
from hiphop_train.importing import exported
from hiphop_train.importing.base import Imported
from hiphop_train.importing.exported import Weights, check
from hiphop_train.units import ENERGY

WITHOUT_EFFECT = re.compile(r".*distance\.box|prior_model\.\d+\.initial_atomref")
"""Entries of a state dictionary that say nothing about the energy."""

Prior = str | dict[str, Any]


class Settings(BaseModel):
    """Hyperparameters of torchmd-net that determine the energy, as in its files; the others are those of training."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: Literal["tensornet"]
    embedding_dimension: Annotated[int, Field(ge=2)]
    num_layers: PositiveInt
    num_rbf: PositiveInt
    rbf_type: Literal["expnorm"]
    activation: Literal["silu"]
    cutoff_lower: Annotated[float, Field(ge=0.0, le=0.0)]
    cutoff_upper: PositiveFloat
    max_z: PositiveInt
    equivariance_invariance_group: Literal["O(3)", "SO(3)"]
    output_model: Literal["Scalar"]
    reduce_op: Literal["sum", "add"]
    prior_model: Prior | list[Prior] | None = None
    output_mlp_num_layers: Literal[0] = 0
    charge: Literal[False] = False
    spin: Literal[False] = False
    atom_filter: Literal[-1] = -1


def read(path: Path, energy_unit: str = "eV", elements: Sequence[str] | None = None) -> list[Imported]:
    """Read a checkpoint (*.ckpt) of torchmd-net; a list of one.

    Parameters
    ----------
    path : file
    energy_unit : of the training energies, which the file does not name
    elements : on which the model was trained

    Raises
    ------
    DataError
        if it is another kind of file, or a model that is not supported
    ConfigError
        if the elements are not given
    """
    content = _load(path)
    hyperparameters = content["hyper_parameters"]
    state = {name.removeprefix("model."): value for name, value in content["state_dict"].items()}
    try:
        settings = exported.validated(Settings, hyperparameters)
        section, translated = _convert(settings, state, elements, is_old="check_errors" in hyperparameters)
    except ConfigError:
        raise
    except HipHopError as error:
        raise DataError(f"{path}: {error}") from error
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError) as error:
        raise DataError(
            f"{path}: its tensors do not fit its settings ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    for name in ("e0", "terms.0.scale"):
        translated[name] = translated[name] * ENERGY[energy_unit]
    return [Imported(section, translated, f"torchmd-net, {path.resolve()}")]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a crafted pickle provokes
        raise DataError(
            f"{path} cannot be read as plain values and tensors: it is damaged, of another kind, or contains objects "
            "that are not opened because they can run any code. Give the *.ckpt file that torchmd-train wrote"
        ) from error
    settings, state = (
        content.get(name) if isinstance(content, dict) else None for name in ("hyper_parameters", "state_dict")
    )
    is_state = isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())
    if not (isinstance(settings, dict) and is_state):
        raise DataError(f"{path} is not a checkpoint of torchmd-net: it lacks hyper_parameters or state_dict")
    return content  # type: ignore[no-any-return]


def _convert(
    settings: Settings, state: Mapping[str, Tensor], elements: Sequence[str] | None, is_old: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the model section, and the state dictionary of the potential; is_old: written before torchmd-net 3."""
    weights = Weights({name: value for name, value in state.items() if not WITHOUT_EFFECT.fullmatch(name)}, {})
    reference = _reference_energies(settings, weights)
    if not elements:
        known = [chemical_symbols[z] for z in range(1, len(reference)) if reference[z] != 0]
        which = f"; its reference energies are not zero for {','.join(known)}" if known else ""
        raise ConfigError(
            f"a file of torchmd-net does not say on which elements it was trained{which}; give --elements H,C,N,O"
        )
    numbers = [atomic_numbers[each] for each in exported.elements_of(elements, "--elements")]
    check(max(numbers) < settings.max_z, "--elements", list(elements), f"atomic numbers below {settings.max_z} (max_z)")
    mean, std = float(weights["mean"]), float(weights["std"])
    check(mean == 0.0, "mean", mean, "0: an energy of each molecule, whatever its size, is no sum over atoms")
    section = {
        "_target_": "hiphop_train.models.tensornet.TensorNet",
        "elements": list(elements),
        "cutoff": settings.cutoff_upper,
        "n_features": settings.embedding_dimension,
        "n_interactions": settings.num_layers,
        "n_radial": settings.num_rbf,
        "group": settings.equivariance_invariance_group,
        "readout": {
            "_target_": "hiphop_train.readout.atomwise.AtomwiseEnergy",
            "hidden": [settings.embedding_dimension // 2],
            "activation": "silu",
        },
    }
    translated = translate(weights, settings.num_layers, numbers, is_old)
    translated["e0"] = reference[torch.tensor(numbers)][None]
    translated["terms.0.scale"] = torch.tensor(std, dtype=torch.float64)
    if weights.unused:
        raise DataError(f"parameters of an unsupported part of a model: {', '.join(sorted(weights.unused)[:5])}")
    return section, translated


def _reference_energies(settings: Settings, weights: Weights) -> Tensor:
    """Return the energies of the atoms that a prior adds, by atomic number, float64."""
    priors = settings.prior_model or []
    names = [
        name
        for each in (priors if isinstance(priors, list) else [priors])
        for name in ([each] if isinstance(each, str) else each)
    ]
    check(all(name in ("Atomref", "LearnableAtomref") for name in names), "prior_model", names, "none, or Atomref")
    total = torch.zeros(settings.max_z, dtype=torch.float64)
    for k in range(len(names)):
        values = weights[f"prior_model.{k}.atomref.weight"].double()[: settings.max_z, 0]
        total[: len(values)] += values
    return total


def translate(state: Mapping[str, Tensor], n_layers: int, numbers: Sequence[int], is_old: bool) -> dict[str, Tensor]:
    """Translate the parameters of a network.

    Parameters
    ----------
    state : names of torchmd-net -> tensors
    n_layers : interactions
    numbers : rows of its embedding of the elements, in the order of ours
    is_old : the functions of radial networks are ordered by feature first, as before torchmd-net 3

    Returns
    -------
    weights : our names in a `Potential` -> tensors
    """
    network, embedding = "representation_model.", "representation_model.tensor_embedding."
    readout = "output_model.output_network."
    of_readout = f"{readout}layers." if f"{readout}layers.0.weight" in state else readout
    rows = torch.tensor(list(numbers))
    found = {"embedding.elements.weight": state[f"{embedding}emb.weight"][rows]}
    smearing = {name: state[f"{network}distance_expansion.{name}"] for name in ("means", "betas")}

    def last(name: str) -> Tensor:
        """The layer whose results are three functions of each feature."""
        value = state[name]
        if not is_old:
            return value
        return value.reshape(-1, 3, *value.shape[1:]).transpose(0, 1).reshape(value.shape)

    for kind in ("weight", "bias"):
        projections = [state[f"{embedding}distance_proj{k}.{kind}"] for k in (1, 2, 3)]
        found[f"embedding.radial.layers.0.{kind}"] = torch.cat(projections)
        found[f"embedding.pairs.{kind}"] = state[f"{embedding}emb2.{kind}"]
        found[f"embedding.norm.{kind}"] = state[f"{embedding}init_norm.{kind}"]
        found[f"embedding.scalars.0.{kind}"] = state[f"{embedding}linears_scalar.0.{kind}"]
        found[f"embedding.scalars.1.{kind}"] = last(f"{embedding}linears_scalar.1.{kind}")
        found[f"norm.{kind}"] = state[f"{network}out_norm.{kind}"]
        found[f"linear.{kind}"] = state[f"{network}linear.{kind}"]
    found |= {f"embedding.radial.{name}": value for name, value in smearing.items()}
    for n in range(3):
        found[f"embedding.mixing.layers.{n}.weight"] = state[f"{embedding}linears_tensor.{n}.weight"]
    for k in range(n_layers):
        ours, theirs = f"interactions.{k}.", f"{network}layers.{k}."
        found |= {f"{ours}radial.{name}": value for name, value in smearing.items()}
        for n in range(3):
            for kind in ("weight", "bias"):
                name = f"{theirs}linears_scalar.{n}.{kind}"
                found[f"{ours}radial.layers.{n}.{kind}"] = last(name) if n == 2 else state[name]
            found[f"{ours}before.layers.{n}.weight"] = state[f"{theirs}linears_tensor.{n}.weight"]
            found[f"{ours}after.layers.{n}.weight"] = state[f"{theirs}linears_tensor.{n + 3}.weight"]
    translated = {f"terms.0.representation.{name}": value for name, value in found.items()}
    for n in (0, 2):
        for kind in ("weight", "bias"):
            translated[f"terms.0.readout.network.{n}.{kind}"] = state[f"{of_readout}{n}.{kind}"]
    return translated
