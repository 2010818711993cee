"""hiphop-bench: time and memory, by itself and beside other programs."""

import hashlib
import json
import os
import platform
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import hiphop_train
from hiphop_train import build
from hiphop_train.benchmark import md, picture, plan, report, systems, training
from hiphop_train.benchmark.peers.settings import Peer
from hiphop_train.commands.progress import progress
from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError
from hiphop_train.evaluation.report import write_json
from hiphop_train.evaluation.timing import processor
from hiphop_train.memory import ENVIRONMENT
from hiphop_train.schema import completed

TELLING = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_", "MKL_", "KMP_", "GOMP_", "NUMBA_", "THP_", "TORCH_")
"""Beginnings of the names of variables that times depend on."""


def bench(config: DictConfig) -> dict[str, Any]:
    """Time what the configuration asks for; returns what the JSON file holds, beside which there is a picture."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings.setdefault("data", None)
    peers: dict[str, Peer] = {
        name: build.make_part(section, f"peers.{name}") for name, section in settings["peers"].items() if section
    }
    plan.check(settings, peers)
    ours = plan.ours_of(settings, completed)
    _check_exported(settings, ours, peers)
    output = _output(settings, ours.name)
    found = plan.systems_of(settings, ours, peers) if "md" in settings["measure"] else []
    trains = ours.file is None and {"training", "breakdown"} & set(settings["measure"])
    batch = plan.batch_of(settings, ours) if trains else None
    device = ("cuda" if torch.cuda.is_available() else "cpu") if settings["device"] == "auto" else settings["device"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hiphop-bench-")))
        with progress("starting", 1 + len(settings["against"])) as advance:
            field = plan.open_field(settings, ours, peers, device, folder, advance)
        stack.callback(plan.close, field)
        results: dict[str, Any] = {
            "title": _title(ours),
            "complete": False,
            "model": ours.model or str(ours.file),
            "checkpoint": settings["checkpoint"],
            "machine": _machine(field),
            "settings": {key: settings[key] for key in ("rounds", "threads", "dtype", "seed", "batch_size")},
            "programs": {name: link.description for name, link in field.links.items()},
            "same_weights": sorted(field.same_weights),
        }
        _measure_md(settings, field, found, results, output)
        if batch is not None:
            _measure_training(settings, field, batch, results)
    results["complete"] = True
    report.print_all(results)
    _write(output, results)
    print(f"results    {output}")
    if "md" in results:
        picture.draw(output.with_suffix(".png"), results["md"], results["title"])
        print(f"picture    {output.with_suffix('.png')}")
    return results


def _measure_md(
    settings: dict[str, Any], field: md.Field, found: list[systems.System], results: dict[str, Any], output: Path
) -> None:
    """Time dynamics; what there is after each structure is written, so that a break does not lose it."""
    if not found:
        return
    rounds, own = settings["rounds"], field.links[md.OURS]
    rows: list[dict[str, Any]] = []
    too_small: set[str] = set()
    with progress("dynamics", len(found) * md.turns_needed(field, rounds)) as advance:
        for system in found:
            rows.append(md.measure(field, system, rounds, too_small, advance))
            if _breaks_down(settings, field) and "median" in rows[-1]["programs"][md.OURS]["included"]:
                name = f"{system.name}, {len(system):,} atoms"
                results.setdefault("breakdown", {})[name] = md.breakdown(own, rounds)
            results |= {"md": rows, "scaling": md.fits(rows, list(field.links))}
            _write(output, results)


def _measure_training(settings: dict[str, Any], field: md.Field, batch: Structures, results: dict[str, Any]) -> None:
    rounds, own = settings["rounds"], field.links[md.OURS]
    with progress("training", (len(field.links) + 1) * (rounds + 1)) as advance:
        steps = training.measure(field, batch, rounds, advance)
        works = "median" in steps["programs"][md.OURS]
        if "training" in settings["measure"]:
            results["training"] = steps
            if works:
                steps["throughput"] = training.throughput(own, rounds, advance)
        if _breaks_down(settings, field) and works:
            results.setdefault("breakdown", {})["training"] = training.breakdown(own, rounds)


def _breaks_down(settings: dict[str, Any], field: md.Field) -> bool:
    """Whether parts of steps are wanted, and can be had: an exported file is one whole."""
    return "breakdown" in settings["measure"] and field.links[md.OURS].script == "ours"


def _check_exported(settings: dict[str, Any], ours: plan.Ours, peers: dict[str, Peer]) -> None:
    """An exported file can neither be trained nor give its weights away."""
    if ours.file is None:
        return
    wanting = [name for name in settings["against"] if peers[name].shares_weights]
    if wanting:
        raise ConfigError(
            f"against: {wanting[0]} takes its weights from the potential, which an exported file does not hand out; "
            "give the run directory: checkpoint=RUN"
        )
    left = [what for what in settings["measure"] if what != "md"]
    if left == settings["measure"]:
        raise ConfigError(f"measure={left}: {ours.file} is an exported file, with which there is only md")
    if left:
        print(f"left out   {', '.join(left)}: {ours.file} is an exported file, which is only evaluated")


def _output(settings: dict[str, Any], name: str) -> Path:
    """Return the JSON file to write, in a folder that is there."""
    if settings["output"] is None:
        plain = json.dumps({key: value for key, value in settings.items() if key != "output"}, sort_keys=True)
        output = Path("bench") / f"{name}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}.json"
        return output
    output = Path(settings["output"]).expanduser()
    if output.suffix != ".json":
        raise ConfigError(f"output={output}: the results are JSON; give output={output.with_suffix('.json')}")
    if not output.parent.is_dir():
        raise ConfigError(f"output={output}: the folder {output.parent} does not exist; make it, or choose another")
    try:
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise ConfigError(
            f"output={output}: {output.parent} cannot be written ({error.strerror}); choose another: output=FILE.json"
        ) from error
    return output


def _title(ours: plan.Ours) -> str:
    width = (ours.model or {}).get("n_features")
    return ", ".join([ours.name, *([f"{width} features"] if width else []), ours.dtype])


def _machine(field: md.Field) -> dict[str, Any]:
    return {
        "processor": processor(),
        "threads": field.links[md.OURS].description["threads"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hiphop_train": hiphop_train.__version__,
        "environment": {k: v for k, v in sorted({**ENVIRONMENT, **os.environ}.items()) if k.startswith(TELLING)},
    }


def _write(output: Path, results: dict[str, Any]) -> None:
    try:
        output.parent.mkdir(exist_ok=True)
        write_json(output, results)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}); choose another: output=FILE.json") from error
