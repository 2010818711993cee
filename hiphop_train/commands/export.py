"""hiphop-export: a trained potential as one TorchScript file."""

import json
from pathlib import Path

from omegaconf import DictConfig

from hiphop_train import checkpoint
from hiphop_train.errors import ConfigError
from hiphop_train.export.torchscript import export


def export_file(config: DictConfig) -> Path:
    """Export a checkpoint; the file is written whole or not at all."""
    loaded = checkpoint.load(config.checkpoint)
    output = Path(config.output) if config.output else loaded.run_dir / "model.pt"
    metrics = loaded.run_dir / "metrics.json"
    errors = json.loads(metrics.read_text()).get("errors", {}) if metrics.is_file() else {}
    try:
        if not config.output:
            loaded.run_dir.mkdir(exist_ok=True)
        export(loaded.potential, output, {**loaded.record, "errors": errors})
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}); choose another: output=PATH") from error
    print(f"exported   {output}")
    return output
