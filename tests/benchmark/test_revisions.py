"""benchmarks/revisions.py: the last commit compared with the working tree."""

import json
import runpy
from pathlib import Path

import pytest
from ase.build import molecule
from ase.io import write

from tests.conftest import ROOT


@pytest.mark.slow
def test_last_commit_gives_the_same_numbers(tmp_path: Path) -> None:
    write(tmp_path / "ethanol.xyz", molecule("CH3CH2OH"))
    main = runpy.run_path(str(ROOT / "benchmarks" / "revisions.py"))["main"]
    arguments = ["HEAD", "--models", "hipnn", "--structures", str(tmp_path / "ethanol.xyz"), "--water", "25"]
    assert main([*arguments, "--rounds", "2", "--output", str(tmp_path / "out.json")]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["work"] for row in rows] == ["ethanol", "water, 24 atoms", "training step"]
    for row in rows:
        assert row["before_milliseconds"] > 0
        median, lowest, highest = row["ratio"]
        assert 0 < lowest <= median <= highest
        assert all(value < 1e-12 for value in row["largest_relative_differences_float64"].values())
    assert set(rows[-1]["largest_relative_differences_float64"]) == {"energy", "forces", "gradient"}
