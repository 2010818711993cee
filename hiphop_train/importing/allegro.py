"""State dictionaries of Allegro (nequip-allegro 0.8): its names and orders of weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hiphop_train.models.allegro import Allegro, AllegroLayer


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
