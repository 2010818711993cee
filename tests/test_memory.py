"""Memory that is kept causes no page faults the next time."""

import os
import platform
import subprocess
import sys

import pytest

from hiphop_train.memory import ENVIRONMENT

SCRIPT = """
import resource, sys, torch
from hiphop_train.memory import keep_freed_memory
if sys.argv[1] == "call": keep_freed_memory()
def use(): torch.zeros(16 * 2**20).sum()
for _ in range(10): use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str, environment: dict[str, str]) -> int:
    command = [sys.executable, "-c", SCRIPT, what]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_kept_memory_causes_no_page_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tensors of 64 MiB are 160,000 pages of 4 KiB."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    plain = faults("nothing", dict(os.environ))
    assert plain > 10_000
    assert faults("call", dict(os.environ)) < plain / 10
    assert faults("nothing", {**os.environ, **ENVIRONMENT}) < plain / 10
