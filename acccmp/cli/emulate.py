"""`acccmp emulate`."""

from __future__ import annotations

from dataclasses import dataclass

import click

from acccmp.cli.options import INPUTS, JSON, by, takes
from acccmp.cli.printing import PASSED, print_json, progress, say
from acccmp.cli.ways import Way, take


@dataclass(frozen=True)
class Device:
    """What the emulated device does, and what it dumps."""

    precision: str = by(click.option(
        "--precision", type=click.Choice(["float16", "bfloat16"]), default="float16", show_default=True,
    ))
    overflow: str = by(click.option(
        "--overflow", type=click.Choice(["keep", "saturate"]), default="keep", show_default=True,
        help="keep Inf and NaN, or turn them into +-65504 and 0 as some chips do.",
    ))
    flush_subnormals: bool = by(click.option("--flush-subnormals", is_flag=True, help="Subnormal numbers become 0."))
    faults: tuple[str, ...] = by(click.option(
        "--fault", "faults", multiple=True, metavar="op=NAME,kind=KIND[,factor=F]", help="Plant a fault.",
    ))
    dump_mode: str = by(click.option(
        "--dump-mode", type=click.Choice(["all", "output"]), default="all", show_default=True,
    ))


FED = Way("with --input", ("seed",))


@click.command(short_help="dumps of an emulated device, healthy or with a planted fault")
@click.argument("model", type=click.Path())
@INPUTS
@takes(device=Device)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random inputs, where no --input is given.")
@click.option("--out", "-o", required=True, type=click.Path())
@JSON
def emulate(model: str, inputs: dict[str, str], device: Device, seed: int, out: str, as_json: bool) -> int:
    """Run an ONNX model as a device would (narrow storage, fused ops, device layouts) and write what it would dump.

    \b
    Fault kinds: overflow scale zero transpose stale bitflip noise bn-eps ceil-mode bad-weight
    Example:
      acccmp emulate model.onnx --input x=x.npy --fault op=conv3,kind=scale,factor=1.5 -o emulated/
    """
    from acccmp.emulator.emulate import Fault
    from acccmp.emulator.emulate import emulate as emulate_device
    from acccmp.inputs.files import random_inputs
    from acccmp.jobs.feeding import given_inputs
    from acccmp.models.load import MODEL

    if inputs:
        take(FED)
    with progress(as_json) as tell:
        tell("reading the model")
        graph = MODEL.of(model)
        feeds = given_inputs(graph, inputs).arrays if inputs else random_inputs(graph, seed)
        made = emulate_device(
            graph, feeds, out, precision=device.precision, overflow=device.overflow,
            flush_subnormals=device.flush_subnormals, faults=tuple(Fault.parse(text) for text in device.faults),
            dump_mode=device.dump_mode, progress=tell,
        )
    if as_json:
        print_json({"dump": str(made.dump), "mapping": str(made.mapping), "notes": list(made.notes)})
    else:
        say(f"emulated device dump in {made.dump}", f"mapping in {made.mapping}")
        for note in made.notes:
            say(f"note: {note}")
        if not inputs:
            say(f"note: fed with random inputs (seed {seed})")
    return PASSED
