"""`acccmp history add`, `show` and `export`."""

from __future__ import annotations

from pathlib import Path

import click

from acccmp.cli.options import JSON
from acccmp.cli.printing import PASSED, print_json, say, show, write
from acccmp.errors import InputError

SCHEMA = "acccmp.history/1"  # of what `show --json` prints


@click.group(short_help="drift of layers over releases")
def history() -> None:
    """Keep what was compared in one SQLite file, and show how a layer's error went over releases.

    \b
    Example:
      acccmp history add drift.db report/report.json --release 2026.11
      acccmp history show drift.db conv3:output:0
    """


@history.command("add")
@click.argument("file", type=click.Path())
@click.argument("reports", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--release", required=True, help="Name of the release.")
@click.option("--case", default="default", show_default=True)
def history_add(file: str, reports: tuple[str, ...], release: str, case: str) -> int:
    """Keep reports (report.json files of `acccmp compare -o`) as one release.

    \b
    Example:
      acccmp history add drift.db report/report.json --release 2026.11
    """
    from acccmp.releases import history as past

    names = [case if len(reports) == 1 else f"{case} {number}" for number in range(1, len(reports) + 1)]
    past.add(file, dict(zip(names, reports, strict=True)), release=release)
    what = "1 report" if len(reports) == 1 else f"{len(reports)} reports"
    say(f"{what} kept as {release} in {file}")
    return PASSED


@history.command("show")
@click.argument("file", type=click.Path())
@click.argument("port", required=False)
@click.option("--plot", "plotted", type=click.Path(), help="Draw the port's error over releases into this file.")
@JSON
def history_show(file: str, port: str | None, plotted: str | None, as_json: bool) -> int:
    """Show the releases in FILE and what jumped in the newest, or one PORT over all of them.

    PORT may also be a device op, or a node of the original that one op stands for.

    \b
    Example:
      acccmp history show drift.db conv3:output:0 --plot conv3.png
    """
    from acccmp.releases import history as past
    from acccmp.reports.report_json import plain
    from acccmp.ui.screens import history_screen, series_screen

    if port is None:
        if plotted:
            raise InputError("--plot draws one port: acccmp history show FILE PORT --plot OUT.png")
        listed, jumped = past.runs(file), past.latest_jumps(file)
        if as_json:
            runs = [plain(vars(run)) for run in listed]
            print_json({"schema": SCHEMA, "runs": runs, "jumped": [point.port for point in jumped]})
        else:
            show(history_screen(file, listed, jumped))
        return PASSED
    points = past.series(file, port)
    port = points[0].port if points else port  # the name may have been that of an op or of an original
    if plotted:
        from acccmp.reports.canvas import save_figure
        from acccmp.reports.series_plot import plot_series

        save_figure(plot_series(points), plotted, "--plot")
    if as_json:
        numbers = ("verdict", "error", "limit", "floor", "jumped")
        told = [{**plain(vars(p.run)), **plain({n: getattr(p, n) for n in numbers})} for p in points]
        print_json({"schema": SCHEMA, "port": port, "points": told})
    else:
        show(series_screen(port, points))
    return PASSED


@history.command("export")
@click.argument("file", type=click.Path())
@click.option("--csv", "target", type=click.Path(), help="Write here instead of to the standard output.")
def history_export(file: str, target: str | None) -> int:
    """Print everything in FILE as CSV.

    \b
    Example:
      acccmp history export drift.db --csv drift.csv
    """
    from acccmp.core.writing import write_text
    from acccmp.releases import history as past

    text = past.to_csv(file)
    if target:
        write_text(Path(target), text)
    else:
        write(text)
    return PASSED
