"""The parser of all commands' arguments."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from hiphop_train.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Argparse's parser, with settings of the form KEY=VALUE among the options, and errors that are raised.

    Parameters
    ----------
    prog : name of the command
    description, epilog : printed by ``--help`` as written
    """

    def __init__(self, prog: str, description: str = "", epilog: str = "") -> None:
        super().__init__(
            prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def take_settings(self, description: str) -> None:
        """Accept KEY=VALUE anywhere among the arguments; they become the argument ``overrides``."""
        self.set_defaults(overrides=[])
        self.add_argument_group("settings, KEY=VALUE", description)
        self.usage = f"{self.format_usage().removeprefix('usage: ').rstrip()} [KEY=VALUE ...]"

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Return the arguments by name.

        Raises
        ------
        ConfigError
            when one is missing, unknown or has a value that is not allowed
        SystemExit
            after ``--help`` and ``--version``
        """
        known, words = self.parse_known_args(arguments)
        given = vars(known)
        takes_settings = "overrides" in given
        unknown = [word for word in words if word.startswith("-") or not takes_settings]
        if unknown:
            hint = "; settings are given as KEY=VALUE" if takes_settings else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return given | {"overrides": words} if takes_settings else given

    def error(self, message: str) -> NoReturn:
        """Raise `ConfigError`, where argparse would print the message and exit."""
        raise ConfigError(f"{message}; see {self.prog} --help")
