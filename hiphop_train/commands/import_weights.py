"""hiphop-import: weights that other programs trained, as checkpoints of this project."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from hiphop_train import checkpoint
from hiphop_train.errors import ConfigError, DataError
from hiphop_train.files import replacing
from hiphop_train.importing.base import Imported


@dataclass(frozen=True)
class Request:
    """What to import, and what its files do not contain.

    Attributes
    ----------
    source_format : name of a module in `hiphop_train.importing`
    source : file or folder
    output : checkpoint to write; of an ensemble, each network's number is put before the suffix
    dtype : of the network, float32 or float64; None: that of the weights
    force : whether existing files are overwritten
    options : further arguments of the module's ``read``
    """

    source_format: str
    source: Path
    output: Path
    dtype: str | None = None
    force: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def import_weights(request: Request) -> list[Path]:
    """Write a checkpoint of each network; all of them or none."""
    if not request.source.exists():
        raise DataError(f"{request.source} does not exist; give the file or folder of the model to import")
    reader = import_module(f"hiphop_train.importing.{request.source_format}")
    files = store(reader.read(request.source, **request.options), request)
    print(
        f"evaluate   hiphop-eval checkpoint={files[0]} data=NAME\n"
        f"export     hiphop-export checkpoint={files[0]}\n"
        f"fine-tune  hiphop-train init_weights={files[0]} data=NAME optimizer.lr=1e-4"
    )
    return files


def store(found: list[Imported], request: Request) -> list[Path]:
    """Write a checkpoint of each network that was read; return the files."""
    files = [request.output]
    if len(found) > 1:
        stem, suffix = request.output.stem, request.output.suffix
        files = [request.output.with_name(f"{stem}-{k}{suffix}") for k in range(len(found))]
    for file in files:
        if file.is_dir():
            raise ConfigError(f"{file} is a folder; give the name of a file: {file / 'imported.ckpt'}")
        if file.exists() and not request.force:
            raise ConfigError(f"{file} exists; give another name, or --force to overwrite it")
    contents = [_content(imported, request) for imported in found]
    _write(contents, files)
    for file, content in zip(files, contents, strict=True):
        _print_imported(file, content)
    return files


def _content(imported: Imported, request: Request) -> dict[str, Any]:
    readout = [value for name, value in imported.weights.items() if name.startswith("terms.0.readout.")]
    own = "float64" if any(value.dtype == torch.float64 for value in readout) else "float32"
    try:
        return checkpoint.of_weights(imported.model, request.dtype or own, imported.weights, imported.origin)
    except RuntimeError as error:
        raise DataError(f"{imported.origin}: the weights do not fit their model: {error}") from error


def _write(contents: list[dict[str, Any]], files: list[Path]) -> None:
    """Write all under temporary names, then rename."""
    try:
        files[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{files[0]} cannot be written ({error.strerror}); choose another OUTPUT") from error
    with ExitStack() as stack:
        for content, file in zip(contents, files, strict=True):
            stack.enter_context(replacing(file)).write_bytes(checkpoint.to_bytes(content))


def _print_imported(file: Path, content: dict[str, Any]) -> None:
    record = content["hiphop_train"]
    model, dtype = record["config"]["model"], record["config"]["dtype"]
    e0 = zip(model["elements"], record["statistics"]["e0"], strict=True)
    print(
        f"imported   {file}\n"
        f"from       {record['origin']}\n"
        f"model      {model['_target_'].split('.')[-1]}, {dtype}, cutoff {model['cutoff']} Angstrom\n"
        f"E0         {', '.join(f'{symbol} {energy:.3f}' for symbol, energy in e0)} eV"
    )
