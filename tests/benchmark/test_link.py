"""Processes that end before their time."""

from pathlib import Path
from typing import Any

import pytest

from hiphop_train.benchmark.link import CannotImport, DoesNotFit, Failed, Link

START: dict[str, Any] = {"threads": 1}


def link(tmp_path: Path, commands: str) -> Link:
    """Start a shell script in the place of Python."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nread line\n{commands}\n")
    program.chmod(0o755)
    return Link("peer", "fake", str(program), START, tmp_path)


def test_killed_process_did_not_fit(tmp_path: Path) -> None:
    made = link(tmp_path, "echo '{\"cutoff\": 5}'\nread line\nkill -9 $$")
    assert made.open() == {"cutoff": 5}
    with pytest.raises(DoesNotFit):
        made.ask(do="run")


def test_abort_for_lack_of_memory_did_not_fit(tmp_path: Path) -> None:
    made = link(tmp_path, "echo 'terminate called after throwing std::bad_alloc' >&2\nkill -6 $$")
    with pytest.raises(DoesNotFit, match="bad_alloc"):
        made.open()


def test_other_end_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    made = link(tmp_path, "echo 'no such kernel' >&2\nexit 3")
    with pytest.raises(Failed, match="peer: its process ended with code 3: no such kernel"):
        made.open()


@pytest.mark.parametrize(("kind", "error"), [("memory", DoesNotFit), ("import", CannotImport), ("failed", Failed)])
def test_errors_are_told_apart(tmp_path: Path, kind: str, error: type[Exception]) -> None:
    made = link(tmp_path, f'echo \'{{"error": "{kind}", "message": "so it is"}}\'\nread line')
    with pytest.raises(error, match="so it is"):
        made.open()
    made.close()


def test_no_interpreter(tmp_path: Path) -> None:
    with pytest.raises(CannotImport, match="cannot be started"):
        Link("peer", "fake", str(tmp_path / "nothing"), START, tmp_path).open()


def test_process_is_started_anew(tmp_path: Path) -> None:
    made = link(tmp_path, "echo '{\"cutoff\": 5}'\nread line\necho '{\"a\": 1}'\nread line\nexit 1")
    made.open()
    assert made.ask(do="run") == {"a": 1}
    with pytest.raises(Failed):
        made.ask(do="run")
    assert made.ask(do="run") == {"a": 1}
    made.close()
