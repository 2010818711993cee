"""Loggers beside metrics.csv; none of them may stop or delay a training."""

import hashlib
import netrc
import os
import re
import socket
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from hiphop_train.errors import ConfigError


def tensorboard_logger(run_dir: Path) -> Logger:
    """Write TensorBoard's event files into the run directory."""
    try:
        return TensorBoardLogger(save_dir=str(run_dir), name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise ConfigError('logger=tensorboard needs TensorBoard: pip install "hiphop-train[tensorboard]"') from error


def wandb_logger(
    run_dir: Path, project: str, entity: str | None, mode: Literal["auto", "online", "offline"], name: str | None
) -> Logger:
    """Log to Weights & Biases, offline where there is no login or no network.

    Parameters
    ----------
    run_dir : handed over; a resumed run continues the same record, also where its directory was moved
    project, entity, name : as in wandb
    mode : auto decides by login and network
    """
    offline = mode == "offline" or (mode == "auto" and not _reachable())
    if offline and mode == "auto":
        print("W&B: no login or no network, so it logs offline; later: wandb sync", run_dir / "wandb" / "offline-*")
    return WandbLogger(
        name=name or run_dir.name,
        save_dir=str(run_dir),
        project=project,
        entity=entity,
        offline=offline,
        id=_identifier(run_dir),
        resume=None if offline else "allow",
    )


def _identifier(run_dir: Path) -> str:
    """Return the id of the run's record: that of earlier starts, which W&B's folders end with, else one of its path."""
    earlier = sorted((run_dir / "wandb").glob("*run-*-*"))
    if earlier:
        return re.sub(r"^.*?run-\d+_\d+-", "", earlier[-1].name)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", run_dir.name)[:100]
    return f"{name}-{hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:8]}"


def _reachable(timeout: float = 3.0) -> bool:
    """Whether a login is stored and the server answers."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return False
    address = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host = address.hostname or "api.wandb.ai"
    if not os.environ.get("WANDB_API_KEY"):
        try:
            if netrc.netrc().authenticators(host) is None:
                return False
        except (OSError, netrc.NetrcParseError):
            return False
    try:
        socket.create_connection((host, address.port or 443), timeout=timeout).close()
    except OSError:
        return False
    return True
