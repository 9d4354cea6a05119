"""The command `acccmp`: parse, call, render, exit code. Nothing else prints, exits or configures logging."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from acccmp.errors import AcccmpError, InputError
from acccmp.reports.files import _write, write_report
from acccmp.version import VERSION

PASSED, NOT_PASSED, COULD_NOT, UNCOVERED = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 passed, 1 not passed, 2 could not do it, 3 nothing paired or little covered."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or bool(os.environ.get("ACCCMP_DEBUG"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
    try:
        code = cli.main([a for a in arguments if a != "--debug"], prog_name="acccmp", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = COULD_NOT
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "acccmp"
        click.echo(f"acccmp: {_one_line(error.format_message()).rstrip('.')}; see {where} --help", err=True)
        code = COULD_NOT
    except click.exceptions.Abort:
        click.echo("acccmp: interrupted", err=True)
        code = COULD_NOT
    except AcccmpError as error:
        if debug:
            raise
        click.echo(f"acccmp: {_one_line(str(error))}", err=True)
        code = COULD_NOT
    except BrokenPipeError:
        sys.stderr.close()
        code = COULD_NOT
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"acccmp: {_one_line(f'{where}{error.strerror or error}')}", err=True)
        code = COULD_NOT
    except Exception as error:
        if debug:
            raise
        what = f"{type(error).__name__}: {error}"
        click.echo(f"acccmp: {_one_line(what)} (the traceback: add --debug)", err=True)
        code = COULD_NOT
    sys.exit(code if isinstance(code, int) else PASSED)


def _one_line(text: str) -> str:
    """A message without line breaks and control characters, so that a hostile name cannot steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:2000]


# -- options that several commands have --------------------------------------------------------------------------


def _pairs(_: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """NAME=FILE options as a dict. A name may hold '=' as long as the file name does not."""
    found = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value:
            raise click.BadParameter(f"{text!r} should read NAME=FILE")
        found[name] = value
    return found


input_option = click.option(
    "--input", "-i", "inputs", multiple=True, callback=_pairs, metavar="NAME=FILE",
    help="What an input of the model is fed with: .npy, .npz, raw .bin or an image. Once for each input.",
)
weights_option = click.option("--weights", "-w", type=click.Path(), help="The caffemodel that belongs to a prototxt.")
mapping_option = click.option(
    "--mapping", "-m", type=click.Path(),
    help="The device's model: the .om, its JSON (atc --mode=1) or ge_*_Build.pbtxt.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of tables.")
runner_option = click.option("--runner", help="What runs the original model; by default chosen by its format.")
jobs_option = click.option("--jobs", "-j", type=click.IntRange(1), default=None, help="Threads to compare with.")


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that choose one run out of a tree of device dumps."""
    for option in (
        click.option("--step", help="The iteration to take out of a dump tree."),
        click.option("--npu-model", help="The model (name or id) to take out of a dump tree."),
        click.option("--device", help="The device id to take out of a dump tree."),
        click.option("--run", "run_name", help="The run (time folder) to take; by default the newest complete one."),
    ):
        command = option(command)
    return command


@contextmanager
def _executor(jobs: int | None) -> Iterator[Executor | None]:
    count = jobs if jobs is not None else min(4, os.cpu_count() or 1)
    if count < 2:
        yield None
        return
    with ThreadPoolExecutor(count) as pool:
        yield pool


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show(renderable: Any) -> None:
    """Print something rich."""
    from rich.console import Console

    Console(width=_width(), soft_wrap=False, highlight=False).print(renderable, crop=False)


def _width() -> int:
    """Columns to print in: the terminal's, 100 when the output is none."""
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100


def _print_json(data: Any) -> None:
    click.echo(data if isinstance(data, str) else json.dumps(data, indent=1, ensure_ascii=False, default=str))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="acccmp")
def cli() -> None:
    """Find the layer where a neural network that was moved to an NPU stops agreeing with its original.

    golden (the original) comes first, npu (the device) second. Add --debug for tracebacks.
    """


# -- compare -----------------------------------------------------------------------------------------------------


@cli.command(short_help="compare a model or a golden dump with a device dump, layer by layer")
@click.argument("golden", type=click.Path())
@click.argument("npu", type=click.Path())
@mapping_option
@click.option("--mapping-unfused", type=click.Path(), help="The JSON of the same model compiled with fusion off.")
@click.option("--quant-rule", type=click.Path(), help="A quantisation rule JSON (AMCT) that refines the mapping.")
@click.option("--model", type=click.Path(), help="The original model, when GOLDEN is a dump folder (for floors).")
@weights_option
@input_option
@runner_option
@click.option("--out", "-o", type=click.Path(), help="Write report.csv, .json, .md and .html into this folder.")
@click.option("--thresholds", help="default, vendor, or a TOML file with limits by op type, name or dtype.")
@click.option("--valid", multiple=True, metavar="NAME=AXIS:N", help="Only the first N along an axis count (padding).")
@click.option("--min-coverage", type=click.FloatRange(0, 1), default=0.9, show_default=True)
@click.option("--strict", is_flag=True, help="Inner layers that drift fail the comparison too.")
@click.option("--floor/--no-floor", default=True, help="Emulate the NPU's dtype to know what rounding alone explains.")
@click.option("--flush-subnormals", is_flag=True, help="The chip turns subnormals into 0: so do the floors.")
@click.option("--weights-only", is_flag=True, help="Compare weights only: NPU is a compiled model or checkpoint.")
@click.option(
    "--report-level", type=click.Choice(["full", "short", "line"]), default="full", show_default=True,
    help="short: one line when all is well; line: always one line.",
)
@run_options
@jobs_option
@json_option
def compare(golden: str, npu: str, **options: Any) -> int:
    """Compare GOLDEN with NPU, layer by layer.

    GOLDEN is the original model (it is run first), a golden dump folder, or the folder of a slice. NPU is the folder
    that the device dumped.

    \b
    Example:
      acccmp compare model.onnx npu_dump/ --mapping model.json -o report/
    """
    from acccmp.jobs.compare import compare as compare_runs
    from acccmp.jobs.slice import compare_slice
    from acccmp.jobs.sources import Options
    from acccmp.slicing.bundle import is_slice

    thresholds = _thresholds(options["thresholds"])
    if options["weights_only"] or {_kind(golden), _kind(npu)} == {"ckpt"}:
        report = _compare_weights(golden, npu, options)
        return _deliver(report, options["out"], options["report_level"], options["as_json"])
    with _executor(options["jobs"]) as executor, _progress("comparing") as progress:
        how = Options(
            run=options["run_name"], device=options["device"], npu_model=options["npu_model"], step=options["step"],
            valid=options["valid"], min_coverage=options["min_coverage"], strict=options["strict"],
            floor=options["floor"], flush_subnormals=options["flush_subnormals"], runner=options["runner"],
            executor=executor, progress=progress,
        )
        if Path(golden).is_dir() and is_slice(golden):
            own, full = compare_slice(golden, npu, mapping=options["mapping"], thresholds=thresholds, options=how)
            if options["as_json"]:
                return _both_as_json(own, full, options["out"])
            if full is not None:
                out = Path(options["out"]) / "full_model" if options["out"] else None
                click.echo("against the full model (what this stretch inherited included):")
                _deliver(full, out, options["report_level"], False)
                click.echo("against the slice alone (its own error):")
            return _deliver(own, options["out"], options["report_level"], options["as_json"])
        report = compare_runs(
            golden, npu, mapping=options["mapping"], mapping_unfused=options["mapping_unfused"],
            quant_rule=options["quant_rule"], model=options["model"], weights=options["weights"],
            inputs=options["inputs"] or None, thresholds=thresholds, options=how,
        )
    return _deliver(report, options["out"], options["report_level"], options["as_json"])


def _both_as_json(own: Any, full: Any, out: str | None) -> int:
    """A slice's two reports in one JSON: `slice` is its own error, `full_model` what it inherited included."""
    from acccmp.reports import report_json

    if out:
        write_report(own, out)
        if full is not None:
            write_report(full, Path(out) / "full_model")
    _print_json({
        "slice": json.loads(report_json.to_json(own)),
        "full_model": None if full is None else json.loads(report_json.to_json(full)),
    })
    return int(own.exit_code)


def _deliver(report: Any, out: str | Path | None, level: str, as_json: bool) -> int:
    """Write the report's files if asked, show it, and give its exit code."""
    saved = write_report(report, out) if out else []
    _render(report, saved, level, as_json)
    return int(report.exit_code)


def _thresholds(given: str | None) -> Any:
    from acccmp.comparison.judging import Thresholds

    if given in (None, "default"):
        return None
    return Thresholds.vendor() if given == "vendor" else Thresholds.from_toml(str(given))


def _kind(path: str) -> str:
    from acccmp.jobs.inspect import kind_of

    return kind_of(path)


def _compare_weights(golden: str, npu: str, options: Mapping[str, Any]) -> Any:
    from acccmp.comparison.weights import compare_weights
    from acccmp.models.load import load

    return compare_weights(load(golden, options["weights"]), load(npu))


def _render(report: Any, saved: Sequence[Path], level: str, as_json: bool) -> None:
    from acccmp.reports import report_json, terminal

    if as_json:
        _print_json(report_json.to_json(report))
    elif level == "line" or (level == "short" and report.passed and not report.warnings):
        click.echo(terminal.one_line(report))
    else:
        _show(terminal.terminal(report, _width(), saved=[str(path) for path in saved]))


# -- run ---------------------------------------------------------------------------------------------------------


@cli.command(short_help="run the original model and keep every tensor of every layer")
@click.argument("model", type=click.Path())
@weights_option
@input_option
@runner_option
@click.option("--out", "-o", required=True, type=click.Path(), help="The golden dump folder to write (or to resume).")
@click.option("--force", is_flag=True, help="Overwrite a golden dump of another model or input.")
@json_option
def run(
    model: str, weights: str | None, inputs: dict[str, str], runner: str | None, out: str, force: bool, as_json: bool,
) -> int:
    """Run MODEL on this machine and write every tensor of every layer as a golden dump.

    \b
    Example:
      acccmp run model.onnx --input image=cat.npy -o golden/
    """
    from acccmp.jobs.feeding import given_inputs
    from acccmp.jobs.sources import load_original
    from acccmp.runners.run import golden_run

    graph = load_original(model, weights)
    if graph.inputs and not inputs:
        raise InputError(f"{model} has inputs to feed: {_input_help(graph)}")
    given_inputs(graph, inputs)  # says what a file that does not fit likely is
    dump = golden_run(graph, inputs, out, runner=runner, overwrite=force)
    if as_json:
        _print_json({"folder": str(out), "tensors": len(dump), "notes": list(dump.notes)})
    else:
        click.echo(f"{len(dump)} tensors of {graph.name} in {out}")
        for note in dump.notes:
            click.echo(f"note: {note}")
    return PASSED


def _input_help(graph: Any) -> str:
    return ", ".join(
        f"--input {name}=FILE ({graph.spec(name).dtype or 'any dtype'} {_shape(graph.spec(name).shape)})"
        for name in graph.inputs
    )


def _shape(shape: Any) -> str:
    return "of any shape" if shape is None else "x".join("?" if dim is None else str(dim) for dim in shape) or "scalar"


# -- inspect -----------------------------------------------------------------------------------------------------


@cli.command(short_help="say what a file or folder is: a model, a device model, a dump")
@click.argument("path", type=click.Path())
@weights_option
@click.option("--input", "-i", "inputs", multiple=True, metavar="[NAME=]FILE", help="Does this input fit the model?")
@click.option("--graph", "drawn", type=click.Path(), help="Draw the graph into this .dot, .svg or .png file.")
@run_options
@json_option
def inspect(
    path: str, weights: str | None, inputs: tuple[str, ...], drawn: str | None, as_json: bool, **chosen: Any,
) -> int:
    """Say what PATH is: a model, a device model, a checkpoint, a dump; its inputs, outputs, shapes and sizes.

    \b
    Example:
      acccmp inspect model.om --input image.bin
    """
    from acccmp.jobs.inspect import describe, draw, fit_facts, fits
    from acccmp.ui.screens import screen

    facts = describe(
        path, weights, run=chosen["run_name"], device=chosen["device"], model=chosen["npu_model"], step=chosen["step"],
    )
    given = {text.rpartition("=")[0]: text.rpartition("=")[2] for text in inputs}
    checked = fits(path, given, weights) if given else ()
    if drawn:
        draw(path, drawn, weights)
    if as_json:
        _print_json({**facts, **({"fits": [fit_facts(fit) for fit in checked]} if checked else {})})
    else:
        _show(screen(facts, checked))
    return PASSED if all(fit.fits for fit in checked) else NOT_PASSED


# -- convert -----------------------------------------------------------------------------------------------------


@cli.command(short_help="dump files to npy or bin in a chosen layout and dtype, and back")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("--out", "-o", required=True, type=click.Path())
@click.option("--to", type=click.Choice(["npy", "bin", "dump", "pb"]), default="npy", show_default=True)
@click.option("--layout", help="NCHW, NHWC, NC1HWC0, ...; by default the tensor's own, padding removed.")
@click.option("--dtype", help="float16, float32, ...; by default the stored one. Integers are never cast to floats.")
@jobs_option
@json_option
def convert(
    paths: tuple[str, ...], out: str, to: Any, layout: str | None, dtype: str | None, jobs: int | None, as_json: bool,
) -> int:
    """Convert dump files or whole folders of them; with --to pb, freeze TensorFlow SavedModels into one file each.

    \b
    Example:
      acccmp convert npu_dump/ -o arrays/ --to npy --layout NCHW
    """
    if to == "pb":
        return _freeze(paths, out, as_json)
    from acccmp.dumps.convert import convert as convert_files

    with _executor(jobs) as executor:
        result = convert_files(paths, out, to=to, layout=layout, dtype=dtype, executor=executor)
    if as_json:
        _print_json({
            "written": [str(path) for path in result.written],
            "failed": {failure.path: failure.reason for failure in result.failed},
            "infinite": result.infinite, "subnormal": result.subnormal, "notes": list(result.notes),
        })
    else:
        click.echo(f"{len(result.written)} files in {out}")
        for note in result.notes:
            click.echo(f"note: {note}")
        for failure in result.failed:
            click.echo(f"failed: {_one_line(f'{failure.path}: {failure.reason}')}", err=True)
    if not result.written:
        return COULD_NOT
    return NOT_PASSED if result.failed else PASSED


def _freeze(paths: Sequence[str], out: str, as_json: bool) -> int:
    from acccmp.jobs.sources import load_original
    from acccmp.runners.tensorflow import freeze

    graphs = [load_original(path) for path in paths]
    for path, graph in zip(paths, graphs, strict=True):
        if graph.format != "tensorflow":
            raise InputError(f"{path} is a model of {graph.format}; --to pb freezes SavedModels of TensorFlow")
    Path(out).mkdir(parents=True, exist_ok=True)
    stems = [Path(path).resolve().name.removesuffix(".pb") for path in paths]
    made = [freeze(graph, Path(out) / f"{stem}.pb") for graph, stem in zip(graphs, stems, strict=True)]
    if as_json:
        _print_json({"written": [str(path) for path in made]})
    else:
        click.echo("\n".join(str(path) for path in made))
    return PASSED


# -- emulate -----------------------------------------------------------------------------------------------------


@cli.command(short_help="dumps of an emulated device, healthy or with a planted fault")
@click.argument("model", type=click.Path())
@input_option
@click.option("--precision", type=click.Choice(["float16", "bfloat16"]), default="float16", show_default=True)
@click.option(
    "--overflow", type=click.Choice(["keep", "saturate"]), default="keep", show_default=True,
    help="keep Inf and NaN, or turn them into +-65504 and 0 as some chips do.",
)
@click.option("--flush-subnormals", is_flag=True, help="Subnormal numbers become 0.")
@click.option("--fault", "faults", multiple=True, metavar="op=NAME,kind=KIND[,factor=F]", help="Plant a fault.")
@click.option("--dump-mode", type=click.Choice(["all", "output"]), default="all", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random inputs, where no --input is given.")
@click.option("--out", "-o", required=True, type=click.Path())
@json_option
def emulate(
    model: str, inputs: dict[str, str], precision: str, overflow: str, flush_subnormals: bool, faults: tuple[str, ...],
    dump_mode: str, seed: int, out: str, as_json: bool,
) -> int:
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
    from acccmp.jobs.sources import load_original

    graph = load_original(model)
    feeds = given_inputs(graph, inputs) if inputs else random_inputs(graph, seed)
    made = emulate_device(
        graph, feeds, out, precision=precision, overflow=overflow, flush_subnormals=flush_subnormals,
        faults=tuple(Fault.parse(text) for text in faults), dump_mode=dump_mode,
    )
    if as_json:
        _print_json({"dump": str(made.dump), "mapping": str(made.mapping)})
    else:
        click.echo(f"emulated device dump in {made.dump}\nmapping in {made.mapping}")
        if not inputs:
            click.echo(f"note: fed with random inputs (seed {seed})")
    return PASSED


# -- slice -------------------------------------------------------------------------------------------------------


@cli.command("slice", short_help="cut start..end out of a model, with the device's tensors at its entrance")
@click.argument("model", type=click.Path())
@click.option("--start", "-s", multiple=True, help="Node or tensor where the slice begins; may be given several times.")
@click.option("--end", "-e", multiple=True, help="Node or tensor where it ends; may be given several times.")
@click.option("--around", help="Instead: everything within --radius steps of this node.")
@click.option("--radius", type=click.IntRange(0), default=1, show_default=True)
@weights_option
@click.option("--dump", "-d", type=click.Path(), help="What the device dumped: the slice's inputs are taken from it.")
@mapping_option
@click.option("--golden", "-g", type=click.Path(), help="A golden dump of the full model, for the self-test.")
@input_option
@click.option("--widen", is_flag=True, help="Where an input was not dumped, begin at the next tensors that were.")
@click.option("--exact", is_flag=True, help="Refuse to grow to the border of a fused device op.")
@click.option("--all-outputs", is_flag=True, help="Every tensor that leaves the region is an output.")
@click.option("--dtype", default="float16", show_default=True, help="What the raw .bin inputs are stored as.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random inputs, where no others are found.")
@click.option("--no-check", is_flag=True, help="Leave the self-test out.")
@click.option("--zip", "zipped", is_flag=True, help="Make one .zip as well.")
@click.option("--out", "-o", type=click.Path(), help="Where the folder dump_result_<time> is written; by default here.")
@runner_option
@run_options
@json_option
def slice_command(model: str, **options: Any) -> int:
    """Cut a stretch out of MODEL, closed, with its weights and its dumped inputs, and prove that it is right.

    \b
    Example:
      acccmp slice model.onnx --start conv3 --end relu5 --dump npu_dump/ --mapping model.json -o handover/
    """
    from acccmp.jobs.slice import export_slice, slice_model
    from acccmp.jobs.sources import Options

    part = slice_model(
        model, options["start"], options["end"], dump=options["dump"], mapping=options["mapping"],
        weights=options["weights"], around=options["around"], radius=options["radius"], widen=options["widen"],
        exact=options["exact"], all_outputs=options["all_outputs"], inputs=options["inputs"] or None,
        options=Options(
            run=options["run_name"], device=options["device"], npu_model=options["npu_model"], step=options["step"],
        ),
    )
    bundle = export_slice(
        part, options["out"], golden=options["golden"], inputs=options["inputs"] or None, seed=options["seed"],
        dtype=options["dtype"], zip=options["zipped"], check=not options["no_check"], runner=options["runner"],
    )
    if options["as_json"]:
        _print_json({"folder": str(bundle.path), "zip": str(bundle.zip) if bundle.zip else None, **bundle.manifest})
    else:
        from acccmp.ui.screens import slice_screen

        _show(slice_screen(part, bundle))
    return PASSED if bundle.passed else NOT_PASSED


# -- check -------------------------------------------------------------------------------------------------------


def _cases(_: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """NAME=GOLDEN,NPU options as a dict."""
    found: dict[str, tuple[str, str]] = {}
    for text in given:
        name, equals, pair = text.partition("=")
        golden, comma, npu = pair.partition(",")
        if not (name and equals and golden and comma and npu):
            raise click.BadParameter(f"{text!r} should read NAME=GOLDEN,NPU")
        if name in found:
            raise click.BadParameter(f"the case {name!r} is given twice")
        found[name] = (golden, npu)
    return found


@cli.command(short_help="for pipelines: compare, then judge against a stored baseline")
@click.argument("golden", type=click.Path(), required=False)
@click.argument("npu", type=click.Path(), required=False)
@click.option("--case", "cases", multiple=True, callback=_cases, metavar="NAME=GOLDEN,NPU", help="One of many inputs.")
@click.option("--baseline", "-b", required=True, type=click.Path(), help="The baseline file.")
@click.option("--update", is_flag=True, help="Rewrite the baseline with this result, and print the change.")
@click.option("--accept", multiple=True, metavar="PORT", help="Store this port as accepted although beyond its limits.")
@mapping_option
@click.option("--model", type=click.Path(), help="The original model, when GOLDEN is a dump folder (for floors).")
@weights_option
@click.option("--thresholds", help="default, vendor, or a TOML file with limits by op type, name or dtype.")
@click.option("--min-coverage", type=click.FloatRange(0, 1), default=0.9, show_default=True)
@click.option("--junit", type=click.Path(), help="Write JUnit XML here.")
@click.option("--sarif", type=click.Path(), help="Write SARIF here.")
@click.option("--markdown", type=click.Path(), help="Write a summary for a pull request here.")
@click.option("--out", "-o", type=click.Path(), help="Write the reports of all cases into this folder.")
@click.option("--history", type=click.Path(), help="Keep the result in this history file, too (needs --release).")
@click.option("--release", default="", help="Name of this release in the history.")
@run_options
@jobs_option
@json_option
def check(golden: str | None, npu: str | None, **options: Any) -> int:
    """Compare GOLDEN with NPU and judge the result against its limits and against the last good release.

    \b
    Example:
      acccmp check model.onnx npu_dump/ --mapping model.json --baseline model.baseline --junit junit.xml
    """
    from acccmp.jobs.compare import compare as compare_runs
    from acccmp.jobs.sources import Options
    from acccmp.releases import baseline, drift

    cases = dict(options["cases"])
    if (golden is None) != (npu is None) or (golden is None) == (not cases):
        raise InputError("check wants GOLDEN NPU, or --case NAME=GOLDEN,NPU (once for each input)")
    if golden is not None and npu is not None:
        cases = {"default": (golden, npu)}
    if options["history"] and not options["release"]:
        raise InputError("--history keeps this result under a name: add --release NAME")
    if options["update"]:
        known, lost = baseline.read_to_replace(options["baseline"])
    else:
        known, lost = baseline.read(options["baseline"]), ""
    thresholds = _thresholds(options["thresholds"])
    reports = {}
    with _executor(options["jobs"]) as executor:
        for name, (left, right) in cases.items():
            with _progress(f"comparing {name}") as progress:
                reports[name] = compare_runs(
                    left, right, mapping=options["mapping"], model=options["model"], weights=options["weights"],
                    thresholds=thresholds,
                    options=Options(
                        run=options["run_name"], device=options["device"], npu_model=options["npu_model"],
                        step=options["step"], min_coverage=options["min_coverage"], executor=executor,
                        progress=progress,
                    ),
                )
    model = next((r.subject["model"] for r in reports.values() if "model" in r.subject), "")
    checked = drift.check(reports, known, model=model, accept=options["accept"])
    _write_pipeline_files(checked, options)
    if options["history"]:
        from acccmp.releases import history as past

        past.add(options["history"], reports, release=options["release"], model=model)
    written = _write_baseline(checked, options, model, lost)
    _show_check(checked, options, written)
    settled = written and options["update"] and checked.exit_code == NOT_PASSED and checked.only_drifts
    return PASSED if settled else checked.exit_code


def _write_baseline(checked: Any, options: Mapping[str, Any], model: str, lost: str) -> str:
    """Rewrite the baseline as --update and --accept ask for, and say what changed in it; "" when it is left alone."""
    from acccmp.releases import baseline, drift

    if not options["update"] and not options["accept"]:
        return ""
    if not any(report.judged for report in checked.reports.values()):
        click.echo(f"acccmp: {_one_line(options['baseline'])} was left alone: nothing was compared", err=True)
        return ""
    new = drift.updated(checked, model) if options["update"] else drift.with_accepted(checked, options["accept"])
    baseline.write(new, options["baseline"])
    changed, added, removed = baseline.lines_changed(checked.baseline, new)
    if lost:
        click.echo(f"acccmp: the old baseline was given up: {_one_line(lost)}", err=True)
    how = "written" if checked.baseline is None else "rewritten"
    return f"{options['baseline']} was {how}: {changed} lines changed, {added} new, {removed} gone"


def _write_pipeline_files(checked: Any, options: Mapping[str, Any]) -> None:
    from acccmp.reports import ci

    changes = _ci_changes(checked)
    forms: dict[str, Callable[[], str]] = {
        "junit": lambda: ci.junit(checked.reports, changes), "sarif": lambda: ci.sarif(checked.reports, changes),
        "markdown": lambda: ci.markdown(checked.reports, changes),
    }
    for name, form in forms.items():
        if options[name]:
            Path(options[name]).parent.mkdir(parents=True, exist_ok=True)
            _write(Path(options[name]), form())
    if options["out"]:
        taken: set[str] = set()
        for case, report in checked.reports.items():
            write_report(report, Path(options["out"]) / _case_folder(case, taken))


def _case_folder(case: str, taken: set[str]) -> str:
    """A folder name of plain characters for a case; other cases that read the same get a number."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in case)[:80] or "case"
    name = next(n for n in (plain, *(f"{plain}-{i}" for i in range(2, 100_000))) if n.lower() not in taken)
    taken.add(name.lower())
    return name


def _ci_changes(checked: Any) -> Any:
    from acccmp.reports import ci

    return ci.Changes(
        new=checked.drifts, fixed=checked.improvements, unchanged=checked.unchanged, accepted=checked.accepted,
    )


def _show_check(checked: Any, options: Mapping[str, Any], written: str) -> None:
    if options["as_json"]:
        from acccmp.releases.drift import spread

        _print_json({
            "schema": "acccmp.check/1", "passed": checked.passed, "exit_code": checked.exit_code,
            "method": checked.method, "failures": list(checked.failures), "accepted": list(checked.accepted),
            "unchanged": checked.unchanged, "baseline": written,
            "spread": [_finite({**vars(row), "ratio": row.ratio}) for row in spread(checked.reports)],
            "changes": [_finite(vars(change)) for change in checked.changes],
        })
        return
    from acccmp.ui.screens import check_screen

    _show(check_screen(checked, str(options["baseline"]), written))


def _finite(facts: Mapping[str, Any]) -> dict[str, Any]:
    """For JSON, which has neither NaN (null) nor infinity (the text "inf")."""
    def plain(value: Any) -> Any:
        if not isinstance(value, float) or math.isfinite(value):
            return value
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"

    return {key: plain(value) for key, value in facts.items()}


# -- history -----------------------------------------------------------------------------------------------------


@cli.group(short_help="drift of layers over releases")
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
    """Keep reports (report.json files of `acccmp compare -o`) as one release."""
    from acccmp.releases import history as past
    from acccmp.reports import report_json

    names = [case if len(reports) == 1 else f"{case} {number}" for number in range(1, len(reports) + 1)]
    kept = {
        name: report_json.from_json(Path(report).read_bytes())
        for name, report in zip(names, reports, strict=True)
    }
    model = next((r.subject["model"] for r in kept.values() if "model" in r.subject), "")
    past.add(file, kept, release=release, model=model)
    what = "1 report" if len(kept) == 1 else f"{len(kept)} reports"
    click.echo(_one_line(f"{what} kept as {release} in {file}"))
    return PASSED


@history.command("show")
@click.argument("file", type=click.Path())
@click.argument("port", required=False)
@click.option("--plot", "plotted", type=click.Path(), help="Draw the port's error over releases into this file.")
@json_option
def history_show(file: str, port: str | None, plotted: str | None, as_json: bool) -> int:
    """Show the releases in FILE and what jumped in the newest, or one PORT over all of them."""
    from acccmp.releases import history as past
    from acccmp.ui.screens import history_screen, series_screen

    if port is None:
        if plotted:
            raise InputError("--plot draws one port: acccmp history show FILE PORT --plot OUT.png")
        listed, jumped = past.runs(file), past.latest_jumps(file)
        if as_json:
            _print_json({"runs": [_finite(vars(run)) for run in listed], "jumped": [point.port for point in jumped]})
        else:
            _show(history_screen(file, listed, jumped))
        return PASSED
    points = past.series(file, port)
    if plotted:
        from acccmp.reports.plots import plot_series

        rows = [(p.run.release, p.run.case, p.error, p.limit, p.jumped) for p in points]
        _save_figure(plot_series(port, rows), Path(plotted))
    if as_json:
        numbers = ("verdict", "error", "limit", "floor", "jumped")
        _print_json([{**_finite(vars(p.run)), **_finite({n: getattr(p, n) for n in numbers})} for p in points])
    else:
        _show(series_screen(port, points))
    return PASSED


def _save_figure(figure: Any, target: Path) -> None:
    """Write a picture whole or not at all. Raises InputError for an ending that is no kind of picture."""
    kinds = figure.canvas.get_supported_filetypes()
    if target.suffix[1:].lower() not in kinds:
        raise InputError(f"--plot {target}: wanted a name that ends in .png, .svg or .pdf")
    part = target.with_name(f".{target.stem}.part{target.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(part, bbox_inches="tight")
    os.replace(part, target)


@history.command("export")
@click.argument("file", type=click.Path())
@click.option("--csv", "target", type=click.Path(), help="Write here instead of to the standard output.")
def history_export(file: str, target: str | None) -> int:
    """Print everything in FILE as CSV."""
    from acccmp.releases import history as past

    text = past.to_csv(file)
    if target:
        _write(Path(target), text)
    else:
        click.echo(text, nl=False)
    return PASSED
