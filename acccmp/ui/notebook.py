"""How the nouns show themselves in Jupyter: static HTML, collapsed to what matters, nothing read from any dump.

All text is escaped (`reports.safe`); there is no script, so that it survives nbconvert and untrusted notebooks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from acccmp.core.dump import Dump
from acccmp.core.graph import Graph, shape_text
from acccmp.core.tensor import TensorRef
from acccmp.reports import html, safe
from acccmp.reports.report import Comparison, Report

MOST_ROWS = 200  # of a folded table
MOST_STATISTICS = 1 << 22  # elements of an array in memory that are looked at for its range


def report_html(report: Report) -> str:
    """Headline, error by depth, the first bad layer and the worst ten; the rest is folded."""
    return html.fragment(report)


def rows_html(rows: Sequence[Comparison]) -> str:
    """Rows of a report as a table, cut after 200."""
    return f'<div class="acccmp"><style>{html.STYLE}</style>{html.table_of(rows[:MOST_ROWS])}{_cut(len(rows))}</div>'


def graph_html(graph: Graph) -> str:
    """Inputs, outputs, what kinds of op there are; the nodes are folded."""
    kinds = Counter(node.op_type for node in graph.nodes)
    edges = sum(bool(tensor) and tensor not in graph.weights for node in graph.nodes for tensor in node.slots)
    shown = [
        ("format", graph.format), ("file", str(graph.path or "")), ("nodes", f"{len(graph)}, {edges} edges"),
        ("ops", _counted(kinds)), ("weights", _weights(graph)),
        *[(str(key), str(value)) for key, value in graph.meta.items() if value not in (None, "", (), {}, [])][:8],
    ]
    named = [*(("input", name) for name in graph.inputs), *(("output", name) for name in graph.outputs)]
    ends = [(side, graph.spec(name)) for side, name in named]
    nodes = (
        (safe.html(node.name), safe.html(node.op_type), _names(node.inputs), _names(node.outputs),
         safe.html(", ".join(_shape(graph.spec(tensor).shape) for tensor in node.outputs if tensor), 120))
        for node in graph.nodes[:MOST_ROWS]
    )
    return _card(f"Graph {graph.name}", [
        html.facts((key, value) for key, value in shown if value),
        html.table(("", "tensor", "dtype", "shape"), (
            (side, safe.html(spec.name), safe.html(spec.dtype or "unknown"), safe.html(_shape(spec.shape), 120))
            for side, spec in ends[:40]
        ), {1: "name"}) if ends else "",
        _notes(graph.notes),
        html.details(_title("nodes", len(graph)), html.table(
            ("node", "op", "inputs", "outputs", "shapes"), nodes, {0: "name", 2: "name", 3: "name"},
        )) if len(graph) else "",
    ])


def dump_html(dump: Dump) -> str:
    """What was dumped, how much, in which dtypes and layouts; unreadable files are shown, the tensors folded."""
    refs = list(dump.refs.values())
    shown = [
        ("folder", str(dump.path or "")), ("model", dump.model),
        ("tensors", f"{len(dump)} of {len({port.node for port in dump})} ops, {_size(sum(r.nbytes for r in refs))}"),
        ("dtypes", _counted(Counter(ref.dtype.name for ref in refs))),
        ("layouts", _counted(Counter(ref.layout for ref in refs))),
        ("names", "as file names have them: / and . are _" if dump.flat_names else ""),
    ]
    broken = ((safe.html(item.port or item.name), safe.html(item.reason, 300)) for item in dump.broken[:MOST_ROWS])
    return _card(f"{'Golden dump' if dump.kind == 'golden' else 'NPU dump'}", [
        html.facts((key, value) for key, value in shown if value),
        html.details(_title("unreadable files", len(dump.broken)), html.table(
            ("file", "why"), broken, {0: "name"},
        ), is_open=len(dump.broken) <= 5) if dump.broken else "",
        _notes(dump.notes),
        html.details(_title("tensors", len(dump)), _tensors(dump)) if len(dump) else "",
    ])


def slice_html(part: Any) -> str:
    """From where to where, what it is fed with and what it should give; the nodes are folded.

    `part` is a Slice: `.graph`, `.inputs` and `.expected` (a Dump, empty or None when unknown), `.start`, `.end`.
    """
    expected = part.expected if part.expected is not None else Dump({})
    missing = [name for name in part.graph.inputs if not _is_fed(part, name)] if len(part.inputs) else []
    shown = [
        ("from", _ends(part.start)), ("to", _ends(part.end)), ("nodes", str(len(part.graph))),
        ("fed with", f"{len(part.inputs)} dumped tensors" if len(part.inputs) else "nothing: no dump was given"),
        ("not dumped", ", ".join(missing)),
        ("should give", f"{len(expected)} golden tensors" if len(expected) else "unknown: there are no golden outputs"),
    ]
    return _card(f"Slice of {part.graph.name}", [
        html.facts((key, value) for key, value in shown if value),
        html.details(_title("inputs", len(part.inputs)), _tensors(part.inputs), True) if len(part.inputs) else "",
        html.details(_title("expected outputs", len(expected)), _tensors(expected)) if len(expected) else "",
        _notes(getattr(part, "log", ())),
        html.details(_title("nodes", len(part.graph)), html.table(("node", "op"), (
            (safe.html(node.name), safe.html(node.op_type)) for node in part.graph.nodes[:MOST_ROWS]
        ), {0: "name"})),
    ])


def tensor_html(ref: TensorRef) -> str:
    """Where it is and how it is stored. Nothing is read from files; the range of an array in memory is shown."""
    own = ref.own_shape
    shown = [
        ("dtype", ref.dtype.name), ("shape", _shape(own)),
        ("stored as", f"{ref.layout} {_shape(ref.shape)}" if ref.layout != "ND" or ref.shape != own else ""),
        ("original layout", ref.original_layout or ""), ("size", _size(ref.nbytes)),
        ("where", "in memory" if ref.array is not None else f"{ref.path} at {ref.offset}"), ("values", _range(ref)),
    ]
    how = "" if ref.array is not None else '<p class="dim">.numpy() reads it</p>'
    return _card("Tensor", [html.facts((key, value) for key, value in shown if value), how])


# -- pieces ------------------------------------------------------------------------------------------------------


def _card(title: str, parts: Iterable[str]) -> str:
    return f'<div class="acccmp"><style>{html.STYLE}</style><h2>{safe.html(title)}</h2>{"".join(parts)}</div>'


def _cut(count: int) -> str:
    return f'<p class="dim">the first {MOST_ROWS} of {count} rows</p>' if count > MOST_ROWS else ""


def _title(what: str, count: int) -> str:
    return f"{what} ({count}, the first {MOST_ROWS} are here)" if count > MOST_ROWS else f"{what} ({count})"


def _notes(notes: Sequence[str]) -> str:
    return html.details(f"notes ({len(notes)})", html.bullets(notes), is_open=len(notes) <= 3) if notes else ""


def _tensors(dump: Dump) -> str:
    rows = (
        (safe.html(port), safe.html(ref.dtype.name), safe.html(ref.layout), _shape(ref.shape),
         _shape(ref.own_shape) if ref.own_shape != ref.shape else "", _size(ref.nbytes))
        for port, ref in list(dump.refs.items())[:MOST_ROWS]
    )
    return html.table(("port", "dtype", "layout", "stored", "original shape", "size"), rows, {0: "name", 5: "n"})


def _is_fed(part: Any, tensor: str) -> bool:
    find = getattr(part, "input_port", None)  # only the whole model knows where a tensor came from
    return find is None or find(tensor) in part.inputs


def _ends(names: Any) -> str:
    return names if isinstance(names, str) else ", ".join(map(str, names)) or "the whole model"


def _names(tensors: Sequence[str]) -> str:
    more = f" and {len(tensors) - 6} more" if len(tensors) > 6 else ""
    return "<br>".join(safe.html(name, 80) for name in tensors[:6] if name) + more


def _counted(counts: Counter[str]) -> str:
    shown = [f"{count} {safe.visible(name, 40)}" for name, count in counts.most_common(12)]
    return ", ".join(shown) + (f" and {len(counts) - 12} more kinds" if len(counts) > 12 else "")


def _weights(graph: Graph) -> str:
    return f"{len(graph.weights)}, {_size(sum(ref.nbytes for ref in graph.weights.values()))}" if graph.weights else ""


def _shape(shape: Sequence[int | str | None] | None) -> str:
    return shape_text(shape, "unknown", "×")


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _range(ref: TensorRef) -> str:
    array = ref.array
    if array is None or not 0 < array.size <= MOST_STATISTICS or array.dtype.kind not in "fiub":
        return ""
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    odd = array.size - finite.size
    if not finite.size:
        return f"{odd} not finite, no other"
    text = f"{finite.min():.4g} .. {finite.max():.4g}, mean {finite.mean(dtype=np.float64):.4g}"
    return text + (f", {odd} not finite" if odd else "")
