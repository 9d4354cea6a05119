"""Layouts: how a device orders the elements of a tensor, a row each, both ways.

C0 is always taken from the stored shape. Source of the formulas: specs of the Ascend formats, section 4 (GE's
`formats/format_transfers`).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acccmp import plugins
from acccmp.errors import InputError, LayoutError

Shape = tuple[int, ...]
Region = tuple[slice, ...]
Array = NDArray[np.generic]
Places = NDArray[np.int64]

N0 = 16  # edge of a cube block in the direction that does not depend on the dtype


@dataclass(frozen=True)
class ByIndex:
    """An order that cutting and turning axes does not give: `shape(sizes, c0, groups)` of what is stored, and the
    place of each element in it, flat: `place(at, sizes, stored, groups)`. Sizes and indices go by the letters NCHW."""

    shape: Callable[[Mapping[str, int], int, int], Shape]
    place: Callable[[Mapping[str, Places], Mapping[str, int], Shape, int], Places]


@dataclass(frozen=True)
class Layout:
    """A row: how a device orders a tensor.

    - `axes`: their names, outermost first. A letter is an axis of the original tensor, `C1 C0` says that axis C was cut
      into blocks (C = C1*C0 + c0, the end padded), `(C1 H W)` is one stored axis made of several. `...` stands for any
      leading axes; M and N are then the last two.
    - `block`: the axes that are cut into blocks of C0, whose edge depends on the dtype; other cut axes have 16.
    - `c0`: that edge, where it is the same for every dtype.
    - `by_index`: where axes do not tell the order: of grouped filters, or of all tensors when there are no `axes`.

    Raises InputError where only one part of a cut axis is named.

    >>> acccmp.Layout("WC1NHC0", "W C1 N H C0", block="C").is_plain
    False
    """

    name: str
    axes: str
    block: str = ""
    c0: int = 0
    by_index: ByIndex | None = None

    def __post_init__(self) -> None:
        cut = {part: {name[0] for name in re.findall(r"[A-Z][01]", self.axes) if name[1] == part} for part in "10"}
        if cut["1"] != cut["0"] or not set(self.block) <= cut["1"]:
            raise InputError(f"the layout {self.name}: of an axis that is cut, {self.axes!r} must name both parts (C1 "
                             f"and C0), and the blocks are of such an axis, not of {self.block!r}")

    @property
    def is_plain(self) -> bool:
        """No blocks, no padding: an order that original models use."""
        return self.by_index is None and not re.search("[01]", self.axes)

    @property
    def is_positional(self) -> bool:
        return self.axes.startswith("...")

    def edge(self, bits: int) -> int:
        """C0 on a device, for elements of so many bits: 32 bytes, but never fewer than 16 elements."""
        return self.c0 or max(N0, 256 // bits)

    def edge_of(self, stored: Shape) -> int:
        """C0 of a stored tensor; 0 for a scalar, which has none."""
        words = re.sub(r"\(.*?\)", "-", self.axes).split()
        back = next((len(words) - at for at, word in enumerate(words) if word[0] in self.block and word[1:] == "0"), 1)
        return stored[-back] if len(stored) >= back else 0


# -- orders that need an index -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grouped:
    """Numbers of grouped FRACTAL_Z (GE `TransFormatHwcnToFzWithGroups`)."""

    cin: int
    cout: int
    e: int
    c_opt: int
    n_opt: int


def _grouped(n: int, c: int, c0: int, groups: int) -> _Grouped:
    if groups < 1 or n % groups:
        raise LayoutError(f"{n} filters cannot be dealt to {groups} groups")
    cin, cout = c, n // groups
    e = min(math.lcm(math.lcm(cin, c0) // cin, math.lcm(cout, N0) // cout), groups)
    return _Grouped(cin, cout, e, -(-e * cin // c0) * c0, -(-e * cout // N0) * N0)


def _grouped_shape(size: Mapping[str, int], c0: int, groups: int) -> Shape:
    g = _grouped(size["N"], size["C"], c0, groups)
    return (-(-groups // g.e) * (g.c_opt // c0) * size["H"] * size["W"], g.n_opt // N0, N0, c0)


def _grouped_place(at: Mapping[str, Places], size: Mapping[str, int], stored: Shape, groups: int) -> Places:
    c0 = stored[-1]
    g = _grouped(size["N"], size["C"], c0, groups)
    n, c, h, w = (at[a] for a in "NCHW")
    group, k = n // g.cout, n % g.cout
    slot = group % g.e
    ci, co = slot * g.cin + c, slot * g.cout + k
    area = size["H"] * size["W"]
    row = (group // g.e) * (g.c_opt // c0) * area + (ci // c0) * area + h * size["W"] + w
    return np.asarray(((row * stored[1] + co // N0) * N0 + co % N0) * c0 + ci % c0)


def _diagonal_shape(size: Mapping[str, int], c0: int, _: int) -> Shape:
    return (-(-size["C"] // c0), size["H"], size["W"], size["N"], c0, c0)


def _diagonal_place(at: Mapping[str, Places], size: Mapping[str, int], stored: Shape, _: int) -> Places:
    c0 = stored[-1]
    n, c, h, w = (at[a] for a in "NCHW")
    row = ((c // c0 * size["H"] + h) * size["W"] + w) * size["N"] + n
    return np.asarray((row * c0 + c % c0) * c0 + c % c0)


# -- the table ---------------------------------------------------------------------------------------------------

LAYOUTS = (
    Layout("NCHW", "N C H W"),
    Layout("NHWC", "N H W C"),
    Layout("HWCN", "H W C N"),
    Layout("CHWN", "C H W N"),
    Layout("NCDHW", "N C D H W"),
    Layout("NDHWC", "N D H W C"),
    Layout("DHWCN", "D H W C N"),
    Layout("DHWNC", "D H W N C"),
    Layout("NCL", "N C L"),
    Layout("NC", "N C"),
    Layout("CN", "C N"),
    Layout("ND", ""),  # whatever the axes mean
    Layout("NC1HWC0", "N C1 H W C0", "C"),
    Layout("NC1HWC0_C04", "N C1 H W C0", "C", 4),
    Layout("C1HWC0", "C1 H W C0", "C"),
    Layout("C1HWNC0", "C1 H W N C0", "C"),
    Layout("NHWC1C0", "N H W C1 C0", "C"),
    Layout("NDC1HWC0", "N D C1 H W C0", "C"),
    Layout("FRACTAL_Z", "(C1 H W) N1 N0 C0", "C", by_index=ByIndex(_grouped_shape, _grouped_place)),
    Layout("FRACTAL_Z_3D", "(D C1 H W) N1 N0 C0", "C"),
    Layout("FRACTAL_NZ", "... N1 M1 M0 N0", "N"),
    *(Layout(f"FRACTAL_NZ_C0_{c0}", "... N1 M1 M0 N0", "N", c0) for c0 in (2, 4, 8, 16, 32)),
    Layout("FRACTAL_ZZ", "... M1 N1 M0 N0", "MN"),
    Layout("C1HWNCoC0", "", by_index=ByIndex(_diagonal_shape, _diagonal_place)),
)
PLAIN = tuple(row.name for row in LAYOUTS if row.is_plain)
_ROWS = plugins.Rows("layouts", Layout, LAYOUTS)


def all_layouts() -> Mapping[str, Layout]:
    """Every row by name: ours, those of other packages (entry points of the group `acccmp.layouts`), those added."""
    return _ROWS.all


def add_layout(row: Layout) -> None:
    """A layout of your own, for this process: tensors that are stored so are read in their original's order.

    >>> acccmp.add_layout(acccmp.Layout("WC1NHC0", "W C1 N H C0", block="C"))
    >>> stored = acccmp.TensorRef.of(np.zeros((3, 2, 1, 2, 16)), "WC1NHC0")
    >>> stored.seen_as((1, 20, 2, 3), "NCHW").numpy().shape
    (1, 20, 2, 3)

    One that was added before under the same name gives way. Raises InputError for a name of ours.
    """
    _ROWS.add(row)


def find_layout(name: str) -> Layout:
    """The row of this name. Raises LayoutError when there is none."""
    row = all_layouts().get(name)
    if row is None:
        raise LayoutError(f"the layout {name} is not known")
    return row


# Numbers of the formats in dump headers and device models; 255 stands for "none".
FORMATS = {
    0: "NCHW", 1: "NHWC", 2: "ND", 3: "NC1HWC0", 4: "FRACTAL_Z", 5: "NC1C0HWPAD", 6: "NHWC1C0", 7: "FSR_NCHW",
    8: "FRACTAL_DECONV", 9: "C1HWNC0", 10: "FRACTAL_DECONV_TRANSPOSE", 11: "FRACTAL_DECONV_SP_STRIDE_TRANS",
    12: "NC1HWC0_C04", 13: "FRACTAL_Z_C04", 14: "CHWN", 15: "FRACTAL_DECONV_SP_STRIDE8_TRANS", 16: "HWCN",
    17: "NC1KHKWHWC0", 18: "BN_WEIGHT", 19: "FILTER_HWCK", 20: "HASHTABLE_LOOKUP_LOOKUPS",
    21: "HASHTABLE_LOOKUP_KEYS", 22: "HASHTABLE_LOOKUP_VALUE", 23: "HASHTABLE_LOOKUP_OUTPUT",
    24: "HASHTABLE_LOOKUP_HITS", 25: "C1HWNCoC0", 26: "MD", 27: "NDHWC", 28: "FRACTAL_ZZ", 29: "FRACTAL_NZ",
    30: "NCDHW", 31: "DHWCN", 32: "NDC1HWC0", 33: "FRACTAL_Z_3D", 34: "CN", 35: "NC", 36: "DHWNC",
    37: "FRACTAL_Z_3D_TRANSPOSE", 38: "FRACTAL_ZN_LSTM", 39: "FRACTAL_Z_G", 40: "RESERVED", 41: "ALL", 42: "NULL",
    43: "ND_RNN_BIAS", 44: "FRACTAL_ZN_RNN", 45: "NYUV", 46: "NYUV_A", 47: "NCL", 48: "FRACTAL_Z_WINO", 49: "C1HWC0",
    50: "FRACTAL_NZ_C0_16", 51: "FRACTAL_NZ_C0_32", 52: "FRACTAL_NZ_C0_2", 53: "FRACTAL_NZ_C0_4",
    54: "FRACTAL_NZ_C0_8", 255: "MAX",
}
FORMAT_NUMBERS = {name: number for number, name in FORMATS.items()}

# Letters of an original tensor whose rank is not the layout's (GE's padding rule for 5-D layouts).
_BY_RANK = {1: "C", 2: "NC", 3: "CHW"}


@dataclass(frozen=True)
class _Axes:
    """A stored tensor, axis by axis: `names` and `sizes` of the expanded stored array (parentheses opened)."""

    names: tuple[str, ...]
    sizes: Shape

    @property
    def by_name(self) -> dict[str, int]:
        return dict(zip(self.names, self.sizes, strict=True))


def is_known(layout: str) -> bool:
    """Can elements of this layout be put back in their original order?"""
    return layout in all_layouts()


def is_plain(layout: str | None) -> bool:
    """Is it an order that original models use (no blocks, no padding)?"""
    row = all_layouts().get(layout or "")
    return row is not None and row.is_plain


def is_positional(layout: str) -> bool:
    """Are its blocks of the last axes, whatever their names?"""
    row = all_layouts().get(layout)
    return row is not None and row.is_positional


def letters(layout: str | None, rank: int, stored: str = "NCHW") -> str | None:
    """Axis letters of an original tensor of `rank` in `layout`; None when they cannot be told.

    When the rank is not the layout's, GE's rule is used: C, NC, CHW.
    """
    if layout is not None and is_plain(layout):
        names = find_layout(layout).axes.split()
        if names and len(names) == rank:
            return "".join(names)
    if rank in _BY_RANK:
        return _BY_RANK[rank]
    if layout in (None, "ND"):
        return {4: "NCHW", 5: "NCDHW"}.get(rank)
    return None


def candidates(layout: str, stored: Shape, original: Shape) -> list[str]:
    """The plain layouts in which `original` could be the shape of what is stored; more than one means ambiguous.

    Where one fills the stored shape but for the padding of its blocks, those that leave more of it unused do not count.
    """
    names = {3: ["NCL"], 4: ["NCHW", "NHWC", "HWCN", "CHWN"], 5: ["NCDHW", "NDHWC", "DHWCN"]}.get(len(original), ["ND"])
    found = [name for name in names if fits(layout, stored, name, original)]
    c0 = find_layout(layout).edge_of(stored) if found else 0
    return [name for name in found if stored_shape(layout, name, original, c0) == stored] or found


def fits(layout: str, stored: Shape, original_layout: str | None, original: Shape, groups: int = 1) -> bool:
    """Can `stored` in `layout` hold a tensor of shape `original` in `original_layout`?"""
    original = _at_least_a_row(layout, original)
    try:
        if layout == "ND":
            return math.prod(stored) == math.prod(original)
        if _is_indexed(layout, groups):
            c0 = find_layout(layout).edge_of(stored)
            return stored == _stored_shape_indexed(layout, original_layout, original, c0, groups)
        axes, order = _axes(layout, stored, original_layout, original)
        sizes = axes.by_name
        for letter, size in zip(order, original, strict=True):
            block = sizes.get(letter + "0", 0)
            room = sizes[letter + "1"] * block if block else sizes[letter]
            if not room - max(0, block - 1) <= size <= room:  # only blocks are padded: height and width never are
                return False
        return True
    except LayoutError:
        return False


def stored_shape(layout: str, original_layout: str | None, original: Shape, c0: int, groups: int = 1) -> Shape:
    """Shape of a tensor of shape `original` once a device stores it in `layout` with blocks of `c0`.

    Raises LayoutError when the layout is not known or does not fit the rank.
    """
    if layout == "ND" or layout == original_layout:
        return original
    original = _at_least_a_row(layout, original)
    if _is_indexed(layout, groups):
        return _stored_shape_indexed(layout, original_layout, original, c0, groups)
    order = _order(layout, original_layout, len(original))
    size = dict(zip(order, original, strict=True))
    out = []
    for word in _expand(layout, order).split():
        part = 1
        for name in word.strip("()").split("*"):
            part *= _axis_size(layout, name, size, c0)
        out.append(part)
    return tuple(out)


def to_stored(
    array: Array, original_layout: str | None, layout: str, c0: int = 16, groups: int = 1,
) -> Array:
    """`array` as a device stores it in `layout` with blocks of `c0`; padding is zero. The inverse of `read_region`."""
    shape = stored_shape(layout, original_layout, array.shape, c0, groups)
    if layout == "ND" or layout == original_layout:
        return np.ascontiguousarray(array).reshape(shape)
    array = array.reshape(_at_least_a_row(layout, array.shape))
    if _is_indexed(layout, groups):
        out = np.zeros(math.prod(shape), array.dtype)
        out[_flat_index(layout, shape, original_layout, array.shape, groups, None)] = array
        return out.reshape(shape)
    axes, order = _axes(layout, shape, original_layout, array.shape)
    sizes = axes.by_name
    rooms = [sizes[a + "1"] * sizes[a + "0"] if a + "1" in sizes else sizes[a] for a in order]
    padded = np.zeros(rooms, array.dtype)
    padded[tuple(slice(0, n) for n in array.shape)] = array
    split: list[str] = []
    for letter in order:
        split += [letter + "1", letter + "0"] if letter + "1" in sizes else [letter]
    cut = padded.reshape([sizes[name] for name in split])
    missing = [name for name in axes.names if name not in split]
    cut = cut.reshape(cut.shape + (1,) * len(missing))
    moved = cut.transpose([(split + missing).index(name) for name in axes.names])
    return np.ascontiguousarray(moved).reshape(shape)


def read_region(
    stored: Array, layout: str, original_layout: str | None, original: Shape, region: Region, groups: int = 1,
) -> Array:
    """One region (a slice for each axis of the original) of the tensor that `stored` holds, in the original's order.

    Only the part of `stored` that holds the region is touched, so that a memory map stays mostly unread.
    """
    if layout == "ND" or (layout == original_layout and stored.shape == original):
        if math.prod(stored.shape) != math.prod(original):
            raise LayoutError(f"{stored.shape} and {original} have different numbers of elements")
        return stored.reshape(original)[region]
    row = _at_least_a_row(layout, original)
    if row != original:
        whole_row = tuple(slice(0, n) for n in row[: len(row) - len(region)]) + region
        found = read_region(stored, layout, original_layout, row, whole_row, groups)
        return found.reshape(found.shape[len(found.shape) - len(original):])
    if _is_indexed(layout, groups):
        c0 = find_layout(layout).edge_of(stored.shape)
        want = _stored_shape_indexed(layout, original_layout, original, c0, groups)
        if want != stored.shape:
            raise LayoutError(f"{layout} of {original} is stored as {want}, not {stored.shape}")
        return stored.reshape(-1)[_flat_index(layout, stored.shape, original_layout, original, groups, region)]
    axes, order = _axes(layout, stored.shape, original_layout, original)
    sizes = axes.by_name
    picked: dict[str, slice] = {}
    cuts: list[slice] = []
    rooms: list[int] = []
    for letter, size, part in zip(order, original, region, strict=True):
        start, stop, _ = part.indices(size)
        if letter + "1" in sizes:
            block = sizes[letter + "0"]
            if size > sizes[letter + "1"] * block:
                raise LayoutError(f"axis {letter} of {original} does not fit {layout} {stored.shape}")
            first, last = start // block, -(-stop // block)
            picked[letter + "1"] = slice(first, last)
            cuts.append(slice(start - first * block, stop - first * block))
            rooms.append((last - first) * block)
        else:
            if size != sizes[letter]:
                raise LayoutError(f"axis {letter} of {original} does not fit {layout} {stored.shape}")
            picked[letter] = slice(start, stop)
            cuts.append(slice(0, stop - start))
            rooms.append(stop - start)
    for name, size in sizes.items():
        letter = name.rstrip("01")
        if letter not in order and size != 1:
            raise LayoutError(f"{layout} {stored.shape} has an axis {name} of {size} that {original} does not have")
    view = stored.reshape(axes.sizes)[tuple(picked.get(name, slice(None)) for name in axes.names)]
    ordered: list[str] = []
    for letter in order:
        ordered += [letter + "1", letter + "0"] if letter + "1" in sizes else [letter]
    rest = [name for name in axes.names if name not in ordered]
    moved = view.transpose([axes.names.index(name) for name in ordered + rest])
    return moved.reshape(rooms)[tuple(cuts)]


def padding(
    stored: Array, layout: str, original_layout: str | None, original: Shape, groups: int = 1,
) -> list[tuple[int, Array]]:
    """The padding of a blocked tensor as views of `stored`: (1, view) or, for what two of those share, (-1, view).

    Empty for layouts that are not known axis by axis (grouped filters).
    """
    original = _at_least_a_row(layout, original)
    if not is_known(layout) or _is_indexed(layout, groups):
        return []
    axes, order = _axes(layout, stored.shape, original_layout, original)
    sizes = axes.by_name
    outside: list[dict[str, slice]] = []
    for letter, size in zip(order, original, strict=True):
        block = sizes.get(letter + "0", 0)
        if block and size % block:
            whole = size // block
            outside.append({letter + "1": slice(whole, whole + 1), letter + "0": slice(size % block, None)})
    view = stored.reshape(axes.sizes)
    found = []
    for count in range(1, len(outside) + 1):
        for several in itertools.combinations(outside, count):
            cuts = {name: cut for one in several for name, cut in one.items()}
            found.append(((-1) ** (count + 1), view[tuple(cuts.get(name, slice(None)) for name in axes.names)]))
    return found


def regions(shape: Shape, elements: int) -> Iterator[Region]:
    """Cut a tensor of `shape` into regions of about `elements` elements each, in row-major order.

    The cut depends on shape and size alone, so two tensors of one shape are cut alike whatever their layouts. An empty
    tensor has no region; a scalar has one.
    """
    if 0 in shape:
        return
    axis = 0
    while axis < len(shape) and math.prod(shape[axis + 1:]) > elements:
        axis += 1
    if axis >= len(shape):
        axis = len(shape) - 1
    if axis < 0:
        yield ()
        return
    step = max(1, elements // max(1, math.prod(shape[axis + 1:])))
    if step > 64:
        step -= step % 64  # keeps cuts of a channel axis on block borders
    tail = tuple(slice(0, n) for n in shape[axis + 1:])
    for prefix in np.ndindex(*shape[:axis]):
        head = tuple(slice(i, i + 1) for i in prefix)
        for start in range(0, shape[axis], step):
            yield (*head, slice(start, min(start + step, shape[axis])), *tail)


def _at_least_a_row(layout: str, original: Shape) -> Shape:
    """A scalar counts as one channel; in the matrix layouts a vector (N) counts as a matrix (1, N)."""
    row = all_layouts().get(layout)
    least = 1 if row is None else 2 if row.is_positional else 0 if row.is_plain else 1
    return (1,) * (least - len(original)) + original


# -- axis tables -------------------------------------------------------------------------------------------------


def _order(layout: str, original_layout: str | None, rank: int) -> tuple[str, ...]:
    """Names of the original's axes, in its own order, in the words of `layout`."""
    row = find_layout(layout)
    if row.is_positional:
        return (*(f"B{i}_" for i in range(rank - 2)), "M", "N")
    found = letters(original_layout, rank)
    if found is None:
        raise LayoutError(f"no axis letters for a tensor of rank {rank} in {original_layout}")
    if any(letter not in row.axes for letter in found):
        raise LayoutError(f"{layout} has no axis for every one of {found}")
    return tuple(found)


def _expand(layout: str, order: Sequence[str]) -> str:
    """The axes of the row with `...` replaced by the leading ones, and products written as A*B."""
    axes = find_layout(layout).axes
    if axes.startswith("..."):
        axes = " ".join([*(name for name in order if name.startswith("B")), axes[4:]])
    return re.sub(r"\((.*?)\)", lambda product: "*".join(product[1].split()), axes)


def _axis_size(layout: str, name: str, size: dict[str, int], c0: int) -> int:
    letter = name.rstrip("01") if not name.startswith("B") else name
    if letter == name:
        return size.get(name, 1)
    edge = c0 if letter in find_layout(layout).block else N0
    return edge if name.endswith("0") else -(-size.get(letter, 1) // edge)


def _axes(layout: str, stored: Shape, original_layout: str | None, original: Shape) -> tuple[_Axes, tuple[str, ...]]:
    """Axes of the stored array with products opened, and the names of the original's axes."""
    order = _order(layout, original_layout, len(original))
    words = _expand(layout, order).split()
    if len(words) != len(stored):
        raise LayoutError(f"{layout} of a rank-{len(original)} tensor has {len(words)} axes, stored are {stored}")
    if any(word.endswith("0") and n < 1 for word, n in zip(words, stored, strict=True)):
        raise LayoutError(f"{layout} {stored} has blocks of no elements")
    size = dict(zip(order, original, strict=True))
    names: list[str] = []
    sizes: list[int] = []
    for word, n in zip(words, stored, strict=True):
        parts = word.split("*")
        if len(parts) == 1:
            names.append(word)
            sizes.append(n)
            continue
        opened = [_axis_size(layout, name, size, find_layout(layout).edge_of(stored)) for name in parts]
        if math.prod(opened) != n:
            raise LayoutError(f"{layout} of {original} has {math.prod(opened)} as its first axis, stored is {n}")
        names += parts
        sizes += opened
    return _Axes(tuple(names), tuple(sizes)), order


def _is_indexed(layout: str, groups: int) -> bool:
    row = all_layouts().get(layout)
    return row is not None and row.by_index is not None and (groups > 1 or not row.axes)


def _nchw_sizes(original_layout: str | None, original: Shape) -> dict[str, int]:
    found = letters(original_layout, len(original))
    if found is None or len(found) != 4 or set(found) != set("NCHW"):
        raise LayoutError(f"needs a 4-D original in NCHW, NHWC, HWCN or CHWN, not {original_layout} {original}")
    return dict(zip(found, original, strict=True))


def _stored_shape_indexed(
    layout: str, original_layout: str | None, original: Shape, c0: int, groups: int,
) -> Shape:
    size = _nchw_sizes(original_layout, original)
    if not size["C"] or not size["N"]:
        raise LayoutError(f"{layout} of an empty tensor {original}")
    if c0 < 1:
        raise LayoutError(f"{layout} with blocks of no elements")
    index = find_layout(layout).by_index
    assert index is not None
    return index.shape(size, c0, groups)


def _flat_index(
    layout: str, stored: Shape, original_layout: str | None, original: Shape, groups: int, region: Region | None,
) -> Places:
    """For each element of the region of the original: its place in the flat stored array."""
    found = letters(original_layout, len(original)) or ""
    grids = np.ogrid[tuple(region or (slice(0, n) for n in original))]
    at = dict(zip(found, (np.asarray(grid, np.int64) for grid in grids), strict=True))
    index = find_layout(layout).by_index
    assert index is not None
    return index.place(at, _nchw_sizes(original_layout, original), stored, groups)


def squeezed(shape: Shape) -> Shape:
    """`shape` without its dimensions of 1."""
    return tuple(n for n in shape if n != 1)
