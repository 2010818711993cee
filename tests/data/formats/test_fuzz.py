"""Damaged files in every format are read correctly or refused with a message: no crash, no hang, no wrong label."""

from pathlib import Path

from tests.data.formats.fuzz import SPECIAL, campaign


def test_damaged_files_are_read_correctly_or_refused(tmp_path: Path) -> None:
    """No file kills or holds up the process that reads, under its limits of memory and time."""
    record = campaign(tmp_path, count=432, seed=7)
    print(record["outcomes"])
    assert record["failures"] == []
    outcomes = record["outcomes"]
    assert sum(outcomes.values()) == 432
    assert set(outcomes) <= {"right", "refused", "plausible"}
    assert outcomes["refused"] > 200
    assert outcomes["right"] > 50
    assert outcomes.get("plausible", 0) < 20  # bytes changed to other numbers, in files without checksums
    assert set(record["by_layout"]) == set(SPECIAL)
    assert all(sum(counts.values()) == 36 for counts in record["by_layout"].values())
