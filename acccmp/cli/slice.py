"""`acccmp slice`."""

from __future__ import annotations

from dataclasses import dataclass

import click

from acccmp.cli.options import JSON, MAPPING, Original, RunChoice, by, takes
from acccmp.cli.printing import print_json, progress, show
from acccmp.cli.ways import Way, take


@dataclass(frozen=True)
class Stretch:
    """From where to where the model is cut."""

    start: tuple[str, ...] = by(click.option(
        "--start", "-s", multiple=True, help="Node or tensor where the slice begins; may be given several times.",
    ))
    end: tuple[str, ...] = by(click.option(
        "--end", "-e", multiple=True, help="Node or tensor where it ends; may be given several times.",
    ))
    around: str | None = by(click.option("--around", help="Instead: everything within --radius steps of this node."))
    radius: int = by(click.option("--radius", type=click.IntRange(0), default=1, show_default=True))
    widen: bool = by(click.option(
        "--widen", is_flag=True, help="Where an input was not dumped, begin at the next tensors that were.",
    ))
    exact: bool = by(click.option("--exact", is_flag=True, help="Refuse to grow to the border of a fused device op."))
    all_outputs: bool = by(click.option(
        "--all-outputs", is_flag=True, help="Every tensor that leaves the region is an output.",
    ))


@dataclass(frozen=True)
class Sources:
    """Where the tensors at its ends come from."""

    dump: str | None = by(click.option(
        "--dump", "-d", type=click.Path(), help="What the device dumped: the slice's inputs are taken from it.",
    ))
    mapping: str | None = by(MAPPING)
    golden: str | None = by(click.option(
        "--golden", "-g", type=click.Path(), help="A golden dump of the full model, for the self-test.",
    ))
    seed: int = by(click.option(
        "--seed", type=int, default=0, show_default=True, help="Of random inputs, where no others are found.",
    ))


@dataclass(frozen=True)
class Handover:
    """What is written."""

    dtype: str = by(click.option(
        "--dtype", default="float16", show_default=True, help="What the raw .bin inputs are stored as.",
    ))
    no_check: bool = by(click.option("--no-check", is_flag=True, help="Leave the self-test out."))
    zipped: bool = by(click.option("--zip", "zipped", is_flag=True, help="Make one .zip as well."))
    out: str | None = by(click.option(
        "--out", "-o", type=click.Path(), help="Where the folder dump_result_<time> is written; by default here.",
    ))


AROUND = Way("with --around", ("start", "end", "all_outputs"))
FROM_TO = Way("without --around", ("radius",))
NO_DUMP = Way("without --dump", (RunChoice, "widen", "dtype"))
GOLDEN_ALONE = Way("with --golden and without --dump", ("inputs",))
NO_DEVICE = Way("without --mapping or --dump", ("exact",))
GIVEN = Way("with --golden or --input", ("seed",))
UNCHECKED = Way("with --no-check", ("seed", "runner"))


@click.command("slice", short_help="cut start..end out of a model, with the device's tensors at its boundary")
@click.argument("model", type=click.Path())
@takes(stretch=Stretch, original=Original, sources=Sources, handover=Handover, choice=RunChoice)
@JSON
def slice_command(
    model: str, stretch: Stretch, original: Original, sources: Sources, handover: Handover, choice: RunChoice,
    as_json: bool,
) -> int:
    """Cut a stretch out of MODEL, closed, with its weights and its dumped inputs, and prove that it is right.

    Exit code 0: proven; 1: it does not give what the full model gives; 2: it could not be written; 3: it was written,
    but could not be proven here.

    \b
    Example:
      acccmp slice model.onnx --start conv3 --end relu5 --dump npu_dump/ --mapping model.json -o handover/
    """
    from acccmp.jobs.slice import export_slice, slice_model

    inputs = original.inputs or None
    take(FROM_TO if stretch.around is None else AROUND)
    if not sources.dump:
        take(NO_DUMP, *(() if sources.mapping else (NO_DEVICE,)), *((GOLDEN_ALONE,) if sources.golden else ()))
    if sources.golden or inputs:
        take(GIVEN)
    if handover.no_check and not inputs:
        take(UNCHECKED)
    with progress(as_json) as tell:
        tell("reading and cutting the model")
        part = slice_model(
            model, stretch.start, stretch.end, dump=sources.dump, mapping=sources.mapping, weights=original.weights,
            around=stretch.around, radius=stretch.radius, widen=stretch.widen, exact=stretch.exact,
            all_outputs=stretch.all_outputs, inputs=inputs,
            run=choice.run, device=choice.device, npu_model=choice.npu_model, step=choice.step,
        )
        tell("writing the slice" if handover.no_check else "proving and writing the slice")
        bundle = export_slice(
            part, handover.out, golden=sources.golden, inputs=inputs, seed=sources.seed, dtype=handover.dtype,
            zip=handover.zipped, check=not handover.no_check, runner=original.runner,
        )
    if as_json:
        zipped = str(bundle.zip) if bundle.zip else None
        print_json({"folder": str(bundle.path), "zip": zipped, **bundle.manifest.as_json()})
    else:
        from acccmp.ui.screens import slice_screen

        where = f"{bundle.path} and {bundle.zip}" if bundle.zip else str(bundle.path)
        show(slice_screen(bundle.manifest, where, part.log))
    return bundle.exit_code
