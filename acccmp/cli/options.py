"""The options that commands share, in typed groups: a field of a group is an option of the command line.

    @click.command()
    @takes(choice=RunChoice, judging=Judging)
    def compare(choice: RunChoice, judging: Judging) -> int: ...
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import click

Command = Callable[..., Any]


def takes(**groups: type) -> Callable[[Command], Command]:
    """Give a command the options of these groups; it gets each group, built, under its keyword."""
    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(**given: Any) -> Any:
            made = {
                keyword: group(**{field.name: given.pop(field.name) for field in fields(group)})
                for keyword, group in groups.items()
            }
            return command(**given, **made)

        options = [field.metadata["option"] for group in groups.values() for field in fields(group)]
        wrapped: Command = call
        for option in reversed(options):  # decorators apply from below; --help lists them from above
            wrapped = option(wrapped)
        return wrapped

    return decorate


def by(option: Callable[[Command], Command]) -> Any:
    """A field of a group that this option fills; click must call the parameter as the field is called."""
    return field(metadata={"option": option})


# -- options that stand in more than one group or command --------------------------------------------------------


def _files(_: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """NAME=FILE options as a dict. A name may hold '=' as long as the file name does not."""
    found = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value:
            raise click.BadParameter(f"{text!r} should read NAME=FILE")
        found[name] = value
    return found


INPUTS = click.option(
    "--input", "-i", "inputs", multiple=True, callback=_files, metavar="NAME=FILE",
    help="What an input of the model is fed with: .npy, .npz, raw .bin or an image. Once for each input.",
)
WEIGHTS = click.option(
    "--weights", "-w", type=click.Path(),
    help="The caffemodel that belongs to a prototxt; by default the only one beside it that fits.",
)
MAPPING = click.option(
    "--mapping", "-m", type=click.Path(),
    help="The device's model: the .om, its JSON (atc --mode=1) or ge_*_Build.pbtxt.",
)
RUNNER = click.option("--runner", help="What runs the original model; by default chosen by its format.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of tables.")
JOBS = click.option("--jobs", "-j", type=click.IntRange(1), default=None, help="Threads to compare with.")


# -- groups ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunChoice:
    """One run out of a tree of device dumps."""

    run: str | None = by(click.option(
        "--run", help="The run (time folder) to take; by default the newest complete one.",
    ))
    device: str | None = by(click.option("--device", help="The device id to take out of a dump tree."))
    npu_model: str | None = by(click.option("--npu-model", help="The model (name or id) to take out of a dump tree."))
    step: str | None = by(click.option("--step", help="The iteration to take out of a dump tree."))


@dataclass(frozen=True)
class Original:
    """How the original model is run."""

    weights: str | None = by(WEIGHTS)
    inputs: Mapping[str, str] = by(INPUTS)
    runner: str | None = by(RUNNER)


@dataclass(frozen=True)
class Pairing:
    """Which tensor of the device stands for which of the original, and how much of it counts."""

    mapping: str | None = by(MAPPING)
    mapping_unfused: str | None = by(click.option(
        "--mapping-unfused", type=click.Path(), help="The JSON of the same model compiled with fusion off.",
    ))
    quant_rule: str | None = by(click.option(
        "--quant-rule", type=click.Path(), help="A quantisation rule JSON (AMCT) that refines the mapping.",
    ))
    model: str | None = by(click.option(
        "--model", type=click.Path(), help="The original model, when GOLDEN is a dump folder (for floors).",
    ))
    valid: tuple[str, ...] = by(click.option(
        "--valid", multiple=True, metavar="NAME=AXIS:N", help="Only the first N along an axis count (padding).",
    ))


@dataclass(frozen=True)
class Judging:
    """What is a match, and what a pass."""

    thresholds: str | None = by(click.option(
        "--thresholds", help="default, vendor, or a TOML file with limits by op type, name or dtype.",
    ))
    min_coverage: float = by(click.option(
        "--min-coverage", type=click.FloatRange(0, 1), default=0.9, show_default=True,
    ))
    strict: bool = by(click.option("--strict", is_flag=True, help="Inner layers that drift fail the comparison too."))
    floor: bool = by(click.option(
        "--floor/--no-floor", default=True, help="Emulate the NPU's dtype to know what rounding alone explains.",
    ))
    flush_subnormals: bool | None = by(click.option(
        "--flush-subnormals/--keep-subnormals", default=None,
        help="Does the chip turn subnormals into 0? So do the floors then. By default the dump tells.",
    ))
