"""One readable terminal screen for facts of any kind: what `acccmp inspect` and `acccmp slice` show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from acccmp.core.graph import shape_text
from acccmp.inputs.preflight import Fit
from acccmp.kinds import find_kind
from acccmp.releases.drift import Check, spread
from acccmp.releases.history import Point, Run
from acccmp.reports.report import Comparison
from acccmp.reports.terminal import note_lines
from acccmp.slicing.manifest import Manifest

MOST_ROWS = 24
MOST_LINES = 6  # of failures above their table
SHORT = 16  # characters of a cell that is never folded
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """`262144` -> `256 KiB (262144 bytes)`."""
    exact, place = int(count), 0
    while count >= 1024 and place < len(_UNITS) - 1:
        count /= 1024
        place += 1
    return f"{exact} bytes" if place == 0 else f"{count:.4g} {_UNITS[place]} ({exact} bytes)"


def screen(facts: Mapping[str, Any], fits: Sequence[Fit] = ()) -> Group:
    """The facts of `acccmp.inspect`, on one screen; lists are cut, with what was left out said."""
    parts: list[Any] = [_title(facts)]
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="bold", no_wrap=True)
    lines.add_column(overflow="fold")
    tables: list[Any] = []
    for key, value in facts.items():
        if key in ("kind", "path", "notes") or value in (None, "", [], {}, ()):
            continue
        if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            tables.append(_table(key, value))
        else:
            lines.add_row(_safe(key), _value(key, value))
    parts.append(lines)
    parts += tables
    parts += note_lines(facts.get("notes") or ())
    for fit in fits:
        parts.append(Text(_text(fit.text), style="green" if fit.fits else "red"))
    return Group(*parts)


def node_lines(facts: Mapping[str, Any]) -> list[str]:
    """The facts of `acccmp.inspect(..., nodes=PATTERN)`: a line for each node, however wide: names can be copied."""
    nodes = facts["nodes"]
    wide = min(48, max(len(node["name"]) for node in nodes))
    typed = min(20, max(len(node["type"]) for node in nodes))
    lines = []
    for node in nodes:
        made = [f"{_cell('name', tensor['name'])} {tensor['dtype'] or ''} {_cell('shape', tensor['shape'])}".strip()
                for tensor in node["outputs"]]
        originals = [f"stands for {', '.join(node['originals'])}"] if node.get("originals") else []
        line = "  ".join([node["name"].ljust(wide), node["type"].ljust(typed), "; ".join(made), *originals])
        lines.append(_text(line).replace("\n", " ").rstrip())
    return lines


def _title(facts: Mapping[str, Any]) -> Text:
    words = "a dump" if facts["kind"] == "dump" else find_kind(facts["kind"]).words
    return Text.assemble((_text(facts["path"]), "bold"), f"  is {words}")


def _value(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        shown = [f"{_safe(str(k))} {_value(str(k), v)}" for k, v in value.items() if v not in (None, "", [], {})]
        more = f", ... {len(shown) - MOST_ROWS} more" if len(shown) > MOST_ROWS else ""
        return ", ".join(shown[:MOST_ROWS]) + more
    if isinstance(value, list | tuple):
        more = f", ... {len(value) - MOST_ROWS} more" if len(value) > MOST_ROWS else ""
        return ", ".join(_item(item) for item in value[:MOST_ROWS]) + more
    if isinstance(value, int) and not isinstance(value, bool) and key.endswith("bytes"):
        return size(value)
    return _safe(str(value))


def _item(item: Any) -> str:
    """One entry of a list; of a tensor's facts just the values: `data float32 1x3x8x8 NCHW`."""
    if not isinstance(item, Mapping):
        return _safe(item)
    return " ".join(_cell(str(key), value) for key, value in item.items() if value not in (None, "", [], {}))


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Group:
    """Rows under their keys. Where it is too wide long cells are folded, short ones stay whole; numbers stand right."""
    columns = [
        key for key in dict.fromkeys(k for row in rows for k in row)
        if any(row.get(key) not in (None, "", [], {}) for row in rows)
    ]
    table = Table(
        title=f"{_safe(title)} ({len(rows)})", title_justify="left", title_style="bold", box=None, pad_edge=False,
    )
    cells = [[_cell(key, row.get(key)) for row in rows[:MOST_ROWS]] for key in columns]
    for key, column in zip(columns, cells, strict=True):
        table.add_column(
            _safe(key), overflow="fold", no_wrap=max(map(len, column)) <= SHORT,
            justify="right" if all(_is_number(cell) for cell in column if cell) else "left",
        )
    for row in zip(*cells, strict=True):
        table.add_row(*row)
    more = len(rows) - MOST_ROWS
    return Group(table, Text(f"... {more} more (--json lists them)")) if more > 0 else Group(table)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "unknown" if key == "shape" else ""
    if key == "shape" and isinstance(value, list | tuple):
        return _safe(shape_text(value))
    if isinstance(value, Mapping | list | tuple):
        return _value(key, value)
    return _safe(str(value))


def _text(text: object) -> str:
    """Text that does not steer the terminal: no control characters but line breaks, at most 2000 characters."""
    keep = "".join(c if c.isprintable() or c == "\n" else "?" for c in str(text))
    return keep if len(keep) <= 2000 else keep[:1990] + "..."


def _safe(text: object) -> str:
    """The same on one line, and without rich's markup, for cells of tables; at most 300 characters."""
    keep = _text(text).replace("\n", " ")
    return (keep if len(keep) <= 300 else keep[:290] + "...").replace("[", "\\[")


def slice_screen(manifest: Manifest, where: str, notes: Sequence[str] = ()) -> Group:
    """A written slice: the folder, its self-test, what the device did, its inputs, the command that converts it."""
    test, device = manifest.self_test, manifest.device
    named = {end.port: end.tensor for end in manifest.outputs}
    cut = manifest.slice
    ends = f"{', '.join(cut.start)} .. {', '.join(cut.end)}"
    parts: list[Any] = [
        Text.assemble(("slice ", "bold"), _text(f"{ends} of {manifest.model.name}: {len(cut.layers)} layers")),
        _line(f"  {where}"),
        _state("self-test", test.status, test.reason),
        *(Text(f"  {_text(named[row.port])}: distance to the full model {row.error:.3g}") for row in test.outputs),
        *([Text(f"  golden tensors from {_text(manifest.golden_from)}")] if manifest.golden_from else []),
        _state("device", device.status, device.reason),
        *(_device_line(named[row.port], row, device.totals.get(row.port)) for row in device.outputs),
    ]
    rows = [
        {"input": end.name, "of": end.tensor if end.tensor != end.name else "", "shape": end.shape,
         "layout": end.layout, "taken from": str(end.taken_from or ""),
         **({"bin": end.bin.dtype, "Inf": end.bin.inf, "subnormal": end.bin.subnormal} if end.bin is not None else {})}
        for end in manifest.inputs
    ]
    if rows:
        parts.append(_table("inputs", rows))
    parts += note_lines(notes)
    if manifest.no_atc:
        return Group(*parts, Text(f"not to be converted: {_text(manifest.no_atc)}", style="red"))
    unproven = "" if test.holds else " (the slice is not proven)"
    return Group(*parts, Text(f"convert it{unproven}:", style="bold"),
                 Text(manifest.atc, no_wrap=True, overflow="ignore"))


_STYLES = {"passed": "green", "agrees": "green", "FAILED": "red bold", "DIFFERS": "red bold"}


def _state(what: str, status: str, reason: str) -> Text:
    """`self-test: not runnable (opencv-python is not installed: ...)`."""
    told = f" ({_text(reason)})" if reason else ""
    return Text.assemble((f"{what}: ", "bold"), (status, _STYLES.get(status, "yellow")), told)


def _device_line(name: str, row: Comparison, total: float | None) -> Text:
    """This stretch's own error on the device at one output, and what it is together with what was inherited."""
    if not row.is_judged:
        return Text(f"  {_text(name)}: {row.verdict}, {_text(row.reason)}", style="yellow")
    limit = f" (limit {row.limit:.3g})" if row.limit == row.limit else ""
    text = f"  {_text(name)}: {row.verdict}, this stretch's own error {row.error:.3g}{limit}"
    if total is not None:
        text += f"; with what it inherited {total:.3g}"
    if row.is_bad and row.told:
        text += f"\n    {_text(row.told)}"
    return Text(text, style="red" if row.is_bad else "")


def check_screen(checked: Check, baseline: str, written: str, notes: Sequence[str] = ()) -> Group:
    """What `acccmp check` found: passed or why not, what drifted, what improved, what is accepted, and the notes of its
    comparisons. `written` says what became of the baseline file ("" when it was left alone)."""
    head = ("PASSED", "green bold") if checked.exit_code == 0 else ("NOT PASSED", "red bold")
    counts = f"{len(checked.drifts)} drifted, {len(checked.improvements)} improved, {checked.unchanged} unchanged"
    parts: list[Any] = [
        Text.assemble(head, f"  {counts} against {_text(baseline)}" if checked.baseline else "  no baseline yet",
                      no_wrap=True, overflow="ignore"),
        _line(f"  method: {checked.method}", "dim"),
    ]
    parts += [_line(f"  {line}", "red") for line in checked.failures[:MOST_LINES]]
    if len(checked.failures) > MOST_LINES:
        parts.append(Text(f"  ... {len(checked.failures) - MOST_LINES} more (--json lists them)", style="red"))
    if checked.passed and checked.exit_code:
        parts.append(Text("  too little was covered (--min-coverage)", style="red"))
    rows = [
        {"port": c.port, "case": (c.case or "all") if len(checked.reports) > 1 else "", "change": c.kind,
         "before": _number(c.before), "now": _number(c.now), "ratio": _number(c.ratio), "moved": _number(c.moved)}
        for c in checked.changes
    ]
    if rows:
        parts.append(_table("changes", rows))
    widest = spread(checked.reports)[:1]
    parts += [
        _line(f"spread over {len(checked.reports)} cases: widest at {row.port}, {row.least:.3g} to {row.largest:.3g}"
              f"{' floors' if row.in_floors else ''}, median {row.median:.3g} (--json lists all)", "dim")
        for row in widest
    ]
    if checked.accepted:
        shown = ", ".join(checked.accepted[:MOST_LINES])
        more = len(checked.accepted) - MOST_LINES
        tail = f", {more} more (--json lists them)" if more > 0 else ""
        parts.append(_line(f"accepted although beyond their limits: {shown}{tail}", "yellow"))
    parts += note_lines(notes)
    if written:
        parts.append(_line(written))
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    """One line of a log, however long: names in it can be searched for."""
    return Text(_text(text).replace("\n", " "), style=style, no_wrap=True, overflow="ignore")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def history_screen(file: str, runs: Sequence[Run], jumped: Sequence[Point]) -> Group:
    """The releases of a history file, and the ports that jumped in the newest."""
    rows = [
        {"made": r.made, "release": r.release, "case": r.case, "model": r.model, "passed": "yes" if r.passed else "no",
         "coverage": f"{r.coverage:.0%}"}
        for r in runs[-MOST_ROWS:]
    ]
    parts: list[Any] = [Text.assemble((_text(file), "bold"), f"  {len(runs)} runs"), _table("newest runs", rows)]
    parts += [
        _line(f"jumped: {p.port} to {p.error:.3g} in {p.run.release} (case {p.run.case})", "red")
        for p in jumped[:MOST_ROWS]
    ]
    return Group(*parts)


def series_screen(port: str, points: Sequence[Point]) -> Group:
    """One port's error over the releases."""
    rows = [
        {"release": p.run.release, "case": p.run.case, "verdict": p.verdict, "error": _number(p.error),
         "limit": "" if p.limit != p.limit else _number(p.limit), "jump": "jumped" if p.jumped else ""}
        for p in points
    ]
    return Group(Text(_text(port), style="bold"), _table("error over releases", rows))
