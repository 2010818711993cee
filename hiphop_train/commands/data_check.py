"""hiphop-data check: the labels of a file put to the test of physics."""

import json
import math
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console
from rich.table import Table

from hiphop_train.commands.data_open import Opened, open_data
from hiphop_train.commands.progress import progress
from hiphop_train.data.checks.dataset import judge_all
from hiphop_train.data.checks.labels import ADVICE
from hiphop_train.data.checks.results import Finding
from hiphop_train.data.checks.scan import Survey, survey
from hiphop_train.data.store.packed_set import verify
from hiphop_train.errors import ConfigError, DataError

STYLES = {"ok": "green", "warning": "yellow", "contradiction": "bold red", "not told": "dim"}
NAMED = 10_000
"""Offenders of one check that the JSON file names."""
DRAWN = 10
"""Offenders of one check that worst.xyz holds."""


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
        print(f"checksums  of all {len(whole.structures):,} packed structures are right", flush=True)
    with progress("looking at structures", None) as advance:
        found = survey(opened.source, advance)
        findings = judge_all(found, opened.source, elements, opened.theory)
    _print(findings, found)
    if output is not None:
        _write(output, file, opened, found, findings)
        print(f"results    {output}")
    wrong = [finding for finding in findings if finding.status == "contradiction"]
    if wrong:
        print(f"The labels contradict data={opened.choice}. Fix: {ADVICE}", flush=True)
    return DataError.exit_code if wrong else 0


def make_folder(output: Path) -> None:
    """Make the folder for results, before anything is read."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{output} cannot be made ({error.strerror}); choose another: --output DIR") from error


def _print(findings: list[Finding], found: Survey) -> None:
    n_groups = len(found.places)
    console = Console(highlight=False)
    console.print(
        f"looked at  {len(found):,} structures in {n_groups:,} groups, all of them; units and sign by "
        f"{len(found.sample):,} in runs of neighbours"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("check", "", "figures"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(finding.name, finding.status, finding.text, style=STYLES[finding.status])
    console.print(table)
    for finding in findings:
        for k, value in zip(finding.offenders[:3].tolist(), finding.values, strict=False):
            place = found.place(k)
            where = f"{place['subset']}, group {place['group']}, conformation {place['conformation']}"
            console.print(f"  {finding.name}: {where} ({value:.4g})", style="dim", soft_wrap=True)


def _write(output: Path, file: Path, opened: Opened, found: Survey, findings: list[Finding]) -> None:
    content = {
        "file": str(file),
        "data": opened.choice,
        "why": opened.why,
        "declared": opened.declared(),
        "n_structures": len(found),
        "n_groups": len(found.places),
        "n_sampled": len(found.sample),
        "checks": [_plain(finding, found) for finding in findings],
    }
    try:
        (output / "check.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        _draw(output / "worst.xyz", opened, found, findings)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}); choose another: --output DIR") from error


def _plain(finding: Finding, found: Survey) -> dict[str, Any]:
    return {
        "check": finding.name,
        "status": finding.status,
        "text": finding.text,
        "figures": {key: value if math.isfinite(value) else None for key, value in finding.figures.items()},
        "n_offenders": len(finding.offenders),
        "offenders": [
            {**found.place(k), "value": value if math.isfinite(value) else None}
            for k, value in zip(finding.offenders[:NAMED].tolist(), finding.values.tolist(), strict=False)
        ],
    }


def _draw(path: Path, opened: Opened, found: Survey, findings: list[Finding]) -> None:
    """Write the worst structures, each with what is wrong with it; no file where nothing is."""
    problems: dict[int, list[str]] = {}
    for finding in findings:
        for k, value in zip(finding.offenders[:DRAWN].tolist(), finding.values.tolist(), strict=False):
            problems.setdefault(k, []).append(f"{finding.name} {value:.4g}")
    path.unlink(missing_ok=True)
    if not problems:
        return
    index = np.array(sorted(problems))
    structures = opened.source.fetch(index)
    drawn = []
    for row, k in enumerate(index.tolist()):
        atoms = slice(structures.offsets[row], structures.offsets[row + 1])
        box = {"cell": structures.cell[row], "pbc": structures.pbc[row]} if structures.pbc[row].any() else {}
        one = Atoms(structures.numbers[atoms], structures.positions[atoms], **box)
        labels: dict[str, Any] = {}
        if structures.has_energy[row]:
            labels["energy"] = float(structures.energy[row])
        if structures.has_forces[row]:
            labels["forces"] = structures.forces[atoms].astype(np.float64)
        one.calc = SinglePointCalculator(one, **labels)  # type: ignore[no-untyped-call]
        one.info = {"problem": "; ".join(problems[k]), **found.place(k)}
        drawn.append(one)
    ase.io.write(path, drawn, format="extxyz")
