"""Colours, axes and units that all pictures have in common."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hiphop_train.files import replacing
from hiphop_train.targets import Target

INK = "#3b4252"
COLOURS = ("#2a6f97", "#c8553d", "#588157", "#8e5572", "#d9a441", "#3d8f8f", "#5b5ea6", "#7a6c5d")


def tidy(axis: Axes) -> None:
    """Draw an axis in ink, without the frame's upper and right side."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=INK)
    axis.xaxis.label.set_color(INK)
    axis.yaxis.label.set_color(INK)


def save(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a figure as PNG."""
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")


def unit(target: Target) -> str:
    """Return the unit of a target's errors, with its symbol for the Angstrom."""
    return target.reported_unit.replace("angstrom", "Å")
