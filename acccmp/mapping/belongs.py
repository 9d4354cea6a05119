"""Do a model, a mapping and a dump belong together?"""

from __future__ import annotations

from collections.abc import Collection

from acccmp.core.dump import Dump, Port, flatten_name
from acccmp.core.graph import Graph
from acccmp.core.graph import Shape as OpenShape
from acccmp.errors import MappingError
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.reading import could_hold, sizes_of
from acccmp.mapping.trace import PASSING

ENOUGH = 0.5  # share of names that two of the same model have in common at least


def check_belongs(device: DeviceMap, original: Graph | Dump | None, npu: Dump | None) -> None:
    """Raises MappingError when a mapping is not of the original (a model, a golden dump), or a dump not of the mapping.

    Mapping and original may each be a part of the other: the mapping of the whole model of a slice, a golden dump of a
    few layers.
    """
    what, names, others = "", [], []
    if isinstance(original, Graph):
        what = f"the model {original.name!r}" + (f" ({original.path})" if original.path else "")
        names = [node.name for node in original.nodes if node.name not in original.constants]
        others = [*original.inputs, *original.weights, *(t for node in original.nodes for t in node.outputs)]
    elif original is not None:
        what = f"the model of the golden dump {original.path or '(in memory)'}"
        names = list(dict.fromkeys(port.node for port in original))
        others = list(original.run.tensors.values())
    if original is not None and not device.is_by_name:
        wanted = device.wanted_originals
        known = _shared(wanted, [*names, *others])
        told = {name for node in device.nodes for name in (node.origins or (node.name,))} | wanted
        if len(known) < ENOUGH * len(wanted) and len(_shared(names, told)) < ENOUGH * len(names):
            raise MappingError(
                f"the mapping {device} (model {device.graph.name!r}) is not of {what}: {len(known)} of the "
                f"{len(wanted)} originals that it names are in it; give the mapping of the model that was dumped"
            )
    if npu is None:
        return
    ops = dict.fromkeys([
        *(port.node for port in npu), *(broken.port.node if broken.port else broken.name for broken in npu.broken),
    ])
    if device.is_by_name and original is not None:
        _check_names(device, original, npu, list(ops), what)
    elif len(found := _shared(ops, device.by_name)) < ENOUGH * len(ops):
        raise MappingError(
            f"the mapping {device} is not of the NPU dump {npu.path or '(in memory)'}: it has {len(found)} of the "
            f"{len(ops)} dumped ops (not {next(name for name in ops if name not in found)!r}); "
            "give the mapping of the model that ran"
        )


def _check_names(device: DeviceMap, original: Graph | Dump, npu: Dump, ops: Collection[str], what: str) -> None:
    """For a mapping by names: raises MappingError for few names in common with a model; with a golden dump, which may
    hold a few layers only, when what they name is of other sizes too."""
    computing = [name for name in ops if name not in npu.ops or npu.ops[name].op_type not in PASSING] or list(ops)
    known = [name for name in computing if device.by_name[name].origins]
    odd = [name for name in known if not _could_be(device, original, npu, Port(name, "output", 0))]
    if len(known) < ENOUGH * len(computing) and (isinstance(original, Graph) or len(odd) > ENOUGH * len(known)):
        sizes = f", and {len(odd)} of those cannot hold its tensor (such as {odd[0]!r})" if odd else ""
        raise MappingError(
            f"the NPU dump {npu.path or '(in memory)'} is not of {what}: only {len(known)} of its {len(computing)} ops "
            f"have a name of its nodes{sizes}; give the device's model as --mapping, or the dump of this model"
        )


def _could_be(device: DeviceMap, original: Graph | Dump, npu: Dump, port: Port) -> bool:
    """Could the tensor at a device port be the original's, by their sizes?"""
    trail = device.arrival(port)
    if trail is None or trail.key is None or port not in npu:
        return True
    there = Port(trail.key[0], "output", trail.key[1])
    shape: OpenShape | None
    if isinstance(original, Graph):
        shape = original.spec(original.tensor(there) or "").shape
    else:
        shape = original[there].own_shape if there in original else None
    sizes = sizes_of(shape)
    return sizes is None or could_hold(npu[port], sizes)


def _shared(wanted: Collection[str], known: Collection[str]) -> set[str]:
    """Those of `wanted` that are in `known`; either may be flattened."""
    flattened = {flatten_name(name) for name in known}
    return {name for name in wanted if flatten_name(name) in flattened}
