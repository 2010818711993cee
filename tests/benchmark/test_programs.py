"""Other programs get the right pairs: periodic images, batches."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiphop_train.benchmark import systems
from hiphop_train.benchmark.link import Link
from hiphop_train.benchmark.peers import settings
from hiphop_train.benchmark.peers.protocol import Work
from hiphop_train.benchmark.weights import INVARIANTS, PUBLISHED

SMALL = {**PUBLISHED, **INVARIANTS, "n_features": 8, "dist_hard_max": 4.0, "dist_soft_max": 3.5}
MORE: dict[str, dict[str, Any]] = {
    "torchani": settings.TorchANI().settings(),
    "schnetpack": settings.SchNetPack(n_features=8, n_interactions=2).settings(),
    "hippynn": {"network": "hiphop.HipHopNNModule", "arguments": SMALL, "kernels": "pytorch", "weights": None},
}


@pytest.fixture(scope="module", params=sorted(MORE))
def link(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    start = {
        "settings": {**MORE[request.param], "atomic_numbers": [1, 6, 7, 8, 16]},
        "dtype": "float64",
        "device": "cpu",
        "threads": 1,
        "seed": 0,
        "memory": None,
    }
    made = Link(request.param, request.param, None, start, tmp_path_factory.mktemp("log"))
    made.open()
    yield made
    made.close()


def outputs(link: Link, work: Work, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    work.save(folder / "work.npz")
    link.ask(do="load", file=str(folder / "work.npz"), training=False)
    link.ask(do="outputs", file=str(folder / "outputs.npz"))
    with np.load(folder / "outputs.npz") as arrays:
        return arrays["energy"], arrays["forces"]


def test_pairs_are_understood(link: Link, tmp_path: Path) -> None:
    cutoff = link.description["cutoff"]
    water = systems.water(24, seed=0)  # in a box smaller than the cutoff
    energy, forces = outputs(link, systems.work_of(water, cutoff), tmp_path)
    assert np.abs(forces.sum(0)).max() < 1e-8 * np.abs(forces).max()

    positions = water.positions.copy()
    positions[::5] += water.cell[0] - 2 * water.cell[2]
    moved, moved_forces = outputs(link, systems.work_of(replace(water, positions=positions), cutoff), tmp_path)
    assert moved == pytest.approx(energy, rel=1e-9)
    np.testing.assert_allclose(moved_forces, forces, atol=1e-8 * np.abs(forces).max())

    twice = replace(
        water,
        numbers=np.tile(water.numbers, 2),
        positions=np.concatenate([water.positions, water.positions + water.cell[1]]),
        cell=water.cell * np.array([1, 2, 1])[:, None],
    )
    assert outputs(link, systems.work_of(twice, cutoff), tmp_path)[0] == pytest.approx(2 * energy, rel=1e-9)

    step = 1e-4
    positions = water.positions.copy()
    slopes = []
    for sign in (1, -1):
        positions[4, 1] = water.positions[4, 1] + sign * step
        slopes.append(outputs(link, systems.work_of(replace(water, positions=positions), cutoff), tmp_path)[0][0])
    assert -(slopes[0] - slopes[1]) / (2 * step) == pytest.approx(forces[4, 1], rel=1e-4, abs=1e-8)


def test_batch_is_its_members(link: Link, tmp_path: Path) -> None:
    cutoff = link.description["cutoff"]
    structures = systems.clusters(3, seed=0)
    energy, forces = outputs(link, systems.batch_of(structures, cutoff), tmp_path)
    last = structures.take(np.array([2]))
    alone, alone_forces = outputs(link, systems.batch_of(last, cutoff), tmp_path)
    assert energy[2] == pytest.approx(alone[0], rel=1e-9)
    np.testing.assert_allclose(forces[30:], alone_forces, atol=1e-9 * np.abs(forces).max())
    assert len(set(energy.tolist())) == 3


def test_steps_train(link: Link, tmp_path: Path) -> None:
    work = systems.batch_of(systems.clusters(3, seed=0), link.description["cutoff"])
    before = outputs(link, work, tmp_path)[0]
    link.ask(do="load", file=str(tmp_path / "work.npz"), training=True)
    assert link.ask(do="run", what="training", count=2)["milliseconds"] > 0
    after = outputs(link, work, tmp_path)[0]
    assert np.abs(after - before).max() > 0  # the optimiser moved the weights


def test_others_make_room(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where less is free than a program may take; what is asked next is right, and timed after a first time."""
    water = systems.work_of(systems.water(24, seed=0), link.description["cutoff"])
    expected = outputs(link, water, tmp_path)[0]
    asked: list[str] = []
    ask = link.ask
    monkeypatch.setattr(link, "ask", lambda do, **request: asked.append(do) or ask(do=do, **request))
    other = Link("other", "exported", None, {"memory": 1}, tmp_path)
    other.make_room([link, other])
    assert asked == []
    other.start["memory"] = 2**60
    other.make_room([link, other])
    assert asked == ["rest"]
    link.ask(do="run", what="excluded", count=1)
    link.ask(do="outputs", file=str(tmp_path / "again.npz"))
    with np.load(tmp_path / "again.npz") as arrays:
        np.testing.assert_array_equal(arrays["energy"], expected)
