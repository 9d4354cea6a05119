"""Attributes of a device model as plain Python values, their compressed names and texts written out.

Compilers since CANN 6 write attribute names as numbers into a list of the model (`attr_name_enum`), and texts as
numbers into another (`attr_value_enum`). In files of several models each has its own lists, whose entries can be
numbers into the lists of the first. Source: ../shared/specs/model_formats.md, a.4 and a.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from acccmp.core.wire import text_of

# Texts and bytes of model attributes that are longer are cut: lists of tasks, kernels.
LONGEST_BYTES = 1 << 16


@dataclass(frozen=True)
class Dictionary:
    """The lists of one model. `above` is the dictionary in which its own entries are coded, if they are."""

    names: Sequence[str] = ()
    values: Sequence[str] = ()
    has_text: Sequence[bool] = ()
    above: Dictionary | None = None

    @classmethod
    def of(cls, attrs: Any, above: Dictionary | None = None) -> Dictionary | None:
        """The dictionary in the attributes (protobuf map) of a ModelDef; None for a model without compression."""
        if "om_compress_version" not in attrs or attrs["om_compress_version"].i != 1:
            return above
        return cls(
            [text_of(raw) for raw in _list(attrs, "attr_name_enum").s],
            [text_of(raw) for raw in _list(attrs, "attr_value_enum").s],
            list(_list(attrs, "attrs_use_string_value").b), above,
        )

    def decoded(self, key: str, value: Any) -> tuple[str, Any]:
        """Name and value of an attribute; a name that is not coded, or beyond the list, is left as it is."""
        step: Dictionary | None = self
        while step is not None and key.startswith("\0"):
            index = number_of(key)
            if index is not None and index < len(step.names):
                key = step.names[index]
                if index < len(step.has_text) and step.has_text[index]:
                    value = step._written_out(value)
            step = step.above
        return key, value

    def _written_out(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._written_out(item) for item in value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.values):
            return self.values[value]
        return value


def number_of(key: str) -> int | None:
    """The number that a coded name stands for: digits of base 127, each one more than its value, lowest first.

    None for a name that is no number (the byte 0 alone, characters beyond 127).
    """
    digits = [ord(char) - 1 for char in key[1:]]
    if not 0 < len(digits) <= 8 or not all(0 <= digit < 127 for digit in digits):
        return None
    number = 0
    for digit in reversed(digits):
        number = number * 127 + digit
    return number


def _list(attrs: Any, name: str) -> Any:
    from acccmp.schemas import ge_pb2

    return attrs[name].list if name in attrs else ge_pb2.AttrDef.ListValue()


def plain_attrs(attrs: Any, dictionary: Dictionary | None = None) -> dict[str, Any]:
    """A protobuf map of attributes as a dict of plain values.

    Lists are tuples; a list with nothing but its type is (); tensors are dicts of what describes them, without data.
    """
    found: dict[str, Any] = {}
    for key in attrs:
        name, value = text_of(key), plain(attrs[key], dictionary)
        if dictionary is not None:
            name, value = dictionary.decoded(name, value)
        found[name] = value
    return found


def plain(attr: Any, dictionary: Dictionary | None = None) -> Any:
    """An AttrDef as a plain value; None when none is set."""
    kind = attr.WhichOneof("value")
    if kind is None:
        return None
    value = getattr(attr, kind)
    if kind == "list":
        told = [(row.name, items) for row, items in value.ListFields() if row.name != "val_type"]
        return tuple(_item(name, item, dictionary) for name, items in told[:1] for item in items)
    if kind == "list_list_int":
        return tuple(tuple(row.list_i) for row in value.list_list_i)
    if kind == "list_list_float":
        return tuple(tuple(row.list_f) for row in value.list_list_f)
    return _item(kind, value, dictionary)


def _item(kind: str, value: Any, dictionary: Dictionary | None) -> Any:
    """A value that is no list; numbers come as they are."""
    if kind == "s":
        return text_of(value)
    if kind in ("bt", "expression"):
        return bytes(value[:LONGEST_BYTES])
    if kind == "td":
        return descriptor(value, dictionary)
    if kind == "t":
        return {"desc": descriptor(value.desc, dictionary), "data_bytes": len(value.data)}
    if kind in ("func", "na"):
        return {"name": text_of(value.name), "attr": plain_attrs(value.attr, dictionary)}
    if kind == "g":
        return {"name": text_of(value.name), "ops": len(value.op)}
    return value


def descriptor(desc: Any, dictionary: Dictionary | None = None) -> dict[str, Any]:
    """A TensorDescriptor inside of an attribute, under the names of its fields."""
    found: dict[str, Any] = {
        "dtype": desc.dtype, "shape": tuple(desc.shape.dim), "layout": text_of(desc.layout),
        "size": desc.size, "weight_size": desc.weight_size, "data_offset": desc.data_offset,
    }
    if desc.attr:
        found["attr"] = plain_attrs(desc.attr, dictionary)
    return found
