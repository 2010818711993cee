"""The glossary names code that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hiphop_train"
ROWS = [line.strip("|").split("|") for line in (ROOT / "docs" / "glossary.md").read_text().splitlines() if "`" in line]
NAMES = sorted({name for *_, code in ROWS for name in re.findall(r"`([^`]+)`", code)})
SOURCE = "\n".join(file.read_text() for file in sorted(PACKAGE.rglob("*.py")))


def exists(name: str) -> bool:
    """Whether a path, a module or a name in one, or an identifier is found in the package's source."""
    path = PACKAGE.joinpath(*re.split(r"[./]", name))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module, _, identifier = name.rpartition(".")
    file = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    if module and not file.is_file():
        return False
    source = file.read_text() if module else SOURCE
    return re.search(rf"\b{re.escape(identifier)}\b", source) is not None


def test_every_row_names_code() -> None:
    """Rows have three columns, of which the last contains at least one name."""
    assert len(ROWS) > 40
    assert all(len(row) == 3 and re.search(r"`[^`]+`", row[2]) for row in ROWS)


@pytest.mark.parametrize("name", NAMES)
def test_names_exist(name: str) -> None:
    """A name of the third column is found in the source."""
    assert exists(name)


@pytest.mark.parametrize("name", ["data.structures.Nothing", "data.nowhere.Structures", "no_such_identifier"])
def test_missing_names_are_noticed(name: str) -> None:
    """The search can fail."""
    assert not exists(name)
