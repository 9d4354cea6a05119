"""identify: what a file or folder is, by its bytes and never by its name.

Protobuf files say nowhere of what message they are; they are told apart by the field numbers and wire types of their
first fields, one and two levels deep. Sources of the numbers: the specs of the model formats, and of Ascend dumps.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from acccmp.core.wire import Buffer, CutOff, Damaged, Field, FileBytes, fields
from acccmp.errors import FormatError, InputError

HEAD = 1 << 16  # bytes of a file that are looked at, apart from lengths and skipped payloads
_MOST_FIELDS = 4096  # top-level fields that are looked at


@dataclass(frozen=True)
class Examined:
    """`kind` is a row of the models' table, or `dump`, or `build_pbtxt`; `what` says it in words, with an article."""

    kind: str
    what: str


def identify(path: str | os.PathLike[str]) -> str:
    """What lies at `path`: `onnx`, `caffe` (prototxt or caffemodel), `tensorflow` (frozen graph, binary or text, or the
    folder of a SavedModel), `om`, `atc_json`, `build_pbtxt`, `mindir`, `ckpt`, `cambricon`, or `dump` (device dumps,
    npy and npz).

    Raises InputError when nothing is there, and FormatError, which says what it is instead, for everything else:
    Git-LFS pointers, text, empty files, folders without a model.
    """
    return examine(path).kind


def examine(path: str | os.PathLike[str]) -> Examined:
    """As `identify`, with words: "an ONNX model", "a prototxt (Caffe)"."""
    path = Path(path)
    try:
        if path.is_dir():
            return _folder(path)
        with open(path, "rb") as file:
            return _file(path, file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder") from None
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Damaged as error:  # messages that are strange end as FormatErrors of their own
        raise FormatError(f"{path}: cannot be read: {error}") from None


def _folder(path: Path) -> Examined:
    for name in ("saved_model.pb", "saved_model.pbtxt"):
        if (path / name).is_file():
            return Examined("tensorflow", "a SavedModel folder (TensorFlow)")
    entries = sorted(entry.name for entry in os.scandir(path))[:4]
    holds = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "") if entries else "nothing"
    raise FormatError(f"{path}: a folder without a model in it (it holds {holds}); give the model's file")


# -- files -------------------------------------------------------------------------------------------------------

_NOT_HERE = (
    (b"\x7fMEF", "a Cambricon binary, which says nothing in the open; give the .cambricon_twins file beside it"),
    (b"PICO", "a HiSilicon SVP model, which is not read; give an Ascend .om, or the original model"),
    (b"\x89HDF", "an HDF5 file (Keras?); export a frozen graph or a SavedModel"),
    (b"TFL3", "a TensorFlow Lite model; give the frozen graph or the SavedModel it was made from"),
    (b"MSL", "a MindSpore Lite model; give the .mindir it was made from"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x80\x02", "a Python pickle, which is never opened; export the model as ONNX"),
    (b"\x80\x04", "a Python pickle, which is never opened; export the model as ONNX"),
)
# u32 at the start of encrypted MindSpore files: AES-GCM, AES-CBC, SM4-CBC
_ENCRYPTED = (0x7F3A5ED8, 0x7F3A5ED9, 0x7F3A5EDA)
_NANO = 0x5A5A5A5A


def _file(path: Path, file: BinaryIO) -> Examined:
    head = file.read(HEAD)
    if not head:
        raise FormatError(f"{path}: is empty")
    if head.startswith(b"version https://git-lfs"):
        raise FormatError(f"{path}: a Git-LFS pointer, not the file itself; fetch it with `git lfs pull`")
    if head.startswith(b"IMOD"):
        return Examined("om", "an Ascend device model (.om)")
    if head.startswith(b"\x93NUMPY"):
        return Examined("dump", "an npy array")
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    for magic, words in _NOT_HERE:
        if head.startswith(magic) or head[4 : 4 + len(magic)] == magic == b"TFL3":
            raise FormatError(f"{path}: {words}")
    if len(head) >= 4 and struct.unpack_from("<I", head)[0] in _ENCRYPTED:
        return Examined("mindir", "an encrypted MindSpore file")
    if len(head) >= 12 and struct.unpack_from("<I", head, 8)[0] == _NANO:
        return Examined("dump", "a device dump (nano)")
    text = _as_text(head)
    if text is not None:
        return _text(path, text)
    return _protobuf(path, FileBytes(file))


def _archive(path: Path) -> Examined:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise FormatError(f"{path}: a damaged zip archive: {error}") from None
    last = {name.rpartition("/")[2] for name in names}
    if names and all(name.endswith(".npy") for name in names):
        return Examined("dump", "an npz archive of arrays")
    if "data.pkl" in last:
        raise FormatError(f"{path}: a PyTorch checkpoint, which is never unpickled; export the model as ONNX")
    if any(name.startswith("constants") for name in last) or any("/data/model_" in f"/{name}" for name in names):
        return Examined("om", "an Ascend device model (OM2 archive)")
    if "manifest.json" in last and "README.txt" in last:
        raise FormatError(f"{path}: the archive of a slice; unpack it first")
    if "manifest.json" in last:
        return Examined("om", "an Ascend device model (OM2 archive)")
    raise FormatError(f"{path}: a zip archive that holds no model; unpack it first")


def _as_text(head: bytes) -> str | None:
    """The bytes as text, or None when they are not: control characters, or no UTF-8 (a character cut off is fine)."""
    if any(byte < 9 or (13 < byte < 32 and byte != 27) for byte in head):
        return None
    for cut in range(4):
        try:
            return head[: len(head) - cut].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
    try:  # comments in an old code page
        text = head.decode("latin1")
    except UnicodeDecodeError:
        return None
    return text if sum(byte > 126 for byte in head) < len(head) // 10 else None


_LAYER = re.compile(r"(?m)(?:^|[\s}])(layers?|input_shape)\s*\{|(?:^|\s)(input|input_dim)\s*:")
_NODE = re.compile(r"(?:^|[\s}])node\s*\{")
_OP = re.compile(r"(?:^|[\s}])op\s*\{")
_GRAPH = re.compile(r"(?:^|[\s}])graph\s*\{")


def _text(path: Path, text: str) -> Examined:
    bare = re.sub(r"(?m)#.*$", "", text).strip()
    if text.lstrip().startswith("This is the Twins File"):
        return Examined("cambricon", "a Cambricon twins file")
    if re.match(r"\{|\[\s*[\[{\"\d\]]", bare):
        return Examined("atc_json", "a JSON file")
    if 'op_type: "ge:' in bare and _GRAPH.search(bare):
        return Examined("build_pbtxt", "a device build graph in text form")
    if "ir_version" in bare[:200] and _GRAPH.search(bare):
        raise FormatError(f"{path}: an ONNX model in text form; write it as binary protobuf (.onnx) first")
    if _GRAPH.search(bare) and _OP.search(bare):
        return Examined("build_pbtxt", "a device build graph in text form")
    if "saved_model_schema_version" in bare or "meta_graphs" in bare:
        raise FormatError(f"{path}: the text of a SavedModel; give its folder")
    # The first block decides: a prototxt may use the word node in a name, and a GraphDef input.
    layer, node = _LAYER.search(bare), _NODE.search(bare)
    if node and (layer is None or node.start() < layer.start()):
        return Examined("tensorflow", "a frozen graph in text form (TensorFlow)")
    if layer:
        return Examined("caffe", "a prototxt (Caffe)")
    if not bare:
        raise FormatError(f"{path}: holds nothing but white space and comments")
    first = bare.splitlines()[0][:60]
    raise FormatError(f"{path}: a text file that is no model (it begins with {first!r})")


# -- protobuf ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Top:
    """The top level of a message: its first fields, and whether its bytes end inside one of them."""

    found: tuple[Field, ...]
    cut: Field | None  # the field that is cut off, shortened to what is there
    strange: bool  # bytes that are no protobuf follow

    def first(self, number: int, wire: int = 2) -> Field | None:
        every = (*self.found, self.cut) if self.cut is not None else self.found
        return next((f for f in every if f.number == number and f.wire == wire), None)

    def numbers(self, wire: int = 2) -> set[int]:
        every = (*self.found, self.cut) if self.cut is not None else self.found
        return {f.number for f in every if f.wire == wire}


def _top(buffer: Buffer, start: int, end: int) -> _Top:
    found: list[Field] = []
    try:
        for field in itertools.islice(fields(buffer, start, end), _MOST_FIELDS):
            found.append(field)  # one by one: those before a damage count
    except CutOff as error:
        cut = error.field._replace(end=end) if error.field is not None else None
        return _Top(tuple(found), cut, False)
    except Damaged:
        return _Top(tuple(found), None, True)
    return _Top(tuple(found), None, False)


def _string(buffer: Buffer, field: Field | None, most: int = 4096) -> str | None:
    """The text of a field, or None when there is none or it is no text."""
    if field is None or field.size > most:
        return None
    try:
        text = bytes(buffer[field.start : field.end]).decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _inside(buffer: Buffer, field: Field) -> _Top:
    return _top(buffer, field.start, field.end)


def _protobuf(path: Path, buffer: Buffer) -> Examined:
    if _has_dump_header(buffer):
        return Examined("dump", "a device dump")
    top = _top(buffer, 0, len(buffer))
    if not top.strange:
        for looks, kind, what in _SHAPES:
            if looks(buffer, top):
                if kind:
                    return Examined(kind, what)
                raise FormatError(f"{path}: {what}")
        if top.cut is not None and not top.found:
            raise FormatError(f"{path}: neither a model nor a dump that is known here, or cut off near its start")
    raise FormatError(f"{path}: neither a model nor a dump that is known here (no known format begins like this)")


def _has_dump_header(buffer: Buffer) -> bool:
    """A big dump: u64 length of the header, then a DumpData message of exactly that length."""
    if len(buffer) < 8:
        return False
    (length,) = struct.unpack("<Q", bytes(buffer[:8]))
    if not 0 < length <= len(buffer) - 8:
        return False
    top = _top(buffer, 8, 8 + length)
    return not top.strange and top.cut is None and _is_dump_data(buffer, top)


def _is_dump_data(buffer: Buffer, top: _Top) -> bool:
    # 1 version "2.0", 2 time (varint), 3 output, 4 input, 5 buffer, 6 op_name, 7 attr, 8 space, 9 dfx_message
    if not top.found or top.numbers(0) - {2} or top.numbers(2) - {1, 3, 4, 5, 6, 7, 8, 9} or top.first(2, 2):
        return False
    version = _string(buffer, top.first(1), 16)
    told = version is not None and re.fullmatch(r"[0-9]+(\.[0-9]+)*", version) is not None
    described = [f for f in (top.first(3), top.first(4)) if f is not None]
    return (told or top.first(2, 0) is not None) and (told or bool(described))


def _is_onnx(buffer: Buffer, top: _Top) -> bool:
    # ModelProto: 1 ir_version (varint), 7 graph {1 node, 2 name, 5 initializer, 11 input, 12 output}, 8 opset_import
    if top.first(1, 2) is not None or top.numbers(0) - {1, 5}:
        return False
    version = top.first(1, 0)
    graph = top.first(7)
    if graph is None:
        known = _string(buffer, top.first(2)) is not None or top.first(8) is not None
        return version is not None and 0 < version.value < 100 and known
    inside = _inside(buffer, graph)
    begun = bool(inside.numbers(2) & {1, 2, 5, 11, 12}) or (graph is top.cut and version is not None)
    return not inside.strange and begun and not inside.numbers(0)


def _is_mindir(buffer: Buffer, top: _Top) -> bool:
    # ModelProto: 1 ir_version is text ("0.1.0"), 7 graph
    version = _string(buffer, top.first(1), 32)
    return version is not None and re.fullmatch(r"[0-9]+(\.[0-9]+)+", version) is not None and (
        bool(top.numbers(2) & {2, 3, 6, 7, 8}) and top.first(2, 0) is None
    )


def _is_ckpt(buffer: Buffer, top: _Top) -> bool:
    # Checkpoint: 1 Value {1 tag, 2 TensorProto {1 dims, 2 tensor_type "Float32", 3 content}, 3 maptensor}
    value = top.first(1)
    if value is None or (top.found and top.found[0].number != 1) or top.numbers(2) - {1}:
        return False
    inside = _inside(buffer, value)
    tensor = inside.first(2)
    if inside.strange or tensor is None or _string(buffer, inside.first(1)) is None:
        return False
    kind = _string(buffer, _inside(buffer, tensor).first(2), 16)
    return kind is not None and re.fullmatch(r"(Int|UInt|Float|BFloat|Bool|str|Complex)[0-9]*", kind) is not None


def _is_strategy(buffer: Buffer, top: _Top) -> bool:
    # ParallelStrategyMap of MindSpore, also named .ckpt: 1 current_stage (varint), 2 items {1 name, 2 {1 stage, ...}}
    item = top.first(2)
    if item is None or top.numbers(0) - {1} or top.numbers(2) - {2, 3, 4}:
        return False
    inside = _inside(buffer, item)
    strategy = inside.first(2)
    named = bool(_string(buffer, inside.first(1), 1024))
    return named and strategy is not None and not _inside(buffer, strategy).strange and not inside.strange


def _is_saved_model(buffer: Buffer, top: _Top) -> bool:
    # SavedModel: 1 schema version (varint), 2 MetaGraphDef {1 meta_info, 2 graph_def}
    version, graph = top.first(1, 0), top.first(2)
    if version is None or version.value != 1 or graph is None or top.numbers(2) - {2}:
        return False
    inside = _inside(buffer, graph)
    return not inside.strange and bool(inside.numbers(2) & {1, 2})


def _is_graph_def(buffer: Buffer, top: _Top) -> bool:
    # GraphDef: 1 NodeDef {1 name, 2 op, 3 input, 4 device, 5 attr}, 2 library, 3 version (varint), 4 versions
    node = top.first(1)
    if node is None or top.numbers(2) - {1, 2, 4, 5} or top.numbers(0) - {3}:
        return False
    inside = _inside(buffer, node)
    op = _string(buffer, inside.first(2), 256)
    return not inside.strange and op is not None and re.fullmatch(r"[A-Za-z_][\w.>/]*", op) is not None


def _is_caffe(buffer: Buffer, top: _Top) -> bool:
    # NetParameter: 1 name, 2 layers (V1) {2 bottom, 3 top, 4 name, 5 type, 6 blobs}, 3 input, 4 input_dim,
    # 100 layer {1 name, 2 type, 3 bottom, 4 top, 7 blobs}
    if top.first(1) is not None and _string(buffer, top.first(1), 1 << 16) is None:
        return False
    if top.numbers(2) - {1, 2, 3, 4, 6, 8, 100} or top.numbers(0) - {4, 5, 7}:
        return False
    layer, old = top.first(100), top.first(2)
    if layer is not None:
        inside = _inside(buffer, layer)
        return not inside.strange and _string(buffer, inside.first(2), 256) is not None
    if old is None:
        return False
    inside = _inside(buffer, old)
    return not inside.strange and (inside.first(4) is not None or inside.first(1) is not None)


def _is_onnx_tensor(buffer: Buffer, top: _Top) -> bool:
    # onnx.TensorProto: 1 dims, 2 data_type (varint), 8 name, 9 raw_data and 4, 5, 7, 10, 11 for typed data
    kind = top.first(2, 0)
    return kind is not None and 0 < kind.value < 64 and bool(top.numbers(2) & {4, 5, 6, 7, 9, 10, 11})


_SHAPES = (
    (_is_strategy, "ckpt", "a strategy file of MindSpore"),
    (_is_onnx, "onnx", "an ONNX model"),
    (_is_mindir, "mindir", "a MindSpore model (.mindir)"),
    (_is_dump_data, "dump", "a device dump (whole-file protobuf)"),
    (_is_ckpt, "ckpt", "a MindSpore checkpoint (.ckpt)"),
    (_is_saved_model, "", "the inner file of a SavedModel (TensorFlow); give its folder"),
    (_is_graph_def, "tensorflow", "a frozen graph (TensorFlow)"),
    (_is_caffe, "caffe", "a caffemodel (Caffe)"),
    (_is_onnx_tensor, "", "one tensor in ONNX's format, no model; acccmp reads npy for tensors"),
)
