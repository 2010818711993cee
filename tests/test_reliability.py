"""docs/reliability.md, and the short form of the campaign that it reports."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_each_row_names_a_test_that_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 40
    for path, name in named:
        file = ROOT / path if path.startswith("benchmarks/") else ROOT / "tests" / path
        assert file.is_file(), path
        assert f"def {name}(" in file.read_text() or not name, (path, name)


@pytest.mark.slow
def test_killed_trainings_end_as_if_they_had_not_been(tmp_path: Path) -> None:
    """The long form, with four kinds of training, is benchmarks/kills.py."""
    output = tmp_path / "kills.json"
    command = [sys.executable, ROOT / "benchmarks" / "kills.py", "plain", "--kills", "3", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())["plain"]
    assert found["kills"] == 3
    assert found["differences"] == found["leftovers"] == []
