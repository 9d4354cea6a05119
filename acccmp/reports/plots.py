"""Pictures of a report, with matplotlib. `plot_report` is error by depth; the other pictures are next door.

Every function returns the figure, draws into `ax` when it is given one, and leaves pyplot's global state alone.
Verdicts differ in shape as well as in colour, and colour-blind people can tell the colours (`legend.LOOKS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.metrics import Metric, all_metrics, computed
from acccmp.errors import UnknownName
from acccmp.reports import safe, summary
from acccmp.reports.canvas import ERROR, GREY, INK, canvas, side_legend
from acccmp.reports.graph_plot import plot_graph
from acccmp.reports.layer_plot import plot_heatmap, plot_layer
from acccmp.reports.legend import LOOKS
from acccmp.reports.pair import JUDGED, Verdict
from acccmp.reports.report import Comparison, Report
from acccmp.reports.series_plot import plot_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_graph", "plot_heatmap", "plot_layer", "plot_report", "plot_series"]  # the one door to all pictures

# What can be drawn beside metrics: what judging made of them, all on a log axis.
_JUDGED: Mapping[str, tuple[str, Callable[[Comparison], float]]] = {
    "error": ("error, as it is judged", lambda row: row.error),
    "error_over_limit": ("error / limit", summary.over_limit),
    "error_over_floor": ("error / floor of the storage dtype", lambda row: row.error_over_floor),
}


# -- error by depth ----------------------------------------------------------------------------------------------


def plot_report(
    report: Report, metric: str = "error", ax: Axes | None = None, *, labels: int = 6, title: str | None = None,
) -> Figure:
    """`metric` of each layer (its worst output) against order of execution.

    `metric` is `error` (what is judged; limits and floors are drawn), `error_over_limit`, `error_over_floor`, or the
    name of a metric column. The first divergence and up to `labels` later jumps are named. Layers without a number
    stand above the axis, errors of exactly 0 at its lower edge. Raises UnknownName for a metric that nobody knows, and
    MissingExtra without matplotlib.
    """
    figure, ax = canvas(ax, 10, 4.6, "plotting a report")
    rows = summary.by_depth(report)
    scale, says, value = _drawn(metric, rows)
    values = np.array([value(row) for row in rows], float)
    _y_axis(ax, values, rows if metric == "error" else [], scale)
    if metric == "error":
        _draw_limits(ax, rows)
        judged_by = {row.judged_by for row in rows if row.is_judged}
        if len(judged_by) == 1:
            (by,) = judged_by
            says = f"error: {_short(all_metrics()[by]) if by == 'RelativeEuclideanDistance' else by}"
    elif metric == "error_over_limit":
        ax.axhline(1.0, color=INK, lw=1.2, ls="--", label="limit")
    _draw_marks(ax, rows, values, scale)
    _draw_jumps(ax, rows, labels)
    ax.set_ylabel(says)
    _x_axis(ax, rows)
    ax.set_title(title if title is not None else f"{summary.headline(report)}: {says.partition(':')[0]} by depth",
                 loc="left", pad=20, parse_math=False)
    return figure


def _drawn(metric: str, rows: Sequence[Comparison]) -> tuple[str, str, Callable[[Comparison], float]]:
    """The axis (log or linear), what it says, and the number of a row."""
    if metric in _JUDGED:
        return "log", *_JUDGED[metric]
    of, known = computed().get(metric), {name for row in rows for name in row.metrics}
    if of is None and metric not in known:
        raise UnknownName("metric", metric, [*_JUDGED, *computed(), *known], "the report")

    def found(row: Comparison) -> float:
        return row.metrics.get(metric, math.nan)

    if of is None or of.better == "neither" or of.prints == "count" or of.best in (None, math.inf):
        return "linear", metric if of is None else _short(of), found
    if of.better == "higher":
        return "log", f"{of.best:g} - {metric}", lambda row: of.error(found(row))
    return "log", _short(of), found


def _short(of: Metric) -> str:
    """What an axis says: the first words of the row, and the unit."""
    return of.says.partition(";")[0] + (f" ({of.unit})" if of.unit else "")


def _y_axis(ax: Axes, values: NDArray[np.float64], limited: list[Comparison], scale: str) -> None:
    """Range of the axis, with room on top for the names of jumps."""
    known = [*values[np.isfinite(values)], *(row.limit for row in limited if math.isfinite(row.limit))]
    if scale == "log":
        positive = [v for v in known if v > 0] or [1e-3, 1.0]
        low, high = math.log10(min(positive)), math.log10(max(positive))
        low = max(low, high - 16) - 0.35  # what is further down sits on the lower edge
        ax.set_yscale("log")
        ax.set_ylim(10**low, 10 ** min(300, high + 0.4 + 0.38 * (high - low)))
    elif known:
        low, high = min(known), max(known)
        span = (high - low) or 1.0
        ax.set_ylim(low - 0.06 * span, high + 0.42 * span)


def _draw_limits(ax: Axes, rows: Sequence[Comparison]) -> None:
    places = np.arange(len(rows))
    for numbers, style, label in (
        ([row.limit if row.limit > 0 else math.nan for row in rows], "--", "limit"),
        ([row.floor if row.floor > 0 else math.nan for row in rows], ":", "floor of the storage dtype"),
    ):
        if np.isfinite(numbers).any():
            # a lone layer between gaps would have no line: steps from half before to half behind
            xs = np.repeat(places, 2) + np.tile([-0.5, 0.5], len(rows))
            ax.plot(xs, np.repeat(numbers, 2), ls=style, lw=1.2, color=INK if style == "--" else GREY, label=label,
                    zorder=1)


def _draw_marks(ax: Axes, rows: Sequence[Comparison], values: NDArray[np.float64], scale: str) -> None:
    size = float(np.clip(2600 / max(1, len(rows)), 14, 46))
    bottom = ax.get_ylim()[0]
    nothing = False
    for verdict in reversed(Verdict):
        places = np.array([i for i, row in enumerate(rows) if row.verdict is verdict], int)
        if not places.size:
            continue
        look = LOOKS[verdict]
        height = values[places]
        known = np.isfinite(height)
        shown = np.maximum(height, bottom) if scale == "log" else height
        label = str(verdict)
        front = 4 if verdict in JUDGED and verdict is not Verdict.MATCH else 3
        options: dict[str, Any] = {
            "marker": look.marker, "color": look.colour, "s": size, "clip_on": False, "zorder": front,
        }
        if known.any():
            ax.scatter(places[known], shown[known], label=label, **options)
        if not known.all():
            nothing = True
            ax.scatter(places[~known], np.full((~known).sum(), 1.03), transform=ax.get_xaxis_transform(),
                       label=None if known.any() else label, **options)
    if nothing:
        ax.text(1.0, 1.06, "above the axis: no number", transform=ax.transAxes, ha="right", va="bottom", fontsize=8,
                color=GREY)
    if scale == "log" and (values == 0).any():
        ax.text(1.002, 0.0, "0", transform=ax.transAxes, ha="left", va="center", fontsize=8, color=GREY)


def _draw_jumps(ax: Axes, rows: Sequence[Comparison], most: int) -> None:
    """Names of the first divergence and of later jumps, in rows at the top, none over another."""
    placed: list[tuple[int, float, float, float]] = []  # row, place, begin and end, in shares of the axis
    for rank, place in enumerate(summary.jumps(rows)[: most + 1]):
        name = ("first: " if rank == 0 else "") + safe.short(rows[place].port.node, 30)
        broad = (len(name) * 8 * 0.6 + 8) * _dots(ax) / 72 / max(1.0, ax.bbox.width)
        x = (place + 0.5) / len(rows)
        sides = [(room, left, x - broad * left, x + broad * (not left)) for room in range(6) for left in (False, True)]
        fits = [s for s in sides if s[2] >= -0.01 and s[3] <= 1.01 and _is_free(placed, s[0], x, s[2], s[3])]
        if not fits:
            continue
        room, leftward, begin, end = fits[0]
        placed.append((room, x, begin, end))
        y = 0.965 - 0.055 * room
        ax.plot([place, place], [0.0, y], transform=ax.get_xaxis_transform(), color=ERROR, lw=0.7, alpha=0.55, zorder=2)
        ax.annotate(
            name, (place, y), xycoords=ax.get_xaxis_transform(), xytext=(-3 if leftward else 3, 0),
            textcoords="offset points", ha="right" if leftward else "left", va="center", fontsize=8,
            color=INK, parse_math=False, zorder=6,
        )


def _is_free(placed: Sequence[tuple[int, float, float, float]], room: int, x: float, begin: float, end: float) -> bool:
    """Is there room in row `room` (0 is the top one), with no label over another and no line through a label?"""
    for other, at, start, stop in placed:
        if other == room and not (end < start or begin > stop):
            return False
        if other < room and begin <= at <= end:  # its line comes down through this row
            return False
        if other > room and start <= x <= stop:  # this line would go through that label
            return False
    return True


def _dots(ax: Axes) -> float:
    figure = ax.get_figure(root=True)
    return float(figure.dpi) if figure is not None else 100.0


def _x_axis(ax: Axes, rows: Sequence[Comparison]) -> None:
    count = len(rows)
    ax.set_xlim(-0.5, max(0.5, count - 0.5))
    if 0 < count <= 24:
        ax.set_xticks(range(count), [safe.short(row.port.node, 24) for row in rows], rotation=40, ha="right",
                      fontsize=8, rotation_mode="anchor", parse_math=False)
        ax.set_xlabel("layers in order of execution")
    else:
        ax.set_xlabel(f"place in order of execution (of {count} layers)")
    side_legend(ax)
