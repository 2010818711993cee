"""State dictionaries of hippynn 0.1.3: HIP-NN, HIP-NN-TS and HIP-HOP-NN with hierarchical energies.

A state dictionary determines all sizes, the kind of network, the elements (if it was saved from a whole model with its
species encoder), and HIP-NN-TS's cusp, but neither the cutoff nor the unit of the energies. The epsilon of the group
norm and the activation are assumed to be hippynn's defaults, 1e-5 and softplus; lengths are in Angstrom.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from hiphop_train.errors import ConfigError, DataError
from hiphop_train.importing.base import Imported
from hiphop_train.units import ENERGY

State = dict[str, Any]
"""hippynn's names -> tensors, and the dictionaries of HIP-NN-TS's extra state."""

N_MAX = {0: {1: 1}, 1: {1: 1, 2: 2}, 2: {1: 1, 3: 2, 5: 3, 6: 4}, 3: {1: 1, 4: 2, 7: 3, 13: 4}}
"""l_max -> number of invariants -> lowest n_max with that number; a higher n_max with the same is the same network."""

DEFAULT_CUSP = 1e-30
"""Cusp of hippynn's versions that did not store it."""


def _same(theirs: Tensor) -> Tensor:
    return theirs


def _first_row(theirs: Tensor) -> Tensor:
    return theirs[0]


RESIDUAL = {
    "residual.update.weight": ("res_layer.weight", _same),
    "residual.update.bias": ("res_layer.bias", _same),
    "residual.adjust.weight": ("adjust_layer.weight", _same),
}
INTERACTION: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "sensitivity.centre": ("base_layer.sensitivity.mu", _first_row),
    "sensitivity.inverse_width": ("base_layer.sensitivity.sigma", _first_row),
    "weight": ("base_layer.int_weights", lambda theirs: theirs.permute(2, 0, 1)),
    "self_interaction.weight": ("base_layer.selfint.weight", _same),
    "self_interaction.bias": ("base_layer.selfint.bias", _same),
    "mixing": ("base_layer.mixing_weights", lambda theirs: theirs.permute(1, 0, 2)),
    "norm.weight": ("base_layer.group_norm.weight", _same),  # flat: reshaped like the mixing weights
    "norm.bias": ("base_layer.group_norm.bias", _same),
    **RESIDUAL,
}
ATOM_LAYER = {
    "linear.weight": ("base_layer.weight", _same),
    "linear.bias": ("base_layer.bias", _same),
    **RESIDUAL,
}
"""Our name in a layer -> hippynn's name, and the conversion of its tensor; names absent from a network are skipped."""

NORM_SCALES = ["base_layer.vecscales", "base_layer.quadscales"]
"""HIP-NN-TS's scales of the norms, l = 1 and 2: rows of our single parameter."""

CONSTANT = re.compile(r"blocks\.\d+\.0\.base_layer\.(invars\.cmaps\.\d+|_extra_state)")
"""Entries of a block other than its parameters: tensor constants, and the cusp, which is read separately."""


def read(
    path: Path,
    cutoff: float | None = None,
    energy_unit: str | None = None,
    elements: list[str] | None = None,
    energy_layer: str | None = None,
) -> list[Imported]:
    """Read a state dictionary; a list of one.

    Parameters
    ----------
    path : file with the state dictionary, or hippynn's experiment folder with its best_model.pt
    cutoff : Angstrom, hippynn's dist_hard_max
    energy_unit : of the model's energies
    elements : in the order of hippynn's possible_species, if not stored in the file
    energy_layer : prefix of the energy layer's names, if several layers have its shape
    """
    file = path / "best_model.pt" if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"{file} does not exist; give a file written by torch.save(model.state_dict(), FILE), or the folder of a "
            "hippynn experiment, which contains best_model.pt"
        )
    state = _load(file)
    try:
        imported = convert(state, cutoff, energy_unit, elements, energy_layer)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    origin = "; ".join(part for part in (f"hippynn, {file.resolve()}", imported.origin) if part)
    return [imported._replace(origin=origin)]


def convert(
    state: Mapping[str, Any],
    cutoff: float | None,
    energy_unit: str | None,
    elements: list[str] | None = None,
    energy_layer: str | None = None,
) -> Imported:
    """Convert a state dictionary; see `read` for the arguments."""
    prefix = _network_prefix(state)
    network = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    n_interactions, n_atom_layers = _count_layers(network)
    elements = _elements(state, network, elements)
    if cutoff is None or energy_unit is None:
        raise ConfigError(
            "hippynn's files store neither the cutoff nor the energy unit of a model; give both: --cutoff ANGSTROM "
            f"(dist_hard_max) and --energy-unit UNIT (of the energies in training: {', '.join(ENERGY)})"
        )
    if not 0 < cutoff < float("inf"):
        raise ConfigError(f"--cutoff {cutoff}: must be finite and greater than 0 Angstrom")

    used: set[str] = set()
    weights: dict[str, Tensor] = {}
    for n in range(n_interactions):
        weights |= _interaction(network, n, used)
        for k in range(n_atom_layers):
            weights |= _translate(network, f"blocks.{n}.{k + 1}.", ATOM_LAYER, f"atom_layers.{n}.{k}.", used)
    blocks = (name for name in network if name.startswith("blocks.") and not CONSTANT.fullmatch(name))
    if unknown := sorted(set(blocks) - used):
        raise DataError(
            f"'{prefix}{unknown[0]}' belongs to an unsupported network; supported are hippynn's Hipnn, HipnnVec, "
            "HipnnQuad and HipHopNNModule with resnet=True, softplus and sensitivity_type='inverse'"
        )
    model = _model_section(network, weights, n_interactions, n_atom_layers, elements, cutoff)

    sizes = [len(elements)] + [model["n_features"]] * n_interactions
    energy_prefix = _energy_prefix(state, sizes, energy_layer)
    translated = {f"terms.0.representation.{name}": value for name, value in weights.items()}
    translated |= _energy(state, energy_prefix, len(elements), n_interactions, ENERGY[energy_unit])
    ignored = _ignored(state, prefix, energy_prefix)
    return Imported(model, translated, f"ignored: {', '.join(ignored)}" if ignored else "")


def _load(file: Path) -> State:
    """Read names and tensors without executing pickled code."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise DataError(
            f"{file} is another kind of file, or contains pickled objects besides tensors, as hippynn's "
            "experiment_structure.pt and best_checkpoint.pt do; these are not loaded because they can run any code. "
            "best_model.pt is a state dictionary; torch.save(model.state_dict(), FILE) writes one"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"{file} cannot be read as a state dictionary: it is damaged or another kind of file "
            f"({str(error).splitlines()[0][:200]})"
        ) from error
    for key in ("model", "state_dict"):  # a checkpoint of hippynn's or Lightning's
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise DataError(f"{file} contains a {type(content).__name__}, not a state dictionary")
    return dict(content)


def _network_prefix(state: Mapping[str, Any]) -> str:
    """Prefix of the names of the network's parameters."""
    mark = "blocks.0.0.base_layer.int_weights"
    found = [name.removesuffix(mark) for name in state if name.endswith(mark)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{len(found)} networks in one file ({', '.join(found)}); save each in a separate file")
    if any(name.endswith("blocks.0.0.int_weights") for name in state):
        raise DataError("networks with resnet=False are not supported")
    names = ", ".join(list(state)[:3])
    raise DataError(f"not a HIP-NN network of hippynn: no name ends with {mark}; first names: {names or 'none'}")


def _count_layers(network: State) -> tuple[int, int]:
    """Number of interactions, and of atom layers after each."""
    layers = {
        tuple(map(int, found.groups())) for name in network if (found := re.match(r"blocks\.(\d+)\.(\d+)\.", name))
    }
    n_interactions = 1 + max(block for block, _ in layers)
    sizes = [sum(block == n for block, _ in layers) for n in range(n_interactions)]
    if len(set(sizes)) > 1:
        raise DataError(f"blocks of different depth ({sizes} layers) are not supported")
    return n_interactions, sizes[0] - 1


def _elements(state: Mapping[str, Any], network: State, given: list[str] | None) -> list[str]:
    """Elements in the order of the network's input."""
    n_types = network["blocks.0.0.base_layer.int_weights"].shape[2]
    for symbol in given or []:
        if symbol not in chemical_symbols[1:]:
            raise ConfigError(f"--elements: '{symbol}' is not an element")
    stored = None
    maps = [value for name, value in state.items() if name.endswith("species_map")]
    if maps:
        numbers = {int(index): number for number, index in enumerate(maps[0].tolist()) if number > 0 and index > 0}
        stored = [chemical_symbols[numbers[index]] for index in sorted(numbers)]
    if stored is not None and given is not None and stored != given:
        raise ConfigError(f"--elements {','.join(given)}: the file has {','.join(stored)}; omit the option")
    found = stored or given
    if found is None:
        raise ConfigError(
            f"this file does not contain the {n_types} elements of the network; give them in the order of "
            "possible_species: --elements H,C,N,O"
        )
    if len(found) != n_types:
        raise ConfigError(f"{len(found)} elements ({','.join(found)}), but the network has {n_types} inputs")
    return found


def _translate(
    network: State,
    theirs: str,
    table: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]],
    ours: str,
    used: set[str],
) -> dict[str, Tensor]:
    """Rename and reshape the parameters of one layer."""
    found = {}
    for name, (other, change) in table.items():
        if theirs + other in network:
            used.add(theirs + other)
            found[ours + name] = change(network[theirs + other])
    return found


def _interaction(network: State, n: int, used: set[str]) -> dict[str, Tensor]:
    """Parameters of one interaction layer."""
    theirs, ours = f"blocks.{n}.0.", f"interactions.{n}."
    found = _translate(network, theirs, INTERACTION, ours, used)
    for name in ("norm.weight", "norm.bias"):
        if ours + name in found:
            found[ours + name] = found[ours + name].reshape(found[f"{ours}mixing"].shape[:2])
    scales = [theirs + name for name in NORM_SCALES if theirs + name in network]
    if scales:
        used.update(scales)
        found[f"{ours}norm_scale"] = torch.stack([network[name] for name in scales])
    return found


def _model_section(
    network: State,
    weights: dict[str, Tensor],
    n_interactions: int,
    n_atom_layers: int,
    elements: list[str],
    cutoff: float,
) -> dict[str, Any]:
    """Return the model section; soft_min and soft_max, used in initialisation only, span the learned centres."""
    widths = {weights[f"interactions.{n}.residual.update.weight"].shape for n in range(n_interactions)}
    if len(widths) > 1 or len(set(next(iter(widths)))) > 1:
        raise DataError("layers of different widths (n_features or resnet as a list) are not supported")
    centre = weights["interactions.0.sensitivity.centre"]
    high = min(float(centre.abs().max()), cutoff)
    low = min(float(centre.abs().min()), 0.99 * high)
    section: dict[str, Any] = {
        "_target_": "hiphop_train.models.hipnn.HIPNN",
        "elements": elements,
        "cutoff": cutoff,
        "n_features": int(weights["interactions.0.weight"].shape[2]),
        "n_interactions": n_interactions,
        "n_atom_layers": n_atom_layers,
        "n_sensitivities": len(centre),
        "soft_min": low,
        "soft_max": high,
    }
    if "interactions.0.mixing" in weights:
        section["_target_"] = "hiphop_train.models.hiphop.HIPHOP"
        l_max = sum(name.startswith("tensor_extractor.pmaps.") for name in network) - 1
        n_invariants = len(weights["interactions.0.mixing"])
        if n_invariants not in N_MAX.get(l_max, {}):
            raise DataError(f"{n_invariants} invariants of tensors up to l_max={l_max} do not exist in hippynn 0.1.3")
        section |= {"l_max": l_max, "n_max": N_MAX[l_max][n_invariants], "invariants": "published"}
        section["group_norm"] = "interactions.0.norm.weight" in weights
    elif "interactions.0.norm_scale" in weights:
        section["_target_"] = "hiphop_train.models.hipnn_ts.HIPNNTS"
        extra = [network.get(f"blocks.{n}.0.base_layer._extra_state", {}) for n in range(n_interactions)]
        cusps = {float(state.get("cusp_reg", DEFAULT_CUSP)) for state in extra}
        if len(cusps) > 1:
            raise DataError(f"layers with different cusps, {sorted(cusps)}, are not supported")
        section |= {"l_max": len(weights["interactions.0.norm_scale"]), "cusp": cusps.pop()}
    return {**section, "readout": {"_target_": "hiphop_train.readout.hierarchical.HierarchicalEnergy"}}


def _energy_prefix(state: Mapping[str, Any], sizes: list[int], given: str | None) -> str:
    """Prefix of the names of the energy layer's parameters."""

    def shapes_of(prefix: str) -> dict[str, tuple[int, ...]]:
        layers = re.compile(re.escape(prefix) + r"(layers\.\d+\.(weight|bias))")
        return {found[1]: tuple(value.shape) for name, value in state.items() if (found := layers.fullmatch(name))}

    def shapes(sizes: list[int], first_bias: int) -> dict[str, tuple[int, ...]]:
        weights: dict[str, tuple[int, ...]] = {f"layers.{n}.weight": (1, size) for n, size in enumerate(sizes)}
        return weights | {f"layers.{n}.bias": (1,) for n in range(first_bias, len(sizes))}

    allowed = (shapes(sizes, 1), shapes(sizes[1:], 0))  # with E0, which has no bias, and without
    mark = "layers.0.weight"
    candidates = [name.removesuffix(mark) for name in state if name.endswith(mark)]
    candidates = [prefix for prefix in candidates if shapes_of(prefix) in allowed]
    if given is not None:
        wanted = given.rstrip(".") + "."
        if wanted not in candidates:
            raise ConfigError(f"--energy-layer {given}: no such layer; allowed: {_listed(candidates)}")
        return wanted
    if not candidates:
        raise DataError(
            "no energy layer that fits the network (hippynn's HEnergy with one target): save the state of the whole "
            "model, torch.save(GraphModule(...).state_dict(), FILE), not of the network alone"
        )
    if len(candidates) > 1:
        raise ConfigError(
            f"{len(candidates)} layers have the shape of an energy (charges do too); choose one: "
            f"--energy-layer {candidates[0].rstrip('.')}; allowed: {_listed(candidates)}"
        )
    return candidates[0]


def _energy(state: Mapping[str, Any], prefix: str, n_types: int, n_interactions: int, unit: float) -> dict[str, Tensor]:
    """Parameters of the readout, E0 in eV, and the energy unit (eV) as the potential's scale."""
    first = 1 if f"{prefix}layers.{n_interactions}.weight" in state else 0  # the layer of the first interaction
    found = {
        f"terms.0.readout.layers.{n}.{kind}": state[f"{prefix}layers.{n + first}.{kind}"]
        for n in range(n_interactions)
        for kind in ("weight", "bias")
    }
    found["e0"] = torch.zeros(1, n_types, dtype=torch.float64)
    if first:  # otherwise E0 is zero
        found["e0"] = state[f"{prefix}layers.0.weight"].to(torch.float64) * unit
    found["terms.0.scale"] = torch.tensor(unit, dtype=torch.float64)
    return found


def _ignored(state: Mapping[str, Any], network: str, energy: str) -> list[str]:
    """Modules whose state is not part of the energy, judging by their names."""
    part = (f"{network}blocks.", f"{network}tensor_extractor.", f"{energy}layers.")
    geometry = ("species_map", ".combinator")
    rest = [name for name in state if not name.startswith(part) and not name.endswith(geometry)]
    return sorted({name.rpartition(".")[0] or name for name in rest})


def _listed(prefixes: list[str]) -> str:
    return ", ".join(prefix.rstrip(".") for prefix in prefixes) or "none"
