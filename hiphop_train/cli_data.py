"""Entry point of hiphop-data: fetch, check, look at and pack data files, with ordinary arguments.

What takes long to import is imported where it is used, so that ``--help`` answers at once.
"""

import argparse
import sys
from pathlib import Path

from hiphop_train import __version__
from hiphop_train.cli import guarded
from hiphop_train.cli_files import Parser
from hiphop_train.errors import ConfigError

EXAMPLES = """examples:
  hiphop-data download                               what can be fetched
  hiphop-data download ani1x --root FOLDER           fetch it, or go on with it
  hiphop-data inspect FILE                           what is in it; --output DIR for a picture
  hiphop-data check FILE                             do its labels hold?
  hiphop-data check FILE data=extxyz data.energy_key=REF_energy
  hiphop-data pack FILE                              once, for fast starts and little memory

then:
  hiphop-train data=ani1x data.root=FOLDER
"""
DOWNLOAD = """\
Fetch a published data set to where its configuration expects it. A download that broke off goes on where it ended. Size
and checksum are compared with the published ones; a file that is there already is left alone, right or wrong."""
CHECK = """\
Put the labels of a file to the test of physics: sign and units, duplicates, close contacts, outliers, missing labels,
net forces. Exit code 3 when they contradict the configuration's units or sign."""
INSPECT = """\
Print what is in a file: levels of theory, arrays, counts, elements, sizes, energies and forces, missing labels."""
PACK = """\
Convert a file once into arrays that are mapped into memory: training starts at once and needs little memory. A packing
that was broken off goes on where it was. Trainings do this by themselves with large files (data.pack=auto)."""
OVERRIDES = """\
data=NAME says which configuration of conf/data reads the file; without it the file is looked into. data.KEY=VALUE sets
what can be set in it, for instance data.level=tz data.reader.force_sign=gradient."""


def main() -> None:
    """Run hiphop-data."""
    sys.exit(guarded(lambda: run(sys.argv[1:])))


def run(arguments: list[str]) -> int:
    """Do as the arguments say; returns the exit code."""
    given = vars(_parser().parse_args(arguments))
    command = given.pop("command")
    if command == "download":
        return _download(**given)
    strange = [word for word in given["overrides"] if "=" not in word or word.startswith("-")]
    if strange:
        raise ConfigError(f"'{strange[0]}': after FILE come settings, KEY=VALUE; see hiphop-data {command} --help")
    if command == "check":
        from hiphop_train.commands.data_check import check

        return check(**given)
    if command == "pack":
        from hiphop_train.commands.data_pack import pack_file

        pack_file(**given)
        return 0
    from hiphop_train.commands.data_inspect import inspect

    inspect(**given)
    return 0


def _download(name: str | None, root: Path | None) -> int:
    from hiphop_train.commands.data_download import download, print_list

    if name is None:
        print_list()
    else:
        download(name, root)
    return 0


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "hiphop-data",
        description="Fetch, check, look at and pack data files.",
        epilog=EXAMPLES,
        formatter_class=layout,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hiphop-train {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    download = commands.add_parser("download", help="fetch a published data set", description=DOWNLOAD)
    download.add_argument("name", metavar="NAME", nargs="?", help="data set; without it, the list of them")
    download.add_argument("--root", metavar="DIR", type=Path, help="folder; default: that of conf/data/NAME.yaml")
    _checking(commands.add_parser("check", help="put labels to the test", description=CHECK, epilog=OVERRIDES))
    _looking(commands.add_parser("inspect", help="what is in a file", description=INSPECT, epilog=OVERRIDES))
    packing = commands.add_parser("pack", help="convert once, for training", description=PACK, epilog=OVERRIDES)
    packing.add_argument("file", metavar="FILE", type=Path, help="data file, or folder of them")
    packing.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="data=NAME, data.KEY=VALUE")
    packing.add_argument("--output", metavar="FOLDER", type=Path, help="default: where a training looks for it")
    return parser


def _looking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="data file, or folder of them")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="data=NAME, data.KEY=VALUE")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder for files; without it, the terminal only")


def _checking(parser: argparse.ArgumentParser) -> None:
    _looking(parser)
    parser.add_argument(
        "--elements",
        type=lambda text: text.split(","),
        metavar="H,C,N,O",
        help="those that a model knows; others are reported",
    )
