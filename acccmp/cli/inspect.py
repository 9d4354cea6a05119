"""`acccmp inspect`."""

from __future__ import annotations

import os

import click

from acccmp.cli.options import JSON, WEIGHTS, RunChoice, takes
from acccmp.cli.printing import NOT_PASSED, PASSED, print_json, progress, say, show
from acccmp.cli.ways import Way, take

DUMP = Way("where PATH is a dump", ("weights", "inputs", "drawn"))
SLICE = Way("where PATH is a slice", ("weights", "inputs", "drawn", RunChoice))
RECORD = Way("where PATH is a report, a baseline or a history", ("weights", "inputs", "nodes", "drawn", RunChoice))
MODEL = Way("where PATH is a model", (RunChoice,))
OWN_WEIGHTS = Way("where PATH has no weights beside it", ("weights",))


@click.command(short_help="say what a file or folder is: a model, a device model, a dump")
@click.argument("path", type=click.Path(), required=False)
@WEIGHTS
@click.option("--input", "-i", "inputs", multiple=True, metavar="[NAME=]FILE", help="Does this input fit the model?")
@click.option(
    "--nodes", is_flag=False, flag_value="*", metavar="[PATTERN]",
    help="List the names: every node (or op of a dump), or those like PATTERN (conv, 'conv*').",
)
@click.option("--graph", "drawn", type=click.Path(), help="Draw the graph into this .dot, .svg or .png file.")
@takes(choice=RunChoice)
@JSON
def inspect(
    path: str | None, weights: str | None, inputs: tuple[str, ...], nodes: str | None, drawn: str | None,
    choice: RunChoice, as_json: bool,
) -> int:
    """Say what PATH is: a model, a device model, a checkpoint, a dump; its inputs, outputs, shapes and sizes.

    \b
    Example:
      acccmp inspect model.om --input image.bin
    """
    from acccmp.core.identify import identify
    from acccmp.jobs.inspect import draw, fit_facts, fits, plain_keys
    from acccmp.jobs.inspect import inspect as facts_of
    from acccmp.slicing.bundle import read_manifest
    from acccmp.ui.screens import node_lines, screen, slice_screen

    path, nodes = _told_apart(path, nodes)
    kind = identify(path).kind
    way = {"dump": DUMP, "slice": SLICE, "record": RECORD}.get(kind.role, MODEL)
    take(way, *(() if kind.weights else (OWN_WEIGHTS,)))
    given = {text.rpartition("=")[0]: text.rpartition("=")[2] for text in inputs}
    with progress(as_json) as tell:
        tell("reading")
        facts = facts_of(
            path, weights, nodes=nodes, run=choice.run, device=choice.device, model=choice.npu_model, step=choice.step,
        )
        checked = fits(path, given, weights) if given else ()
        if drawn:
            tell("drawing")
            draw(path, drawn, weights)
    if as_json:
        told = {"fits": [fit_facts(fit) for fit in checked]} if checked else {}
        print_json({"schema": "acccmp.inspect/1", **plain_keys({**facts, **told})})
    elif nodes is not None:
        say(*node_lines(facts), *(line for fit in checked for line in fit.text.splitlines()))
    elif kind.role == "slice":
        folder, manifest = read_manifest(path)
        show(slice_screen(manifest, f"{folder}, made {manifest.made} of {manifest.model.path}"))
    else:
        show(screen(facts, checked))
    return PASSED if all(fit.fits for fit in checked) else NOT_PASSED


def _told_apart(path: str | None, pattern: str | None) -> tuple[str, str | None]:
    """PATH and the pattern of --nodes, in whichever order they came: what is there is the path."""
    if pattern is not None and os.path.lexists(pattern) and not (path and os.path.lexists(path)):
        return pattern, path or "*"
    if path is None:
        taken = "" if pattern in (None, "*") else f" ({pattern!r} was taken for PATTERN: there is no such file)"
        raise click.UsageError(f"which file or folder? acccmp inspect PATH [--nodes [PATTERN]]{taken}")
    return path, pattern
