"""The bundle: a Slice as a folder (or zip) that can be handed over: the sub-model, its inputs in every form that the
next tool needs, what it should give, the device's own dump files, and a script that runs it alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

from acccmp.core import reading
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.identify import identify
from acccmp.core.names import free_name
from acccmp.core.tensor import DTYPES, Array, DType, dtype_of, encode
from acccmp.core.writing import replacing, together, write_bytes, write_texts
from acccmp.dumps.arrays import sha256, write_golden, write_npy
from acccmp.dumps.convert import cast
from acccmp.dumps.names import MAPPING_FILE
from acccmp.errors import FormatError, InputError
from acccmp.kinds import find_kind
from acccmp.mapping.reading import dequantised
from acccmp.models.load import load as load_model
from acccmp.slicing.cut import Slice
from acccmp.slicing.instructions import acl_json, atc_command, engineers_log, is_plain, readme, why_not_converted
from acccmp.slicing.manifest import (
    SCHEMA,
    AsDumped,
    DeviceSide,
    DumpFile,
    Input,
    Manifest,
    Model,
    Output,
    Part,
    Raw,
    SelfTest,
    Written,
)

MOST_MANIFEST = 64 << 20  # bytes; a larger manifest.json is none of ours


@dataclass(frozen=True)
class Bundle:
    """A written slice: where it is, what its manifest says, and the zip if one was asked for."""

    path: Path
    manifest: Manifest = field(repr=False)
    zip: Path | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def exit_code(self) -> int:
        """0 proven, 1 its self-test does not hold, 3 written but not proven."""
        return self.manifest.self_test.exit_code


@dataclass(frozen=True, eq=False)
class Proof:
    """What was found out about a slice before it is written (see `acccmp.jobs.slice`).

    `golden` holds the full model's tensors at the boundary and inside, `golden_from` tells what the full model was fed
    with. `floors` are what storage in `precision` alone does to the full model's tensors.
    """

    self_test: SelfTest
    device: DeviceSide
    golden: Dump = field(default_factory=lambda: Dump({}, kind="golden"))
    golden_from: str = ""
    precision: str = ""
    floors: Mapping[Port, float] = field(default_factory=dict)


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
    folder: reading.FilePath | None = None,
    *,
    dtype: str = "float16",
    zip: bool = False,
    proof: Proof | None = None,
    when: datetime | None = None,
) -> Bundle:
    """Write a slice as `FOLDER/dump_result_<time>/` (in the current folder without one).

    `dtype` is what the raw `.bin` inputs are stored as; integers are never cast. The folder appears whole or not at
    all. Raises InputError for an unknown dtype and for a folder that cannot be written (a full disk; nothing is left
    there then), FormatError when a dumped tensor turns out to be unreadable.
    """
    if dtype not in DTYPES or DTYPES[dtype].kind != "float":
        raise InputError(f"--dtype {dtype}: not a float type; there are float16, float32, bfloat16, ...")
    parent = Path(folder) if folder is not None else Path.cwd()
    when = when or datetime.now()
    target = _free(parent / result_name(when))
    packed = parent / f"{target.name}.zip" if zip else None
    with together() as result:
        work = result.folder(target)
        manifest = _write(part, work, DTYPES[dtype], proof or Proof(SelfTest("skipped"), DeviceSide()), when)
        if packed is not None:
            _zip(work, target.name, result.file(packed))
    return Bundle(target, manifest, packed)


def read_manifest(folder: reading.FilePath) -> tuple[Path, Manifest]:
    """The folder of a slice (given itself, or the folder that holds its newest `dump_result_*`) and its manifest.

    Raises InputError when there is none, FormatError when it is damaged.
    """
    root = Path(folder)
    found = [root] if (root / "manifest.json").is_file() else sorted(root.glob("dump_result_*"))
    for path in reversed(found):
        file = path / "manifest.json"
        if not file.is_file() or file.stat().st_size > MOST_MANIFEST:
            continue
        manifest = Manifest.of(reading.read_bytes(file, MOST_MANIFEST, root), str(file))
        if manifest is not None:
            return path, manifest
    raise InputError(f"{folder}: holds no slice (no manifest.json of {SCHEMA}); `acccmp slice` writes one")


def load(folder: reading.FilePath) -> Graph:
    """The sub-model in the folder of a slice. Raises InputError when there is none, FormatError when it is damaged."""
    path, manifest = read_manifest(folder)
    return _loaded([path / Path(written.file).name for written in manifest.slice.files])


def _loaded(files: Sequence[Path]) -> Graph:
    """The model, which is the first of these files, with its weights where its format keeps them apart."""
    if not files:
        raise FormatError("the manifest of the slice names no model file; write the slice again")
    apart = identify(files[0]).kind.weights
    return load_model(files[0], files[1] if apart and len(files) > 1 else None)


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
        for path in sorted(Path(entry.path) for _, entries in reading.walked(folder, 8) for entry in entries):
            archive.write(path, Path(name) / path.relative_to(folder))


# -- what is written ---------------------------------------------------------------------------------------------


def _write(part: Slice, work: Path, dtype: DType, proof: Proof, when: datetime) -> Manifest:
    graph, true = _with_plain_inputs(part.graph)
    model_files = [Path(path) for path in find_kind(graph.format).function("save")(graph, work, "dump")]
    inputs = tuple(
        _write_input(part, order, (true.get(tensor, tensor), name, layer), work / "inputs", dtype, proof.golden)
        for order, (tensor, name, layer) in enumerate(_names_in_file(graph, model_files))
    )
    outputs = tuple(
        _write_expected(part, order, tensor, work / "expected", proof.golden)
        for order, tensor in enumerate(part.graph.outputs)
    )
    copied = _copy_dump_files(part, work / "dump_data")
    model = _model_facts(part.whole)
    if len(proof.golden):
        run = proof.golden.run
        write_golden(
            work / "golden", ((port, ref.numpy()) for port, ref in proof.golden.items()),
            {"model": asdict(model), "runner": {"name": run.runner, "version": run.version}, "inputs": {}},
        )
    no_atc = why_not_converted(part, inputs, proof.self_test)
    manifest = Manifest(
        made=when.isoformat(timespec="seconds"),
        model=model,
        slice=Part(
            part.graph.format, tuple(_written(path, work) for path in model_files), part.start, part.end,
            tuple(node.name for node in part.graph.nodes if node.name not in part.whole.constants),
        ),
        inputs=inputs,
        outputs=outputs,
        golden_from=proof.golden_from,
        precision=proof.precision,
        floors=proof.floors,
        mapping=str(part.mapping) if part.mapping is not None and not part.mapping.is_by_name else None,
        device_ops=part.device_ops,
        dump=str(part.dump.path) if part.dump is not None else None,
        dump_data=copied,
        atc="" if no_atc else atc_command(part, inputs),
        no_atc=no_atc,
        self_test=proof.self_test,
        device=proof.device,
        log=tuple(engineers_log(part, copied, model_files, inputs)),
    )
    texts = {
        "log.txt": "\n".join(manifest.log) + "\n", "README.txt": readme(part, manifest),
        "acl.json": json.dumps(acl_json(), indent=1) + "\n",
        "reproduce.py": files("acccmp.slicing").joinpath("reproduce.py.txt").read_text(encoding="utf-8"),
        "manifest.json": json.dumps(manifest.as_json(), indent=1, ensure_ascii=True, allow_nan=False) + "\n",
    }
    if manifest.self_test.status == "FAILED":
        texts["FAILED"] = manifest.self_test.reason + "\n"
    write_texts({work / name: text for name, text in texts.items()})
    return manifest


def _with_plain_inputs(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The part with inputs that a command line can name (`--input_shape="NAME:1,3;..."` knows no quoting), and the
    true names of those tensors that had to be renamed. What ATC calls an input is the tensor of an ONNX model, and the
    layer or node that makes it elsewhere."""
    taken = {*graph.inputs, *graph.weights, *(tensor for node in graph.nodes for tensor in node.outputs)}
    taken |= {node.name for node in graph.nodes}
    called: dict[str, str] = {}
    odd = graph.inputs if graph.format == "onnx" else [node.name for node in graph.nodes if node.op_type == "Input"]
    for name in odd:
        if not is_plain(name):
            called[name] = free_name(re.sub(r"[^A-Za-z0-9_./-]", "_", name) or "input", taken)
            taken.add(called[name])
    if graph.format == "onnx" and called:
        from acccmp.models.onnx import renamed

        return renamed(graph, called), {new: old for old, new in called.items()}
    if called:
        nodes = (replace(node, name=called.get(node.name, node.name)) for node in graph.nodes)
        return replace(graph, nodes=tuple(nodes)), {}
    return graph, {}


def _names_in_file(graph: Graph, written: Sequence[Path]) -> list[tuple[str, str, str]]:
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


def _model_facts(graph: Graph) -> Model:
    path = graph.path
    return Model(
        graph.name, graph.format, str(path or ""), sha256(path) if path is not None and path.is_file() else "",
    )


def _written(path: Path, root: Path) -> Written:
    return Written(path.relative_to(root).as_posix(), path.stat().st_size, sha256(path))


def _saved(array: Array, path: Path, root: Path) -> Written:
    write_npy(path, array)
    return _written(path, root)


def _write_input(
    part: Slice, order: int, names: tuple[str, str, str], folder: Path, dtype: DType, golden: Dump,
) -> Input:
    """One input of the slice, of the names (tensor, name, layer): as dumped, as .npy in the model's layout and dtype,
    as .bin in `dtype`; and what the original had there (.golden.npy)."""
    tensor, called, layer = names
    port = part.input_port(tensor)
    spec = part.graph.spec(tensor)
    ref, original = part.inputs.get(port), golden.get(port) or part.golden.get(port)
    name = file_name(order, tensor)
    bare = Input(
        order, tensor, port, spec.layout, spec.shape, spec.dtype.name if spec.dtype else None,
        golden=_saved(original.numpy(), folder / f"{name}.golden.npy", folder.parent) if original is not None else None,
        is_quantised=False, quantisation=None, name=called, layer=layer, taken_from=None, dumped_file="", dumped=None,
        npy=None, bin=None,
    )
    if ref is None:
        return bare
    stored = folder / f"{name}.dumped.bin"
    write_bytes(stored, ref.raw())
    array, quantised = dequantised(ref, spec, part.quantisation.get(port))
    raw, told = to_bin(ref.numpy() if quantised else array, dtype, ref.dtype)
    path = folder / f"{name}.bin"
    write_bytes(path, raw)
    return replace(
        bare, shape=array.shape, dtype=str(array.dtype), is_quantised=bool(quantised),
        quantisation=part.quantisation.get(port) if quantised else None, taken_from=part.taken_from.get(port),
        dumped_file=Path(ref.path).name,
        dumped=AsDumped(**asdict(_written(stored, folder.parent)), dtype=ref.dtype.name, layout=ref.layout,
                        shape=ref.shape),
        npy=_saved(array, folder / f"{name}.npy", folder.parent),
        bin=Raw(**asdict(_written(path, folder.parent)), **asdict(told)),
    )


@dataclass(frozen=True)
class Cast:
    """What became of an array that was written as raw bytes: stored as `dtype`; `inf` values were finite before and
    infinite after, `subnormal` ones were not zero before, and subnormal or flushed to zero after."""

    dtype: str
    inf: int = 0
    subnormal: int = 0


def to_bin(array: Array, dtype: DType, own: DType) -> tuple[bytes, Cast]:
    """`array` as raw little-endian bytes: floats cast to `dtype`, everything else as it is. `own` is how the values
    were stored before (a float16 tensor that was widened loses nothing on the way back)."""
    if own.kind != "float":
        if array.dtype != own.numpy:  # an integer tensor of the device in the model's own integer type
            own = dtype_of(array.dtype)
        return encode(array, own), Cast(own.name)
    raw = encode(array, dtype)
    if dtype.name == own.name:
        return raw, Cast(dtype.name)
    _, told = cast(array, own, dtype)
    return raw, Cast(dtype.name, told.infinite, told.subnormal + told.zero)


def _write_expected(part: Slice, order: int, tensor: str, folder: Path, golden: Dump) -> Output:
    port = part.whole.producer(tensor) or Port(tensor, "output", 0)
    spec = part.graph.spec(tensor)
    name = f"{file_name(order, tensor)}.npy"
    original, ref = golden.get(port) or part.golden.get(port), part.npu.get(port)
    found = Output(
        order, tensor, port, spec.layout, spec.shape, spec.dtype.name if spec.dtype else None,
        golden=_saved(original.numpy(), folder / "golden" / name, folder.parent) if original is not None else None,
        is_quantised=False, quantisation=None, npu=None,
    )
    if ref is None:
        return found
    rule = part.quantisation.get(port)
    array, quantised = dequantised(ref, spec, rule)
    return replace(
        found, is_quantised=bool(quantised), quantisation=rule if quantised else None,
        npu=_saved(array, folder / "npu" / name, folder.parent),
    )


def _copy_dump_files(part: Slice, folder: Path) -> tuple[DumpFile, ...]:
    """Copies of the dump files of every op inside the region and of those that feed its start: all pieces of a tensor
    that lies in several files, unreadable files too, and the list of long names that belongs to them."""
    if part.dump is None:
        return ()
    inside = set(part.device_ops) or {node.name for node in part.graph.nodes}
    wanted: dict[str, tuple[str, str]] = {}
    for port, ref in part.dump.refs.items():
        for piece in (ref, *getattr(ref, "parts", ())):
            wanted.setdefault(piece.path, (port.node, ""))
    for broken in part.dump.broken:
        wanted.setdefault(broken.path, (broken.port.node if broken.port else broken.name, broken.reason))
    copied: list[DumpFile] = []
    taken: set[str] = set()
    for path, (op, reason) in wanted.items():
        if (op not in inside and op not in part.feeding_ops) or not os.path.isfile(path):
            continue
        if reason and reading.refusal(path, part.dump.path):  # what a link brings from elsewhere stays there
            continue
        name = Path(path).name
        if name in taken:
            name = f"{len(taken)}_{name}"
        with reading.opened(path) as source, replacing(folder / name) as file:
            shutil.copyfileobj(source, file)
        taken.add(name)
        copied.append(DumpFile(f"dump_data/{name}", op, "inside" if op in inside else "feeds", reason))
    listed = {Path(path).parent / MAPPING_FILE for path in wanted}
    lines = [line for file in sorted(listed) for line in _lines_of(file, taken)]
    if lines:
        write_bytes(folder / MAPPING_FILE, b"".join(lines))
    return tuple(copied)


def _lines_of(file: Path, names: Collection[str]) -> list[bytes]:
    """The lines of a list of long names that stand for these files."""
    if reading.refusal(file, file.parent) or file.stat().st_size > MOST_MANIFEST:
        return []
    wanted = {os.fsencode(name) for name in names}
    raw = reading.read_bytes(file, MOST_MANIFEST)
    return [line for line in raw.splitlines(keepends=True) if line.split(b",", 1)[0] in wanted]
