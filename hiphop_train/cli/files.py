"""Commands with ordinary arguments: those that work on files, and hiphop-invariants."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hiphop_train.cli.parser import Parser
from hiphop_train.units import ENERGY

DOWNLOAD = """\
Download a published data set to where its configuration expects it. The same command resumes an interrupted download.
Size and checksum are compared with the published ones; an existing file is never overwritten."""
CHECK = """\
Check the labels of a file by physics: sign and units, duplicates, close contacts, outliers, missing labels, net forces.
Exit code 3 when they contradict the units or the sign of the configuration."""
INSPECT = """\
Print what a file contains: levels of theory, arrays, counts, elements, sizes, energies and forces, missing labels."""
PACK = """\
Convert a file once into arrays that are mapped into memory: training starts at once and needs little memory. The same
command resumes an interrupted conversion. Trainings do this by themselves with large files (data.pack=auto)."""
DATA_SETTINGS = """\
data=NAME says which configuration of conf/data reads the file; by default it is recognised. data.KEY=VALUE sets a value
in it, for instance data.level=tz data.reader.force_sign=gradient."""
HIPPYNN = """\
A state dictionary determines sizes and kind of the network (Hipnn, HipnnVec, HipnnQuad, HipHopNNModule), and elements
if it is that of a whole model; it does not contain the cutoff or the unit of energy. Lengths are in Angstrom."""
SCRIPT = "scripts/export_for_import.py"
LIBRARIES = {
    "mace": "model of mace-torch",
    "nequip": "NequIP model of nequip",
    "allegro": "Allegro model of nequip-allegro",
}
EXPORTED = f"""\
A {{title}}, from a file that {SCRIPT} wrote in the environment of that library: plain settings and tensors.
The library's own files can run any code when they are opened, and are not read. What is not supported is refused by
name."""
TENSORNET = """\
A TensorNet of torchmd-net, from the *.ckpt file that torchmd-train wrote. Reference energies (Atomref) become E0. The
file does not say on which elements it was trained, nor the unit of energy. What is not supported is refused by name."""
INVARIANTS = """\
Print the invariants that model=hiphop makes of an atom's tensors (s v q t h u, of rank 0 to 5), and how many of them
are independent, also where some of the tensors vanish.

Columns: the tensors that vanish; the rank of the set, that is its number of independent invariants; the rank of all
invariants of up to N_MAX tensors; the number of components less the rotations, which more tensors would reach; the gap
between the last two."""


def declare_data(parser: Parser) -> None:
    """Declare the arguments of hiphop-data."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    download = commands.add_parser("download", help="download a published data set", description=DOWNLOAD)
    download.add_argument("name", metavar="NAME", nargs="?", help="data set; by default, list all")
    download.add_argument("--root", metavar="DIR", type=Path, help="folder; default: that of conf/data/NAME.yaml")
    check = commands.add_parser("check", help="check labels by physics", description=CHECK)
    inspect = commands.add_parser("inspect", help="print what a file contains", description=INSPECT)
    pack = commands.add_parser("pack", help="convert once, for training", description=PACK)
    for one in (check, inspect, pack):
        one.add_argument("file", metavar="FILE", type=Path, help="data file, or folder of data files")
    for one in (check, inspect):
        one.add_argument("--output", metavar="DIR", type=Path, help="folder for files; default: print only")
    check.add_argument("--elements", type=_symbols, metavar="H,C,N,O", help="of the model; others are reported")
    pack.add_argument("--output", metavar="FOLDER", type=Path, help="default: where a training looks for it")
    for one in (check, inspect, pack):
        one.take_settings(DATA_SETTINGS)


def data(command: str, **arguments: Any) -> int:
    """Run a command of hiphop-data."""
    functions: dict[str, Callable[..., int]] = {
        "download": _download,
        "check": _check,
        "inspect": _inspect,
        "pack": _pack,
    }
    return functions[command](**arguments)


def declare_import(parser: Parser) -> None:
    """Declare the arguments of hiphop-import."""
    formats = parser.add_subparsers(dest="source_format", metavar="FORMAT", required=True)
    hippynn = formats.add_parser(
        "hippynn",
        help="state dictionary of HIP-NN, HIP-NN-TS or HIP-HOP-NN; more options: hiphop-import hippynn --help",
        description=HIPPYNN,
    )
    hippynn.add_argument("source", metavar="SOURCE", type=Path, help="state dictionary, or folder with best_model.pt")
    neurochem = formats.add_parser(
        "neurochem",
        help="directory of ANI networks, one or an ensemble",
        description="A directory with constants (*.params), self energies (*.dat) and networks, one or an ensemble.",
    )
    neurochem.add_argument("source", metavar="SOURCE", type=Path, help="directory")
    exported = [
        formats.add_parser(name, help=f"{title}, written by {SCRIPT}", description=EXPORTED.format(title=title))
        for name, title in LIBRARIES.items()
    ]
    for one in exported:
        one.add_argument("source", metavar="SOURCE", type=Path, help=f"file that {SCRIPT} wrote")
        one.add_argument("--energy-unit", choices=list(ENERGY), default="eV", help="of the training energies")
    tensornet = formats.add_parser("tensornet", help="TensorNet model of torchmd-net", description=TENSORNET)
    tensornet.add_argument("source", metavar="SOURCE", type=Path, help="*.ckpt file")
    tensornet.add_argument("--elements", type=_symbols, metavar="H,C,N,O", help="on which it was trained (required)")
    tensornet.add_argument("--energy-unit", choices=list(ENERGY), default="eV", help="of the training energies")
    for one in (hippynn, neurochem, *exported, tensornet):
        _declare_output(one)
    hippynn.add_argument("--cutoff", type=float, metavar="ANGSTROM", help="dist_hard_max of the network (required)")
    hippynn.add_argument("--energy-unit", choices=list(ENERGY), help="of the training energies (required)")
    hippynn.add_argument(
        "--elements",
        type=_symbols,
        metavar="H,C,N,O",
        help="in the order of possible_species, if the file does not contain them",
    )
    hippynn.add_argument("--energy-layer", metavar="NAME", help="if several layers have the shape of an energy")


def import_weights(source_format: str, source: Path, output: Path, dtype: str | None, force: bool, **more: Any) -> int:
    """Run hiphop-import; the format's reader takes what is more."""
    from hiphop_train.commands.import_weights import Request, import_weights

    import_weights(Request(source_format, source, output, dtype, force, more))
    return 0


def declare_compare(parser: Parser) -> None:
    """Declare the arguments of hiphop-compare."""
    parser.add_argument("paths", metavar="RUN", nargs="+", type=Path, help="run directory")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("comparison"),
        help="folder for comparison.json, comparison.md and a picture of each test split; default: comparison",
    )
    parser.add_argument("--mix-data", action="store_true", help="compare runs of different data too")


def compare(paths: list[Path], output: Path, mix_data: bool) -> int:
    """Run hiphop-compare."""
    from hiphop_train.commands.compare import compare

    compare(paths, output, mix_data)
    return 0


def declare_invariants(parser: Parser) -> None:
    """Declare the arguments of hiphop-invariants."""
    parser.add_argument("l_max", type=int, choices=range(6), metavar="L_MAX", help="highest rank of a tensor, 0 to 5")
    parser.add_argument(
        "n_max", type=int, choices=range(1, 6), metavar="N_MAX", help="most tensors in a product, 1 to 5"
    )
    parser.add_argument("--published", action="store_true", help="the published set instead of the flexible one")


def invariants(l_max: int, n_max: int, published: bool) -> int:
    """Run hiphop-invariants."""
    from hiphop_train.commands.invariants import describe

    print(describe(l_max, n_max, published))
    return 0


def _symbols(text: str) -> list[str]:
    return text.split(",")


def _declare_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        type=Path,
        help="checkpoint to write; networks of an ensemble get -0, -1 ... before the suffix",
    )
    parser.add_argument("--dtype", choices=["float32", "float64"], help="of the network; default: that of the weights")
    parser.add_argument("--force", action="store_true", help="overwrite existing files")


def _download(name: str | None, root: Path | None) -> int:
    from hiphop_train.commands.data_download import download, print_list

    if name is None:
        print_list()
    else:
        download(name, root)
    return 0


def _check(file: Path, overrides: list[str], output: Path | None, elements: list[str] | None) -> int:
    from hiphop_train.commands.data_check import check

    return check(file, overrides, output, elements)


def _inspect(file: Path, overrides: list[str], output: Path | None) -> int:
    from hiphop_train.commands.data_inspect import inspect

    inspect(file, overrides, output)
    return 0


def _pack(file: Path, overrides: list[str], output: Path | None) -> int:
    from hiphop_train.commands.data_pack import pack_file

    pack_file(file, overrides, output)
    return 0
