"""A network drawn in layers by depth, with shapes on its edges and the verdicts of a report on its nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from acccmp.core.graph import Graph, shape_text
from acccmp.core.reading import FilePath
from acccmp.plugins import need
from acccmp.reports import safe
from acccmp.reports.canvas import GREY, INK, canvas
from acccmp.reports.legend import LOOKS
from acccmp.reports.pair import JUDGED, Verdict
from acccmp.reports.report import Comparison, Report
from acccmp.reports.report_json import REPORT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BOXES, MOST_LAYERS = 60, 26  # drawn as boxes with names and shapes; larger parts are dots in columns
MOST_NAMES = 80  # dots that all have names; in larger networks only the bad ones have
ROWS = 28  # layers in one column of dots
HIGH, WIDE = 0.82, 2.1  # inches that a box and its edge take


def plot_graph(
    graph: Graph, report: Report | FilePath | None = None, ax: Axes | None = None, *, around: str | None = None,
    radius: int = 3,
) -> Figure:
    """The network drawn in layers by depth, shapes on the edges, verdicts of `report` by shape and colour.

    `around` (a node or tensor) draws what is within `radius` steps of it. Without it, a network too large for boxes is
    drawn around the report's first bad layer, or whole, as dots in columns, when there is none. Constants are left
    out. Raises UnknownName, and MissingExtra without matplotlib.
    """
    report = REPORT.maybe(report)
    verdicts = _verdicts(graph, report) if report is not None else {}
    hidden = graph.constants if graph.inputs else frozenset()
    names = [node.name for node in graph.nodes if node.name not in hidden]
    layers = _layers(graph, names)
    if around is None and not _is_boxed(layers) and report is not None and report.first_bad is not None:
        first = report.first_bad
        named = (*first.originals[-1:], first.port.node, *((first.golden_port.node,) if first.golden_port else ()))
        around = next((name for name in named if name in graph), None)
    centre = graph.node(around).name if around is not None else None
    if centre is not None:
        names = _neighbourhood(graph, centre, radius, hidden)
        layers = _layers(graph, names)
    boxed = _is_boxed(layers)
    widest = max((len(layer) for layer in layers), default=1)
    size = (max(6.5, WIDE * widest + 1.6), max(3.0, HIGH * len(layers) + 0.5)) if boxed else (10.0, 7.5)
    figure, ax = canvas(ax, *size, "plotting a graph")
    if not names:
        ax.text(0.5, 0.5, "no nodes", ha="center", transform=ax.transAxes)
    elif boxed:
        _draw_boxes(ax, graph, layers, verdicts, centre)
    else:
        _draw_dots(ax, graph, layers, verdicts)
    ax.set_axis_off()
    part = f", within {radius} steps of {safe.short(around, 40)}" if around is not None else ""
    constants = f", without {len(hidden)} constants" if hidden else ""
    ax.set_title(f"{safe.short(graph.name or 'graph', 50)} ({len(names)} of {len(graph)} nodes{part}{constants})",
                 loc="left", fontsize=10, parse_math=False)
    _legend(ax, {verdicts[name] for name in names if name in verdicts}, boxed)
    return figure


def _is_boxed(layers: Sequence[Sequence[str]]) -> bool:
    """Few enough to be drawn as boxes with names and shapes?"""
    return sum(map(len, layers)) <= MOST_BOXES and len(layers) <= MOST_LAYERS


def _verdicts(graph: Graph, report: Report) -> dict[str, Verdict]:
    """The worst verdict of each node's outputs: by golden port or port first, then by the originals of a fused op."""
    direct: dict[str, Comparison] = {}
    implied: dict[str, Comparison] = {}
    for row in report.comparisons:
        if row.port.side != "output":
            continue
        own = {row.port.node} | ({row.golden_port.node} if row.golden_port is not None else set())
        for name in own | set(row.originals):
            found = direct if name in own else implied
            if name in graph and (name not in found or row.badness > found[name].badness):
                found[name] = row
    return {name: row.verdict for name, row in {**implied, **direct}.items()}


def _neighbourhood(graph: Graph, centre: str, radius: int, hidden: Collection[str]) -> list[str]:
    """Names within `radius` steps, up or down, in execution order; the nearest 60 when there are more."""
    view = graph.nx
    near, edge = {centre: 0}, [centre]
    for step in range(1, radius + 1):
        edge = list(dict.fromkeys(n for name in edge for n in (*view.predecessors(name), *view.successors(name))
                                  if n not in near and n not in hidden))
        near.update(dict.fromkeys(edge, step))
    kept = sorted(near, key=lambda name: near[name])[:MOST_BOXES]
    return sorted(kept, key=lambda name: graph.depth[name])


def _layers(graph: Graph, nodes: Sequence[str]) -> list[list[str]]:
    """Nodes by depth: one more than the deepest node before it. Within a layer ordered by where their inputs are."""
    view, chosen = graph.nx, set(nodes)
    level: dict[str, int] = {}
    for name in sorted(nodes, key=lambda name: graph.depth[name]):
        before = [level[p] for p in view.predecessors(name) if p in level and graph.depth[p] < graph.depth[name]]
        level[name] = max(before, default=-1) + 1
    layers: list[list[str]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
    for name in nodes:
        layers[level[name]].append(name)
    place: dict[str, float] = {}
    for layer in layers:
        def wanted(name: str) -> float:
            above = [place[p] for p in view.predecessors(name) if p in place]
            return sum(above) / len(above) if above else 0.0

        layer.sort(key=lambda name: (wanted(name), graph.depth[name]))
        for i, name in enumerate(layer):
            place[name] = i - (len(layer) - 1) / 2
    return [[name for name in layer if name in chosen] for layer in layers]


def _draw_boxes(
    ax: Axes, graph: Graph, layers: list[list[str]], verdicts: Mapping[str, Verdict], centre: str | None,
) -> None:
    transforms = need("matplotlib.transforms", "plotting a graph")
    widest = max(len(layer) for layer in layers)
    at = {
        name: (i - (len(layer) - 1) / 2, -float(depth)) for depth, layer in enumerate(layers)
        for i, name in enumerate(layer)
    }
    room = 26
    drawn: set[tuple[str, str]] = set()
    for source, target, data in graph.nx.edges(data=True):
        if source in at and target in at and (source, target) not in drawn:
            drawn.add((source, target))
            _draw_edge(ax, at[source], at[target], at.values(), data)
    for name, (x, y) in at.items():
        verdict = verdicts.get(name)
        colour = LOOKS[verdict].colour if verdict is not None else "#BBBBBB"
        lines = [safe.short(name, room), safe.short(graph[name].op_type, room)]
        ax.text(x, y, "\n".join(lines), ha="center", va="center", fontsize=7.5, color=INK, zorder=4, parse_math=False,
                bbox={"boxstyle": "round,pad=0.45", "fc": "white", "ec": colour, "lw": 2.8 if name == centre else 1.4})
        if verdict is not None:
            half = max(len(line) for line in lines) * 7.5 * 0.6 / 2 + 4  # points from the middle to the left edge
            moved = transforms.offset_copy(ax.transData, ax.get_figure(root=True), x=-half, units="points")
            ax.scatter([x], [y], marker=LOOKS[verdict].marker, color=colour, s=48, zorder=5, transform=moved,
                       clip_on=False)
    ax.set_xlim(-widest / 2 - 0.12, widest / 2 + 0.12)
    ax.set_ylim(-len(layers) + 0.6, 0.4)


def _draw_edge(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], boxes: Collection[tuple[float, float]],
    data: Mapping[str, Any],
) -> None:
    """An arrow with the tensor's shape beside it; one that skips layers goes down where no box is in its way."""
    patches, paths = need("matplotlib.patches", "plotting a graph"), need("matplotlib.path", "plotting a graph")
    (x0, y0), (x1, y1) = start, end
    top, bottom = y0 - 0.24, y1 + 0.24
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9, "color": GREY, "lw": 0.9, "zorder": 1}
    style["ls"] = ":" if data.get("control") else "-"
    between = [x for x, y in boxes if y1 < y < y0]
    if y0 - y1 > 1.5:
        way = next((x for x in (x0, x1) if all(abs(x - other) > 0.45 for other in between)),
                   max([x0, x1, *between]) + 0.46)
        step = min(0.5, (top - bottom) / 3)
        path = paths.Path([(x0, top), (way, top - 0.02), (way, top - step), (way, bottom + step), (way, bottom + 0.02),
                           (x1, bottom)], [1, 3, 3, 2, 3, 3])
        ax.add_patch(patches.FancyArrowPatch(path=path, **style))
        label = (way, (top + bottom) / 2)
    else:
        ax.add_patch(patches.FancyArrowPatch((x0, top), (x1, bottom), shrinkA=0, shrinkB=0, **style))
        label = ((x0 + x1) / 2, (top + bottom) / 2)
    if data.get("tensor"):
        ax.annotate(_shape(data.get("shape")), label, xytext=(3, 0), textcoords="offset points", fontsize=6.5,
                    color=GREY, zorder=2, ha="left", va="center", parse_math=False,
                    bbox={"boxstyle": "square,pad=0.08", "fc": "white", "ec": "none", "alpha": 0.85})


def _draw_dots(ax: Axes, graph: Graph, layers: list[list[str]], verdicts: Mapping[str, Verdict]) -> None:
    """Layers wrap into columns of `ROWS`, read from top to bottom and left to right."""
    widest = max(len(layer) for layer in layers)
    columns = min(24, -(-len(layers) // ROWS))
    rows = -(-len(layers) // columns)
    at = {}
    for depth, layer in enumerate(layers):
        column, row = divmod(depth, rows)
        for i, name in enumerate(layer):
            at[name] = (column + i * 0.75 / widest, -row)
    for source, target in set(graph.nx.edges()):
        if source in at and target in at:
            (x0, y0), (x1, y1) = at[source], at[target]
            same = int(x0) == int(x1)
            ax.plot([x0, x1], [y0, y1], color="#BBBBBB", lw=0.6 if same else 0.35, alpha=1.0 if same else 0.4, zorder=1)
    bad = JUDGED - {Verdict.MATCH}
    for verdict in (None, *Verdict):
        names = [name for name in at if verdicts.get(name) is verdict]
        if names:
            look = LOOKS[verdict] if verdict is not None else None
            xs, ys = zip(*(at[name] for name in names), strict=True)
            ax.scatter(xs, ys, marker=look.marker if look else ".", color=look.colour if look else GREY,
                       s=34 if verdict in bad else 11, zorder=4 if verdict in bad else 2)
    named = list(at) if len(at) <= MOST_NAMES else [name for name in at if verdicts.get(name) in bad][:60]
    for name in named:
        ax.annotate(safe.short(name, max(10, 96 // columns)), at[name], xytext=(5, 0), textcoords="offset points",
                    fontsize=6.5, va="center", parse_math=False, zorder=6)
    ax.set_xlim(-0.2, columns)
    ax.set_ylim(-rows + 0.2, 1.0)


def _shape(shape: tuple[Any, ...] | None) -> str:
    sizes = shape and [None if dim is None else safe.visible(dim, 40)[:12] for dim in shape]
    return shape_text(sizes, "?", "×")


def _legend(ax: Axes, found: set[Verdict], shapes: bool) -> None:
    lines = need("matplotlib.lines", "plotting a graph")
    handles = [
        lines.Line2D([], [], marker=LOOKS[v].marker, color=LOOKS[v].colour, ls="none", label=str(v))
        for v in Verdict if v in found
    ]
    if handles:
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    if shapes:
        ax.text(1.0, 0.0, "on the edges: shapes, ? unknown", transform=ax.transAxes, ha="right", va="bottom",
                fontsize=7, color=GREY)
