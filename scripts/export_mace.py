#!/usr/bin/env python
"""Write a model of mace-torch as plain values and tensors, for hiphop-import mace.

usage: python export_mace.py MODEL OUTPUT

MODEL is a file that mace-torch wrote (*.model): a pickle, which can run any code when it is opened. Open only files
that you trust, in an environment with mace-torch (no part of hiphop-train is needed here). OUTPUT contains no code.
"""

import sys
from importlib.metadata import version

import torch


def describe(model):
    """Return the settings of a model, by the names of classes where it has objects, and its state."""
    radial = model.radial_embedding
    hidden = model.products[0].linear.irreps_out
    last = model.readouts[-1]
    transform = getattr(radial, "distance_transform", None)
    activation = getattr(last, "non_linearity", None)
    functions = [] if activation is None else [getattr(each, "f", each) for each in activation.acts]
    return {
        "format": "hiphop-train mace 1",
        "version": version("mace-torch"),
        "class": type(model).__name__,
        "interactions": [type(each).__name__ for each in model.interactions],
        "readouts": [type(each).__name__ for each in model.readouts],
        "hidden": [(multiplicity, ir.l, ir.p) for multiplicity, ir in hidden],
        "mlp": [(multiplicity, ir.l, ir.p) for multiplicity, ir in getattr(last, "hidden_irreps", [])],
        "activations": [getattr(each, "__name__", type(each).__name__) for each in functions],
        "radial_basis": type(radial.bessel_fn).__name__,
        "distance_transform": None if transform is None else type(transform).__name__,
        "cutoff_power": float(radial.cutoff_fn.p),
        "cutoff": float(model.r_max),
        "l_max": int(model.spherical_harmonics._lmax),
        "correlation": [len(each.symmetric_contractions.contractions[0].weights) + 1 for each in model.products],
        "average_neighbours": [float(each.avg_num_neighbors) for each in model.interactions],
        "atomic_numbers": model.atomic_numbers.tolist(),
        "heads": list(getattr(model, "heads", ["Default"])),
        "options": {
            name: bool(getattr(model, name, False))
            for name in (
                "pair_repulsion",
                "use_so3",
                "use_agnostic_product",
                "use_last_readout_only",
                "joint_embedding",
            )
        },
        "state": {name: value.detach().clone() for name, value in model.state_dict().items()},
    }


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    torch.save(describe(torch.load(sys.argv[1], map_location="cpu", weights_only=False)), sys.argv[2])
