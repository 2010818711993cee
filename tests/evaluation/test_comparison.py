"""Rows of a comparison: ranges over seeds, labels, tables, the Pareto front."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hiphop_train.data.formats.collector import Collector
from hiphop_train.data.structures import Structures
from hiphop_train.evaluation.comparison import (
    Range,
    Row,
    difference_labels,
    duration,
    errors_over_runs,
    markdown,
    range_of,
    sheets,
)
from hiphop_train.evaluation.pareto import front, pareto
from hiphop_train.evaluation.timing import microseconds_per_atom, one_thread
from tests.conftest import PotentialOf


def errors(mae: float, forces: bool = True) -> dict[str, Any]:
    one = {"n": 3, "mae": mae, "rmse": 2 * mae, "max": 9.0}
    return {"n_structures": 3, "energy": one} | ({"forces": one} if forces else {})


def row(label: str, mae: list[float], cost: float) -> Row:
    return Row(
        label=label,
        model=label,
        runs=[f"{label}{k}" for k in range(len(mae))],
        seeds=list(range(len(mae))),
        parameters=int(1000 * cost),
        epochs=[80] * len(mae),
        training_seconds=range_of([100 * cost + k for k in range(len(mae))]),
        errors=errors_over_runs([{"test": errors(value)} for value in mae]),
        microseconds_per_atom={"minimum": cost, "median": 1.5 * cost},
    )


def test_mean_and_range_over_seeds() -> None:
    found = errors_over_runs([{"test": errors(1.0)}, {"test": errors(3.0)}, {"test": errors(2.5)}])
    assert found["test"]["energy"]["mae"] == Range(pytest.approx(6.5 / 3), 1.0, 3.0)
    assert found["test"]["forces"]["rmse"] == Range(pytest.approx(13 / 3), 2.0, 6.0)
    partly = errors_over_runs([{"test": errors(1.0)}, {"test": errors(3.0, forces=False)}])
    assert set(partly["test"]) == {"energy"}  # a mean over some of the seeds would mislead


def test_further_targets_have_columns_where_some_row_has_them() -> None:
    with_stress = errors(1.0) | {"stress": {"n": 6, "mae": 0.12345, "rmse": 0.2}}
    first, second = row("a", [1.0], 1.0), row("b", [2.0], 2.0)
    first.errors = errors_over_runs([{"test": with_stress}])
    (_, table) = sheets([first, second])
    assert table.header == ["", "energy", "relative energy", "forces", "stress, GPa"]
    assert [cells[-1] for cells in table.rows] == ["0.123 / 0.200", "-"]
    (_, table) = sheets([second])
    assert table.header == ["", "energy", "relative energy", "forces"]


def test_rows_are_named_by_what_differs() -> None:
    settings = [
        {"model.l_max": 2, "model.n_max": 4, "loss": "a"},
        {"model.l_max": 3, "model.n_max": 4, "loss": "a"},
        {"model.width": 5, "loss": "a"},
    ]
    assert difference_labels(["hiphop", "hiphop", "hipnn"], settings, ["A", "B", "C"]) == [
        "hiphop l_max=2",
        "hiphop l_max=3",
        "hipnn",
    ]
    many = [{f"key{k}": n for k in range(4)} for n in range(2)]
    assert difference_labels(["hipnn", "hipnn"], many, ["A", "B"]) == ["hipnn (A)", "hipnn (B)"]
    assert difference_labels(["hipnn", "hipnn"], [{}, {}], ["A", "B"]) == ["hipnn (A)", "hipnn (B)"]


def test_tables_say_mean_and_range() -> None:
    cost, test = sheets([row("hipnn", [1.0, 3.0], 4.0), row("hiphop", [0.5], 16.0)])
    assert cost.rows[0] == ["hipnn", "2", "4,000", "80", "7 min", "4.0"]  # seconds apart are not shown in minutes
    assert cost.rows[1] == ["hiphop", "1", "16,000", "80", "27 min", "16.0"]
    assert test.header == ["", "energy", "relative energy", "forces"]
    assert test.rows[0] == ["hipnn", "2.00 / 4.00\n1.00-3.00 / 2.00-6.00", "-", "2.00 / 4.00\n1.00-3.00 / 2.00-6.00"]
    assert test.rows[1] == ["hiphop", "0.50 / 1.00", "-", "0.50 / 1.00"]
    text = markdown([test], ["MAE / RMSE"])
    assert "| hiphop | 0.50 / 1.00 | - | 0.50 / 1.00 |" in text
    assert "2.00 / 4.00<br>1.00-3.00" in text
    assert text.startswith("**Errors on test**")


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8 s"), (119, "119 s"), (300, "5 min"), (9000, "2.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_front_contains_what_nothing_beats() -> None:
    points = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 2.0], [3.0, 1.0], [4.0, 1.0], [0.5, 9.0]])
    assert front(points).tolist() == [5, 0, 3]
    assert front(np.zeros((0, 2))).tolist() == []


@pytest.mark.parametrize("count", [1, 9])
def test_picture_is_drawn(count: int, tmp_path: Path) -> None:
    rows = [row(f"model number {k}", [1.0 + k, 1.2 + k][: 1 + k], 3.0 + k) for k in range(count)]
    if count > 1:
        rows[1].microseconds_per_atom = {}
    pareto(tmp_path / "p.png", rows, "test", "tiny, test")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "p.png").stat().st_size > 20_000


def structures(count: int, n_atoms: int) -> Structures:
    collector = Collector("made here")
    rng = np.random.default_rng(0)
    positions = 1.2 * np.arange(n_atoms)[None, :, None] + 0.1 * rng.normal(size=(count, n_atoms, 3))
    collector.add(
        "chain", np.full(n_atoms, 6), positions, {"energy": np.zeros(count), "forces": np.zeros(positions.shape)}
    )
    return collector.finish("all")


def test_times_are_of_one_thread_and_per_atom(potential_of: PotentialOf) -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    small, large = (structures(count, 8) for count in (1, 400))
    potential = potential_of("hipnn", torch.float32)
    seen: list[int] = []
    subjects = [(potential, torch.float32, part) for part in (small, large)]
    times = microseconds_per_atom(subjects, rounds=4, advance=seen.append)
    assert times.shape == (2, 4)
    assert (times > 0).all()
    assert sum(seen) == 2 * 5
    assert times[1].min() < times[0].min()  # what each call costs is shared by more atoms
    assert torch.get_num_threads() == before
