"""Words for the people who get a slice: the command that converts it, what was done, what the folder holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from acccmp.core.graph import Compiled, Graph, Node
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.caffe_shapes import weight_shapes
from acccmp.slicing.cut import Slice
from acccmp.slicing.manifest import DumpFile, Input, Manifest, SelfTest

# Number of the framework on ATC's command line.
FRAMEWORK = {"caffe": 0, "tensorflow": 3, "onnx": 5}


def _quoted(text: str) -> str:
    """A word for a shell's command line, in double quotes."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", "".join(c if c.isprintable() else "?" for c in text)) + '"'


def is_plain(name: str) -> bool:
    """Can ATC's command line name an input so? `;` and `:` part its lists."""
    return re.fullmatch(r"[A-Za-z0-9_./\\>-]+", name) is not None


def why_not_converted(part: Slice, inputs: Iterable[Input], self_test: SelfTest) -> str:
    """Why this slice must not or cannot be converted for the device; "" if it can."""
    if part.graph.format not in FRAMEWORK:
        return f"ATC takes no model of format {part.graph.format!r}"
    bare = [node.name for node in part.graph.nodes if part.graph.format == "caffe" and _lacks_weights(part.graph, node)]
    if bare:
        more = f" and {len(bare) - 3} more" if len(bare) > 3 else ""
        return f"there are no weights for {', '.join(bare[:3])}{more}: give the caffemodel too (--weights FILE)"
    odd = next((end.layer for end in inputs if not is_plain(end.layer)), None)
    if odd is not None:
        return f"ATC's command line cannot name its input {odd!r}"
    return "its self-test does not hold" if self_test.status == "FAILED" else ""


def _lacks_weights(graph: Graph, node: Node) -> bool:
    due = weight_shapes(node.op_type, node.attrs, [graph.spec(tensor).shape for tensor in node.inputs])
    return bool(due) and not any(name in graph.weights for name in node.weights)


def atc_command(part: Slice, inputs: Iterable[Input]) -> str:
    """The conversion command line for this slice. `--input_fp16_nodes` is there exactly when the bins are fp16."""
    kind = part.graph.format
    words = ["atc", f"--framework={FRAMEWORK[kind]}"]
    words += {
        "onnx": ["--model=dump.onnx"], "tensorflow": ["--model=dump.pb"],
        "caffe": ["--model=dump.prototxt", *(["--weight=dump.caffemodel"] if part.graph.weights else [])],
    }[kind]
    words.append("--output=dump")
    shapes, narrow = [], []
    for end in inputs:  # Caffe's and TensorFlow's inputs go by the layer's name there, not by the tensor's
        if end.shape:
            shapes.append(f"{end.layer}:{','.join(str(dim if isinstance(dim, int) else -1) for dim in end.shape)}")
        if end.bin is not None and end.bin.dtype == "float16":
            narrow.append(end.layer)
    if shapes:
        words.append("--input_shape=" + _quoted(";".join(shapes)))
    layouts = {end.layout for end in inputs if end.layout}
    words.append(f"--input_format={layouts.pop() if len(layouts) == 1 else 'ND'}")
    if narrow:
        words.append("--input_fp16_nodes=" + _quoted(";".join(narrow)))
    if kind == "tensorflow":
        words.append("--out_nodes=" + _quoted(";".join(part.graph.outputs)))
    words.append(f"--soc_version={_chip(part.mapping) or 'YOUR_CHIP'}")
    return " ".join(words)


def _chip(mapping: DeviceMap | None) -> str:
    """The chip that the full model was compiled for, as the mapping tells it; "" where it does not."""
    told = mapping.graph.compiled if mapping is not None else Compiled()
    found = re.search(r"--soc_version[= ]\"?(Ascend\w+)", f"--soc_version={told.soc} {told.command}")
    return found[1] if found else ""


def engineers_log(
    part: Slice, copied: Iterable[DumpFile], model_files: Iterable[Path], inputs: Iterable[Input],
) -> list[str]:
    """What was done, in the words of the vendor's world; see `log.txt` of a bundle."""
    lines = list(part.log)
    counted: dict[str, int] = {}
    made_inside = {tensor for node in part.graph.nodes for tensor in node.outputs}
    for end in inputs:
        if end.tensor in made_inside:
            continue  # the model's own input layer
        readers = part.graph.consumers(end.tensor)
        first = readers[0].node if readers else end.tensor
        number = counted.get(first, 0)
        counted[first] = number + 1
        called = end.layer if part.graph.format == "caffe" and end.layer != end.name else f"{first}_input_{number}"
        dims = " ".join(f"dim: {dim}" for dim in end.shape or ())
        lines.append(
            f"added input layer: layer {{ name: {json.dumps(called)} type: \"Input\" "
            f"top: {json.dumps(end.name)} input_param {{ shape {{ {dims} }} }} }}"
        )
    if part.dump is not None:
        lines.append(f"dump data path: {part.dump.path}")
    by_op: dict[str, list[str]] = {}
    for file in copied:
        by_op.setdefault(file.op, []).append(file.file)
    for op in (*part.feeding_ops, *part.device_ops):
        answers = op
        if part.mapping is not None and (node := part.mapping.node(op)) is not None:
            answers = ", ".join(part.mapping.originals(node))
        named = ", ".join(by_op.get(op, ["not dumped"]))
        answers = answers or "no original layer"
        lines.append(f"device op {op} answers {answers}; output file: {named}; input file: {named}")
    lines += [f"{end.tensor} is the input {end.name} of the sub-model" for end in inputs if end.name != end.tensor]
    lines += [f"{tensor}: input taken from {at}" for tensor, at in part.taken_from.items()]
    layers = [node.name for node in part.graph.nodes if node.name not in part.whole.constants]
    lines.append("exported layers: " + ", ".join(layers))
    lines.append("sub-model: " + ", ".join(Path(path).name for path in model_files))
    return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]


def acl_json() -> dict[str, Any]:
    return {
        "dump": {
            "dump_list": [{"model_name": "dump"}], "dump_path": "./npu_dump", "dump_mode": "all",
            "dump_op_switch": "off",
        }
    }


def readme(part: Slice, manifest: Manifest) -> str:
    bins = ",".join(f"inputs/{Path(end.bin.file).name}" for end in manifest.inputs if end.bin is not None)
    cut_away = not set(part.graph.inputs) & set(part.whole.inputs)
    casts = [
        f"  {end.tensor}: the cast to {end.bin.dtype} made {end.bin.inf} Inf and {end.bin.subnormal} subnormals"
        for end in manifest.inputs if end.bin is not None and (end.bin.inf or end.bin.subnormal)
    ]
    test, device = manifest.self_test, manifest.device
    lines = [
        f"A slice of {part.whole.name}: {', '.join(part.start)} .. {', '.join(part.end)}",
        "",
        f"  {len(manifest.slice.layers)} layers, inputs {', '.join(part.graph.inputs) or 'none'}, "
        f"outputs {', '.join(part.graph.outputs)}",
        f"  self-test: {test.status}" + (f" ({test.reason})" if test.reason else ""),
        f"  device: {device.status}" + (f" ({device.why})" if device.why else ""),
        *(f"    {row.port} is {row.verdict}: {row.told}" for row in device.outputs if row.is_bad),
        f"  golden tensors from: {manifest.golden_from or 'nowhere'}",
        *casts,
        "",
    ]
    if manifest.no_atc:
        lines.append(f"It cannot be converted for the device: {manifest.no_atc}.")
    else:
        lines += [
            "Convert it for the device" + (" (no AIPP: the data layer is cut away):" if cut_away else ":"),
            f"  {manifest.atc}",
            "",
            "Run it there, dumping every layer:",
            f"  python3 -m ais_bench --model dump.om --input {bins or 'YOUR_INPUTS.bin'} --acl_json_path acl.json",
            "",
            "Compare what it dumped:",
            "  acccmp compare . npu_dump/ --mapping dump.om",
        ]
    lines += [
        "",
        "Run it on this machine and compare (needs numpy and the original's framework, not acccmp):",
        "  python3 reproduce.py",
        "Both give exit code 0 when the self-test holds and the device agrees, 1 when the self-test holds and the",
        "device differs, 2 otherwise.",
        "",
        "inputs/NN_name.npy: the model's own layout and dtype; .bin: what the device is fed with;",
        "  .dumped.bin: the bytes as dumped; .golden.npy: what the original had there.",
        "expected/golden, expected/npu: what the original and the device gave at the end of this stretch.",
        "dump_data/: the device's dump files of this stretch. manifest.json: shapes, dtypes, bytes and SHA-256 of all.",
    ]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines) + "\n"
