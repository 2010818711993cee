"""Which folders may be a run directory: nothing of anybody else is ever written over."""

import tempfile
from fnmatch import fnmatch
from pathlib import Path

import yaml

from hiphop_train.errors import ConfigError

OURS = ("checkpoints", "splits.npz")
"""What only a run of ours has."""

HARMLESS = (".*", "*.log", "*.out", "*.err", "*.sh", "*.sbatch", "*.slurm", "wandb", "tensorboard", "bad_batches")
"""What may lie in a folder before its run begins: logs and scripts of the job itself."""


def refuse_foreign(path: Path) -> None:
    """Raise `ConfigError` for a folder that is no run of ours, and not free for one.

    Parameters
    ----------
    path : the run directory, made or not
    """
    try:
        place = path.resolve()
        exists = place.exists()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"run_dir={path}: {error}; choose another folder") from error
    try:
        homes = {Path.home().resolve()}
    except RuntimeError:
        homes = set()
    if place in homes | {Path(tempfile.gettempdir()).resolve(), Path("/")}:
        raise ConfigError(f"run_dir={path} is not for one run alone; choose a folder in it: run_dir={place / 'run'}")
    if not exists:
        return
    if not place.is_dir():
        raise ConfigError(f"run_dir={path} is a file; give a folder")
    names = sorted(entry.name for entry in place.iterdir())
    others = [name for name in names if not any(fnmatch(name, pattern) for pattern in HARMLESS)]
    if not others or any(name in OURS for name in others) or _is_ours(place / "config.yaml"):
        return
    shown = ", ".join([*others[:3], *["..."] * (len(others) > 3)])
    raise ConfigError(
        f"run_dir={path} holds other things ({shown}) and no run of hiphop-train; choose another run_dir, or an empty "
        "folder"
    )


def _is_ours(config: Path) -> bool:
    try:
        content = yaml.safe_load(config.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and {"model", "data", "trainer", "optimizer"} <= content.keys()
