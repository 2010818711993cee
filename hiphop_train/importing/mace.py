"""Models of MACE (mace-torch 0.3.16): their settings, and names, orders and products of their weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from ase.data import chemical_symbols
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from hiphop_train.errors import DataError
from hiphop_train.importing import exported
from hiphop_train.importing.base import Imported
from hiphop_train.importing.e3nn import basis, linear, species_linear
from hiphop_train.importing.exported import Weights, check, irreps, same
from hiphop_train.models.mace import MACE, Interaction
from hiphop_train.nn.couplings import true_types
from hiphop_train.nn.symmetric_powers import PowersOfRank, projected
from hiphop_train.nn.tensors import full_tensor

BLOCKS = {"neighbours": "RealAgnostic", "density": "RealAgnosticDensity"}
"""Normalisation of messages -> the library's interaction block, whose name goes on with one of these."""

PLAIN, RESIDUAL = "InteractionBlock", "ResidualInteractionBlock"


class Settings(exported.Settings):
    """Settings of mace-torch, named as there, or as attributes of its modules."""

    architecture: Literal["ScaleShiftMACE", "MACE"]
    atomic_numbers: Annotated[list[Annotated[int, Field(ge=1, le=118)]], Field(min_length=1)]
    cutoff: PositiveFloat
    interactions: Annotated[list[str], Field(min_length=1)]
    hidden_irreps: list[str]
    edge_irreps: list[str]
    node_irreps: list[str]
    l_max: Annotated[int, Field(ge=0, le=4)]
    products: list[Literal["mace.SymmetricContraction"]]
    correlation: list[int]
    avg_num_neighbors: list[PositiveFloat]
    radial_type: Literal["BesselBasis"]
    distance_transform: Literal[None]
    cutoff_function: Literal["PolynomialCutoff"]
    num_polynomial_cutoff: PositiveInt
    radial_networks: list[Literal["e3nn.FullyConnectedNet"]]
    radial_hidden: list[list[PositiveInt]]
    activations: list[Literal["silu"]]
    activation_factors: dict[str, list[float]]
    readouts: list[str]
    readout_hidden: str
    heads: list[str]
    atomic_energies: list[float]
    scale: list[float]
    shift: list[float]
    apply_cutoff: Literal[True]
    pair_repulsion: Literal[False]
    use_so3: Literal[False]
    use_agnostic_product: Literal[False]
    embedding_specs: Literal[False]


def read(path: Path, energy_unit: str = "eV") -> list[Imported]:
    """Read a file that scripts/export_for_import.py wrote; a list of one."""
    return exported.read(path, "mace", energy_unit, Settings, convert)


def convert(settings: Settings, weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the model section, and the state dictionary of the potential."""
    n_layers = len(settings.interactions)
    first_is_residual, normalisation = _blocks(settings.interactions)
    check(
        len(settings.heads) == 1,
        "heads",
        settings.heads,
        "one; mace_select_head --head_name HEAD MODEL writes a model of one",
    )
    n_features, rank = _features(settings)
    linear_readouts = ["LinearReadoutBlock"] * n_layers
    readouts = [*linear_readouts[1:], "NonLinearReadoutBlock"] if n_layers > 1 else linear_readouts
    check(settings.readouts == readouts, "readouts", settings.readouts, readouts)
    hidden = [16]
    if n_layers > 1:
        found = irreps(settings.readout_hidden)
        check([each for _, each in found] == true_types(0), "hidden features of the readout", found, "scalars")
        hidden = [found[0][0]]
    exported.check_factors(settings.activation_factors)
    frequencies = weights["radial_embedding.bessel_fn.bessel_weights"]
    section: dict[str, Any] = {
        "_target_": "hiphop_train.models.mace.MACE",
        "elements": exported.elements_of([chemical_symbols[z] for z in settings.atomic_numbers], "atomic_numbers"),
        "cutoff": settings.cutoff,
        "n_features": n_features,
        "n_interactions": n_layers,
        "rank": rank,
        "l_max": settings.l_max,
        "correlation": same(settings.correlation, "correlation"),
        "n_radial": exported.check_bessel(frequencies, torch.pi / settings.cutoff),
        "cutoff_power": settings.num_polynomial_cutoff,
        "radial_hidden": same(settings.radial_hidden, "radial_MLP"),
        "first_is_residual": first_is_residual,
        "normalisation": normalisation,
    }
    model = MACE(**{name: value for name, value in section.items() if name != "_target_"})
    translated = translate(weights, model)
    neighbours = same(settings.avg_num_neighbors, "avg_num_neighbors")
    translated["terms.0.representation.average_neighbours"] = torch.tensor(neighbours, dtype=torch.float64)
    translated |= _energies(settings)
    readout = {"_target_": "hiphop_train.readout.scaled.LayerEnergies", "hidden": hidden}
    return {**section, "readout": readout}, translated


def _blocks(names: Sequence[str]) -> tuple[bool, str]:
    """Return whether the first layer is residual, and by what messages are divided."""
    kinds = {start + end: (end == RESIDUAL, name) for name, start in BLOCKS.items() for end in (PLAIN, RESIDUAL)}
    check(names[0] in kinds, "interaction block 0", names[0], ", ".join(kinds))
    first_is_residual, normalisation = kinds[names[0]]
    for layer, name in enumerate(names[1:], start=1):
        supported = BLOCKS[normalisation] + RESIDUAL
        check(name == supported, f"interaction block {layer}", name, f"{supported} after {names[0]}")
    return first_is_residual, normalisation


def _features(settings: Settings) -> tuple[int, int]:
    """Return the number of features of each rank, and the highest rank."""
    layers = [irreps(text) for text in settings.hidden_irreps]
    n_features = layers[0][0][0]
    rank = len(layers[0]) - 1
    for layer, found in enumerate(layers):
        expected = [(n_features, each) for each in true_types(rank if layer < len(layers) - 1 else 0)]
        check(
            found == expected,
            f"features after layer {layer}",
            settings.hidden_irreps[layer],
            "as many of each rank from 0, with parity (-1)^rank, the same after each layer, and scalars alone after "
            "the last",
        )
    for sent, given in zip(settings.edge_irreps, settings.node_irreps, strict=True):
        check(sent == given, "edge_irreps", sent, f"those of the atoms, {given}")
    return n_features, rank if len(layers) > 1 else 0


def _energies(settings: Settings) -> dict[str, Tensor]:
    """Return E0 and the scale, eV."""
    scale, shift = settings.scale or [1.0], settings.shift or [0.0]
    check(len(scale) == len(shift) == 1, "scale and shift", [scale, shift], "one number each")
    e0 = torch.tensor([settings.atomic_energies], dtype=torch.float64) + shift[0]
    return {"e0": e0, "terms.0.scale": torch.tensor(scale[0], dtype=torch.float64)}


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
        if layer.density is not None:
            found[f"{prefix}density.network.layers.0.weight"] = state[f"{prefix}density_fn.layer0.weight"]
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
