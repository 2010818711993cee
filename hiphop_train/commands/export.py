"""hiphop-export: a trained potential as one TorchScript file."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from hiphop_train import checkpoint, files
from hiphop_train.export.torchscript import export


def export_file(config: DictConfig) -> Path:
    """Export a checkpoint; the file is written whole or not at all."""
    loaded = checkpoint.load(config.checkpoint)
    output = Path(config.output) if config.output else loaded.run_dir / "model.pt"
    if not config.output:
        with files.told(output):
            loaded.run_dir.mkdir(exist_ok=True)
    export(loaded.potential, output, {**loaded.record, "errors": _errors(loaded.run_dir / "metrics.json")})
    print(f"exported   {output}")
    return output


def _errors(metrics: Path) -> dict[str, Any]:
    """Return the test errors of the training, where it has been evaluated."""
    try:
        errors: dict[str, Any] = json.loads(metrics.read_text())["errors"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return errors
