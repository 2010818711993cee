"""Our weights in hippynn's networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from hiphop_train.benchmark.weights import for_hippynn, network_of
from hiphop_train.importing.hippynn import convert
from hiphop_train.potential import Potential
from tests.conftest import ROOT, SMALL
from tests.hippynn_reference import hippynn_in_float64

NUMBERS = [1, 6, 7, 8]


def section(name: str, **changes: Any) -> dict[str, Any]:
    model = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "model" / f"{name}.yaml"))
    assert isinstance(model, dict)
    return {key: {**SMALL, **changes}.get(key, value) for key, value in model.items()}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hiphop", {}), ("hiphop", {"l_max": 2, "group_norm": True}), ("hipnn", {}), ("hipnn_ts", {"l_max": 1}),
        ("hipnn_ts", {}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:HIP-HOP-NN is still in a beta state")
def test_weights_go_there_and_back(name: str, changes: dict[str, Any], potential_of: Callable[..., Potential]) -> None:
    potential = potential_of(name, **changes)
    network, arguments, same = network_of(section(name, **changes))
    assert same
    with hippynn_in_float64() as hippynn:
        kind, _, made = network.partition(".")
        made = getattr(getattr(hippynn.networks, kind), made)
        module = nn.Module()
        module.network = made(possible_species=[0, *NUMBERS], **arguments)
        module.energy = hippynn.layers.targets.HEnergy(module.network.feature_sizes)
        given = for_hippynn(module.double().state_dict(), potential.state_dict(), 4.0, ["H", "C", "N", "O"])
        module.load_state_dict(given)
    back = convert(given, 4.0, "eV", ["H", "C", "N", "O"]).weights
    ours = potential.state_dict()
    moved = [key for key in back if key not in ("e0", "terms.0.scale")]
    assert len(moved) > 10
    for key in moved:
        factor = 1.7 if ".readout." in key else 1.0
        torch.testing.assert_close(back[key], factor * ours[key].double(), rtol=1e-12, atol=0.0)
    assert not back["e0"].any()
    wanted = {key for key in ours if "representation" in key and ours[key].is_floating_point()}
    assert {key for key in wanted if dict(potential.named_parameters()).get(key) is not None} <= set(back)


def test_other_models_meet_the_published_network(tmp_path: Path) -> None:
    network, arguments, same = network_of(section("schnet"))
    assert (network, same) == ("hiphop.HipHopNNModule", False)
    assert arguments["n_features"] == 128
    assert network_of(section("hiphop_flexible"))[2] is False
