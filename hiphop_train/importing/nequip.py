"""State dictionaries of NequIP (nequip 0.19): its names and orders of weights."""

from collections.abc import Mapping

from torch import Tensor

from hiphop_train.importing.e3nn import linear, sorted_types, species_linear
from hiphop_train.models.nequip import InteractionBlock, NequIP
from hiphop_train.nn.equivariant import SpeciesLinear


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
    for k, block in enumerate(model.blocks):
        assert isinstance(block, InteractionBlock)
        ours, theirs = f"blocks.{k}.", f"layer{k}_convnet.conv."
        for layer in range(len(block.radial.network.layers)):
            found[f"{ours}radial.network.layers.{layer}.weight"] = state[f"{theirs}edge_mlp.mlp.{2 * layer}.weight"]
        given, results = block.types, block.types_out
        found |= linear(state[f"{theirs}linear_1.weight"], block.before, f"{ours}before", given, given)
        in_order = sorted_types(results)
        found |= linear(state[f"{theirs}linear_2.weight"], block.after, f"{ours}after", results, in_order)
        for own in block.self_connection:
            assert isinstance(own, SpeciesLinear)
            found |= species_linear(state[f"{theirs}sc.weight"], own, f"{ours}self_connection.0")
    translated = {f"terms.0.representation.{name}": value for name, value in found.items()}
    for layer in range(n_readout_layers):
        name = f"per_atom_energy_readout.mlp_module.mlp.{2 * layer}.weight"
        translated[f"terms.0.readout.network.layers.{layer}.weight"] = state[name]
    return translated
