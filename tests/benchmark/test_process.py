"""The processes of programs: how they end, and what they import."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hiphop_train.benchmark.process import WORKER, CannotImport, DoesNotFit, Failed, WorkerProcess

START: dict[str, Any] = {"threads": 1}


def process(tmp_path: Path, commands: str) -> WorkerProcess:
    """Start a shell script instead of Python."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nread line\n{commands}\n")
    program.chmod(0o755)
    return WorkerProcess("peer", Path("fake"), str(program), START, tmp_path)


def test_killed_process_did_not_fit(tmp_path: Path) -> None:
    made = process(tmp_path, "echo '{\"cutoff\": 5}'\nread line\nkill -9 $$")
    assert made.open() == {"cutoff": 5}
    with pytest.raises(DoesNotFit):
        made.ask("run")


def test_abort_for_lack_of_memory_did_not_fit(tmp_path: Path) -> None:
    made = process(tmp_path, "echo 'terminate called after throwing std::bad_alloc' >&2\nkill -6 $$")
    with pytest.raises(DoesNotFit, match="bad_alloc"):
        made.open()


def test_other_end_is_a_failure_with_its_last_line(tmp_path: Path) -> None:
    made = process(tmp_path, "echo 'no such kernel' >&2\nexit 3")
    with pytest.raises(Failed, match="peer: its process ended with code 3: no such kernel"):
        made.open()


@pytest.mark.parametrize(("kind", "error"), [("memory", DoesNotFit), ("import", CannotImport), ("failed", Failed)])
def test_errors_are_distinguished(tmp_path: Path, kind: str, error: type[Exception]) -> None:
    made = process(tmp_path, f'echo \'{{"error": "{kind}", "message": "so it is"}}\'\nread line')
    with pytest.raises(error, match="so it is"):
        made.open()
    made.close()


def test_no_interpreter(tmp_path: Path) -> None:
    with pytest.raises(CannotImport, match="cannot be started"):
        WorkerProcess("peer", Path("fake"), str(tmp_path / "nothing"), START, tmp_path).open()


def test_process_is_restarted(tmp_path: Path) -> None:
    made = process(tmp_path, "echo '{\"cutoff\": 5}'\nread line\necho '{\"a\": 1}'\nread line\nexit 1")
    made.open()
    assert made.ask("run") == {"a": 1}
    with pytest.raises(Failed):
        made.ask("run")
    assert made.ask("run") == {"a": 1}
    made.close()


def test_failed_import_at_the_top_of_a_file(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import no_such_package\n")
    with pytest.raises(CannotImport, match="No module named 'no_such_package'"):
        WorkerProcess("peer", program, None, START, tmp_path).open()


def test_worker_needs_only_numpy_and_torch(tmp_path: Path) -> None:
    """It also runs in the environments of other programs."""
    file = tmp_path / "modules.py"
    file.write_text(
        "import sys, json, hiphop_train.benchmark.worker\n"
        "names = {name.partition('.')[0] for name, m in sys.modules.items() if getattr(m, '__file__', None)}\n"
        "ours = [name for name in sys.modules if name.startswith('hiphop_')]\n"
        "print(json.dumps([sorted(names - sys.stdlib_module_names), ours]))"
    )
    alone = "import sys, torch, numpy; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, str(WORKER), str(file)], capture_output=True, text=True, check=True)
    known = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True).stdout.split()
    packages, ours = json.loads(done.stdout)
    assert set(packages) - set(known) <= {"hiphop_train"}
    assert ours == ["hiphop_train", "hiphop_train.benchmark", "hiphop_train.benchmark.worker"]
