"""What the files of models look like: a sniff function for each row of `acccmp.kinds`, and what is known and not read.

Protobuf files say nowhere of what message they are; they are told apart by the field numbers and wire types of their
first fields, one and two levels deep. Sources of the numbers: the specs of the model formats.
"""

from __future__ import annotations

import re
import struct

from acccmp.core.identify import Evidence

_LAYER = re.compile(r"(?m)(?:^|[\s}])(layers?|input_shape)\s*\{|(?:^|\s)(input|input_dim)\s*:")
_NODE = re.compile(r"(?:^|[\s}])node\s*\{")
_OP = re.compile(r"(?:^|[\s}])op\s*\{")
_GRAPH = re.compile(r"(?:^|[\s}])graph\s*\{")

# u32 at the start of encrypted MindSpore files
CIPHERS = {0x7F3A5ED8: "AES-GCM", 0x7F3A5ED9: "AES-CBC", 0x7F3A5EDA: "SM4-CBC"}


def onnx(evidence: Evidence) -> str:
    return "an ONNX model" if _is_onnx(evidence) else ""


def caffe(evidence: Evidence) -> str:
    text = evidence.text
    if text is None:
        return "a caffemodel (Caffe)" if _is_caffe(evidence) else ""
    return "a prototxt (Caffe)" if _first_block(text) == "layer" else ""


def tensorflow(evidence: Evidence) -> str:
    if evidence.is_folder:
        is_saved = evidence.has("saved_model.pb") or evidence.has("saved_model.pbtxt")
        return "a SavedModel folder (TensorFlow)" if is_saved else ""
    text = evidence.text
    if text is None:
        return "a frozen graph (TensorFlow)" if _is_graph_def(evidence) else ""
    return "a frozen graph in text form (TensorFlow)" if _first_block(text) == "node" else ""


def _first_block(text: str) -> str:
    """"layer" of a prototxt, "node" of a GraphDef, "" of another text. The first block decides: a prototxt may use the
    word node in a name, and a GraphDef input."""
    if _is_onnx_text(text) or _is_graph_text(text) or _is_saved_model_text(text):
        return ""
    layer, node = _LAYER.search(text), _NODE.search(text)
    if node and (layer is None or node.start() < layer.start()):
        return "node"
    return "layer" if layer else ""


def _is_onnx_text(text: str) -> bool:
    return "ir_version" in text[:200] and _GRAPH.search(text) is not None and 'op_type: "ge:' not in text


def _is_graph_text(text: str) -> bool:
    graph = _GRAPH.search(text)
    return graph is not None and ('op_type: "ge:' in text or (_OP.search(text) is not None and not _is_onnx_text(text)))


def _is_saved_model_text(text: str) -> bool:
    return "saved_model_schema_version" in text or "meta_graphs" in text


def om(evidence: Evidence) -> str:
    if evidence.head.startswith(b"IMOD"):
        return "an Ascend device model (.om)"
    names = evidence.members or ()
    last = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in last or {"manifest.json", "README.txt"} <= last or all(n.endswith(".npy") for n in names):
        return ""  # a PyTorch checkpoint, a slice, arrays
    inner = any(name.startswith("constants") for name in last) or any("/data/model_" in f"/{name}" for name in names)
    return "an Ascend device model (OM2 archive)" if inner or "manifest.json" in last else ""


def atc_json(evidence: Evidence) -> str:
    return "a JSON file" if re.match(r"\{|\[\s*[\[{\"\d\]]", evidence.text or "") else ""


def build_pbtxt(evidence: Evidence) -> str:
    return "a device build graph in text form" if _is_graph_text(evidence.text or "") else ""


def cambricon(evidence: Evidence) -> str:
    return "a Cambricon twins file" if (evidence.text or "").startswith("This is the Twins File") else ""


def mindir(evidence: Evidence) -> str:
    head = evidence.head
    if len(head) >= 4 and struct.unpack_from("<I", head)[0] in CIPHERS:
        return "an encrypted MindSpore file"
    return "a MindSpore model (.mindir)" if _is_mindir(evidence) else ""


def ckpt(evidence: Evidence) -> str:
    if _is_strategy(evidence):
        return "a strategy file of MindSpore"
    return "a MindSpore checkpoint (.ckpt)" if _is_ckpt(evidence) else ""


# -- known, and not read -----------------------------------------------------------------------------------------

_MAGIC = (
    (b"\x7fMEF", "a Cambricon binary, which says nothing in the open; give the .cambricon_twins file beside it"),
    (b"PICO", "a HiSilicon SVP model, which is not read; give an Ascend .om, or the original model"),
    (b"\x89HDF", "an HDF5 file (Keras?); export a frozen graph or a SavedModel"),
    (b"TFL3", "a TensorFlow Lite model; give the frozen graph or the SavedModel it was made from"),
    (b"MSL", "a MindSpore Lite model; give the .mindir it was made from"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x80\x02", "a Python pickle, which is never opened; export the model as ONNX"),
    (b"\x80\x04", "a Python pickle, which is never opened; export the model as ONNX"),
)
_TABLE_END = bytes.fromhex("57fb808b247547db")  # last bytes of the tables of TensorFlow's checkpoints
_CHECKPOINT = "part of a TensorFlow checkpoint (values without a graph); freeze the graph and give that"


def unread(evidence: Evidence) -> str:
    """What it is, and what to give instead."""
    head, text, names = evidence.head, evidence.text, evidence.members
    for magic, words in _MAGIC:
        if head.startswith(magic) or head[4 : 4 + len(magic)] == magic == b"TFL3":
            return words
    if names is not None:
        last = {name.rpartition("/")[2] for name in names}
        if "data.pkl" in last:
            return "a PyTorch checkpoint, which is never unpickled; export the model as ONNX"
        return "the archive of a slice; unpack it first" if {"manifest.json", "README.txt"} <= last else ""
    if text is not None:
        if text.startswith("model_checkpoint_path"):
            return _CHECKPOINT
        if _is_onnx_text(text):
            return "an ONNX model in text form; write it as binary protobuf (.onnx) first"
        return "the text of a SavedModel; give its folder" if _is_saved_model_text(text) else ""
    buffer = evidence.buffer
    if bytes(buffer[max(0, len(buffer) - 8) :]) == _TABLE_END or re.search(r"\.data-\d+-of-\d+$", evidence.path.name):
        return _CHECKPOINT
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < len(buffer):
        return "a safetensors file, which is not read; save it as .ckpt or .npz"
    if _is_saved_model(evidence):
        return "the inner file of a SavedModel (TensorFlow); give its folder"
    if _is_onnx_tensor(evidence):
        return "one tensor in ONNX's format, no model; acccmp reads npy for tensors"
    return ""


# -- protobuf ----------------------------------------------------------------------------------------------------


def _is_onnx(evidence: Evidence) -> bool:
    # ModelProto: 1 ir_version (varint), 7 graph {1 node, 2 name, 5 initializer, 11 input, 12 output}, 8 opset_import
    top = evidence.message
    if top.first(1, 2) is not None or top.numbers(0) - {1, 5}:
        return False
    version = top.first(1, 0)
    graph = top.first(7)
    if graph is None:
        known = evidence.string(top.first(2)) is not None or top.first(8) is not None
        return version is not None and 0 < version.value < 100 and known
    inside = evidence.inside(graph)
    begun = bool(inside.numbers(2) & {1, 2, 5, 11, 12}) or (graph is top.cut and version is not None)
    return not inside.strange and begun and not inside.numbers(0)


def _is_mindir(evidence: Evidence) -> bool:
    # ModelProto: 1 ir_version is text ("0.1.0"), 7 graph
    top = evidence.message
    version = evidence.string(top.first(1), 32)
    return version is not None and re.fullmatch(r"[0-9]+(\.[0-9]+)+", version) is not None and (
        bool(top.numbers(2) & {2, 3, 6, 7, 8}) and top.first(2, 0) is None
    )


def _is_ckpt(evidence: Evidence) -> bool:
    # Checkpoint: 1 Value {1 tag, 2 TensorProto {1 dims, 2 tensor_type "Float32", 3 content}, 3 maptensor}
    top = evidence.message
    value = top.first(1)
    if value is None or (top.found and top.found[0].number != 1) or top.numbers(2) - {1}:
        return False
    inside = evidence.inside(value)
    tensor = inside.first(2)
    if inside.strange or tensor is None or evidence.string(inside.first(1)) is None:
        return False
    kind = evidence.string(evidence.inside(tensor).first(2), 16)
    return kind is not None and re.fullmatch(r"(Int|UInt|Float|BFloat|Bool|str|Complex)[0-9]*", kind) is not None


def _is_strategy(evidence: Evidence) -> bool:
    # ParallelStrategyMap of MindSpore, also named .ckpt: 1 current_stage (varint), 2 items {1 name, 2 {1 stage, ...}}
    top = evidence.message
    item = top.first(2)
    if item is None or top.numbers(0) - {1} or top.numbers(2) - {2, 3, 4}:
        return False
    inside = evidence.inside(item)
    strategy = inside.first(2)
    named = bool(evidence.string(inside.first(1), 1024))
    return named and strategy is not None and not evidence.inside(strategy).strange and not inside.strange


def _is_saved_model(evidence: Evidence) -> bool:
    # SavedModel: 1 schema version (varint), 2 MetaGraphDef {1 meta_info, 2 graph_def}
    top = evidence.message
    version, graph = top.first(1, 0), top.first(2)
    if version is None or version.value != 1 or graph is None or top.numbers(2) - {2}:
        return False
    inside = evidence.inside(graph)
    return not inside.strange and bool(inside.numbers(2) & {1, 2})


def _is_graph_def(evidence: Evidence) -> bool:
    # GraphDef: 1 NodeDef {1 name, 2 op, 3 input, 4 device, 5 attr}, 2 library, 3 version (varint), 4 versions
    top = evidence.message
    node = top.first(1)
    if node is None or top.numbers(2) - {1, 2, 4, 5} or top.numbers(0) - {3}:
        return False
    inside = evidence.inside(node)
    op = evidence.string(inside.first(2), 256)
    return not inside.strange and op is not None and re.fullmatch(r"[A-Za-z_][\w.>/]*", op) is not None


def _is_caffe(evidence: Evidence) -> bool:
    # NetParameter: 1 name, 2 layers (V1) {2 bottom, 3 top, 4 name, 5 type, 6 blobs}, 3 input, 4 input_dim,
    # 100 layer {1 name, 2 type, 3 bottom, 4 top, 7 blobs}
    top = evidence.message
    if top.first(1) is not None and evidence.string(top.first(1), 1 << 16) is None:
        return False
    if top.numbers(2) - {1, 2, 3, 4, 6, 8, 100} or top.numbers(0) - {4, 5, 7}:
        return False
    layer, old = top.first(100), top.first(2)
    if layer is not None:
        inside = evidence.inside(layer)
        told = evidence.string(inside.first(2), 256) is not None
        named = evidence.string(inside.first(1), 1024) is not None and inside.first(7) is not None  # weights alone
        return not inside.strange and (told or named)
    if old is None:
        return False
    inside = evidence.inside(old)
    return not inside.strange and (inside.first(4) is not None or inside.first(1) is not None)


def _is_onnx_tensor(evidence: Evidence) -> bool:
    # onnx.TensorProto: 1 dims, 2 data_type (varint), 8 name, 9 raw_data and 4, 5, 7, 10, 11 for typed data
    top = evidence.message
    kind = top.first(2, 0)
    return kind is not None and 0 < kind.value < 64 and bool(top.numbers(2) & {4, 5, 6, 7, 9, 10, 11})
