"""Tables of the results."""

from typing import Any

from rich.console import Console
from rich.table import Table

from hiphop_train.benchmark.measure import DYNAMICS

SEARCH = {"excluded": "pairs given", "included": "with search"}

SCATTER = 1.5
"""Ratio of the longest to the shortest round above which a warning is printed."""


def print_all(results: dict[str, Any]) -> None:
    """Print all results."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    if "md" in results:
        console.print(_md(results["md"]))
        _print_fits(console, results["scaling"])
    if "training" in results:
        console.print(_training(results["training"]))
    if "throughput" in results.get("training", {}):
        whole = results["training"]["throughput"]
        console.print(
            f"training as in hiphop-train, loader included: "
            f"{_range(whole['conformations_per_second'])} conformations/s, {_range(whole['atoms_per_second'])} atoms/s"
        )
    if "breakdown" in results:
        console.print(_breakdown(results["breakdown"]))
    if (scatter := largest_scatter(results)) > SCATTER:
        console.print(
            f"rounds of the same work differ by up to a factor of {scatter:.1f}: the machine was busy with other work; "
            "these times and ratios are not reliable"
        )


def largest_scatter(results: dict[str, Any]) -> float:
    """Return the largest ratio of the longest to the shortest round of the same work."""
    found = [times for row in results.get("md", []) for both in row["programs"].values() for times in both.values()]
    found += results.get("training", {}).get("programs", {}).values()
    return max((times["highest"] / times["lowest"] for times in found if "lowest" in times), default=1.0)


def _md(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="molecular dynamics step: energy and forces",
        title_justify="left",
        caption="median (lowest - highest) of the rounds; ratio: to our time in the same round; peak: memory of the "
        "process above its baseline before the first structure",
    )
    for column in ("system", "atoms", "program", ""):
        table.add_column(column, justify="right" if column == "atoms" else "left")
    for column in ("ms", "µs/atom", "peak MB", "kB/atom", "ratio to ours", "largest difference of forces"):
        table.add_column(column, justify="right")
    for row in rows:
        for name, variants in row["programs"].items():
            for variant in DYNAMICS:
                if variant in variants:
                    table.add_row(*_md_cells(row, name, variant))
        table.add_section()
    return table


def _md_cells(row: dict[str, Any], name: str, variant: str) -> list[str]:
    found = row["programs"][name][variant]
    cells = [row["system"], f"{row['atoms']:,}", name, SEARCH[variant]]
    if "problem" in found:
        return [*cells, found["problem"]]
    ratio = row["ratios"].get(name, {}).get(variant)
    difference = row["differences"].get(name, {}).get("forces")
    return [
        *cells,
        _range(found),
        f"{found['microseconds_per_atom']:,.1f}",
        f"{found['peak_bytes'] / 1e6:,.0f}",
        f"{found['peak_bytes_per_atom'] / 1e3:,.1f}",
        *_beside_ours(ratio, difference),
    ]


def _beside_ours(ratio: dict[str, Any] | None, difference: float | None) -> tuple[str, str]:
    """Return a ratio, or why it is missing, and the largest difference of forces."""
    shown = "" if difference is None else f"{difference:.1e}"
    if ratio is not None:
        return _range(ratio), shown
    return "none: outputs differ" if shown else "", shown


def _print_fits(console: Console, fits: dict[str, Any]) -> None:
    for name, variants in fits.items():
        for variant, fit in variants.items():
            memory = fit["peak_bytes_per_atom"]
            error = "" if fit["standard_error"] is None else f" ± {fit['standard_error']:.3f}"
            console.print(
                f"{name}, {SEARCH[variant]}: time grows as atoms^{fit['exponent']:.3f}{error} ({fit['points']} sizes, "
                f"{fit['over']}); time per atom with {fit['largest']:,} atoms is "
                f"{fit['per_atom_largest_over_smallest']:.3f} times that with {fit['smallest']:,}; "
                f"peak memory {memory['of_the_largest'] / 1e3:,.0f} kB/atom "
                f"({memory['lowest'] / 1e3:,.0f} - {memory['highest'] / 1e3:,.0f})"
            )


def _training(results: dict[str, Any]) -> Table:
    batch = results["batch"]
    table = Table(
        title=f"training step on {batch['structures']:,} structures, {batch['atoms']:,} atoms ({batch['source']})",
        title_justify="left",
        caption="pairs given; energies, forces, mean square errors, gradient, Adam",
    )
    table.add_column("program")
    for column in ("ms", "conformations/s", "atoms/s", "peak MB", "ratio to ours", "largest difference of forces"):
        table.add_column(column, justify="right")
    for name, found in results["programs"].items():
        if "problem" in found:
            table.add_row(name, found["problem"])
            continue
        ratio, difference = results["ratios"].get(name), results["differences"].get(name, {}).get("forces")
        table.add_row(
            name,
            _range(found),
            f"{found['conformations_per_second']:,.1f}",
            f"{found['atoms_per_second']:,.0f}",
            f"{found['peak_bytes'] / 1e6:,.0f}",
            *_beside_ours(ratio, difference),
        )
    return table


def _breakdown(found: dict[str, Any]) -> Table:
    table = Table(
        title="breakdown of a step: ms (per cent of the sum)",
        title_justify="left",
        caption="medians of the rounds; parts are measured separately, the whole step at once in the same round",
    )
    table.add_column("part")
    for name in found:
        table.add_column(name, justify="right")
    parts = list(dict.fromkeys(part for column in found.values() for part in column["milliseconds"]))
    for part in parts:
        cells = [
            f"{column['milliseconds'][part]:,.2f} ({column['per_cent'][part]:.1f})"
            if part in column["milliseconds"]
            else ""
            for column in found.values()
        ]
        table.add_row(part, *cells)
    table.add_section()
    table.add_row("sum of the parts", *(f"{column['sum']:,.2f}" for column in found.values()))
    table.add_row("whole step", *(f"{column['whole_step']:,.2f}" for column in found.values()))
    return table


def _range(found: dict[str, Any]) -> str:
    return f"{_number(found['median'])} ({_number(found['lowest'])} - {_number(found['highest'])})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 20 else f"{value:.2f}"
