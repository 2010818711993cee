"""The table of commands."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hiphop_train import __version__
from hiphop_train.cli import files, settings
from hiphop_train.cli.parser import Parser

if TYPE_CHECKING:  # they take long to import
    from omegaconf import DictConfig

    from hiphop_train.cli.settings import Function
    from hiphop_train.schema import ConfigName


@dataclass(frozen=True)
class Command:
    """A command, hiphop-NAME.

    Attributes
    ----------
    name : without ``hiphop-``
    description : printed by ``--help``
    examples : command lines, each with what it is for
    declare : declares the arguments
    function : called with the arguments by name; returns the exit code
    """

    name: str
    description: str
    examples: list[tuple[str, str]]
    declare: Callable[[Parser], None]
    function: Callable[..., int]

    def parser(self) -> Parser:
        """Return the parser of the command's arguments."""
        width = max(len(line) for line, _ in self.examples)
        examples = "\n".join(f"  {line:{width}s}   {purpose}".rstrip() for line, purpose in self.examples)
        parser = Parser(f"hiphop-{self.name}", self.description, f"examples:\n{examples}")
        parser.add_argument("--version", action="version", version=f"hiphop-train {__version__}")
        self.declare(parser)
        return parser


def _train(config: "DictConfig") -> int:
    from hiphop_train.commands.train import train

    return train(config).exit_code


def _evaluate(config: "DictConfig") -> int:
    from hiphop_train.commands.evaluate import evaluate

    evaluate(config)
    return 0


def _export(config: "DictConfig") -> int:
    from hiphop_train.commands.export import export_file

    export_file(config)
    return 0


def _bench(config: "DictConfig") -> int:
    from hiphop_train.commands.bench import bench

    bench(config)
    return 0


def _configured(name: "ConfigName", description: str, examples: list[tuple[str, str]], function: "Function") -> Command:
    """Return a command whose arguments are the settings of conf/NAME.yaml."""
    return Command(name, description, examples, partial(settings.declare, name), partial(settings.call, name, function))


_ALL = [
    _configured(
        "train",
        "Train a potential on energies and forces; evaluate it and export it.",
        [
            ("hiphop-train", "the defaults: HIP-HOP-NN on the embedded data, some minutes"),
            ("hiphop-train model=hipnn model.n_features=32", "another architecture, narrower"),
            ("hiphop-train data=extxyz data.path=FILE.xyz", "your own structures"),
            ("hiphop-train data=ani1x data.root=FOLDER trainer.devices=4", "ANI-1x on four GPUs"),
            ("hiphop-train --multirun model=hipnn,hiphop seed=0,1,2", "six trainings, one after another"),
            ("hiphop-train sweep=optuna model.n_features=32,64,128", "settings sought by Optuna"),
            ("hiphop-train debug=fast", "does everything run?"),
        ],
        _train,
    ),
    _configured(
        "eval",
        "Evaluate a trained potential on its test splits or on another data set.",
        [
            ("hiphop-eval checkpoint=RUN", "the test splits of the training's data"),
            ("hiphop-eval checkpoint=RUN data=comp6 data.root=FOLDER", "the COMP6 benchmark"),
        ],
        _evaluate,
    ),
    _configured(
        "export",
        "Write a trained potential as one TorchScript file that runs without this package.",
        [("hiphop-export checkpoint=RUN output=FILE.pt", "")],
        _export,
    ),
    _configured(
        "bench",
        "Measure time and memory of a potential, what takes them, and other programs in comparison.",
        [
            ("hiphop-bench model.n_features=128 water=[3000,12000,48000]", "how time and memory grow"),
            ("hiphop-bench checkpoint=RUN structures=[FILE.pdb] measure=[md]", "a trained potential on your structure"),
            ("hiphop-bench checkpoint=RUN water=[3000] against=[exported]", "and beside its exported file"),
            ("hiphop-bench against=[hippynn,torchani] structures=[FILE.pdb]", "the same work by other programs"),
            ("hiphop-bench data=tiny measure=[training,breakdown]", "training, its loader included"),
        ],
        _bench,
    ),
    Command(
        "data",
        "Download, check, inspect and pack data files.",
        [
            ("hiphop-data download", "list what can be downloaded"),
            ("hiphop-data download ani1x --root FOLDER", "download it, or resume the download"),
            ("hiphop-data inspect FILE", "what a file contains; --output DIR adds a picture"),
            ("hiphop-data check FILE", "are its labels consistent with physics?"),
            ("hiphop-data check FILE data=extxyz data.energy_key=REF_energy", ""),
            ("hiphop-data pack FILE", "once, for fast starts and little memory"),
            ("hiphop-train data=ani1x data.root=FOLDER", "afterwards"),
        ],
        files.declare_data,
        files.data,
    ),
    Command(
        "import",
        "Convert weights that another program trained into a checkpoint of this project.",
        [
            ("hiphop-import hippynn best_model.pt hiphop.ckpt --cutoff 6.5 --energy-unit kcal/mol", ""),
            ("hiphop-import neurochem FOLDER ani.ckpt --dtype float64", ""),
            ("hiphop-import mace EXPORTED mace.ckpt", "or nequip; written by scripts/export_for_import.py"),
            ("hiphop-eval checkpoint=hiphop.ckpt data=comp6 data.root=FOLDER", "afterwards: evaluate"),
            ("hiphop-export checkpoint=hiphop.ckpt", "export"),
            ("hiphop-train init_weights=hiphop.ckpt data=extxyz data.path=FILE", "fine-tune"),
        ],
        files.declare_import,
        files.import_weights,
    ),
    Command(
        "compare",
        "Compare finished runs: errors against parameters, training time and time per atom. Runs that differ only in\n"
        "seed are one row.",
        [("hiphop-compare runs/tiny-*", ""), ("hiphop-compare RUN RUN RUN --output comparison", "")],
        files.declare_compare,
        files.compare,
    ),
    Command(
        "invariants",
        files.INVARIANTS,
        [
            ("hiphop-invariants 4 4", "as model.invariants=flexible model.l_max=4 model.n_max=4 takes them"),
            ("hiphop-invariants 3 4 --published", "what the published set leaves out"),
        ],
        files.declare_invariants,
        files.invariants,
    ),
]

COMMANDS = {command.name: command for command in _ALL}
"""All commands by name."""
