"""Models of nequip-allegro, exported by our script's functions and imported, give the library's numbers.

The script itself is run in test_nequip.py: it opens files of nequip and nequip-allegro alike.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms

from hiphop_train import checkpoint, cli
from hiphop_train.errors import DataError
from hiphop_train.importing.allegro import read
from hiphop_train.types import Graph
from tests.importing.exported import check_exported, check_same, library_defaults, script, write
from tests.references.nequip import Reference

ELEMENTS = ["H", "C", "N", "O"]
BESSEL = "allegro.nn.TwoBodyBesselScalarEmbed"


def library_model(**changes: Any) -> torch.nn.Module:
    with library_defaults():
        from allegro.model import AllegroModel
        from nequip.utils.global_state import set_global_state

        set_global_state()
        settings = {
            "seed": 1, "model_dtype": "float64", "type_names": ELEMENTS, "r_max": 4.0, "num_layers": 2, "l_max": 2,
            "parity": True, "num_scalar_features": 6, "num_tensor_features": 3, "avg_num_neighbors": 5.5,
            "radial_chemical_embed": {"_target_": BESSEL, "num_bessels": 6, "polynomial_cutoff_p": 5},
            "scalar_embed_mlp_hidden_layers_width": 7, "allegro_mlp_hidden_layers_width": 8,
            "readout_mlp_hidden_layers_width": 5,
            "per_type_energy_scales": {"H": 0.5, "C": 1.5, "N": 0.9, "O": 2.0},
            "per_type_energy_shifts": {"H": -13.6, "C": -1029.0, "N": -1484.0, "O": -2042.0},
        }  # fmt: skip
        return AllegroModel(**{**settings, **changes})


def exported(**changes: Any) -> dict[str, Any]:
    return script().plain(library_model(**changes), "nequip")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, {"n_radial": 6, "cutoff_power": 5, "two_body_hidden": [7], "latent_hidden": [8]}),
        ({"parity": False, "num_layers": 3, "per_type_energy_scales": 1.7}, {"parity": False, "n_interactions": 3}),
        ({"readout_mlp_hidden_layers_depth": 0, "l_max": 1}, {"l_max": 1}),
    ],
)
def test_energies_and_forces_are_those_of_the_library(
    changes: dict[str, Any],
    part: dict[str, Any],
    tmp_path: Path,
    make_molecule: Callable[..., Atoms],
    make_box: Callable[..., Atoms],
    graph_of: Callable[..., Graph],
) -> None:
    torch.save(exported(**changes), tmp_path / "plain.pt")
    assert cli.run("import", ["allegro", str(tmp_path / "plain.pt"), str(tmp_path / "ours.ckpt")]) == 0
    assert part.items() <= checkpoint.load(str(tmp_path / "ours.ckpt")).record["config"]["model"].items()
    structures = [make_molecule(7, seed=1), make_box(4, seed=2)]
    graphs = [graph_of([atoms]) for atoms in structures]
    outputs = [Reference(library_model(**changes))(graph) for graph in graphs]
    theirs = [(float(each["energy"].detach()), each["forces"].detach().numpy()) for each in outputs]
    check_same(tmp_path / "ours.ckpt", structures, theirs, graphs)
    if not changes:
        check_exported(tmp_path / "ours.ckpt", structures, theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_precision_is_that_of_the_library(dtype: str, tmp_path: Path) -> None:
    torch.save(exported(model_dtype=dtype), tmp_path / "plain.pt")
    assert cli.run("import", ["allegro", str(tmp_path / "plain.pt"), str(tmp_path / "ours.ckpt")]) == 0
    assert checkpoint.load(str(tmp_path / "ours.ckpt")).record["config"]["dtype"] == dtype


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"radial_chemical_embed": {"_target_": "allegro.nn.TwoBodySplineScalarEmbed"}},
        "radial_chemical_embed is 'TwoBodySplineScalarEmbed'; supported: TwoBodyBesselScalarEmbed",
    ),
    ({"radial_chemical_embed_dim": 8}, "radial_chemical_embed_dim is 8; supported: num_scalar_features, 6"),
    ({"tp_path_channel_coupling": False}, "tp_path_channel_coupling.0 is 'False'"),
    ({"weight_individual_irreps": False}, "weight_individual_irreps is 'False'"),
    ({"allegro_mlp_nonlinearity": "mish"}, "latents.0.nonlinearity.0 is 'mish'; supported: 'silu'"),
    ({"per_edge_type_cutoff": {"H": 3.0}}, "per_edge_type_cutoff is 'True'"),
    ({"avg_num_neighbors": {"H": 3.0, "C": 4.0, "N": 4.0, "O": 4.0}}, "avg_num_neighbors is .*one number for all"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: str(next(iter(value)))[:40])
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save(exported(**changes), tmp_path / "plain.pt")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "plain.pt")


def test_other_types_of_tensors_are_refused(tmp_path: Path) -> None:
    path = write(exported(), tmp_path / "plain.pt", tensor_track_allowed_irreps="1x0e+1x1o+1x1e+1x2e")
    with pytest.raises(DataError, match=r"tensor_track_allowed_irreps is .*all ranks up to the harmonics' 2"):
        read(path)
