"""Turns, ratios and fits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiphop_train.benchmark import measure, picture, report, rounds, systems
from hiphop_train.benchmark.process import DoesNotFit, Failed
from hiphop_train.benchmark.rounds import NOT_FITTING, Turns


class FakeProcess:
    """A program that takes given times, and records its requests."""

    def __init__(
        self, name: str, times: list[float], diary: list[str], forces: float = 1.0, energy: float = 0.0
    ) -> None:
        self.name, self.times, self.diary, self.forces, self.energy = name, times, diary, forces, energy
        self.description: dict[str, Any] = {
            "takes_pairs": True,
            "finds_pairs": False,
            "cutoff": 4.0,
            "trains": True,
            "same_weights": True,
        }
        self.error: Exception | None = None

    def make_room(self, others: Any) -> None:
        """Nothing is released."""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "outputs":
            np.savez(arguments["file"], energy=np.array([self.energy]), forces=self.forces * np.ones((6, 3)))
        if do != "run":
            return {}
        self.diary.append(self.name)
        if self.error is not None and len(self.diary) > 3:
            raise self.error
        return {"milliseconds": self.times[min(len(self.diary) // 2, len(self.times) - 1)], "peak": 1000}


def test_programs_work_in_turns() -> None:
    diary: list[str] = []
    processes: Any = {name: FakeProcess(name, [400.0], diary) for name in ("a", "b")}
    advanced: list[int] = []
    turns = rounds.in_turns(processes, [("a", "excluded"), ("b", "excluded")], 3, advanced.append)
    assert diary == ["a"] * 3 + ["b"] * 3 + ["a", "b"] * 3  # each warms up, then one after the other
    assert turns["a", "excluded"].milliseconds == [400.0] * 3
    assert turns["a", "excluded"].count == 1
    assert sum(advanced) == 8


def test_short_work_is_repeated() -> None:
    processes: Any = {"a": FakeProcess("a", [10.0], [])}
    assert rounds.in_turns(processes, [("a", "excluded")], 1)["a", "excluded"].count == 30


@pytest.mark.parametrize(("error", "part"), [(DoesNotFit("x"), NOT_FITTING), (Failed("lost its way"), "lost its way")])
def test_others_continue(error: Exception, part: str) -> None:
    diary: list[str] = []
    good, bad = FakeProcess("good", [400.0], diary), FakeProcess("bad", [400.0], diary)
    bad.error = error
    processes: Any = {"bad": bad, "good": good}
    theirs, ours = rounds.in_turns(processes, [("bad", "excluded"), ("good", "excluded")], 2).values()
    assert part in theirs.problem
    assert len(ours.milliseconds) == 2
    assert rounds.ratio(theirs, ours) is None


def test_ratio_is_of_the_same_round() -> None:
    theirs, ours = Turns([10.0, 40.0, 90.0]), Turns([10.0, 10.0, 30.0])
    assert rounds.ratio(theirs, ours) == {"median": 3.0, "lowest": 1.0, "highest": 4.0}


def test_scaling_is_found() -> None:
    atoms = [100, 1000, 10000]
    fit = rounds.scaling(atoms, [0.02 * n**1.1 for n in atoms])
    assert fit is not None
    assert fit["exponent"] == pytest.approx(1.1)
    assert fit["standard_error"] == pytest.approx(0.0, abs=1e-9)
    assert fit["per_atom_largest_over_smallest"] == pytest.approx(100**0.1)
    two = rounds.scaling([10, 20], [1.0, 4.0])
    assert two is not None
    assert two["exponent"] == pytest.approx(2.0)
    assert two["standard_error"] is None
    assert rounds.scaling([10, 10], [1.0, 2.0]) is None


def test_standard_error_is_that_of_a_straight_line() -> None:
    from scipy.stats import linregress

    atoms, times = [10, 100, 500, 4000], [1.0, 12.0, 45.0, 500.0]
    expected = linregress(np.log(atoms), np.log(times))
    fit = rounds.scaling(atoms, times)
    assert fit is not None
    assert fit["exponent"] == pytest.approx(expected.slope)
    assert fit["standard_error"] == pytest.approx(expected.stderr)


def fake_programs(tmp_path: Path, forces: float, energy: float = 0.0) -> measure.Programs:
    diary: list[str] = []
    processes: Any = {
        "ours": FakeProcess("ours", [400.0], diary),
        "peer": FakeProcess("peer", [800.0], diary, forces, energy),
    }
    return measure.Programs(processes, tmp_path, "float32")


def test_equal_outputs_give_a_ratio(tmp_path: Path) -> None:
    row = measure.dynamics(fake_programs(tmp_path, 1.0001), systems.water(6, 0), 2, set(), lambda n: None)
    assert row["differences"] == {"peer": {"forces": pytest.approx(1e-4), "energy": 0.0}}
    assert row["ratios"]["peer"]["excluded"]["median"] == 2.0
    assert row["pairs"]["peer"] > 0


@pytest.mark.parametrize(("forces", "energy"), [(1.01, 0.0), (float("nan"), 0.0), (1.0, 0.006)])
def test_other_outputs_give_none(tmp_path: Path, forces: float, energy: float) -> None:
    row = measure.dynamics(fake_programs(tmp_path, forces, energy), systems.water(6, 0), 2, set(), lambda n: None)
    assert "peer" not in row["ratios"]
    assert row["programs"]["peer"]["excluded"]["median"] == 800.0


def test_larger_work_is_not_tried_after_one_that_did_not_fit(tmp_path: Path) -> None:
    programs = fake_programs(tmp_path, 1.0)
    too_small = {"peer"}
    row = measure.dynamics(programs, systems.water(6, 0), 1, too_small, lambda n: None)
    assert row["programs"]["peer"]["excluded"] == {"problem": NOT_FITTING}
    assert "peer" not in programs.ours.diary  # type: ignore[attr-defined]
    assert row["programs"]["ours"]["excluded"]["median"] == 400.0


def test_busy_machine_is_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [measure.dynamics(fake_programs(tmp_path, 1.0), systems.water(6, 0), 2, set(), lambda n: None)]
    report.print_all({"md": rows, "scaling": {}})
    assert "busy with other work" not in capsys.readouterr().out
    rows[0]["programs"]["peer"]["excluded"]["highest"] = 1600.0
    assert report.largest_scatter({"md": rows}) == 2.0
    report.print_all({"md": rows, "scaling": {}})
    assert "factor of 2.0: the machine was busy with other work" in capsys.readouterr().out


def test_parts_add_up() -> None:
    parts = measure.stages([{"a": 1.0, "b": 3.0, "whole": 4.5}, {"a": 1.0, "b": 3.0, "whole": 4.1}])
    assert parts["per_cent"] == {"a": 25.0, "b": 75.0}
    assert parts["sum"] == 4.0
    assert parts["whole_step"] == 4.3


def test_fits_are_over_water_where_there_is_some() -> None:
    def row(atoms: int, time: float, is_water: bool) -> dict[str, Any]:
        times = {"median": time, "peak_bytes_per_atom": 1000 - atoms}
        return {"atoms": atoms, "is_water": is_water, "programs": {"ours": {"excluded": times}}}

    rows = [row(10, 99.0, False), row(30, 1.0, True), row(60, 2.0, True)]
    fit = measure.fits(rows, ["ours"])["ours"]["excluded"]
    assert fit["exponent"] == pytest.approx(1.0)
    assert fit["peak_bytes_per_atom"] == {"lowest": 940, "highest": 970, "of_the_largest": 940}
    assert measure.fits(rows[:2], ["ours"])["ours"]["excluded"]["over"] == "all structures"


def test_picture_leaves_out_what_did_not_fit(tmp_path: Path) -> None:
    programs = fake_programs(tmp_path, 1.0)
    rows = [measure.dynamics(programs, systems.water(6, 0), 1, set(), lambda n: None)]
    rows += [measure.dynamics(programs, systems.water(24, 0), 1, {"peer"}, lambda n: None)]
    picture.draw(tmp_path / "speed.png", rows, "HIP-NN")
    assert (tmp_path / "speed.png").stat().st_size > 10_000
