"""Models of NequIP (nequip 0.19): their settings, and names and orders of their weights."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from hiphop_train.importing import exported, nequip_parts
from hiphop_train.importing.base import Imported
from hiphop_train.importing.e3nn import sorted_types, split
from hiphop_train.importing.exported import Weights, check, irreps, same
from hiphop_train.importing.nequip_parts import ScalarNetwork
from hiphop_train.models.nequip import InteractionBlock, NequIP
from hiphop_train.nn.convolution import convolution_paths, reached
from hiphop_train.nn.couplings import TensorType, all_types, true_types
from hiphop_train.nn.equivariant import SpeciesLinear


class Settings(nequip_parts.Settings):
    """Settings of NequIP, named as in nequip, or as attributes of its modules."""

    hidden_irreps: Annotated[list[str], Field(min_length=1)]
    categorical_graph_field_embed: Literal[False]
    factor: float
    convnet_nonlinearity_type: list[Literal["Gate"]]
    convnet_nonlinearity_scalars: dict[str, list[str]]
    convnet_nonlinearity_gates: list[Literal["silu"]]
    activation_factors: dict[str, list[float]]
    convnet_resnet: list[Literal[False]]
    convnet_sc: list[bool]
    radial: list[ScalarNetwork]


def read(path: Path, energy_unit: str = "eV") -> list[Imported]:
    """Read a file that scripts/export_for_import.py wrote; a list of one."""
    return exported.read(path, "nequip", energy_unit, Settings, convert)


def convert(settings: Settings, weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the model section, and the state dictionary of the potential."""
    n_layers = len(settings.hidden_irreps)
    _check_architecture(settings, n_layers)
    widths, parity = _features(settings)
    section: dict[str, Any] = {
        "_target_": "hiphop_train.models.nequip.NequIP",
        "elements": settings.elements(),
        "cutoff": settings.r_max,
        "n_features": widths[0] if len(set(widths)) == 1 else widths,
        "n_interactions": n_layers,
        "l_max": len(widths) - 1,
        "parity": parity,
        "n_radial": settings.n_radial(),
        "cutoff_power": settings.cutoff_power(),
        "radial_hidden": same([each.hidden() for each in settings.radial], "radial_mlp"),
        "n_attributes": int(weights["type_embed.embed_module.weight"].shape[1]),
    }
    model = NequIP(**{name: value for name, value in section.items() if name != "_target_"})
    hidden = settings.readout.hidden()
    readout = {"_target_": "hiphop_train.readout.scaled.ScaledEnergy", "hidden": hidden}
    readout, statistics = nequip_parts.energies(settings, readout)
    translated = nequip_parts.inside(translate(weights, model, len(hidden) + 1), readout)
    neighbours = nequip_parts.average_neighbours(settings.norms)
    translated["terms.0.representation.average_neighbours"] = neighbours
    return {**section, "readout": readout}, translated | statistics


def _check_architecture(settings: Settings, n_layers: int) -> None:
    nequip_parts.check_parts(
        settings.parts,
        {
            "type_embed": "NodeTypeEmbed",
            "spharm": "SphericalHarmonicEdgeAttrs",
            "edge_norm": "EdgeLengthNormalizer",
            "bessel_encode": "BesselEdgeLengthEncoding",
            "factor": "ApplyFactor",
            **{f"layer{k}_convnet": "ConvNetLayer" for k in range(n_layers)},
            "per_atom_energy_readout": "ScalarMLP",
            **nequip_parts.END,
        },
    )
    sc = [layer > 0 for layer in range(n_layers)]
    check(settings.convnet_sc == sc, "convnet_sc", settings.convnet_sc, f"in all layers but the first, {sc}")
    functions = settings.convnet_nonlinearity_scalars
    for parity, name in (("e", "silu"), ("o", "tanh")):
        found = functions.get(parity, [])
        check(set(found) <= {name}, f"convnet_nonlinearity_scalars.{parity}", found, name)
    exported.check_factors(settings.activation_factors)
    factor = 2 * math.pi / settings.r_max**2
    check(abs(settings.factor / factor - 1) < 1e-9, "factor of the radial basis", settings.factor, factor)


def _features(settings: Settings) -> tuple[list[int], bool]:
    """Return the number of features of each rank, and whether there are pseudotensors."""
    l_max = len(irreps(settings.edge_irreps)) - 1
    harmonics = [(1, each) for each in true_types(l_max)]
    check(irreps(settings.edge_irreps) == harmonics, "irreps_edge_sh", settings.edge_irreps, "each rank from 0 once")
    *between, last = [irreps(text) for text in settings.hidden_irreps]
    check([each for _, each in last] == [TensorType(0, 1)], "features of the last layer", last, "even scalars")
    width = last[0][0]
    if not between:
        return [width] * (l_max + 1), False
    same(between, "feature_irreps_hidden")
    found = {each: number for number, each in between[0]}
    parity = any(each not in true_types(l_max) for each in found)
    widths = [found.get(each, 0) for each in true_types(l_max)]
    expected = {each: widths[each.rank] for each in (all_types(l_max) if parity else true_types(l_max))}
    is_supported = found == expected and len(between[0]) == len(found) and 0 not in widths and widths[0] == width
    check(
        is_supported,
        "feature_irreps_hidden",
        settings.hidden_irreps,
        f"all ranks up to the harmonics' {l_max}, with one parity each or as many features of both, and as many "
        "scalars in the last layer",
    )
    return widths, parity


def translate(state: Mapping[str, Tensor], model: NequIP, n_readout_layers: int = 1) -> dict[str, Tensor]:
    """Translate the parameters of a network.

    Parameters
    ----------
    state : nequip's names -> tensors, from ``type_embed`` on
    model : of the same sizes
    n_readout_layers : linear layers of the readout

    Returns
    -------
    weights : our names in a `Potential` -> tensors
    """
    found = {"embedding.weight": state["type_embed.embed_module.weight"]}
    types = [TensorType(0, 1)]
    for k, block in enumerate(model.blocks):
        assert isinstance(block, InteractionBlock)
        wanted = model.hidden_types if k < len(model.blocks) - 1 else types[:1]
        results = reached(types, model.l_max, wanted)
        theirs = f"layer{k}_convnet.conv."
        part = {name.removeprefix(theirs): value for name, value in state.items() if name.startswith(theirs)}
        for name, value in _block(part, block, types, results).items():
            found[f"blocks.{k}.{name}"] = value
        types = results
    translated = {f"terms.0.representation.{name}": value for name, value in found.items()}
    for layer in range(n_readout_layers):
        name = f"per_atom_energy_readout.mlp_module.mlp.{2 * layer}.weight"
        translated[f"terms.0.readout.network.layers.{layer}.weight"] = state[name]
    return translated


def _block(
    state: Mapping[str, Tensor], block: InteractionBlock, types: Sequence[TensorType], results: Sequence[TensorType]
) -> dict[str, Tensor]:
    """Translate one block, of which nequip also has types that nothing follows from.

    Parameters
    ----------
    state : nequip's names -> tensors
    block : ours
    types, results : nequip's types before and after
    """
    widths = dict(zip(block.types, block.widths, strict=True)) | dict(
        zip(block.types_out, block.widths_out, strict=True)
    )
    width_of_rank = {each.rank: width for each, width in widths.items()}
    width_in = {each: block.widths[0] if len(types) == 1 else width_of_rank[each.rank] for each in types}
    width_out = {each: width_of_rank[each.rank] for each in results} | {results[0]: block.widths_out[0]}
    paths = convolution_paths(types, block.l_max, results)
    found: dict[str, Tensor] = {}

    last = len(block.radial.network.layers) - 1
    for layer in range(last + 1):
        weight = state[f"edge_mlp.mlp.{2 * layer}.weight"]
        if layer == last:
            parts = weight.split_with_sizes([width_in[types[path.source]] for path in paths], dim=1)
            kept = [part for part, path in zip(parts, paths, strict=True) if results[path.result] in block.types_out]
            weight = torch.cat(kept, dim=1)
        found[f"radial.network.layers.{layer}.weight"] = weight

    matrices = split(state["linear_1.weight"], [(str(each), (width_in[each], width_in[each])) for each in types])
    for k, source in enumerate(block.before.sources):
        found[f"before.layers.{k}.weight"] = matrices[str(block.types[source])]

    # the scalars of the results are followed by a gate for each feature of the tensors, in the order of their types
    gates = [width_out[each] if each.rank > 0 else 0 for each in results]
    is_kept = [width_out[results[0]] * [True]]
    is_kept += [n * [each in block.types_out] for n, each in zip(gates, results, strict=True)]
    columns = torch.nonzero(torch.tensor([value for each in is_kept for value in each]))[:, 0]
    n_out = {each: width_out[each] + (sum(gates) if each == results[0] else 0) for each in results}
    n_in = {each: sum(width_in[types[p.source]] for p in paths if results[p.result] == each) for each in results}
    matrices = split(
        state["linear_2.weight"], [(str(each), (n_in[each], n_out[each])) for each in sorted_types(results)]
    )
    for k, each in enumerate(block.types_out):
        found[f"after.layers.{k}.weight"] = matrices[str(each)][:, columns] if k == 0 else matrices[str(each)]
    for own in block.self_connection:
        assert isinstance(own, SpeciesLinear)
        n_attributes = own.weights[0].shape[0]
        shapes = [(str(each), (width_in[each], n_attributes, n_out[each])) for each in types if each in results]
        matrices = split(state["sc.weight"], shapes)
        sources = [each for each in block.types_out if each in block.types]
        for k, each in enumerate(sources):
            matrix = matrices[str(each)].transpose(0, 1)
            found[f"self_connection.0.weights.{k}"] = matrix[..., columns] if each == results[0] else matrix
    return found
