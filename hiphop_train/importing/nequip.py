"""State dictionaries of NequIP (nequip 0.19): its names and orders of weights."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hiphop_train.importing.e3nn import sorted_types, split
from hiphop_train.models.nequip import InteractionBlock, NequIP
from hiphop_train.nn.convolution import convolution_paths, reached
from hiphop_train.nn.couplings import TensorType
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
