"""Do a model, a mapping and a dump belong together?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping

from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, Port, flatten_name
from acccmp.core.graph import Graph, TensorSpec, shape_text
from acccmp.core.graph import Shape as OpenShape
from acccmp.core.layout import squeezed
from acccmp.core.tensor import TensorRef
from acccmp.errors import MappingError
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.reading import could_hold, sizes_of
from acccmp.mapping.trace import PASSING
from acccmp.models.device_graph import CONSTANTS, INPUT_OPS, TASKLESS, split_input

ENOUGH = 0.5  # share of names that two of the same model have in common at least
LEAST = 4  # buffers from which on it means something that none lies where the model has it


def check_belongs(device: DeviceMap, original: Graph | Dump | None, npu: Dump | None) -> str:
    """One line on how well mapping, original and dump agree.

    Mapping and original may each be a part of the other: the mapping of the whole model of a slice, a golden dump of a
    few layers. Raises MappingError when the mapping is not of the original, when fewer than half of the dumped ops are
    the mapping's, or when more than one op contradicts it (one may be a damaged file, which has a row of its own).
    """
    told = [_check_original(device, original)] if original is not None and not device.is_by_name else []
    if npu is not None:
        told += [_check_names(device, original, npu)] if device.is_by_name else _check_dump(device, npu)
    return "; ".join(filter(None, told))


# -- mapping and original ----------------------------------------------------------------------------------------


def _check_original(device: DeviceMap, original: Graph | Dump) -> str:
    what = _what(original)
    if isinstance(original, Graph):
        names = [node.name for node in original.nodes if node.name not in original.constants]
        others = [*original.inputs, *original.weights, *(t for node in original.nodes for t in node.outputs)]
    else:
        names = list(dict.fromkeys(port.node for port in original))
        others = list(original.run.tensors.values())
    wanted = device.wanted_originals
    known = _shared(wanted, [*names, *others])
    told = {name for node in device.nodes for name in (node.origins or (node.name,))} | wanted
    if len(known) < ENOUGH * len(wanted) and len(_shared(names, told)) < ENOUGH * len(names):
        raise MappingError(
            f"the mapping {device} (model {device.graph.name!r}) is not of {what}: {len(known)} of the "
            f"{len(wanted)} originals that it names are in it; give the mapping of the model that was dumped"
        )
    if not isinstance(original, Graph):
        return ""
    same, other = _shapes(device, original)
    if len(other) > ENOUGH * (same + len(other)) and len(other) > 1:
        raise MappingError(
            f"the mapping {device} is of another version of {what}: {len(other)} of the {same + len(other)} originals "
            f"have another shape in it (such as {other[0]!r}); give the mapping of this version"
        )
    return ""


def _shapes(device: DeviceMap, original: Graph) -> tuple[int, list[str]]:
    """How many originals have the shape that the mapping writes for them, in whatever order; and which have not."""
    same, other = 0, []
    for tensor, spec in device.specs.items():
        written = spec.origin
        if written is None or not written.node or written.shape is None or split_input(tensor)[0] not in device.by_name:
            continue
        port = original.producer(written.node) or Port(written.node, "output", written.index)
        sizes = sizes_of(original.spec(original.tensor(port) or "").shape)
        if sizes is None:
            continue
        if sorted(squeezed(sizes)) == sorted(squeezed(written.shape)):
            same += 1
        else:
            other.append(written.node)
    return same, other


# -- mapping and dump --------------------------------------------------------------------------------------------


def _check_dump(device: DeviceMap, npu: Dump) -> list[str]:
    ops = _ops(npu)
    found = _shared(ops, device.by_name)
    where = f"the NPU dump {npu.path or '(in memory)'}"
    if len(found) < ENOUGH * len(ops):
        raise MappingError(
            f"the mapping {device} is not of {where}: it has {len(found)} of the {len(ops)} dumped ops "
            f"(not {next(name for name in ops if name not in found)!r}); give the mapping of the model that ran"
        )
    held = {port: spec for port, spec in described(device, npu).items() if npu[port].dtype.kind != "opaque"}
    against = {port: text for port, spec in held.items() if (text := contradiction(npu[port], spec))}
    if len({port.node for port in against}) > 1:
        port, text = next(iter(against.items()))
        raise MappingError(
            f"the mapping {device} is of another build than {where}: {len({p.node for p in against})} of "
            f"{len({p.node for p in held})} ops contradict it; {port}: {text}; give the mapping of the build that ran"
        )
    strange = [name for name in ops if name not in found]
    told = [f"{len(found)} of {len(ops)} dumped ops are the mapping's" + (f", not {strange[0]!r}" if strange else "")]
    if held:
        told.append(f"{len(held) - len(against)} of {len(held)} tensors have the shapes and types that it says")
    told += [f"{port}: {text}" for port, text in against.items()][:1]
    if widths := [port for port, spec in held.items() if spec.dtype not in (None, npu[port].dtype)]:
        told.append(f"{len(widths)} are stored in another width (such as {widths[0]})")
    told.append(_buffers(device, npu))
    if npu.model and device.graph.name and flatten_name(npu.model) != flatten_name(device.graph.name):
        told.append(f"the dump's model is called {npu.model!r}, the mapping's {device.graph.name!r}")
    return told


def described(device: DeviceMap, npu: Dump) -> dict[Port, TensorSpec]:
    """What the mapping says of dumped tensors: those of ops with originals; what a compiler makes is called alike in
    every build."""
    found = {}
    for port in npu:
        node = device.node(port.node)
        if node is None or node.origins == () or node.op_type in CONSTANTS:
            continue
        spec = device.spec(device.tensor(port, npu.inputs.get(port.node, 0)))
        if spec is not None:
            found[port] = spec
    return found


def contradiction(ref: TensorRef, spec: TensorSpec) -> str:
    """How a dumped tensor contradicts what the mapping says of it; "" if it does not.

    Widths of numbers and orders of storage may differ, kinds of numbers and sizes may not.
    """
    kinds = {ref.dtype.kind, spec.dtype.kind} if spec.dtype is not None else set()
    if len(kinds) == 2 and "opaque" not in kinds and not (kinds == {"int", "bool"} and ref.dtype.bits == 8):
        return f"the dump's header says {ref.dtype}, the mapping {spec.dtype}"
    stated = sizes_of(spec.shape)
    if stated is None or squeezed(stated) == squeezed(ref.shape):
        return ""
    own = spec.origin.shape if spec.origin is not None else None
    is_same = own is not None and stated != own and (
        sorted(squeezed(own)) == sorted(squeezed(ref.original_shape)) if ref.original_shape is not None
        else any(
            layouts.stored_shape(ref.layout, order, own, ref.shape[-1], ref.groups) == ref.shape
            for order in layouts.candidates(ref.layout, ref.shape, own)
        )
    )
    if is_same or (layouts.is_plain(ref.layout) and math.prod(ref.shape) == math.prod(stated)):
        return ""
    return f"the dump's header says shape {shape_text(ref.shape)}, the mapping {shape_text(stated)}"


def _buffers(device: DeviceMap, npu: Dump) -> str:
    """Do the dumped outputs lie in memory as the mapping has them? What goes in and out of the model lies elsewhere."""
    outside = {split_input(tensor) for tensor in device.graph.outputs}
    bases: list[int] = []
    for name, op in npu.ops.items():
        node = device.node(name)
        if node is None or node.op_type in INPUT_OPS | CONSTANTS:
            continue
        for (side, index), address in op.addresses.items():
            spec = device.spec(f"{node.name}:{index}") if side == "output" else None
            if spec is not None and spec.offset is not None and (node.name, index) not in outside:
                bases.append(address - spec.offset)
    if not bases:
        return ""
    _, same = Counter(bases).most_common(1)[0]
    if len(bases) >= LEAST and same == 1:
        return f"none of {len(bases)} buffers lies where it has them: another build?"
    return f"{same} of {len(bases)} buffers lie where it has them"


# -- names alone -------------------------------------------------------------------------------------------------


def _check_names(device: DeviceMap, original: Graph | Dump | None, npu: Dump) -> str:
    """Few names in common with a model are too few; a golden dump may hold a few layers only: then what they name must
    be of other sizes too."""
    ops = _ops(npu)
    silent = PASSING | (TASKLESS - INPUT_OPS)  # what compilers make has names of its own
    computing = [name for name in ops if name not in npu.ops or npu.ops[name].op_type not in silent] or list(ops)
    known = [name for name in computing if device.by_name[name].origins]
    odd = [name for name in known if not _could_be(device, original, npu, Port(name, "output", 0))]
    if len(known) < ENOUGH * len(computing) and (isinstance(original, Graph) or len(odd) > ENOUGH * len(known)):
        sizes = f", and {len(odd)} of those cannot hold its tensor (such as {odd[0]!r})" if odd else ""
        raise MappingError(
            f"the NPU dump {npu.path or '(in memory)'} is not of {_what(original)}: only {len(known)} of its "
            f"{len(computing)} ops have a name of its nodes{sizes}; give the device's model as --mapping, or the dump "
            "of this model"
        )
    return f"by names alone: {len(known)} of {len(computing)} dumped ops stand for nodes of the original"


def _could_be(device: DeviceMap, original: Graph | Dump | None, npu: Dump, port: Port) -> bool:
    """Could the tensor at a device port be the original's, by their sizes?"""
    trail = device.arrival(port)
    if trail is None or trail.key is None or port not in npu:
        return True
    there = Port(trail.key[0], "output", trail.key[1])
    shape: OpenShape | None = None
    if isinstance(original, Graph):
        shape = original.spec(original.tensor(there) or "").shape
    elif original is not None and there in original:
        shape = original[there].own_shape
    sizes = sizes_of(shape)
    return sizes is None or could_hold(npu[port], sizes)


def _what(original: Graph | Dump | None) -> str:
    if isinstance(original, Graph):
        return f"the model {original.name!r}" + (f" ({original.path})" if original.path else "")
    return f"the model of the golden dump {original.path if original and original.path else '(in memory)'}"


def _ops(npu: Dump) -> Mapping[str, None]:
    """Names of the ops of a dump, unreadable ones too."""
    broken = (item.port.node if item.port else item.name for item in npu.broken)
    return dict.fromkeys([*(port.node for port in npu), *broken])


def _shared(wanted: Collection[str], known: Collection[str]) -> set[str]:
    """Those of `wanted` that are in `known`; either may be flattened."""
    flattened = {flatten_name(name) for name in known}
    return {name for name in wanted if flatten_name(name) in flattened}
