"""One tensor of a report under the microscope: how npu and golden differ, and where in the tensor."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core import layout as layouts
from acccmp.core.tensor import BLOCK, TensorRef
from acccmp.errors import InputError
from acccmp.plugins import need
from acccmp.reports import safe, summary
from acccmp.reports.canvas import ERROR, GOLDEN, GREY, INK, canvas, panel
from acccmp.reports.report import Comparison, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW_POINTS = 4000  # drawn one by one; more become hexagons
SAMPLE = 400_000  # of the elements that a scatter looks at; histograms and sums look at all
PIXELS = 1024  # of a heat map along one axis; beyond it several elements share one, and the largest error is shown


# -- one layer ---------------------------------------------------------------------------------------------------


@dataclass
class _Seen:
    """What one walk over a pair of tensors found. Positions where a side is not finite are only counted."""

    sample_golden: list[NDArray[Any]] = field(default_factory=list)
    sample_npu: list[NDArray[Any]] = field(default_factory=list)
    errors: dict[int, int] = field(default_factory=dict)  # exponent of two -> how many errors in [2^e, 2^(e+1))
    goldens: dict[int, int] = field(default_factory=dict)
    exact: int = 0
    left_out: int = 0
    count: int = 0
    channel_error: NDArray[Any] = field(default_factory=lambda: np.zeros(0))
    channel_golden: NDArray[Any] = field(default_factory=lambda: np.zeros(0))
    channel_count: NDArray[Any] = field(default_factory=lambda: np.zeros(0))
    worst: list[tuple[float, tuple[int, ...], float, float]] = field(default_factory=list)


def plot_layer(report: Report, name: str, ax: Axes | None = None, *, worst: int = 8) -> Figure:
    """One tensor under the microscope: npu against golden, errors in bins of powers of two, error by channel, and the
    `worst` positions.

    `name` is a port, a device op or an original's name (its first output then). All elements are looked at, block by
    block; the scatter draws a regular sample of large tensors. Complex numbers show their magnitudes. Raises
    UnknownName, and InputError when a side is missing or the shapes differ.
    """
    figure, ax = canvas(ax, 10, 7.4, "plotting a layer")
    row = report.find(name)[0]
    golden, npu = _pair(row)
    axis, what = _channel_axis(golden)
    seen = _walk(golden, npu, axis, worst)
    ax.set_axis_off()
    points, bins = ax.inset_axes((0.07, 0.57, 0.4, 0.38)), ax.inset_axes((0.58, 0.57, 0.4, 0.38))
    channels, listed = ax.inset_axes((0.07, 0.03, 0.4, 0.38)), ax.inset_axes((0.56, 0.0, 0.44, 0.43))
    _draw_points(points, seen)
    _draw_bins(bins, seen)
    _draw_channels(channels, seen, axis, what)
    _draw_worst(listed, seen)
    left_out = f"; {seen.left_out} positions are not finite on both sides and left out" if seen.left_out else ""
    ax.set_title(
        f"{safe.short(row.port, 70)}: {row.verdict}, {summary.amount(row)[:70]}\n"
        f"{seen.count} elements{left_out}", loc="left", fontsize=10, parse_math=False,
    )
    return figure


def _pair(row: Comparison) -> tuple[TensorRef, TensorRef]:
    for side, ref in (("golden", row.golden), ("npu", row.npu)):
        if ref is None:
            reason = f" ({row.reason})" if row.reason else ""
            raise InputError(f"{row.port} has no {side} tensor to draw: it is {row.verdict}{reason}")
        if ref.path == "<memory>" and ref.array is None:
            raise InputError(f"{row.port}: its {side} tensor was in memory and is gone; compare again to draw it")
        if ref.dtype.numpy is None:
            raise InputError(f"{row.port}: {ref.dtype.name} on the {side} side is not made of numbers")
    assert row.golden is not None
    assert row.npu is not None
    golden, npu = row.golden, row.npu
    if layouts.squeezed(golden.own_shape) != layouts.squeezed(npu.own_shape):
        raise InputError(
            f"{row.port}: golden is {golden.own_shape}, npu is {npu.own_shape}: nothing to draw element by element"
        )
    return golden, npu


def _blocks(golden: TensorRef, npu: TensorRef) -> Iterator[tuple[tuple[slice, ...], NDArray[Any], NDArray[Any]]]:
    """(region of golden, golden, npu) as float64 or complex128, block by block."""
    whole = None if golden.own_shape == npu.own_shape else npu.numpy().reshape(golden.own_shape)
    for region in layouts.regions(golden.own_shape, BLOCK):
        one, other = golden.read(region), npu.read(region) if whole is None else whole[region]
        wide: Any = np.complex128 if "c" in (one.dtype.kind, other.dtype.kind) else np.float64
        yield region, one.astype(wide), other.astype(wide)


def _channel_axis(golden: TensorRef) -> tuple[int, str]:
    """The axis of golden's channels, and what it is called: without axis letters the last one of matrices, else the
    second."""
    names = _letters(golden)
    if "C" in names:
        return names.index("C"), "channel"
    rank = len(golden.own_shape)
    return max(0, rank - 1) if rank <= 3 else 1, "place"


def _letters(ref: TensorRef) -> str:
    """The names of its axes, "" where they have none."""
    return layouts.letters(ref.original_layout or ref.layout, len(ref.own_shape)) or ""


def _walk(golden: TensorRef, npu: TensorRef, axis: int, worst: int) -> _Seen:
    shape = golden.own_shape
    seen = _Seen()
    channels = shape[axis] if shape else 1
    seen.channel_error, seen.channel_golden, seen.channel_count = np.zeros((3, channels))
    step = max(1, math.prod(shape) // SAMPLE)
    for region, one, other in _blocks(golden, npu):
        error = np.abs(other - one)
        if one.dtype.kind == "c":
            one, other = np.abs(one), np.abs(other)
        good = np.isfinite(one) & np.isfinite(other)
        seen.count += one.size
        seen.left_out += int(one.size - good.sum())
        flat = np.flatnonzero(good)
        seen.sample_golden.append(one.reshape(-1)[flat[::step]])
        seen.sample_npu.append(other.reshape(-1)[flat[::step]])
        clean = np.where(good, error, 0.0)
        seen.exact += int((clean[good] == 0).sum())
        _count_exponents(seen.errors, error[good])
        _count_exponents(seen.goldens, np.abs(one[good]))
        others = tuple(i for i in range(one.ndim) if i != axis)
        part = region[axis] if region else slice(0, 1)
        with np.errstate(over="ignore"):
            seen.channel_error[part] += (clean**2).sum(axis=others)
            seen.channel_golden[part] += (np.where(good, one, 0.0) ** 2).sum(axis=others)
        seen.channel_count[part] += good.sum(axis=others)
        for place in np.argsort(clean, axis=None)[::-1][:worst]:
            at = np.unravel_index(int(place), one.shape)
            if good[at]:
                index = tuple(int(i) + part_.start for i, part_ in zip(at, region, strict=True))
                heapq.heappush(seen.worst, (float(error[at]), index, float(one[at]), float(other[at])))
        seen.worst = heapq.nlargest(worst, seen.worst)
    return seen


def _count_exponents(counted: dict[int, int], values: NDArray[np.float64]) -> None:
    positive = values[values > 0]
    exponents, counts = np.unique(np.frexp(positive)[1] - 1, return_counts=True)
    for exponent, count in zip(exponents.tolist(), counts.tolist(), strict=True):
        counted[exponent] = counted.get(exponent, 0) + count


def _draw_points(ax: Axes, seen: _Seen) -> None:
    golden = np.concatenate(seen.sample_golden) if seen.sample_golden else np.zeros(0)
    npu = np.concatenate(seen.sample_npu) if seen.sample_npu else np.zeros(0)
    if golden.size:
        low, high = float(min(golden.min(), npu.min())), float(max(golden.max(), npu.max()))
        pad = (high - low) * 0.04 or abs(high) * 0.04 or 1.0
        if golden.size > FEW_POINTS:
            ax.hexbin(golden, npu, gridsize=60, bins="log", cmap="cividis", mincnt=1, linewidths=0.1,
                      extent=(low - pad, high + pad, low - pad, high + pad))
        else:
            ax.scatter(golden, npu, s=7, color=GOLDEN, alpha=0.6, linewidths=0)
        ends = (low - pad, high + pad)
        ax.plot(ends, ends, color=ERROR, lw=0.9, ls="--", label="npu = golden")
        ax.set_xlim(*ends)
        ax.set_ylim(*ends)
        ax.legend(fontsize=7, frameon=False, loc="upper left")
    drawn = "all elements" if golden.size == seen.count - seen.left_out else f"{golden.size} of the elements"
    panel(ax, f"npu against golden ({drawn})", "golden (unit of the tensor)", "npu")


def _draw_bins(ax: Axes, seen: _Seen) -> None:
    for counted, colour, label, filled in (
        (seen.goldens, GREY, "|golden|", False), (seen.errors, ERROR, "|npu - golden|", True),
    ):
        if counted:
            low, high = max(min(counted), max(counted) - 60), max(counted)
            edges = np.arange(low, high + 2)
            heights = np.array([counted.get(e, 0) for e in range(low, high + 1)])
            ax.stairs(heights, edges, color=colour, fill=filled, alpha=0.75 if filled else 1.0, label=label, lw=1.2)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.7)
    ax.xaxis.set_major_locator(need("matplotlib.ticker", "plotting a layer").MaxNLocator(7, integer=True))
    ax.xaxis.set_major_formatter(lambda value, _: f"$2^{{{int(value)}}}$")
    if seen.errors or seen.goldens:
        ax.legend(fontsize=7, frameon=False, loc="upper left")
    panel(ax, f"sizes in powers of two ({seen.exact} exactly equal)", "size (unit of the tensor)", "elements")


def _draw_channels(ax: Axes, seen: _Seen, axis: int, what: str) -> None:
    counts = np.maximum(seen.channel_count, 1)
    error, golden = np.sqrt(seen.channel_error / counts), np.sqrt(seen.channel_golden / counts)
    places = np.arange(error.size)
    if error.size <= 64:
        ax.bar(places, error, color=ERROR, width=0.8, label="error")
        ax.plot(places, golden, color=INK, marker="_", ls="none", ms=9, mew=1.6, label="golden")
        ax.xaxis.set_major_locator(need("matplotlib.ticker", "plotting a layer").MaxNLocator(8, integer=True))
    else:
        ax.plot(places, error, color=ERROR, lw=0.8, label="error")
        ax.plot(places, golden, color=GREY, lw=0.8, label="golden")
    known = [v for v in (*error, *golden) if math.isfinite(v) and v > 0]
    if known:
        ax.set_yscale("log")
        ax.set_ylim(max(min(known), max(known) * 1e-9) / 2, max(known) * 6)
    ax.legend(fontsize=7, frameon=False, loc="upper right", ncols=2)
    panel(ax, f"by {what}", f"{what} (axis {axis})", "root mean square")


def _draw_worst(ax: Axes, seen: _Seen) -> None:
    ax.set_axis_off()
    lines = [f"{'position':<16}{'golden':>11}{'npu':>11}{'error':>10}"]
    for error, index, golden, npu in sorted(seen.worst, reverse=True):
        at = safe.short(f"[{','.join(map(str, index))}]", 15)
        lines.append(f"{at:<16}{golden:>11.4g}{npu:>11.4g}{error:>10.3g}")
    ax.set_title("worst positions, in golden's layout", loc="left", fontsize=9)
    ax.text(0.0, 0.96, "\n".join(lines), family="monospace", fontsize=7.6, va="top", ha="left", linespacing=1.5,
            transform=ax.transAxes)


# -- where in the tensor -----------------------------------------------------------------------------------------


def plot_heatmap(report: Report, port: str, ax: Axes | None = None) -> Figure:
    """Where in a tensor the error is: the largest |npu - golden| over all other axes, for each place of H x W.

    Tensors without H and W show their last two axes, vectors one line. Beyond 1024 places along an axis several share
    a pixel. Places where a side is not finite (or only one is) are vermilion. Raises as `plot_layer` does.
    """
    figure, ax = canvas(ax, 7, 5.2, "plotting a heat map")
    row = report.find(port)[0]
    golden, npu = _pair(row)
    shape = golden.own_shape or (1,)
    rows_axis, columns_axis, names = _picture_axes(golden)
    high = max(1, shape[rows_axis]) if rows_axis is not None else 1
    wide = max(1, shape[columns_axis])
    image, holes = _pooled(golden, npu, rows_axis, columns_axis, high, wide)
    colors = need("matplotlib.colors", "plotting a heat map")
    positive = image[image > 0]
    low = max(float(positive.min()), float(positive.max()) * 1e-6) if positive.size else 0.0
    norm = colors.LogNorm(low, float(positive.max())) if positive.size and low < positive.max() else None
    shown = np.maximum(image, low) if norm is not None else image
    how: dict[str, Any] = {"interpolation": "nearest", "extent": (-0.5, wide - 0.5, high - 0.5, -0.5)}
    how["aspect"] = "auto" if max(high, wide) > 8 * min(high, wide) else "equal"
    drawn = ax.imshow(shown, cmap="cividis", norm=norm, **how)
    if holes.any():
        overlay = np.zeros((*holes.shape, 4))
        overlay[holes] = (*colors.to_rgb(ERROR), 1.0)
        ax.imshow(overlay, **how)
    others = [name for name in names if name not in (_name(names, rows_axis), _name(names, columns_axis))]
    over = f", over {', '.join(others)}" if others else ""
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.9)
    bar.set_label(f"largest |npu - golden|{over} (unit of the tensor)", fontsize=8)
    if positive.size:
        at = np.unravel_index(int(np.argmax(image)), image.shape)
        x = (at[1] + 0.5) * wide / image.shape[1] - 0.5
        y = (at[0] + 0.5) * high / image.shape[0] - 0.5
        ax.plot(x, y, marker="o", ms=13, mfc="none", mec=ERROR, mew=1.6)
    ax.set_xlabel(f"{_name(names, columns_axis)} (element)")
    ax.set_ylabel(f"{_name(names, rows_axis)} (element)" if rows_axis is not None else "")
    for axis, size in ((ax.xaxis, wide), (ax.yaxis, high)):
        axis.set_major_locator(need("matplotlib.ticker", "plotting a heat map").MaxNLocator(min(9, size), integer=True))
    marked = "circle: the largest error" if positive.size else "no error anywhere"
    not_finite = "; vermilion: not finite" if holes.any() else ""
    ax.set_title(f"{safe.short(row.port, 60)}: {row.verdict}\n{marked}{not_finite}", loc="left", fontsize=10,
                 parse_math=False)
    return figure


def _picture_axes(ref: TensorRef) -> tuple[int | None, int, tuple[str, ...]]:
    """(axis of the picture's rows, of its columns, names of all axes)."""
    rank = len(ref.own_shape)
    names = tuple(_letters(ref)) or tuple(f"axis {i}" for i in range(max(1, rank)))
    if rank < 2:
        return None, 0, names
    if "H" in names and "W" in names:
        return names.index("H"), names.index("W"), names
    return rank - 2, rank - 1, names


def _name(names: Sequence[str], axis: int | None) -> str:
    return names[axis] if axis is not None and axis < len(names) else ""


def _pooled(
    golden: TensorRef, npu: TensorRef, rows_axis: int | None, columns_axis: int, high: int, wide: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The largest error for each pixel, and the pixels where a side is not finite and the other differs."""
    tall, broad = -(-high // PIXELS), -(-wide // PIXELS)
    image = np.zeros((-(-high // tall), -(-wide // broad)))
    holes = np.zeros(image.shape, bool)
    for region, one, other in _blocks(golden, npu):
        error = np.abs(other - one)
        same = (other == one) | (np.isnan(other) & np.isnan(one))
        hole = ~(np.isfinite(one) & np.isfinite(other)) & ~same
        error = np.where(np.isfinite(error), error, 0.0)
        if not region:
            region, error, hole = (slice(0, 1),), error.reshape(1), hole.reshape(1)
        kept = [axis for axis in (rows_axis, columns_axis) if axis is not None]
        others = tuple(axis for axis in range(error.ndim) if axis not in kept)
        flat_error, flat_hole = error.max(axis=others), hole.any(axis=others)
        if rows_axis is None:
            flat_error, flat_hole = flat_error[None], flat_hole[None]
        elif rows_axis > columns_axis:
            flat_error, flat_hole = flat_error.T, flat_hole.T
        top = region[rows_axis].start if rows_axis is not None else 0
        at = np.ix_((np.arange(flat_error.shape[0]) + top) // tall,
                    (np.arange(flat_error.shape[1]) + region[columns_axis].start) // broad)
        np.maximum.at(image, at, flat_error)
        np.logical_or.at(holes, at, flat_hole)
    return image, holes
