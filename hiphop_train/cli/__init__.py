"""Entry points of the commands: parse, call; errors become one message and an exit code.

`hiphop_train.cli.table` lists the commands. What takes long to import is imported where it is used, so that ``--help``
answers at once.
"""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hiphop_train.cli.table import COMMANDS
from hiphop_train.errors import HipHopError, Interrupted, StorageError


class Lasting:
    """A stream whose writing may fail: a training outlives its terminal, and a full disk under its log.

    Parameters
    ----------
    wrapped : the stream, or None where it was closed before the start
    """

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped if wrapped is not None else io.StringIO()
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write what can be written."""
        self._try(self.wrapped.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        self._try(self.wrapped.flush)

    def _try(self, function: Callable[..., Any], *arguments: str) -> None:
        try:
            function(*arguments)
        except OSError as error:
            self.error = error
        except ValueError:  # it was closed meanwhile
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; an error of the user's input is one message on standard error.

    Parameters
    ----------
    name : of the command, without ``hiphop-``
    arguments : of the command line
    """
    reads = any(word.startswith("-") and word not in ("-m", "--multirun") for word in arguments)  # --cfg job | head
    if name == "train":
        sys.stdout, sys.stderr = Lasting(sys.stdout), Lasting(sys.stderr)
    try:
        code = call(name, arguments)
        sys.stdout.flush()
        if reads and isinstance(sys.stdout, Lasting) and sys.stdout.error is not None:
            raise sys.stdout.error
        return code
    except HipHopError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as stop:
        print(f"stopped by {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("aborted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in its buffer must not fail once more
        if error.errno == errno.EPIPE:  # such as: hiphop-data inspect FILE | head
            return 128 + signal.SIGPIPE
        print(f"error: cannot write: {error.strerror}; free space, then give the command again", file=sys.stderr)
        return StorageError.exit_code
    finally:
        for stream in ("stdout", "stderr"):
            setattr(sys, stream, getattr(getattr(sys, stream), "wrapped", getattr(sys, stream)))


def call(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; errors are raised."""
    command = COMMANDS[name]
    try:
        given = command.parser().parse(arguments)
    except SystemExit:  # of --help and --version
        return 0
    return command.function(**given)


def main(name: str) -> None:
    """Run a command with the arguments of this process, and exit."""
    sys.exit(run(name, sys.argv[1:]))


train_main = partial(main, "train")
eval_main = partial(main, "eval")
export_main = partial(main, "export")
bench_main = partial(main, "bench")
data_main = partial(main, "data")
import_main = partial(main, "import")
compare_main = partial(main, "compare")
invariants_main = partial(main, "invariants")
