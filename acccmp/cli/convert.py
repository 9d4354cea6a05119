"""`acccmp convert`."""

from __future__ import annotations

from typing import Literal

import click

from acccmp.cli.options import JOBS, JSON
from acccmp.cli.printing import COULD_NOT, NOT_PASSED, PASSED, print_json, progress, say
from acccmp.cli.ways import Way, take

FREEZE = Way("with --to pb", ("layout", "dtype", "jobs"))


@click.command(short_help="dump files to npy or bin in a chosen layout and dtype, and back")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("--out", "-o", required=True, type=click.Path())
@click.option("--to", type=click.Choice(["npy", "bin", "dump", "pb"]), default="npy", show_default=True)
@click.option("--layout", help="NCHW, NHWC, ...; stored: the device's; by default the tensor's own, padding removed.")
@click.option("--dtype", help="float16, float32, ...; by default the stored one. Integers are never cast to floats.")
@JOBS
@JSON
def convert(
    paths: tuple[str, ...], out: str, to: Literal["npy", "bin", "dump", "pb"], layout: str | None, dtype: str | None,
    jobs: int | None, as_json: bool,
) -> int:
    """Convert dump files or whole folders of them; with --to pb, freeze TensorFlow SavedModels into one file each.

    \b
    Example:
      acccmp convert npu_dump/ -o arrays/ --to npy --layout NCHW
    """
    from acccmp.jobs.convert import convert as convert_files

    if to == "pb":
        take(FREEZE)
    with progress(as_json) as tell:
        result = convert_files(paths, out, to=to, layout=layout, dtype=dtype, jobs=jobs, progress=tell)
    if to == "pb":
        written = [str(path) for path in result.written]
        print_json({"written": written}) if as_json else say(*written)
    elif as_json:
        print_json({
            "written": [str(path) for path in result.written],
            "failed": {failure.path: failure.reason for failure in result.failed},
            "infinite": result.infinite, "subnormal": result.subnormal, "notes": list(result.notes),
        })
    else:
        say(f"{len(result.written)} files in {out}")
        for note in result.notes:
            say(f"note: {note}")
        for failure in result.failed:
            say(f"failed: {failure.path}: {failure.reason.removeprefix(f'{failure.path}: ')}", err=True)
    if not result.written:
        return COULD_NOT
    return NOT_PASSED if result.failed else PASSED
