"""A training of a sweep, as a job of Slurm calls it."""

import contextlib
import io
import sys

from hiphop_train import cli


class Kept(io.StringIO):
    """What is written to standard error, passed on and kept."""

    def write(self, text: str) -> int:
        """Write to both."""
        print(text, end="", file=sys.__stderr__, flush=True)
        return super().write(text)


def train(overrides: list[str]) -> tuple[int, str]:
    """Train; return the exit code and the last error."""
    with contextlib.redirect_stderr(Kept()) as written:
        code = cli.run("train", overrides)
    lines = [line for line in written.getvalue().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return code, "" if code == 0 else (errors or lines or [f"ended with exit code {code}"])[-1]
