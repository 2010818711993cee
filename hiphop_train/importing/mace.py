"""Models of MACE (mace-torch 0.3.16), as scripts/export_mace.py writes them: settings and a state dictionary.

mace-torch's own files are pickles of whole modules, which run code when they are opened; they are not read here.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from hiphop_train.errors import DataError
from hiphop_train.importing.base import Imported
from hiphop_train.importing.e3nn import basis, linear, species_linear
from hiphop_train.models.mace import MACE, Interaction
from hiphop_train.nn.symmetric_powers import PowersOfRank, projected
from hiphop_train.nn.tensors import full_tensor

FORMAT = "hiphop-train mace 1"

EXPECTED: dict[str, Any] = {
    "class": "ScaleShiftMACE",
    "radial_basis": "BesselBasis",
    "distance_transform": None,
    "heads": 1,
    "pair_repulsion": False,
    "use_so3": False,
    "use_agnostic_product": False,
    "use_last_readout_only": False,
    "joint_embedding": False,
}
"""Settings with one supported value each; of heads the number."""

INTERACTIONS = ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock")
"""Of the first layer, and of the others."""


def read(path: Path) -> list[Imported]:
    """Read a file written by scripts/export_mace.py; a list of one.

    Raises
    ------
    DataError
        if it is another kind of file, or the model has settings that `hiphop_train.models.mace.MACE` lacks
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read as plain values and tensors ({str(error).splitlines()[0][:120]}); mace-torch's own "
            "files contain code: write one without in the environment of mace-torch, "
            f"python scripts/export_mace.py {path} FILE"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not a file of scripts/export_mace.py; write one with it")
    try:
        return [_convert(content, f"mace-torch {content['version']}, {path.resolve()}")]
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _convert(content: Mapping[str, Any], origin: str) -> Imported:
    """Check the settings, and return section and weights."""
    found = {**content, **content["options"], "heads": len(content["heads"])}
    for name, value in EXPECTED.items():
        if found[name] != value:
            raise DataError(f"{name} is {found[name]}; supported is {value}")
    for layer, name in enumerate(content["interactions"]):
        if name != INTERACTIONS[min(layer, 1)]:
            raise DataError(f"layer {layer} is a {name}; supported are {INTERACTIONS[0]}, then {INTERACTIONS[1]}")
    if any(name != "silu" for name in content["activations"]):
        raise DataError(f"activation {', '.join(content['activations'])} of the readout; supported is silu")
    widths = {multiplicity for multiplicity, _, _ in content["hidden"]}
    ranks = [(rank, parity) for _, rank, parity in content["hidden"]]
    if len(widths) > 1 or ranks != [(rank, (-1) ** rank) for rank in range(len(ranks))]:
        raise DataError(
            f"features {content['hidden']} (number, rank, parity); supported is one number for each rank from 0, with "
            "parity (-1)^rank"
        )
    for name in ("correlation", "average_neighbours"):
        if len(set(content[name])) > 1:
            raise DataError(f"{name} differs between layers, {content[name]}; supported is one value for all")
    state = content["state"]
    n_radial_layers = sum(name.startswith("interactions.0.conv_tp_weights.layer") for name in state)
    radial = [state[f"interactions.0.conv_tp_weights.layer{k}.weight"].shape for k in range(n_radial_layers)]
    section: dict[str, Any] = {
        "_target_": "hiphop_train.models.mace.MACE",
        "elements": [chemical_symbols[number] for number in content["atomic_numbers"]],
        "cutoff": content["cutoff"],
        "n_features": widths.pop(),
        "n_interactions": len(content["interactions"]),
        "rank": len(ranks) - 1,
        "l_max": content["l_max"],
        "correlation": content["correlation"][0],
        "n_radial": radial[0][0],
        "cutoff_power": int(content["cutoff_power"]),
        "radial_hidden": [int(shape[1]) for shape in radial[:-1]],
    }
    model = MACE(**{name: value for name, value in section.items() if name != "_target_"})
    hidden = [multiplicity for multiplicity, _, _ in content["mlp"]] or [16]
    section["readout"] = {"_target_": "hiphop_train.readout.scaled.LayerEnergies", "hidden": hidden}
    weights = translate(state, model)
    weights["terms.0.representation.average_neighbours"] = torch.tensor(content["average_neighbours"][0])
    scale, shift = (state[f"scale_shift.{name}"].double().reshape(()) for name in ("scale", "shift"))
    weights["terms.0.scale"] = scale
    weights["e0"] = state["atomic_energies_fn.atomic_energies"].double().reshape(1, -1) + shift
    return Imported(section, weights, origin)


def translate(state: Mapping[str, Tensor], model: MACE) -> dict[str, Tensor]:
    """Translate the parameters of a network.

    Parameters
    ----------
    state : mace's names -> tensors, the buffers ``U_matrix`` among them
    model : of the same sizes

    Returns
    -------
    weights : our names in a `Potential` -> tensors
    """
    width = model.feature_sizes[0]
    found = {"embedding.weight": state["node_embedding.linear.weight"].reshape(-1, width)}
    for k, layer in enumerate(model.interactions):
        assert isinstance(layer, Interaction)
        prefix = f"interactions.{k}."
        given, between, results = layer.types
        found |= linear(state[f"{prefix}linear_up.weight"], layer.before, f"{prefix}before", given, given)
        found |= linear(state[f"{prefix}linear.weight"], layer.after, f"{prefix}after", between, between)
        last = len(layer.radial.network.layers) - 1
        for n in range(last + 1):
            weight = state[f"{prefix}conv_tp_weights.layer{n}.weight"]
            found[f"{prefix}radial.network.layers.{n}.weight"] = _in_our_order(weight, layer) if n == last else weight
        found |= species_linear(state[f"{prefix}skip_tp.weight"], layer.self_connection, f"{prefix}self_connection")
        for n, powers in enumerate(layer.powers.powers):
            assert isinstance(powers, PowersOfRank)
            theirs = f"products.{k}.symmetric_contractions.contractions.{n}."
            weight = _power_weights(state, theirs, powers, layer.powers.l_max, layer.powers.correlation)
            found[f"{prefix}powers.powers.{n}.weight"] = weight
        found |= linear(state[f"products.{k}.linear.weight"], layer.last, f"{prefix}last", results, results)
    translated = {f"terms.0.representation.{name}": value for name, value in found.items()}
    for k in range(len(model.interactions)):
        names = [f"readouts.{k}.{name}.weight" for name in ("linear", "linear_1", "linear_2")]
        weights = [state[name] for name in names if name in state]
        shapes = [(width, -1), (-1, 1)] if len(weights) == 2 else [(width, 1)]
        for n, (weight, shape) in enumerate(zip(weights, shapes, strict=True)):
            translated[f"terms.0.readout.networks.{k}.layers.{n}.weight"] = weight.reshape(shape)
    return translated


def _in_our_order(weight: Tensor, layer: Interaction) -> Tensor:
    """Reorder the columns of the last radial layer: mace sorts paths by the type of the result."""
    paths = layer.convolution.paths
    theirs = sorted(range(len(paths)), key=lambda k: paths[k].result)  # stable
    order = torch.argsort(torch.tensor(theirs))
    return weight.reshape(len(weight), len(paths), -1).index_select(1, order).flatten(1)


def _power_weights(
    state: Mapping[str, Tensor], prefix: str, powers: PowersOfRank, l_max: int, correlation: int
) -> Tensor:
    """Weights of our products (n_types, n_products, width), of which mace's are linear combinations.

    The combinations are found from values of both for random tensors.
    """
    generator = torch.Generator().manual_seed(0)
    free = torch.randn((l_max + 1) ** 2, 60, dtype=torch.float64, generator=generator)
    parts = [free[rank * rank : (rank + 1) ** 2] for rank in range(l_max + 1)]
    theirs = torch.cat([basis(rank) @ part for rank, part in enumerate(parts)])  # (n_components, n_samples)
    full = [full_tensor(part, rank) for rank, part in enumerate(parts)]
    weights = []
    for degree in range(1, correlation + 1):
        name = "weights_max" if degree == correlation else f"weights.{correlation - 1 - degree}"
        own = [k for k, ranks in enumerate(powers.factors) if len(ranks) == degree]
        values = state[f"{prefix}U_matrix_{degree}"].to(torch.float64)
        if powers.rank == 0:
            values = values[None]
        axes = "abcd"[:degree]
        equation = f"m{axes}w," + ",".join(f"{axis}s" for axis in axes) + "->mws"
        values = torch.einsum(equation, values, *[theirs] * degree)  # (size, n_weights, n_samples)
        ours = [powers.norms[k] * basis(powers.rank) @ projected(powers.products[k], powers.rank, full) for k in own]
        matrix = torch.stack(ours).flatten(1)  # (n_own, size * n_samples)
        values = values.transpose(0, 1).flatten(1)  # (n_weights, size * n_samples)
        combinations = torch.linalg.lstsq(matrix.T, values.T).solution  # (n_own, n_weights)
        rest = float((matrix.T @ combinations - values.T).abs().max() / values.abs().max().clamp(min=1e-30))
        if rest > 1e-4:
            raise DataError(f"{prefix}U_matrix_{degree}: not combinations of the products of l_max {l_max}")
        weights.append(torch.einsum("pk,zkc->zpc", combinations, state[prefix + name].to(torch.float64)))
    return torch.cat(weights, dim=1)
