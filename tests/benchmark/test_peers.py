"""Other programs, from the checkout's benchmarks/peers: pairs, periodic images, batches, our weights."""

import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from hiphop_train.benchmark import systems
from hiphop_train.benchmark.process import WorkerProcess
from hiphop_train.benchmark.settings import Hippynn, Peer, SchNetPack, TorchANI
from hiphop_train.benchmark.worker import Workload
from hiphop_train.importing.hippynn import convert
from tests.conftest import SMALL, PotentialOf, model_section
from tests.hippynn_reference import hippynn_in_float64

PEERS: dict[str, Peer] = {
    "torchani": TorchANI(),
    "schnetpack": SchNetPack(n_features=8, n_interactions=2),
    "hippynn": Hippynn(kernels="pytorch"),
}
NUMBERS = [1, 6, 7, 8]


def section(name: str, **changes: Any) -> dict[str, Any]:
    """Return a model section, made small as `potential_of` does."""
    return {key: {**SMALL, **changes}.get(key, value) for key, value in model_section(name).items()}


@pytest.fixture(scope="module", params=sorted(PEERS))
def process(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, potential_of: PotentialOf
) -> Iterator[WorkerProcess]:
    peer, folder = PEERS[request.param], tmp_path_factory.mktemp("peer")
    file = folder / "potential.pt"
    torch.save({"weights": potential_of("hiphop").state_dict()}, file)
    start = {
        "settings": {
            **peer.settings(),
            "atomic_numbers": NUMBERS,
            "model": section("hiphop"),
            "potential": str(file),
        },
        "dtype": "float64",
        "device": "cpu",
        "threads": 1,
        "seed": 0,
        "memory": None,
    }
    made = WorkerProcess(request.param, peer.file, None, start, folder)
    made.open()
    yield made
    made.close()


def outputs(process: WorkerProcess, work: Workload, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    work.save(folder / "work.npz")
    process.ask("load", file=str(folder / "work.npz"), training=False)
    process.ask("outputs", file=str(folder / "outputs.npz"))
    with np.load(folder / "outputs.npz") as arrays:
        return arrays["energy"], arrays["forces"]


def test_pairs_are_understood(process: WorkerProcess, tmp_path: Path) -> None:
    cutoff = process.description["cutoff"]
    water = systems.water(24, seed=0)  # in a box smaller than the cutoff
    energy, forces = outputs(process, systems.work_of(water, cutoff), tmp_path)
    assert np.abs(forces.sum(0)).max() < 1e-8 * np.abs(forces).max()

    positions = water.positions.copy()
    positions[::5] += water.cell[0] - 2 * water.cell[2]
    moved, moved_forces = outputs(process, systems.work_of(replace(water, positions=positions), cutoff), tmp_path)
    assert moved == pytest.approx(energy, rel=1e-9)
    np.testing.assert_allclose(moved_forces, forces, atol=1e-8 * np.abs(forces).max())

    twice = replace(
        water,
        numbers=np.tile(water.numbers, 2),
        positions=np.concatenate([water.positions, water.positions + water.cell[1]]),
        cell=water.cell * np.array([1, 2, 1])[:, None],
    )
    assert outputs(process, systems.work_of(twice, cutoff), tmp_path)[0] == pytest.approx(2 * energy, rel=1e-9)

    step = 1e-4
    positions = water.positions.copy()
    slopes = []
    for sign in (1, -1):
        positions[4, 1] = water.positions[4, 1] + sign * step
        slopes.append(outputs(process, systems.work_of(replace(water, positions=positions), cutoff), tmp_path)[0][0])
    assert -(slopes[0] - slopes[1]) / (2 * step) == pytest.approx(forces[4, 1], rel=1e-4, abs=1e-8)


def test_batch_is_its_members(process: WorkerProcess, tmp_path: Path) -> None:
    cutoff = process.description["cutoff"]
    structures = systems.clusters(3, seed=0)
    energy, forces = outputs(process, systems.batch_of(structures, cutoff), tmp_path)
    last = structures.take(np.array([2]))
    alone, alone_forces = outputs(process, systems.batch_of(last, cutoff), tmp_path)
    assert energy[2] == pytest.approx(alone[0], rel=1e-9)
    np.testing.assert_allclose(forces[30:], alone_forces, atol=1e-9 * np.abs(forces).max())
    assert len(set(energy.tolist())) == 3


def test_steps_train(process: WorkerProcess, tmp_path: Path) -> None:
    work = systems.batch_of(systems.clusters(3, seed=0), process.description["cutoff"])
    before = outputs(process, work, tmp_path)[0]
    process.ask("load", file=str(tmp_path / "work.npz"), training=True)
    assert process.ask("run", what="training", count=2)["milliseconds"] > 0
    after = outputs(process, work, tmp_path)[0]
    assert np.abs(after - before).max() > 0  # the optimiser moved the weights


def test_program_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """Its interpreter has torchani, but not this package, nor our PYTHONPATH."""
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (site_packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    ours = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site_packages / "torchani.pth").write_text("\n".join(ours) + "\n")  # editable installs in there are not followed
    alone = subprocess.run([python, "-P", "-c", "import hiphop_train"], env={}, cwd=tmp_path, capture_output=True)
    assert b"No module named 'hiphop_train'" in alone.stderr
    told = {**PEERS["torchani"].settings(), "atomic_numbers": NUMBERS}
    start = {"settings": told, "dtype": "float32", "device": "cpu", "threads": 1, "seed": 0, "memory": None}
    made = WorkerProcess("torchani", PEERS["torchani"].file, str(python), start, tmp_path)
    assert made.open()["version"].startswith("torchani")
    made.close()


def test_others_release_memory(process: WorkerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If less is free than a program may take; later outputs are right, and timed after a warm-up."""
    water = systems.work_of(systems.water(24, seed=0), process.description["cutoff"])
    expected = outputs(process, water, tmp_path)[0]
    asked: list[str] = []
    ask = process.ask
    monkeypatch.setattr(process, "ask", lambda do, **arguments: asked.append(do) or ask(do, **arguments))
    other = WorkerProcess("other", Path("nothing"), None, {"memory": 1}, tmp_path)
    other.make_room([process, other])
    assert asked == []
    other.start["memory"] = 2**60
    other.make_room([process, other])
    assert asked == ["release_memory"]
    process.ask("run", what="excluded", count=1)
    process.ask("outputs", file=str(tmp_path / "again.npz"))
    with np.load(tmp_path / "again.npz") as arrays:
        np.testing.assert_array_equal(arrays["energy"], expected)


@pytest.fixture(scope="module")
def hippynn_peer() -> ModuleType:
    """The file of hippynn, imported here."""
    spec = spec_from_file_location("hippynn_peer", PEERS["hippynn"].file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hiphop", {}), ("hiphop", {"l_max": 2, "group_norm": True}), ("hipnn", {}), ("hipnn_ts", {"l_max": 1}),
        ("hipnn_ts", {}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:HIP-HOP-NN is still in a beta state")
def test_hippynn_gets_our_weights(
    name: str, changes: dict[str, Any], potential_of: PotentialOf, hippynn_peer: ModuleType
) -> None:
    """Imported again, they are the same."""
    potential = potential_of(name, **changes)
    network, arguments, same = hippynn_peer.network_of(section(name, **changes))
    assert same
    with hippynn_in_float64():
        module = hippynn_peer.Network(network, arguments, NUMBERS, torch.float64, "pytorch").double()
        given = hippynn_peer.with_our_weights(module.state_dict(), potential.state_dict())
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


def test_other_models_are_compared_with_the_published_network(hippynn_peer: ModuleType) -> None:
    network, arguments, same = hippynn_peer.network_of(section("schnet"))
    assert (network, same) == ("hiphop.HipHopNNModule", False)
    assert arguments["n_features"] == 128
    for other in ("hiphop_flexible", "hiphop_dipole"):
        assert hippynn_peer.network_of(section(other))[2] is False
