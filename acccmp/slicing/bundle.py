"""The bundle: a Slice as a folder (or zip) that can be handed over: the sub-model, its inputs in every form that the
next tool needs, what it should give, the device's own dump files, and a script that runs it alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from acccmp.core import reading
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.identify import Evidence
from acccmp.core.tensor import DTYPES, Array, DType, decode, dtype_of, encode
from acccmp.core.writing import replacing, together, write_bytes, write_texts
from acccmp.dumps.arrays import sha256, write_golden, write_npy
from acccmp.dumps.names import MAPPING_FILE, parse_device
from acccmp.errors import FormatError, InputError
from acccmp.kinds import find_kind
from acccmp.mapping.reading import dequantised
from acccmp.mapping.trace import Trace
from acccmp.models.load import load as load_model
from acccmp.slicing.cut import Slice

SCHEMA = "acccmp.slice/1"  # version of manifest.json
FORMS = ("npy", "bin", "dumped", "golden")  # files of one input
MOST_MANIFEST = 64 << 20  # bytes; a larger manifest.json is none of ours

# Number of the framework on ATC's command line, and how the sub-model is named there.
FRAMEWORK = {"caffe": 0, "tensorflow": 3, "onnx": 5}


@dataclass(frozen=True)
class Bundle:
    """A written slice: where it is, what its manifest says, and the zip if one was asked for."""

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)
    zip: Path | None = None

    @property
    def passed(self) -> bool:
        """False only when the self-test ran and failed."""
        return str(self.manifest.get("check", {}).get("status", "skipped")) != "FAILED"


def result_name(when: datetime) -> str:
    """`dump_result_YYYY_MM_DD_HH_MM_SS`."""
    return f"dump_result_{when:%Y_%m_%d_%H_%M_%S}"


def file_name(order: int, name: str) -> str:
    """A file name for a tensor: its place, its name with anything but letters, digits, '_' and '-' replaced, and a
    hash where that lost something. At most 100 characters; never a path."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if plain != name or len(plain) > 80:
        plain = f"{plain[:72]}_{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return f"{order:02d}_{plain}"


def save_slice(
    part: Slice,
    folder: str | Path | None = None,
    *,
    dtype: str = "float16",
    zip: bool = False,
    check: Mapping[str, Any] | None = None,
    golden: Dump | None = None,
    golden_from: str = "",
    when: datetime | None = None,
) -> Bundle:
    """Write a slice as `FOLDER/dump_result_<time>/` (in the current folder without one).

    `dtype` is what the raw `.bin` inputs are stored as; integers are never cast. `check` is the result of a self-test
    (see `acccmp.jobs.slice`), `golden` the full model's golden tensors inside the region, `golden_from` says what they
    were computed from. The folder appears whole or not at all. Raises InputError for an unknown dtype and for a folder
    that cannot be written (a full disk; nothing is left there then), FormatError when a dumped tensor turns out to be
    unreadable.
    """
    if dtype not in DTYPES or DTYPES[dtype].kind != "float":
        raise InputError(f"--dtype {dtype}: not a float type; there are float16, float32, bfloat16, ...")
    parent = Path(folder) if folder is not None else Path.cwd()
    when = when or datetime.now()
    target = _free(parent / result_name(when))
    packed = parent / f"{target.name}.zip" if zip else None
    with together() as result:
        work = result.folder(target)
        manifest = _write(part, work, DTYPES[dtype], dict(check or {}), golden or Dump({}), golden_from, when)
        if packed is not None:
            _zip(work, target.name, result.file(packed))
    return Bundle(target, manifest, packed)


def read_manifest(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a slice (given itself, or the folder that holds its newest `dump_result_*`) and its manifest.

    Raises InputError when there is none, FormatError when it is damaged.
    """
    root = Path(folder)
    found = [root] if (root / "manifest.json").is_file() else sorted(root.glob("dump_result_*"))
    for path in reversed(found):
        file = path / "manifest.json"
        if not file.is_file() or file.stat().st_size > MOST_MANIFEST:
            continue
        try:
            data = reading.parse_json(reading.read_bytes(file, MOST_MANIFEST, root), file)
        except FormatError as error:
            raise FormatError(f"{error}; write the slice again") from None
        if isinstance(data, dict) and data.get("schema") == SCHEMA:
            if not _is_whole(data):
                raise FormatError(f"{file}: lacks what a slice's manifest must say; write the slice again")
            return path, data
    raise InputError(f"{folder}: holds no slice (no manifest.json of {SCHEMA}); `acccmp slice` writes one")


def _is_whole(data: Mapping[str, Any]) -> bool:
    """Does a manifest have the parts that are read again, in the kinds that they should be of?"""
    part, inputs = data.get("slice"), data.get("inputs")
    if not isinstance(part, dict) or not isinstance(part.get("files"), list) or not isinstance(inputs, list):
        return False
    for entry in (*part["files"], *(entry[form] for entry in inputs if isinstance(entry, dict) for form in FORMS
                                    if form in entry)):
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
            return False
    for entry in inputs:
        try:
            Port.parse(entry["port"])
            shape = entry.get("shape") or []
            known = all(isinstance(dim, int | str | None) for dim in shape)
            dtype = entry.get("bin", {"dtype": "float16"})["dtype"]
        except (KeyError, TypeError, ValueError, AttributeError):
            return False
        if not known or dtype not in DTYPES or not isinstance(entry.get("name"), str):
            return False
    return True


def load(folder: str | Path, weights: object = None) -> Graph:
    """The sub-model in the folder of a slice. Raises InputError when there is none, FormatError when it is damaged."""
    path, manifest = read_manifest(folder)
    return _loaded(path / Path(str(facts["file"])).name for facts in manifest["slice"]["files"])


def _loaded(files: Iterable[Path]) -> Graph:
    """The model among these files, with its weights."""
    found = sorted(files, key=lambda path: path.suffix == ".caffemodel")
    if not found:
        raise FormatError("the manifest of the slice names no model file; write the slice again")
    return load_model(*found[:2])


def sniff(evidence: Evidence) -> str:
    """The folder of a slice, or one that holds such folders and no dumps beside them."""
    if not evidence.is_folder or (not evidence.has("manifest.json") and _holds_more(evidence.path)):
        return ""
    try:
        read_manifest(evidence.path)
    except FormatError:  # a damaged slice: whoever reads it says what is wrong
        return "the folder of a damaged slice" if evidence.has("reproduce.py") else ""
    except InputError:
        return ""
    return "the folder of a slice"


def _holds_more(folder: Path) -> bool:
    beside = [entry for entry in reading.listed(folder) if not entry.name.startswith("dump_result_")]
    return any(entry.is_folder or parse_device(entry.name) is not None for entry in beside)


def _free(path: Path) -> Path:
    """`path`, or `path_2`, ... if it exists: two slices in one second are two folders."""
    number, free = 1, path
    while free.exists() or free.with_name(f"{free.name}.zip").exists():
        number += 1
        free = path.with_name(f"{path.name}_{number}")
    return free


def _zip(folder: Path, name: str, file: BinaryIO) -> None:
    """The folder as a zip archive, in which it is called `name`."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
        for path in sorted(path for place, entries in reading.walked(folder, 8)
                           for path in (place / entry.name for entry in entries)):
            archive.write(path, Path(name) / path.relative_to(folder))


# -- what is written ---------------------------------------------------------------------------------------------


def _write(
    part: Slice, work: Path, dtype: DType, check: dict[str, Any], golden: Dump, golden_from: str, when: datetime,
) -> dict[str, Any]:
    model_files = [Path(path) for path in find_kind(part.graph.format).function("save")(part.graph, work, "dump")]
    names = _names_in_file(part.graph, model_files)
    inputs = [
        {"name": name, "layer": layer, **_write_input(part, order, tensor, work / "inputs", dtype, golden)}
        for order, (tensor, name, layer) in enumerate(names)
    ]
    outputs = [
        _write_expected(part, order, tensor, work / "expected", golden)
        for order, tensor in enumerate(part.graph.outputs)
    ]
    copied = _copy_dump_files(part, work / "dump_data")
    if len(golden):
        write_golden(
            work / "golden", ((port, ref.numpy()) for port, ref in golden.items()),
            {
                "model": _model_facts(part.whole), "inputs": {},
                "runner": {"name": golden.run.runner, "version": golden.run.version},
            },
        )
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "made": when.isoformat(timespec="seconds"),
        "model": _model_facts(part.whole),
        "slice": {
            "format": part.graph.format,
            "files": [_file_facts(path, work) for path in model_files],
            "start": list(part.start), "end": list(part.end),
            "layers": [node.name for node in part.graph.nodes if node.name not in part.whole.constants],
        },
        "inputs": inputs,
        "outputs": outputs,
        "golden_from": golden_from,
        "mapping": str(part.mapping.path or part.mapping.name) if part.mapping is not None else None,
        "device_ops": list(part.device_ops),
        "dump": str(part.dump.path) if part.dump is not None else None,
        "dump_data": copied,
        "atc": atc_command(part, dtype, inputs),
        "check": check or {"status": "skipped"},
        "log": engineers_log(part, copied, model_files, inputs),
    }
    texts = {
        "log.txt": "\n".join(manifest["log"]), "README.txt": _readme(part, manifest),
        "acl.json": json.dumps(_acl(), indent=1),
        "reproduce.py": files("acccmp.slicing").joinpath("reproduce.py.txt").read_text(encoding="utf-8"),
        "manifest.json": json.dumps(manifest, indent=1, ensure_ascii=True),
    }
    if manifest["check"].get("status") == "FAILED":
        texts["FAILED"] = str(manifest["check"].get("reason", ""))
    write_texts({work / name: text.removesuffix("\n") + "\n" for name, text in texts.items()})
    return manifest


def _names_in_file(graph: Graph, written: Iterable[Path]) -> list[tuple[str, str, str]]:
    """Each input (tensor, name, layer) in the order of the sub-model's file, which is that of the compiled model: what
    it is called there (Caffe's keep the blob's name, whatever its version), and the layer that makes it (an Input
    layer, a Placeholder; for ONNX the name again)."""
    again = _loaded(written)
    named = {tensor: tensor for tensor in graph.inputs}
    if graph.format == "caffe":
        from acccmp.models.caffe_writing import blob_names

        blobs = blob_names(graph)
        named = {tensor: blobs[tensor] for tensor in graph.inputs}
    tensors = {name: tensor for tensor, name in named.items()}
    if sorted(named.values()) != sorted(again.inputs):
        raise FormatError(f"{again.path}: has the inputs {again.inputs}, the slice {(*tensors,)}; please report this")
    made = {name: again.producer(name) for name in again.inputs}
    return [(tensors[name], name, port.node if port else name) for name, port in made.items()]


def _model_facts(graph: Graph) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": graph.name, "format": graph.format}
    if graph.path is not None:
        facts["path"] = str(graph.path)
        if graph.path.is_file():
            facts["sha256"] = sha256(graph.path)
    return facts


def _file_facts(path: Path, root: Path) -> dict[str, Any]:
    return {"file": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)}


def _write_input(
    part: Slice, order: int, tensor: str, folder: Path, dtype: DType, golden: Dump,
) -> dict[str, Any]:
    """One input of the slice: as dumped, as .npy in the model's layout and dtype, as .bin in `dtype`; and what the
    original had there (.golden.npy)."""
    port = part.input_port(tensor)
    spec = part.graph.spec(tensor)
    facts: dict[str, Any] = {
        "order": order, "tensor": tensor, "port": str(port), "layout": spec.layout,
        "shape": None if spec.shape is None else list(spec.shape), "dtype": spec.dtype.name if spec.dtype else None,
    }
    ref, original = part.inputs.get(port), golden.get(port) or part.golden.get(port)
    name = file_name(order, tensor)
    if original is not None:
        path = folder / f"{name}.golden.npy"
        write_npy(path, original.numpy())
        facts["golden"] = _file_facts(path, folder.parent)
    if ref is None:
        return facts
    at = part.taken_from.get(port)
    facts["taken_from"] = str(at) if at else None
    facts["dumped_file"] = Path(ref.path).name
    stored = folder / f"{name}.dumped.bin"
    write_bytes(stored, ref.raw())
    facts["dumped"] = {
        **_file_facts(stored, folder.parent), "dtype": ref.dtype.name, "layout": ref.layout, "shape": list(ref.shape),
    }
    array, quantised = dequantised(ref, spec, part.quantisation.get(port))
    facts.update(quantised)
    facts["shape"], facts["dtype"] = list(array.shape), str(array.dtype)
    npy = folder / f"{name}.npy"
    write_npy(npy, array)
    facts["npy"] = _file_facts(npy, folder.parent)
    raw, cast = to_bin(ref.numpy() if quantised else array, dtype, ref.dtype)
    path = folder / f"{name}.bin"
    write_bytes(path, raw)
    facts["bin"] = {**_file_facts(path, folder.parent), **cast}
    return facts


def to_bin(array: Array, dtype: DType, own: DType) -> tuple[bytes, dict[str, Any]]:
    """`array` as raw little-endian bytes: floats cast to `dtype`, everything else as it is. `own` is how the values
    were stored before (a float16 tensor that was widened loses nothing on the way back).

    The facts count what the cast made: `inf` (finite before, infinite after) and `subnormal` (non-zero before;
    subnormal or flushed to zero after).
    """
    if own.kind != "float":
        if array.dtype != own.numpy:  # an integer tensor of the device in the model's own integer type
            own = dtype_of(array.dtype)
        return encode(array, own), {"dtype": own.name, "inf": 0, "subnormal": 0}
    raw = encode(array, dtype)
    if dtype.name == own.name:
        return raw, {"dtype": dtype.name, "inf": 0, "subnormal": 0}
    wide = np.abs(array.astype(np.float64))
    after = np.abs(decode(np.frombuffer(raw, np.uint8), dtype, array.size).astype(np.float64)).reshape(wide.shape)
    small = (wide > 0) & (after < dtype.smallest_normal)
    return raw, {
        "dtype": dtype.name,
        "inf": int((np.isfinite(wide) & np.isinf(after)).sum()),
        "subnormal": int((small & ~((wide < own.smallest_normal) & (after == wide))).sum()),
    }


def _write_expected(part: Slice, order: int, tensor: str, folder: Path, golden: Dump) -> dict[str, Any]:
    port = part.whole.producer(tensor) or Port(tensor, "output", 0)
    spec = part.graph.spec(tensor)
    facts: dict[str, Any] = {
        "order": order, "tensor": tensor, "port": str(port), "layout": spec.layout,
        "shape": None if spec.shape is None else list(spec.shape), "dtype": spec.dtype.name if spec.dtype else None,
    }
    for side, dump in (("golden", golden), ("npu", part.npu)):
        ref = dump.get(port) or (part.golden.get(port) if side == "golden" else None)
        if ref is None:
            continue
        path = folder / side / f"{file_name(order, tensor)}.npy"
        array, quantised = dequantised(ref, spec, part.quantisation.get(port) if side == "npu" else None)
        write_npy(path, array)
        facts.update(quantised)
        facts[side] = _file_facts(path, folder.parent)
    return facts


def _copy_dump_files(part: Slice, folder: Path) -> list[dict[str, str]]:
    """Copies of the dump files of every op inside the region and of those that feed its start: all pieces of a tensor
    that lies in several files, unreadable files too, and the list of long names that belongs to them."""
    if part.dump is None:
        return []
    inside = set(part.device_ops) or {node.name for node in part.graph.nodes}
    wanted: dict[str, tuple[str, str]] = {}
    for port, ref in part.dump.refs.items():
        for piece in (ref, *getattr(ref, "parts", ())):
            wanted.setdefault(piece.path, (port.node, ""))
    for broken in part.dump.broken:
        wanted.setdefault(broken.path, (broken.port.node if broken.port else broken.name, broken.reason))
    copied: list[dict[str, str]] = []
    taken: set[str] = set()
    for path, (op, reason) in wanted.items():
        role = "inside" if op in inside else "feeds" if op in part.feeding_ops else ""
        if not role or not os.path.isfile(path) or (reason and reading.refusal(path, part.dump.path)):
            continue
        name = Path(path).name
        if name in taken:
            name = f"{len(taken)}_{name}"
        with reading.opened(path) as source, replacing(folder / name) as file:
            shutil.copyfileobj(source, file)
        taken.add(name)
        copied.append({"file": f"dump_data/{name}", "op": op, "role": role, **({"damaged": reason} if reason else {})})
    listed = {Path(path).parent / MAPPING_FILE for path in wanted}
    lines = [line for file in sorted(listed) for line in _lines_of(file, taken)]
    if lines:
        write_bytes(folder / MAPPING_FILE, b"".join(lines))
    return copied


def _lines_of(file: Path, names: Collection[str]) -> list[bytes]:
    """The lines of a list of long names that stand for these files."""
    if reading.refusal(file, file.parent) or file.stat().st_size > MOST_MANIFEST:
        return []
    wanted = {os.fsencode(name) for name in names}
    raw = reading.read_bytes(file, MOST_MANIFEST)
    return [line for line in raw.splitlines(keepends=True) if line.split(b",", 1)[0] in wanted]


# -- words for people --------------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    """A word for a shell's command line, in double quotes."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", "".join(c if c.isprintable() else "?" for c in text)) + '"'


def atc_command(part: Slice, dtype: DType, inputs: Iterable[Mapping[str, Any]]) -> str:
    """The conversion command line for this slice. `--input_fp16_nodes` is there exactly when the bins are fp16."""
    kind = part.graph.format
    words = ["atc", f"--framework={FRAMEWORK[kind]}"]
    words += {
        "onnx": ["--model=dump.onnx"], "tensorflow": ["--model=dump.pb"],
        "caffe": ["--model=dump.prototxt", *(["--weight=dump.caffemodel"] if part.graph.weights else [])],
    }[kind]
    words.append("--output=dump")
    shapes, narrow = [], []
    for facts in inputs:
        name = facts["layer"]  # Caffe's and TensorFlow's inputs go by the node's name there, not by the tensor's
        if facts.get("shape"):
            shapes.append(f"{name}:{','.join(str(dim if isinstance(dim, int) else -1) for dim in facts['shape'])}")
        if facts.get("bin", {}).get("dtype") == "float16":
            narrow.append(name)
    if shapes:
        words.append("--input_shape=" + _quoted(";".join(shapes)))
    layouts = {facts.get("layout") for facts in inputs} - {None}
    words.append(f"--input_format={layouts.pop() if len(layouts) == 1 else 'ND'}")
    if narrow:
        words.append("--input_fp16_nodes=" + _quoted(";".join(narrow)))
    if kind == "tensorflow":
        words.append("--out_nodes=" + _quoted(";".join(part.graph.outputs)))
    soc = part.mapping.meta.get("soc_version") if part.mapping is not None else None
    words.append(f"--soc_version={_quoted(str(soc)) if str(soc).startswith('Ascend') else 'YOUR_CHIP'}")
    return " ".join(words)


def engineers_log(
    part: Slice, copied: Iterable[Mapping[str, str]], model_files: Iterable[Path], inputs: Iterable[Mapping[str, Any]],
) -> list[str]:
    """What was done, in the words of the vendor's world; see `log.txt` of a bundle.

    `inputs` are those of the manifest: their names and shapes in the sub-model's file.
    """
    lines = list(part.log)
    counted: dict[str, int] = {}
    made_inside = {tensor for node in part.graph.nodes for tensor in node.outputs}
    for facts in inputs:
        tensor, name, layer = facts["tensor"], facts["name"], facts["layer"]
        if tensor in made_inside:
            continue  # the model's own input layer
        readers = part.graph.consumers(tensor)
        first = readers[0].node if readers else tensor
        number = counted.get(first, 0)
        counted[first] = number + 1
        called = layer if part.graph.format == "caffe" and layer != name else f"{first}_input_{number}"
        dims = " ".join(f"dim: {dim}" for dim in facts.get("shape") or ())
        lines.append(
            f"added input layer: layer {{ name: {json.dumps(called)} type: \"Input\" "
            f"top: {json.dumps(name)} input_param {{ shape {{ {dims} }} }} }}"
        )
    if part.dump is not None:
        lines.append(f"dump data path: {part.dump.path}")
    by_op: dict[str, list[str]] = {}
    for facts in copied:
        by_op.setdefault(facts["op"], []).append(facts["file"])
    trace = Trace(part.mapping, part.whole) if part.mapping is not None else None
    for op in (*part.feeding_ops, *part.device_ops):
        answers = op
        if trace is not None and op in trace.mapping:
            answers = ", ".join(trace.originals(trace.mapping[op]))
        file = ", ".join(by_op.get(op, ["not dumped"]))
        answers = answers or "no original layer"
        lines.append(f"device op {op} answers {answers}; output file: {file}; input file: {file}")
    lines += [f"{tensor}: input taken from {at}" for tensor, at in part.taken_from.items()]
    layers = [node.name for node in part.graph.nodes if node.name not in part.whole.constants]
    lines.append("exported layers: " + ", ".join(layers))
    lines.append("sub-model: " + ", ".join(Path(path).name for path in model_files))
    return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]


def _acl() -> dict[str, Any]:
    return {
        "dump": {
            "dump_list": [{"model_name": "dump"}], "dump_path": "./npu_dump", "dump_mode": "all",
            "dump_op_switch": "off",
        }
    }


def _readme(part: Slice, manifest: Mapping[str, Any]) -> str:
    check = manifest["check"]
    bins = ",".join(f"inputs/{Path(i['bin']['file']).name}" for i in manifest["inputs"] if "bin" in i)
    cut_away = not set(part.graph.inputs) & set(part.whole.inputs)
    casts = [
        f"  {i['tensor']}: the cast to {b['dtype']} made {b['inf']} Inf and {b['subnormal']} subnormals"
        for i in manifest["inputs"] if (b := i.get("bin", {})).get("inf") or b.get("subnormal")
    ]
    lines = [
        f"A slice of {part.whole.name}: {', '.join(part.start)} .. {', '.join(part.end)}",
        "",
        f"  {len(manifest['slice']['layers'])} layers, inputs {', '.join(part.graph.inputs) or 'none'}, "
        f"outputs {', '.join(part.graph.outputs)}",
        f"  self-test: {check.get('status', 'skipped')}" + (f" ({check['reason']})" if check.get("reason") else ""),
        f"  golden tensors from: {manifest['golden_from'] or 'nowhere'}",
        *casts,
        "",
        "Convert it for the device" + (" (no AIPP: the data layer is cut away):" if cut_away else ":"),
        f"  {manifest['atc']}",
        "",
        "Run it there, dumping every layer:",
        f"  python3 -m ais_bench --model dump.om --input {bins or 'YOUR_INPUTS.bin'} --acl_json_path acl.json",
        "",
        "Compare what it dumped:",
        "  acccmp compare . npu_dump/ --mapping dump.om",
        "",
        "Run it on this machine and compare (needs numpy and the original's framework, not acccmp):",
        "  python3 reproduce.py",
        "",
        "inputs/NN_name.npy: the model's own layout and dtype; .bin: what the device is fed with;",
        "  .dumped.bin: the bytes as dumped; .golden.npy: what the original had there.",
        "expected/golden, expected/npu: what the original and the device gave at the end of this stretch.",
        "dump_data/: the device's dump files of this stretch. manifest.json: shapes, dtypes, bytes and SHA-256 of all.",
    ]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines) + "\n"
