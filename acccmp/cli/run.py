"""`acccmp run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from acccmp.cli.options import JSON, Original, takes
from acccmp.cli.printing import PASSED, print_json, progress, say
from acccmp.errors import InputError

if TYPE_CHECKING:
    from acccmp.core.graph import Graph


@click.command(short_help="run the original model and keep every tensor of every layer")
@click.argument("model", type=click.Path())
@takes(original=Original)
@click.option("--out", "-o", required=True, type=click.Path(), help="The golden dump folder to write (or to resume).")
@click.option("--force", is_flag=True, help="Overwrite a golden dump of another model or input.")
@JSON
def run(model: str, original: Original, out: str, force: bool, as_json: bool) -> int:
    """Run MODEL on this machine and write every tensor of every layer as a golden dump.

    \b
    Example:
      acccmp run model.onnx --input image=cat.npy -o golden/
    """
    from acccmp.jobs.feeding import given_inputs
    from acccmp.models.load import MODEL
    from acccmp.runners.run import golden_run, runner_for

    with progress(as_json) as tell:
        tell("reading the model")
        graph = MODEL.of(model, weights=original.weights)
        runner_for(graph, original.runner)  # nobody is asked for the inputs of what cannot run
        if graph.inputs and not original.inputs:
            raise InputError(f"{model} has inputs to feed: {_input_help(graph)}")
        given_inputs(graph, original.inputs)  # says what a file that does not fit likely is
        dump = golden_run(graph, original.inputs, out, runner=original.runner, overwrite=force, progress=tell)
    if as_json:
        print_json({"folder": str(out), "tensors": len(dump), "notes": list(dump.notes)})
    else:
        say(f"{len(dump)} tensors of {graph.name} in {out}")
        for note in dump.notes:
            say(f"note: {note}")
    return PASSED


def _input_help(graph: Graph) -> str:
    from acccmp.core.graph import shape_text

    return ", ".join(
        f"--input {name}=FILE ({graph.spec(name).dtype or 'any dtype'} {shape_text(graph.spec(name).shape)})"
        for name in graph.inputs
    )
