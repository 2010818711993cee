#!/usr/bin/env python
"""Write a model of mace-torch or nequip as plain values and tensors, for hiphop-import.

usage: python export_for_import.py mace MODEL OUTPUT      a *.model file of mace-torch
       python export_for_import.py nequip MODEL OUTPUT    a *.ckpt or *.nequip.zip file of nequip (NequIP, Allegro)

Run it in the environment of that library; nothing of hiphop-train is needed. Files of these libraries are pickles,
which can run any code when they are opened: open only those that you trust. OUTPUT contains no code.

It writes what a model is made of, whether hiphop-import supports it or not; that is decided, and said, there.
"""

import sys
import warnings
from importlib.metadata import version

import torch

PACKAGES = {"mace": "mace-torch", "nequip": "nequip"}


def main():
    """Read the arguments, write the file."""
    if len(sys.argv) != 4 or sys.argv[1] not in PACKAGES:
        sys.exit(__doc__)
    library, source, output = sys.argv[1:]
    model = {"mace": load_mace, "nequip": load_nequip}[library](source)
    try:
        content = plain(model, library)
    except AttributeError as error:
        sys.exit(
            f"{source} contains a {type(model).__name__} that this script does not know ({error}); it was written for "
            "mace-torch 0.3.16, nequip 0.19 and nequip-allegro 0.8"
        )
    torch.save(content, output)
    print(f"wrote {output}; next: hiphop-import {content['library']} {output} CHECKPOINT")


def plain(model, library):
    """Return what a model is made of, in plain values and tensors."""
    name, settings, network = {"mace": describe_mace, "nequip": describe_nequip}[library](model)
    return {
        "format": "hiphop-import",
        "version": 1,
        "library": name,
        "library_version": version(PACKAGES[library]),
        "settings": settings,
        "parameters": {key: value.detach().cpu().clone() for key, value in network.named_parameters()},
        "buffers": {key: value.detach().cpu().clone() for key, value in network.named_buffers()},
    }


def load_mace(path):
    """Return the module in a file of mace-torch."""
    model = torch.load(path, map_location="cpu", weights_only=False)
    if not isinstance(model, torch.nn.Module) or isinstance(model, torch.jit.ScriptModule):
        sys.exit(
            f"{path} contains no module of mace-torch, but a {type(model).__name__}; give the *.model file that "
            "training wrote, not a checkpoint of its optimizer (*.pt) and no *_compiled.model"
        )
    return model


def load_nequip(path):
    """Return the module in a file of nequip, with averaged weights if training kept them."""
    from nequip.model.saved_models.load_utils import load_saved_model
    from nequip.utils.global_state import set_global_state

    set_global_state()

    return load_saved_model(path)


def describe_mace(model):
    """Return the library's name, the settings of a model, and the module that has its tensors."""
    if not hasattr(model, "interactions"):
        raise AttributeError("no interactions")
    radial = model.radial_embedding
    last = model.readouts[-1]
    transform = getattr(radial, "distance_transform", None)
    networks = [each.conv_tp_weights for each in model.interactions]
    activations = [layer.act for net in networks for layer in net.children() if getattr(layer, "act", None) is not None]
    of_readout = list(last.non_linearity.acts) if hasattr(last, "non_linearity") else []
    scale_shift = getattr(model, "scale_shift", None)
    settings = {
        "architecture": type(model).__name__,
        "atomic_numbers": model.atomic_numbers.tolist(),
        "cutoff": float(model.r_max),
        "interactions": [type(each).__name__ for each in model.interactions],
        "hidden_irreps": [str(each.linear.irreps_out) for each in model.products],
        "edge_irreps": [str(each.linear_up.irreps_out) for each in model.interactions],
        "node_irreps": [str(each.linear_up.irreps_in) for each in model.interactions],
        "l_max": int(model.spherical_harmonics._lmax),
        "products": [origin(each.symmetric_contractions) for each in model.products],
        "correlation": [
            len(each.weights) + 1
            for product in model.products
            for each in getattr(product.symmetric_contractions, "contractions", [])
        ],
        "avg_num_neighbors": [float(each.avg_num_neighbors) for each in model.interactions],
        "radial_type": type(radial.bessel_fn).__name__,
        "distance_transform": None if transform is None else type(transform).__name__,
        "cutoff_function": type(radial.cutoff_fn).__name__,
        "num_polynomial_cutoff": int(radial.cutoff_fn.p),
        "radial_networks": [origin(each) for each in networks],
        "radial_hidden": [[int(layer.h_out) for layer in list(each.children())[:-1]] for each in networks]
        if all(hasattr(layer, "h_out") for each in networks for layer in each.children())
        else [],
        "activations": sorted({name_of(each) for each in activations + of_readout}),
        "activation_factors": factors_of(activations + of_readout),
        "readouts": [type(each).__name__ for each in model.readouts],
        "readout_hidden": str(last.hidden_irreps) if hasattr(last, "hidden_irreps") else "",
        "heads": [str(each) for each in getattr(model, "heads", None) or ["Default"]],
        "atomic_energies": model.atomic_energies_fn.atomic_energies.double().reshape(-1).tolist(),
        "scale": [] if scale_shift is None else scale_shift.scale.double().reshape(-1).tolist(),
        "shift": [] if scale_shift is None else scale_shift.shift.double().reshape(-1).tolist(),
        "apply_cutoff": bool(getattr(model, "apply_cutoff", True)),
        "pair_repulsion": hasattr(model, "pair_repulsion_fn"),
        "use_so3": bool(getattr(model, "use_so3", False)),
        "use_agnostic_product": bool(getattr(model, "use_agnostic_product", False)),
        "embedding_specs": hasattr(model, "joint_embedding"),
    }
    return "mace", settings, model


def describe_nequip(model):
    """Return the library's name, the settings of a model, and the module that has its tensors."""
    network = model.model.func  # within the module of the derivatives
    if hasattr(network, "allegro"):
        return "allegro", describe_allegro(model, network), network
    layers = [child for name, child in network.named_children() if name.endswith("_convnet")]
    convolutions = [layer.conv for layer in layers]
    gates = [layer.equivariant_nonlin for layer in layers]
    scalars = [pair for gate in gates for pair in functions_of(gate, "act_scalars")]
    of_gates = [function for gate in gates for _, function in functions_of(gate, "act_gates")]
    settings = {
        **describe_shared(model, network),
        "edge_irreps": str(network.spharm.irreps_edge_sh),
        "hidden_irreps": [str(layer.feature_irreps_hidden) for layer in layers],
        "categorical_graph_field_embed": bool(network.type_embed.do_categorical_graph_field_embed),
        "factor": float(network.factor.factor),
        "convnet_nonlinearity_type": [type(each).__name__ for each in gates],
        "convnet_nonlinearity_scalars": {
            parity: sorted({name_of(function) for own, function in scalars if own == parity}) for parity in "eo"
        },
        "convnet_nonlinearity_gates": sorted({name_of(function) for function in of_gates}),
        "activation_factors": factors_of([function for _, function in scalars] + of_gates),
        "convnet_resnet": [bool(layer.resnet) for layer in layers],
        "convnet_sc": [bool(each.use_sc) for each in convolutions],
        "norms": [norms_of(each.avg_num_neighbors_norm) for each in convolutions],
        "radial": [describe_network(each.edge_mlp) for each in convolutions],
        "readout": describe_network(network.per_atom_energy_readout.mlp_module),
        "bessel": network.bessel_encode.bessel_weights.double().reshape(-1).tolist(),
        "polynomial_cutoff_p": float(network.bessel_encode.cutoff.p),
    }
    return "nequip", settings, network


def describe_shared(model, network):
    """Return the settings that NequIP and Allegro have in common."""
    scales = network.per_type_energy_scale_shift
    return {
        "type_names": list(scales.type_names),
        "parts": {name: type(child).__name__ for name, child in network.named_children()},
        "r_max": float(network.edge_norm.r_max),
        "per_edge_type_cutoff": bool(network.edge_norm._per_edge_type),
        "per_type_energy_scales": scales.scales.double().reshape(-1).tolist() if scales.has_scales else [],
        "per_type_energy_shifts": scales.shifts.double().reshape(-1).tolist() if scales.has_shifts else [],
    }


def describe_allegro(model, network):
    """Return the settings of an Allegro model."""
    allegro, embedding = network.allegro, network.radial_chemical_embed
    children = dict(embedding.named_children())
    return {
        **describe_shared(model, network),
        "edge_irreps": str(network.tensor_embed.irreps_out["edge_attrs"]),
        "tensor_track_allowed_irreps": str(allegro.tensor_track_allowed_irreps),
        "radial_chemical_embed": type(embedding).__name__,
        "radial_chemical_embed_parts": {name: type(child).__name__ for name, child in children.items()},
        "num_layers": int(allegro.num_layers),
        "num_scalar_features": int(allegro.num_scalar_features),
        "num_tensor_features": int(allegro.num_tensor_features),
        "weight_individual_irreps": bool(allegro._env_weighter.weight_individual_irreps),
        "tp_path_channel_coupling": [bool(each.path_channel_coupling) for each in allegro.tps],
        "projections": [
            describe_network(each)
            for each in (
                children["type_embed"].basis_linear,
                network.tensor_embed.env_embed_linear,
                allegro.first_layer_env_embed_projection,
            )
        ]
        if "type_embed" in children
        else [],
        "scalar_embed_mlp": describe_network(network.scalar_embed_mlp.mlp_module),
        "latents": [describe_network(each) for each in allegro.latents],
        "norms": [norms_of(each) for each in (allegro.avg_num_neighbors_norm, network.edge_eng_sum.norm_module)],
        "readout": describe_network(network.edge_readout.mlp_module),
        "bessel": children["bessel_encode"].bessel_weights.double().reshape(-1).tolist()
        if "bessel_encode" in children
        else [],
        "polynomial_cutoff_p": float(children["bessel_encode"].cutoff.p) if "bessel_encode" in children else 6.0,
    }


def norms_of(module):
    """Return 1 / sqrt(average neighbours), of each type if they differ."""
    return module.norm_const.double().reshape(-1).tolist()


def describe_network(module):
    """Return the widths and activations of a network of scalars."""
    children = list(module.mlp.children())
    return {
        "widths": [int(each) for each in module.dims],
        "bias": bool(module.bias),
        "nonlinearity": sorted({name_of(each) for each in children if not hasattr(each, "alpha")}),
        "layers": type(module.mlp).__name__,
    }


def functions_of(gate, part):
    """Return the activations of a gate with the parity, e or o, of their arguments."""
    own = getattr(gate, part, None)
    if own is None:
        return []
    pairs = zip(own.irreps_in, own.acts)  # noqa: B905  strict= is unknown before Python 3.10
    return [("e" if each.ir.p == 1 else "o", act) for each, act in pairs if act is not None]


def origin(module):
    """Return the package and class of a module, such as mace.SymmetricContraction."""
    return f"{type(module).__module__.split('.')[0]}.{type(module).__name__}"


def name_of(function):
    """Return the name of an activation, whether it is a function, a module or in e3nn's wrapper."""
    inner = getattr(function, "f", function)
    return getattr(inner, "__name__", type(inner).__name__).lower()


def factors_of(functions):
    """Return the factors that e3nn's wrappers give to activations."""
    found = {}
    for each in functions:
        found.setdefault(name_of(each), set()).add(float(getattr(each, "cst", 1.0)))
    return {name: sorted(values) for name, values in found.items()}


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        main()
