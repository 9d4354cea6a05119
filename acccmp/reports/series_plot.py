"""One layer's error over releases, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from acccmp.reports import safe
from acccmp.reports.canvas import ERROR, GREY, INK, canvas, side_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class RunLike(Protocol):
    """One compared release and case."""

    @property
    def release(self) -> str: ...
    @property
    def case(self) -> str: ...


class PointLike(Protocol):
    """One port in one run; the limit is NaN where it is unknown."""

    @property
    def run(self) -> RunLike: ...
    @property
    def port(self) -> str: ...
    @property
    def error(self) -> float: ...
    @property
    def limit(self) -> float: ...
    @property
    def jumped(self) -> bool: ...


_LOOKS = (("#0072B2", "o"), ("#009E73", "s"), ("#CC79A7", "^"), ("#E69F00", "v"), ("#56B4E9", "D"))
MOST_NAMES = 24  # of releases on the axis
MOST_CASES = 12  # in the legend


def plot_series(rows: Sequence[PointLike], ax: Axes | None = None) -> Figure:
    """The error of one port over releases, oldest first: a line for each case, the limit, and jumps marked.

    `rows` are the points that `acccmp.history.series` gives. The error axis (relative Euclidean distance) is
    logarithmic; an error of exactly 0 sits on its lower edge, infinity on its upper one, and NaN is a gap. Cases beyond
    12 are drawn grey. Returns the figure. Raises MissingExtra without matplotlib.

    >>> report = acccmp.compare("golden", "npu", mapping="mapping.json")
    >>> acccmp.history.add("plotted.db", report, release="2026.11")
    (1,)
    >>> acccmp.plot_series(acccmp.history.series("plotted.db", "fc")).savefig("fc.png")
    """
    figure, ax = canvas(ax, 9, 4.2, "plotting a history")
    places, releases = _places(rows)
    low, high = _range(rows)
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    cases = list(dict.fromkeys(row.run.case for row in rows))
    for index, case in enumerate(cases):
        mine = [(place, row) for place, row in zip(places, rows, strict=True) if row.run.case == case]
        colour, mark = _LOOKS[index % len(_LOOKS)] if index < MOST_CASES else (GREY, ".")
        ax.plot(
            [place for place, _ in mine], [min(max(row.error, low), high) for _, row in mine], color=colour,
            marker=mark, ms=5 if len(releases) <= 40 else 2.5, lw=1.2, zorder=3,
            label=safe.short(case, 30) if index < MOST_CASES else None, clip_on=False,
        )
    limits = [(place, row.limit) for place, row in zip(places, rows, strict=True) if row.limit > 0]
    if limits:
        tightest: dict[int, float] = {}
        for place, limit in limits:
            tightest[place] = min(limit, tightest.get(place, math.inf))
        ax.plot(list(tightest), list(tightest.values()), color=INK, ls="--", lw=1.2, drawstyle="steps-mid",
                label="limit (the tightest of the cases)" if len(cases) > 1 else "limit", zorder=2)
    _mark_jumps(ax, places, rows, low, high)
    _axes(ax, rows[0].port if rows else "no releases", releases)
    return figure


def _places(rows: Sequence[PointLike]) -> tuple[list[int], list[str]]:
    """Where on the axis each row stands, and the releases there. Cases of one release share a place; a release that
    was kept twice has two."""
    places: list[int] = []
    releases: list[str] = []
    seen: set[str] = set()
    for row in rows:
        release, case = row.run.release, row.run.case
        if not releases or releases[-1] != release or case in seen:
            releases.append(release)
            seen = set()
        seen.add(case)
        places.append(len(releases) - 1)
    return places, releases


def _range(rows: Sequence[PointLike]) -> tuple[float, float]:
    known = [v for row in rows for v in (row.error, row.limit) if math.isfinite(v) and v > 0] or [1e-3]
    return min(known) / 2, max(known) * 4


def _mark_jumps(ax: Axes, places: Sequence[int], rows: Sequence[PointLike], low: float, high: float) -> None:
    jumps = [(place, min(max(row.error, low), high)) for place, row in zip(places, rows, strict=True) if row.jumped]
    if not jumps:
        return
    ax.scatter(
        [place for place, _ in jumps], [error for _, error in jumps], s=150, marker="o", facecolors="none",
        edgecolors=ERROR, linewidths=1.8, zorder=4, label="jump", clip_on=False,
    )
    first: dict[int, float] = {}
    for place, error in jumps:
        first[place] = max(error, first.get(place, 0.0))
    told = -10
    for place, error in first.items():
        if place - told > 1:  # of a row of jumps, the first is named
            ax.annotate("jump", (place, error), xytext=(0, 11), textcoords="offset points", ha="center", fontsize=8,
                        color=ERROR, zorder=6, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        told = place


def _axes(ax: Axes, port: str, releases: Sequence[str]) -> None:
    count = len(releases)
    step = max(1, -(-count // MOST_NAMES))
    shown = list(range(0, count, step))
    ax.set_xticks(shown, [safe.short(releases[i], 20) for i in shown], fontsize=8, parse_math=False,
                  rotation=40 if count > 8 else 0, ha="right" if count > 8 else "center", rotation_mode="anchor")
    ax.set_xlim(-0.5, max(0.5, count - 0.5))
    ax.set_xlabel("release, oldest first")
    ax.set_ylabel("error: ||npu - golden|| / ||golden||")
    ax.set_title(safe.short(port, 80), loc="left", parse_math=False)
    side_legend(ax)
