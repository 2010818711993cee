"""Models of Allegro (nequip-allegro 0.8): their settings, and names and orders of their weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from hiphop_train.importing import exported, nequip_parts
from hiphop_train.importing.base import Imported
from hiphop_train.importing.exported import Weights, check, irreps, same
from hiphop_train.importing.nequip_parts import ScalarNetwork
from hiphop_train.models.allegro import Allegro, AllegroLayer
from hiphop_train.nn.couplings import TensorType, all_types

PARTS = {
    "edge_norm": "EdgeLengthNormalizer",
    "radial_chemical_embed": "SequentialGraphNetwork",
    "scalar_embed_mlp": "ScalarMLP",
    "tensor_embed": "TwoBodySphericalHarmonicTensorEmbed",
    "allegro": "Allegro_Module",
    "edge_readout": "ScalarMLP",
    "edge_eng_sum": "EdgewiseReduce",
    **nequip_parts.END,
}
EMBEDDING = {"bessel_encode": "BesselEdgeLengthEncoding", "type_embed": "ProductTypeEmbedding"}


class Settings(nequip_parts.Settings):
    """Settings of Allegro, named as in nequip-allegro, or as attributes of its modules."""

    tensor_track_allowed_irreps: str
    radial_chemical_embed: str
    radial_chemical_embed_parts: dict[str, str]
    num_layers: PositiveInt
    num_scalar_features: PositiveInt
    num_tensor_features: PositiveInt
    weight_individual_irreps: Literal[True]
    tp_path_channel_coupling: list[Literal[True]]
    projections: list[ScalarNetwork]
    scalar_embed_mlp: ScalarNetwork
    latents: Annotated[list[ScalarNetwork], Field(min_length=1)]


def read(path: Path, energy_unit: str = "eV") -> list[Imported]:
    """Read a file that scripts/export_for_import.py wrote; a list of one."""
    return exported.read(path, "allegro", energy_unit, Settings, convert)


def convert(settings: Settings, weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the model section, and the state dictionary of the potential."""
    check(
        settings.radial_chemical_embed_parts == EMBEDDING,
        "radial_chemical_embed",
        settings.radial_chemical_embed,
        "TwoBodyBesselScalarEmbed",
    )
    nequip_parts.check_parts(settings.parts, PARTS)
    width = settings.projections[0].widths[-1]
    n_features = settings.num_scalar_features
    check(width == n_features, "radial_chemical_embed_dim", width, f"num_scalar_features, {n_features}")
    for each in settings.projections:
        check(len(each.widths) == 2, "widths of a projection", each.widths, "no hidden layers")
    l_max, parity = _types(settings)
    section: dict[str, Any] = {
        "_target_": "hiphop_train.models.allegro.Allegro",
        "elements": settings.elements(),
        "cutoff": settings.r_max,
        "n_features": n_features,
        "n_tensors": settings.num_tensor_features,
        "n_interactions": settings.num_layers,
        "l_max": l_max,
        "parity": parity,
        "n_radial": settings.n_radial(),
        "cutoff_power": settings.cutoff_power(),
        "two_body_hidden": settings.scalar_embed_mlp.hidden(),
        "latent_hidden": same([each.hidden() for each in settings.latents], "allegro_mlp"),
    }
    model = Allegro(**{name: value for name, value in section.items() if name != "_target_"})
    hidden = settings.readout.hidden()
    readout = {"_target_": "hiphop_train.readout.pairs.PairEnergy", "hidden": hidden}
    translated = translate(weights, model, len(hidden) + 1)
    precision = translated["terms.0.readout.network.layers.0.weight"].dtype
    neighbours = nequip_parts.average_neighbours(settings.norms).to(precision)
    for part in ("representation", "readout"):
        translated[f"terms.0.{part}.average_neighbours"] = neighbours
    readout, statistics = nequip_parts.energies(settings, readout)
    return {**section, "readout": readout}, nequip_parts.inside(translated, readout) | statistics


def _types(settings: Settings) -> tuple[int, bool]:
    """Return the highest rank, and whether there are pseudotensors."""
    harmonics = irreps(settings.edge_irreps)
    l_max = len(harmonics) - 1
    true = [(1, TensorType(rank, (-1) ** rank)) for rank in range(l_max + 1)]
    check(harmonics == true, "irreps_edge_sh", settings.edge_irreps, "each rank from 0 once")
    allowed = {each for _, each in irreps(settings.tensor_track_allowed_irreps)}
    parity = allowed != {each for _, each in true}
    is_supported = not parity or allowed == set(all_types(l_max))
    check(
        is_supported,
        "tensor_track_allowed_irreps",
        settings.tensor_track_allowed_irreps,
        f"all ranks up to the harmonics' {l_max}, with one parity or both",
    )
    return l_max, parity


def rank_by_rank(weight: Tensor, n_scalars: int, n_ranks: int) -> Tensor:
    """Reorder the columns behind those of the scalars from feature by feature to rank by rank."""
    scalars, of_features = weight[:, :n_scalars], weight[:, n_scalars:]
    of_ranks = of_features.reshape(len(weight), -1, n_ranks).transpose(1, 2).reshape(len(weight), -1)
    return torch.cat([scalars, of_ranks], dim=1)


def translate(state: Mapping[str, Tensor], model: Allegro, n_readout_layers: int = 2) -> dict[str, Tensor]:
    """Translate the parameters of a network.

    Parameters
    ----------
    state : nequip-allegro's names -> tensors, from ``radial_chemical_embed`` on
    model : of the same sizes
    n_readout_layers : linear layers of the readout

    Returns
    -------
    weights : our names in a `Potential` -> tensors
    """
    n_ranks, n_features = model.l_max + 1, model.n_features
    embed = "radial_chemical_embed.type_embed."
    projection = state["allegro.first_layer_env_embed_projection.mlp.0.weight"]
    found = {
        "embedding.receiver.weight": state[f"{embed}center_embed.weight"],
        "embedding.sender.weight": state[f"{embed}neighbor_embed.weight"],
        "embedding.radial.weight": state[f"{embed}basis_linear.mlp.0.weight"],
        "tensor_weights.weight": rank_by_rank(state["tensor_embed.env_embed_linear.mlp.0.weight"], 0, n_ranks),
        "projection.weight": rank_by_rank(projection, n_features, n_ranks),
    }
    for k in range(len(model.embedding.network.layers)):
        found[f"embedding.network.layers.{k}.weight"] = state[f"scalar_embed_mlp.mlp_module.mlp.{2 * k}.weight"]
    for number, layer in enumerate(model.layers):
        assert isinstance(layer, AllegroLayer)
        weight = state[f"allegro.tps.{number}.weights"]  # without the axis of the paths if there is only one
        found[f"layers.{number}.matrices.weight"] = weight.reshape(len(weight), -1).T
        last = len(layer.latent.layers) - 1
        for k in range(last + 1):
            weight = state[f"allegro.latents.{number}.mlp.{2 * k}.weight"]
            weight = rank_by_rank(weight, n_features, n_ranks) if k == last else weight
            found[f"layers.{number}.latent.layers.{k}.weight"] = weight
    translated = {f"terms.0.representation.{name}": value for name, value in found.items()}
    for k in range(n_readout_layers):
        name = f"edge_readout.mlp_module.mlp.{2 * k}.weight"
        translated[f"terms.0.readout.network.layers.{k}.weight"] = state[name]
    return translated
