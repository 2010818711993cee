"""Entry points of the commands that work on files: hiphop-import and hiphop-compare, with ordinary arguments.

What takes long to import is imported where it is used, so that ``--help`` answers at once.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from hiphop_train import __version__
from hiphop_train.cli import guarded
from hiphop_train.errors import ConfigError
from hiphop_train.units import ENERGY

IMPORT_EXAMPLES = """examples:
  hiphop-import hippynn best_model.pt hiphop.ckpt --cutoff 6.5 --energy-unit kcal/mol
  hiphop-import neurochem FOLDER ani.ckpt --dtype float64

then:
  hiphop-eval checkpoint=hiphop.ckpt data=comp6 data.root=FOLDER
  hiphop-export checkpoint=hiphop.ckpt
  hiphop-train init_weights=hiphop.ckpt data=extxyz data.path=FILE     fine-tune
"""
IMPORT_HIPPYNN = """\
A state dictionary says the sizes and which network it is (Hipnn, HipnnVec, HipnnQuad, HipHopNNModule), and the elements
where it is that of a whole model; it does not say the cutoff or the unit of energy. Lengths are in Angstrom."""


COMPARE_EXAMPLES = """examples:
  hiphop-compare runs/tiny-*
  hiphop-compare RUN RUN RUN --output comparison

DIR gets comparison.json, comparison.md and a picture for each test split. Runs that differ only in seed are one row.
"""


class Parser(argparse.ArgumentParser):
    """Arguments whose mistakes are told as all others are."""

    def error(self, message: str) -> NoReturn:
        """Say it as all other errors are said."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def import_main() -> None:
    """Run hiphop-import."""
    sys.exit(guarded(lambda: run_import(sys.argv[1:])))


def run_import(arguments: list[str]) -> int:
    """Import weights as the arguments say; returns the exit code."""
    given = vars(_import_parser().parse_args(arguments))
    from hiphop_train.commands.import_weights import Request, import_weights

    common = {name: given.pop(name) for name in ("source_format", "source", "output", "dtype", "force")}
    import_weights(Request(**common, options=given))
    return 0


def compare_main() -> None:
    """Run hiphop-compare."""
    sys.exit(guarded(lambda: run_compare(sys.argv[1:])))


def run_compare(arguments: list[str]) -> int:
    """Compare runs as the arguments say; returns the exit code."""
    parser = Parser(
        "hiphop-compare",
        description="Put finished runs side by side: errors against parameters, training time and time per atom.",
        epilog=COMPARE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hiphop-train {__version__}")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directory")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("comparison"), help="default: comparison")
    parser.add_argument("--mix-data", action="store_true", help="runs of different data too")
    given = parser.parse_args(arguments)
    from hiphop_train.commands.compare import compare

    compare(given.runs, given.output, given.mix_data)
    return 0


def _import_parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "hiphop-import",
        description="Turn weights that another program trained into a checkpoint of this project.",
        epilog=IMPORT_EXAMPLES,
        formatter_class=layout,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hiphop-train {__version__}")
    formats = parser.add_subparsers(dest="source_format", metavar="FORMAT", required=True)
    hippynn = formats.add_parser(
        "hippynn",
        help="state dictionary of HIP-NN, HIP-NN-TS or HIP-HOP-NN; more options: hiphop-import hippynn --help",
        description=IMPORT_HIPPYNN,
        formatter_class=layout,
        allow_abbrev=False,
    )
    hippynn.add_argument("source", metavar="SOURCE", type=Path, help="state dictionary, or folder with best_model.pt")
    neurochem = formats.add_parser(
        "neurochem",
        help="directory of ANI networks, one or an ensemble",
        description="A directory with constants (*.params), self energies (*.dat) and networks, one or an ensemble.",
        allow_abbrev=False,
    )
    neurochem.add_argument("source", metavar="SOURCE", type=Path, help="directory")
    for one in (hippynn, neurochem):
        one.add_argument(
            "output",
            metavar="OUTPUT",
            type=Path,
            help="checkpoint to write; networks of an ensemble get -0, -1 ... before the suffix",
        )
        one.add_argument("--dtype", choices=["float32", "float64"], help="of the network; default: that of the weights")
        one.add_argument("--force", action="store_true", help="overwrite existing files")
    hippynn.add_argument("--cutoff", type=float, metavar="ANGSTROM", help="dist_hard_max of the network (needed)")
    hippynn.add_argument("--energy-unit", choices=list(ENERGY), help="of the energies it was trained on (needed)")
    hippynn.add_argument(
        "--elements",
        type=lambda text: text.split(","),
        metavar="H,C,N,O",
        help="in the order of possible_species, where the file does not say",
    )
    hippynn.add_argument("--energy-layer", metavar="NAME", help="where several layers have the shape of an energy")
    return parser
