"""Writes every picture and page of a report at 20 and at 400 layers, for a person to look at.

    python benchmarks/pictures.py FOLDER

What to look for: no label over another, every axis with its unit, the first bad layer named, and the same verdict told
by shape as well as by colour. The terminal screens are HTML; open them and the pages in a light and in a dark browser.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from report_factory import hostile_report, make_graph, make_report  # noqa: E402

from acccmp.reports import ci, html, plots, tables  # noqa: E402
from acccmp.reports.report import Report  # noqa: E402
from acccmp.ui import notebook  # noqa: E402


def drawings(layers: int) -> dict[str, Callable[[], Any]]:
    """Every picture of a network of that many layers, by name."""
    report, graph, plain = make_report(layers), make_graph(layers), make_report(layers, every_verdict=False)
    healthy = make_report(layers, None, False)
    return {
        "report": lambda: plots.plot_report(report),
        "over_limit": lambda: plots.plot_report(plain, "error_over_limit"),
        "cosine": lambda: plots.plot_report(plain, "CosineSimilarity"),
        "layer": lambda: plots.plot_layer(plain, str(plain.first_bad.port)),
        "heatmap": lambda: plots.plot_heatmap(report, "extra/nonfinite"),
        "graph": lambda: plots.plot_graph(graph, plain),
        "graph_healthy": lambda: plots.plot_graph(graph, healthy),
    }


def texts(layers: int) -> dict[str, str]:
    """Every page, screen and comment, by file name."""
    report = make_report(layers)
    views = notebook.graph_html(make_graph(layers)) + notebook.report_html(report)
    return {
        f"page_{layers}.html": html.report_html(report),
        f"notebook_{layers}.html": f"<meta charset=utf-8>{views}",
        f"comment_{layers}.md": ci.markdown(report),
        f"report_{layers}.md": tables.to_markdown(report),
        **{f"terminal_{layers}_{width}.html": screen(report, width) for width in (80, 100)},
    }


def screen(report: Report, width: int) -> str:
    """A terminal of that width, as HTML."""
    console = Console(width=width, record=True, force_terminal=True, color_system="truecolor", file=StringIO())
    console.print(tables.terminal(report, width, saved=["report/report.html"]))
    return console.export_html()


def main(folder: str) -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for layers in (20, 400):
        for name, draw in drawings(layers).items():
            start = time.perf_counter()
            draw().savefig(out / f"{name}_{layers}.png", bbox_inches="tight")
            print(f"{name}_{layers}.png {time.perf_counter() - start:.2f} s")
        for name, text in texts(layers).items():
            (out / name).write_text(text, "utf-8")
    (out / "page_hostile.html").write_text(html.report_html(hostile_report()), "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
