"""Kinds of files: one row each, models and dumps alike. A row is all that `load`, `read_dump`, `inspect`, `run`,
`slice` and the screens know of a kind; a new one is a row here and its functions, or a row of another package.

Another package adds rows through entry points of the group `acccmp.kinds` (each names a `Kind`) and runners through
`acccmp.runners` (see `acccmp.runners.runner`); docs/plugins.md is an example of both. Their rows are asked first, so
that they can tell apart what ours do not; a name of ours cannot be taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from acccmp import plugins
from acccmp.errors import InputError

Role = Literal["original", "device", "parts", "dump", "slice", "record", "unread"]


@dataclass(frozen=True)
class Kind:
    """What is known of one kind of file. Functions are "module:name" and imported when they are first called.

    - `role`: `original` (a model that can be run, cut or shown here), `device` (a compiled model: a mapping), `parts`
      (of a model: weights, a description), `dump`, `slice`, `record` (what acccmp wrote of comparisons), or `unread`:
      known, and refused with what to give instead.
    - `sniff(evidence) -> str` (`acccmp.core.identify.Evidence`): what it is in words with an article, "" if it is of
      another kind. Looks at a few bytes and never raises for what they are.
    - `load`: a dump's `(path, choice) -> Dump` (`acccmp.dumps.tree.Choice`), else `(path, weights=None) -> Graph`.
    - `suffixes`: how the names of such files usually end. Only told where no bytes are looked at.
    - `save(graph, folder, stem) -> list[Path]`: the files of a Graph of this format, its model's first.
    - `describe(path) -> dict`: JSON-able facts, where a reader knows more than a Graph or a Dump says.
    - `runner`: the runner for such models, by its name.
    - `weights`: the kind of the file that may be given beside it as its weights.
    """

    name: str
    words: str
    role: Role
    sniff: str
    load: str = ""
    suffixes: tuple[str, ...] = ()
    save: str = ""
    describe: str = ""
    runner: str = ""
    weights: str = ""

    def function(self, of: Literal["sniff", "load", "save", "describe"]) -> Callable[..., Any]:
        """One of its functions. InputError where this kind has none."""
        where: str = getattr(self, of)
        if not where:
            raise InputError(f"{self.words} has no way to {of} it here")
        found: Callable[..., Any] = plugins.attribute(where)
        return found


# In the order in which they are asked: bytes before names, and what takes any folder last.
KINDS = (
    Kind("slice", "a slice of a model", "slice", "acccmp.slicing.sniff:written_slice", "acccmp.slicing.bundle:load",
         describe="acccmp.jobs.inspect:slice_facts"),
    Kind("report", "a report of acccmp", "record", "acccmp.reports.sniff:report",
         describe="acccmp.jobs.inspect:report_facts"),
    Kind("baseline", "a baseline of acccmp", "record", "acccmp.reports.sniff:baseline",
         describe="acccmp.jobs.inspect:baseline_facts"),
    Kind("history", "a history of acccmp", "record", "acccmp.reports.sniff:history",
         describe="acccmp.jobs.inspect:history_facts"),
    Kind("om", "an Ascend device model", "device", "acccmp.models.sniff:om", "acccmp.models.om:load", (".om",),
         describe="acccmp.models.om:describe"),
    Kind("atc_json", "a device model as JSON (ATC)", "device", "acccmp.models.sniff:atc_json",
         "acccmp.models.atc_json:load", (".json",)),
    Kind("build_pbtxt", "a device build graph", "device", "acccmp.models.sniff:build_pbtxt",
         "acccmp.models.build_pbtxt:load", (".pbtxt", ".txt")),
    Kind("ckpt", "a MindSpore checkpoint", "parts", "acccmp.models.sniff:ckpt",
         "acccmp.models.mindspore:load_checkpoint", (".ckpt",), describe="acccmp.models.mindspore:describe_checkpoint"),
    Kind("onnx", "an ONNX model", "original", "acccmp.models.sniff:onnx", "acccmp.models.onnx:load", (".onnx",),
         "acccmp.models.onnx:save", runner="onnxruntime"),
    Kind("mindir", "a MindSpore model", "original", "acccmp.models.sniff:mindir", "acccmp.models.mindspore:load",
         (".mindir",), describe="acccmp.models.mindspore:describe"),
    Kind("tensorflow", "a TensorFlow model", "original", "acccmp.models.sniff:tensorflow",
         "acccmp.models.tensorflow:load", (".pb", ".pbtxt"), "acccmp.models.tensorflow:save", runner="tensorflow"),
    Kind("caffe", "a Caffe model", "original", "acccmp.models.sniff:caffe", "acccmp.models.caffe:load",
         (".prototxt", ".caffemodel"), "acccmp.models.caffe:save", runner="opencv", weights="caffe"),
    Kind("cambricon", "a Cambricon model description", "parts", "acccmp.models.sniff:cambricon",
         "acccmp.models.cambricon:load", (".cambricon_twins", ".cambricon"),
         describe="acccmp.models.cambricon:describe"),
    Kind("golden", "a golden dump", "dump", "acccmp.dumps.sniff:golden", "acccmp.dumps.read:golden"),
    Kind("msprobe", "a dump of msprobe", "dump", "acccmp.dumps.sniff:msprobe", "acccmp.dumps.msprobe:load"),
    Kind("mindspore_dump", "a dump of MindSpore", "dump", "acccmp.dumps.sniff:mindspore",
         "acccmp.dumps.read:mindspore"),
    Kind("npz", "an npz archive of arrays", "dump", "acccmp.dumps.sniff:npz", "acccmp.dumps.read:npz", (".npz",)),
    Kind("ascend", "a device dump", "dump", "acccmp.dumps.sniff:ascend_dump", "acccmp.dumps.read:ascend_dump"),
    Kind("array", "an array", "dump", "acccmp.dumps.sniff:array", "acccmp.dumps.read:one_array",
         (".npy", ".bin", ".txt")),
    Kind("unread", "a file of another kind", "unread", "acccmp.models.sniff:unread",
         suffixes=(".air", ".tflite", ".pth", ".h5")),
)

# What can run an original here: name -> where it is (see `acccmp.runners.runner.Runner`).
RUNNERS = {
    "onnxruntime": "acccmp.runners.onnxruntime",
    "opencv": "acccmp.runners.opencv",
    "tensorflow": "acccmp.runners.tensorflow",
    "command": "acccmp.runners.command:Command",
}


_ROWS = plugins.Rows("kinds", Kind, KINDS)


def all_kinds() -> tuple[Kind, ...]:
    """Every row in the order in which they are asked, those of other packages first."""
    return (*_ROWS.others.values(), *KINDS)


def find_kind(name: str) -> Kind:
    """The row of this name. Raises InputError when there is none."""
    if name not in _ROWS.all:
        raise InputError(f"no kind of file named {name!r}; there are: {', '.join(row.name for row in all_kinds())}")
    return _ROWS.all[name]


def suffixes(*roles: Role) -> tuple[str, ...]:
    """How the names of the files of these roles end."""
    return tuple(dict.fromkeys(end for row in all_kinds() if row.role in roles for end in row.suffixes))
