"""What all pictures share: a figure that pyplot knows nothing of, inks, and the look of a panel.

matplotlib is imported when a picture is drawn, never before.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acccmp.core.writing import replacing
from acccmp.errors import InputError
from acccmp.plugins import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY, INK = "#777777", "#222222"
GOLDEN, ERROR = "#0072B2", "#D55E00"  # blue and vermilion of Okabe and Ito's palette


def canvas(ax: Axes | None, wide: float, high: float, what_for: str) -> tuple[Figure, Axes]:
    """The figure and axes to draw into: the caller's, or new ones of `wide` x `high` inches.

    Raises MissingExtra without matplotlib.
    """
    if ax is not None:
        found: Any = ax.get_figure(root=True)
        return found, ax
    need("matplotlib", what_for)
    figure = _shown_figure()(figsize=(wide, high), layout="constrained", dpi=110)
    return figure, figure.add_subplot()


@cache
def _shown_figure() -> type[Figure]:
    """A Figure that notebooks show although pyplot did not make it."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            from io import BytesIO

            out = BytesIO()
            self.savefig(out, format="png", bbox_inches="tight")
            return out.getvalue()

    return ShownFigure


def save_figure(figure: Figure, path: str | Path, option: str) -> Path:
    """Write a picture whole or not at all. Raises InputError for an ending that is no kind of picture."""
    target = Path(path)
    kind = target.suffix[1:].lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(f"{option} {target}: wanted a name that ends in .png, .svg or .pdf")
    with replacing(target) as file:
        figure.savefig(file, format=kind, bbox_inches="tight")
    return target


def panel(ax: Axes, title: str, x: str, y: str) -> None:
    """Small title and labels, no frame on top and right."""
    ax.set_title(title, loc="left", fontsize=9)
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(which="both", labelsize=7)
    open_frame(ax)


def open_frame(ax: Axes) -> None:
    """Nothing on top and right."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def side_legend(ax: Axes) -> None:
    """Lines across, an open frame, and the legend right of it; names in it are no formulas."""
    ax.grid(axis="y", which="major", color="#DDDDDD", lw=0.7, zorder=0)
    open_frame(ax)
    handles, names = ax.get_legend_handles_labels()
    if handles:
        legend = ax.legend(handles, names, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False,
                           borderaxespad=0)
        for text in legend.get_texts():
            text.set_parse_math(False)
