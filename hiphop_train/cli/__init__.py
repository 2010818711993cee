"""Entry points of the commands: parse, call; errors become one message and an exit code.

`hiphop_train.cli.table` lists the commands. What takes long to import is imported where it is used, so that ``--help``
answers at once.
"""

import sys
from collections.abc import Sequence
from functools import partial

from hiphop_train.cli.table import COMMANDS
from hiphop_train.errors import HipHopError, Interrupted


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; an error of the user's input is one message on standard error.

    Parameters
    ----------
    name : of the command, without ``hiphop-``
    arguments : of the command line
    """
    try:
        return call(name, arguments)
    except HipHopError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as stop:
        print(f"stopped by {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("aborted", file=sys.stderr)
        return 130


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
