"""hiphop-data check: physical checks of the labels of a file."""

import json
import math
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from rich.console import Console
from rich.table import Table

from hiphop_train.commands.data_open import Opened, open_data
from hiphop_train.commands.progress import progress
from hiphop_train.data.atoms import to_atoms
from hiphop_train.data.checks.dataset import check_dataset
from hiphop_train.data.checks.labels import ADVICE
from hiphop_train.data.checks.results import CheckResult
from hiphop_train.data.checks.scan import Scan, scan
from hiphop_train.data.store.layout import verify
from hiphop_train.errors import ConfigError, DataError

STYLES = {"ok": "green", "warning": "yellow", "contradiction": "bold red", "inconclusive": "dim"}
NAMED = 10_000
"""Flagged structures of one check that the JSON file names."""
DRAWN = 10
"""Flagged structures of one check that worst.xyz holds."""


def check(file: Path, overrides: list[str], output: Path | None, elements: list[str] | None = None) -> int:
    """Check the labels of a file; returns 0, or 3 when they contradict the configuration.

    Parameters
    ----------
    file : data file, or folder of them
    overrides : ``data=NAME``, ``data.KEY=VALUE``
    output : folder for check.json and worst.xyz, or None
    elements : symbols of the elements that a model knows, or None
    """
    opened = open_data(file, overrides)
    if output is not None:
        make_folder(output)
    declared = ", ".join(f"{key}: {value}" for key, value in opened.declared().items())
    print(f"{file}: read by data={opened.choice}, {opened.why}\ndeclared   {declared}", flush=True)
    packed = opened.source.reader.packed
    if packed is not None:
        with progress("comparing with checksums", None) as advance:
            whole = verify(packed, advance)
        print(f"checksums  of all {len(whole.structures):,} packed structures agree", flush=True)
    with progress("scanning structures", None) as advance:
        found = scan(opened.source, advance)
        results = check_dataset(found, opened.source, elements, opened.theory)
    _print(results, found)
    if output is not None:
        _write(output, file, opened, found, results)
        print(f"results    {output}")
    contradicted = any(result.status == "contradiction" for result in results)
    if contradicted:
        print(f"The labels contradict data={opened.choice}. Fix: {ADVICE}", flush=True)
    return DataError.exit_code if contradicted else 0


def make_folder(output: Path) -> None:
    """Make the folder for results, before anything is read."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{output} cannot be made ({error.strerror}); choose another: --output DIR") from error


def _print(results: list[CheckResult], found: Scan) -> None:
    console = Console(highlight=False)
    console.print(
        f"scanned    {len(found):,} structures in {len(found.origins):,} groups, all of them; units and signs by "
        f"{len(found.sample):,} in runs of neighbours"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("check", "", "result"):
        table.add_column(heading, overflow="fold")
    for result in results:
        table.add_row(result.name, result.status, result.text, style=STYLES[result.status])
    console.print(table)
    for result in results:
        for k, severity in zip(result.flagged[:3].tolist(), result.severity, strict=False):
            origin = found.origin(k)
            where = f"{origin['subset']}, group {origin['group']}, conformation {origin['conformation']}"
            console.print(f"  {result.name}: {where} ({severity:.4g})", style="dim", soft_wrap=True)


def _write(output: Path, file: Path, opened: Opened, found: Scan, results: list[CheckResult]) -> None:
    content = {
        "file": str(file),
        "data": opened.choice,
        "why": opened.why,
        "declared": opened.declared(),
        "n_structures": len(found),
        "n_groups": len(found.origins),
        "n_sampled": len(found.sample),
        "checks": [_plain(result, found) for result in results],
    }
    try:
        (output / "check.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        _draw(output / "worst.xyz", opened, found, results)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}); choose another: --output DIR") from error


def _plain(result: CheckResult, found: Scan) -> dict[str, Any]:
    return {
        "check": result.name,
        "status": result.status,
        "text": result.text,
        "numbers": {key: value if math.isfinite(value) else None for key, value in result.numbers.items()},
        "n_flagged": len(result.flagged),
        "flagged": [
            {**found.origin(k), "severity": value if math.isfinite(value) else None}
            for k, value in zip(result.flagged[:NAMED].tolist(), result.severity.tolist(), strict=False)
        ],
    }


def _draw(path: Path, opened: Opened, found: Scan, results: list[CheckResult]) -> None:
    """Write the worst structures, each with its problems; no file where there are none."""
    problems: dict[int, list[str]] = {}
    for result in results:
        for k, severity in zip(result.flagged[:DRAWN].tolist(), result.severity.tolist(), strict=False):
            problems.setdefault(k, []).append(f"{result.name} {severity:.4g}")
    path.unlink(missing_ok=True)
    if not problems:
        return
    index = np.array(sorted(problems))
    structures = opened.source.fetch(index)
    infos = [{"problem": "; ".join(problems[k]), **found.origin(k)} for k in index.tolist()]
    ase.io.write(path, to_atoms(structures, infos), format="extxyz")
