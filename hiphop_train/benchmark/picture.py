"""Log-log plot of time and memory against the number of atoms, with one line per program."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hiphop_train.evaluation.style import COLOURS, INK, save, tidy


def draw(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Draw a panel of times (ms, with given pairs if the program takes them) and one of memory.

    Parameters
    ----------
    path : PNG file
    rows : of `measure.dynamics`
    title : of the figure
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    figure.suptitle(title, color=INK, fontsize=11)
    axes = figure.subplots(1, 2)
    panels = (("median", 1.0, "ms per step: energy and forces"), ("peak_bytes", 1e-6, "peak memory, MB"))
    for axis, (key, factor, label) in zip(axes, panels, strict=True):
        for name, colour in zip(rows[0]["programs"], COLOURS, strict=False):
            found = [(row["atoms"], row["programs"][name]) for row in rows]
            times = [(atoms, variants.get("excluded") or variants["included"]) for atoms, variants in found]
            points = [(atoms, factor * time[key]) for atoms, time in times if time.get(key, 0) > 0]
            axis.plot([x for x, _ in points], [y for _, y in points], "o-", color=colour, ms=4, lw=1.5, label=name)
        axis.set(xscale="log", yscale="log", xlabel="atoms", ylabel=label)
        tidy(axis)
    axes[0].legend(frameon=False, labelcolor=INK)
    save(figure, path, dpi=150)
