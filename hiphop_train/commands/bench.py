"""hiphop-bench: time and memory, alone and compared with other programs."""

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
from hiphop_train.benchmark import measure, picture, plan, report, systems
from hiphop_train.benchmark.settings import Peer
from hiphop_train.commands.progress import progress
from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError
from hiphop_train.evaluation.report import write_json
from hiphop_train.evaluation.timing import processor
from hiphop_train.memory import ENVIRONMENT
from hiphop_train.schema import completed

RELEVANT = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_", "MKL_", "KMP_", "GOMP_", "NUMBA_", "THP_", "TORCH_")
"""Prefixes of environment variables that times depend on."""


def bench(config: DictConfig) -> dict[str, Any]:
    """Time what the configuration asks for; writes a JSON file and a picture, and returns the content of the former."""
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
            programs = plan.start_programs(settings, ours, peers, device, folder, advance)
        stack.callback(programs.close)
        results: dict[str, Any] = {
            "title": _title(ours),
            "complete": False,
            "model": ours.model or str(ours.file),
            "checkpoint": settings["checkpoint"],
            "machine": _machine(programs),
            "settings": {key: settings[key] for key in ("rounds", "threads", "dtype", "seed", "batch_size")},
            "programs": {name: process.description for name, process in programs.processes.items()},
            "same_weights": sorted(set(programs.able("same_weights")) - {measure.OURS}),
        }
        _measure_dynamics(settings, programs, found, results, output)
        if batch is not None:
            _measure_training(settings, programs, batch, results)
    results["complete"] = True
    report.print_all(results)
    _write(output, results)
    print(f"results    {output}")
    if "md" in results:
        picture.draw(output.with_suffix(".png"), results["md"], results["title"])
        print(f"picture    {output.with_suffix('.png')}")
    return results


def _measure_dynamics(
    settings: dict[str, Any],
    programs: measure.Programs,
    found: list[systems.System],
    results: dict[str, Any],
    output: Path,
) -> None:
    """Time molecular dynamics; results are written after each structure, so that an interruption loses little."""
    if not found:
        return
    rounds = settings["rounds"]
    rows: list[dict[str, Any]] = []
    too_small: set[str] = set()
    with progress("dynamics", len(found) * len(programs.dynamics()) * (rounds + 1)) as advance:
        for system in found:
            rows.append(measure.dynamics(programs, system, rounds, too_small, advance))
            if _has_breakdown(settings, programs) and "median" in rows[-1]["programs"][measure.OURS]["included"]:
                name = f"{system.name}, {len(system):,} atoms"
                results.setdefault("breakdown", {})[name] = measure.breakdown(programs.ours, "md", rounds)
            results |= {"md": rows, "scaling": measure.fits(rows, list(programs.processes))}
            _write(output, results)


def _measure_training(
    settings: dict[str, Any], programs: measure.Programs, batch: Structures, results: dict[str, Any]
) -> None:
    """Time training steps and our whole training."""
    rounds = settings["rounds"]
    with progress("training", (len(programs.able("trains")) + 1) * (rounds + 1)) as advance:
        steps = measure.training(programs, batch, rounds, advance)
        works = "median" in steps["programs"][measure.OURS]
        if "training" in settings["measure"]:
            results["training"] = steps
            if works:
                steps["throughput"] = measure.throughput(programs.ours, rounds, advance)
        if _has_breakdown(settings, programs) and works:
            results.setdefault("breakdown", {})["training"] = measure.breakdown(programs.ours, "training", rounds)


def _has_breakdown(settings: dict[str, Any], programs: measure.Programs) -> bool:
    """Whether parts of steps are requested and can be measured: an exported file has none."""
    return "breakdown" in settings["measure"] and bool(programs.ours.description["trains"])


def _check_exported(settings: dict[str, Any], ours: plan.Ours, peers: dict[str, Peer]) -> None:
    """Refuse what an exported file does not allow: training, and other programs with its weights."""
    if ours.file is None:
        return
    asking = [name for name in settings["against"] if peers[name].needs == "weights"]
    if asking:
        raise ConfigError(
            f"against: {asking[0]} gets the weights of our potential, which cannot be read from an exported file; "
            "give the run directory: checkpoint=RUN"
        )
    left = [what for what in settings["measure"] if what != "md"]
    if left == settings["measure"]:
        raise ConfigError(f"measure={left}: {ours.file} is an exported file; allowed: measure=[md]")
    if left:
        print(f"left out   {', '.join(left)}: {ours.file} is an exported file, which can only be evaluated")


def _output(settings: dict[str, Any], name: str) -> Path:
    """Return the JSON file to write, in a folder that exists."""
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


def _machine(programs: measure.Programs) -> dict[str, Any]:
    return {
        "processor": processor(),
        "threads": programs.ours.description["threads"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hiphop_train": hiphop_train.__version__,
        "environment": {k: v for k, v in sorted({**ENVIRONMENT, **os.environ}.items()) if k.startswith(RELEVANT)},
    }


def _write(output: Path, results: dict[str, Any]) -> None:
    try:
        output.parent.mkdir(exist_ok=True)
        write_json(output, results)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}); choose another: output=FILE.json") from error
