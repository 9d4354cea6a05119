"""Every layout against its index formula written as a loop, and back again."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acccmp.core import layout as L

# N, C, D, H, W are no multiples of any block.
N, C, D, H, W = 5, 19, 3, 7, 2
SIZES = {"N": N, "C": C, "D": D, "H": H, "W": W, "L": 11}


def to_original(
    stored: np.ndarray, layout: str, original_layout: str | None, shape: tuple[int, ...], groups: int = 1,
) -> np.ndarray:
    return L.read_region(stored, layout, original_layout, shape, tuple(slice(0, n) for n in shape), groups)


def original(letters: str) -> np.ndarray:
    shape = [SIZES[letter] for letter in letters]
    return np.arange(1, math.prod(shape) + 1, dtype=np.int32).reshape(shape)


def as_letters(array: np.ndarray, has: str, wants: str) -> np.ndarray:
    return array.transpose([has.index(letter) for letter in wants])


def up(a: int, b: int) -> int:
    return (a + b - 1) // b


def every(*sizes: int) -> itertools.product:
    return itertools.product(*(range(size) for size in sizes))


def nc1hwc0(x: np.ndarray, c0: int) -> np.ndarray:
    n_, c_, h_, w_ = x.shape
    out = np.zeros((n_, up(c_, c0), h_, w_, c0), x.dtype)
    for n, c, h, w in every(*x.shape):
        out[n, c // c0, h, w, c % c0] = x[n, c, h, w]
    return out


def c1hwnc0(x: np.ndarray, c0: int) -> np.ndarray:
    n_, c_, h_, w_ = x.shape
    out = np.zeros((up(c_, c0), h_, w_, n_, c0), x.dtype)
    for n, c, h, w in every(*x.shape):
        out[c // c0, h, w, n, c % c0] = x[n, c, h, w]
    return out


def nhwc1c0(x: np.ndarray, c0: int) -> np.ndarray:
    n_, c_, h_, w_ = x.shape
    out = np.zeros((n_, h_, w_, up(c_, c0), c0), x.dtype)
    for n, c, h, w in every(*x.shape):
        out[n, h, w, c // c0, c % c0] = x[n, c, h, w]
    return out


def ndc1hwc0(x: np.ndarray, c0: int) -> np.ndarray:
    n_, c_, d_, h_, w_ = x.shape
    out = np.zeros((n_, d_, up(c_, c0), h_, w_, c0), x.dtype)
    for n, c, d, h, w in every(*x.shape):
        out[n, d, c // c0, h, w, c % c0] = x[n, c, d, h, w]
    return out


def fractal_z(x: np.ndarray, c0: int) -> np.ndarray:
    n_, c_, h_, w_ = x.shape
    out = np.zeros((up(c_, c0) * h_ * w_, up(n_, 16), 16, c0), x.dtype)
    for n, c, h, w in every(*x.shape):
        out[(c // c0) * h_ * w_ + h * w_ + w, n // 16, n % 16, c % c0] = x[n, c, h, w]
    return out


def fractal_z_3d(x: np.ndarray, c0: int) -> np.ndarray:
    n_, c_, d_, h_, w_ = x.shape
    c1 = up(c_, c0)
    out = np.zeros((d_ * c1 * h_ * w_, up(n_, 16), 16, c0), x.dtype)
    for n, c, d, h, w in every(*x.shape):
        out[((d * c1 + c // c0) * h_ + h) * w_ + w, n // 16, n % 16, c % c0] = x[n, c, d, h, w]
    return out


def c1hwncoc0(x: np.ndarray, c0: int) -> np.ndarray:
    n_, c_, h_, w_ = x.shape
    out = np.zeros((up(c_, c0), h_, w_, n_, c0, c0), x.dtype)
    for n, c, h, w in every(*x.shape):
        out[c // c0, h, w, n, c % c0, c % c0] = x[n, c, h, w]
    return out


def fractal_nz(x: np.ndarray, c0: int) -> np.ndarray:
    if x.ndim == 1:
        x = x[None]
    *lead, m_, n_ = x.shape
    out = np.zeros((*lead, up(n_, c0), up(m_, 16), 16, c0), x.dtype)
    for at in every(*x.shape):
        *b, m, n = at
        out[(*b, n // c0, m // 16, m % 16, n % c0)] = x[at]
    return out


def fractal_zz(x: np.ndarray, c0: int) -> np.ndarray:
    *lead, m_, n_ = x.shape
    out = np.zeros((*lead, up(m_, c0), up(n_, c0), c0, c0), x.dtype)
    for at in every(*x.shape):
        *b, m, n = at
        out[(*b, m // c0, n // c0, m % c0, n % c0)] = x[at]
    return out


def grouped_fractal_z(x: np.ndarray, c0: int, groups: int) -> np.ndarray:
    """x is (N, C of one group, H, W)."""
    n_, cin, h_, w_ = x.shape
    cout = n_ // groups
    e_ = min(math.lcm(math.lcm(cin, c0) // cin, math.lcm(cout, 16) // cout), groups)
    copt, nopt = up(e_ * cin, c0) * c0, up(e_ * cout, 16) * 16
    out = np.zeros((up(groups, e_) * (copt // c0) * h_ * w_, nopt // 16, 16, c0), x.dtype)
    for g, c, k, h, w in every(groups, cin, cout, h_, w_):
        e = g % e_
        ci, co = e * cin + c, e * cout + k
        row = (g // e_) * (copt // c0) * h_ * w_ + (ci // c0) * h_ * w_ + h * w_ + w
        out[row, co // 16, co % 16, ci % c0] = x[g * cout + k, c, h, w]
    return out


BLOCKED = {
    "NC1HWC0": (nc1hwc0, "NCHW"), "NC1HWC0_C04": (nc1hwc0, "NCHW"), "C1HWNC0": (c1hwnc0, "NCHW"),
    "NHWC1C0": (nhwc1c0, "NCHW"), "FRACTAL_Z": (fractal_z, "NCHW"), "C1HWNCoC0": (c1hwncoc0, "NCHW"),
    "NDC1HWC0": (ndc1hwc0, "NCDHW"), "FRACTAL_Z_3D": (fractal_z_3d, "NCDHW"),
}
ORIGINALS = {4: ("NCHW", "NHWC", "HWCN", "CHWN"), 5: ("NCDHW", "NDHWC", "DHWCN", "DHWNC")}
CASES = [
    (layout, letters, c0)
    for layout, (_, base) in BLOCKED.items() for letters in ORIGINALS[len(base)] for c0 in (4, 8, 16, 32)
]


@pytest.mark.parametrize(("layout", "letters", "c0"), CASES)
def test_a_blocked_layout_is_its_index_formula_for_every_order_of_the_original(
    layout: str, letters: str, c0: int,
) -> None:
    formula, base = BLOCKED[layout]
    x = original(letters)
    want = formula(as_letters(x, letters, base), c0)
    stored = L.to_stored(x, letters, layout, c0)
    assert stored.shape == want.shape == L.stored_shape(layout, letters, x.shape, c0)
    assert np.array_equal(stored, want)
    assert np.array_equal(to_original(want, layout, letters, x.shape), x)
    assert L.fits(layout, want.shape, letters, x.shape)


@pytest.mark.parametrize("layout", ["FRACTAL_NZ", "FRACTAL_ZZ", "FRACTAL_NZ_C0_8"])
@pytest.mark.parametrize("shape", [(18, 37), (3, 5, 17), (2, 3, 33, 4), (2, 1, 3, 1, 16), (1, 2, 3, 2, 5, 19)])
@pytest.mark.parametrize("c0", [4, 8, 16, 32])
def test_matrix_layouts_take_any_rank(layout: str, shape: tuple[int, ...], c0: int) -> None:
    formula = fractal_zz if layout == "FRACTAL_ZZ" else fractal_nz
    x = np.arange(1, math.prod(shape) + 1, dtype=np.int32).reshape(shape)
    want = formula(x, c0)
    assert np.array_equal(L.to_stored(x, "ND", layout, c0), want)
    assert np.array_equal(to_original(want, layout, "ND", shape), x)
    assert np.array_equal(to_original(want, layout, "NCHW" if len(shape) == 4 else None, shape), x)


def test_spec8_09_a_one_dimensional_original_of_fractal_nz_is_a_matrix_of_one_row() -> None:
    x = np.arange(1, 38, dtype=np.int32)
    want = fractal_nz(x, 16)
    assert want.shape == (3, 1, 16, 16)
    assert np.array_equal(L.to_stored(x, "ND", "FRACTAL_NZ", 16), want)
    assert np.array_equal(to_original(want, "FRACTAL_NZ", "ND", (37,)), x)
    assert np.array_equal(L.read_region(want, "FRACTAL_NZ", "ND", (37,), (slice(15, 20),)), x[15:20])


def test_spec8_09_fractal_nz_reaches_a_four_dimensional_target() -> None:
    x = np.random.default_rng(0).integers(-99, 99, (2, 3, 20, 40))
    assert np.array_equal(to_original(fractal_nz(x, 16), "FRACTAL_NZ", "NCHW", x.shape), x)


GROUPED = [(64, 1, 1), (64, 1, 9), (6, 5, 7), (3, 20, 18), (4, 16, 16), (2, 33, 3), (5, 3, 1)]  # groups, cin, cout


@pytest.mark.parametrize(("groups", "cin", "cout"), GROUPED)
@pytest.mark.parametrize("c0", [4, 8, 16, 32])
def test_spec8_08_grouped_fractal_z_keeps_every_weight_of_every_group(
    groups: int, cin: int, cout: int, c0: int,
) -> None:
    x = np.arange(1, groups * cout * cin * 3 * 2 + 1, dtype=np.int32).reshape(groups * cout, cin, 3, 2)
    want = grouped_fractal_z(x, c0, groups)
    assert np.count_nonzero(want) == x.size
    stored = L.to_stored(x, "NCHW", "FRACTAL_Z", c0, groups)
    assert np.array_equal(stored, want)
    assert np.array_equal(to_original(want, "FRACTAL_Z", "NCHW", x.shape, groups), x)


def test_spec8_08_sixty_four_groups_of_a_depthwise_convolution_are_all_there_in_hwcn() -> None:
    x = np.random.default_rng(1).standard_normal((3, 3, 1, 64)).astype(np.float16)  # HWCN
    stored = L.to_stored(x, "HWCN", "FRACTAL_Z", 16, 64)
    assert np.array_equal(stored, grouped_fractal_z(x.transpose(3, 2, 0, 1), 16, 64))
    assert np.count_nonzero(stored) == 576
    assert np.array_equal(to_original(stored, "FRACTAL_Z", "HWCN", x.shape, 64), x)


def test_the_diagonal_layout_has_nothing_off_its_diagonal() -> None:
    x = original("HWCN")
    stored = L.to_stored(x, "HWCN", "C1HWNCoC0", 16)
    off = ~np.eye(16, dtype=bool)
    assert not stored[..., off].any()
    assert stored.shape == (2, H, W, N, 16, 16)


PLAIN_PAIRS = [
    (a, b) for rank in (4, 5) for a in ORIGINALS[rank] for b in ORIGINALS[rank]
] + [("NC", "CN"), ("CN", "NC"), ("NCL", "NCL")]


@pytest.mark.parametrize(("stored", "own"), PLAIN_PAIRS)
def test_plain_layouts_are_permutations(stored: str, own: str) -> None:
    x = original(own)
    assert np.array_equal(L.to_stored(x, own, stored), as_letters(x, own, stored))
    assert np.array_equal(to_original(as_letters(x, own, stored), stored, own, x.shape), x)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 7), (19, 7, 2)])
def test_tensors_of_fewer_axes_fit_the_five_dimensional_layout(shape: tuple[int, ...]) -> None:
    x = np.arange(1, math.prod(shape) + 1, dtype=np.int32).reshape(shape)
    stored = L.to_stored(x, "ND", "NC1HWC0", 16)
    whole = x.reshape({0: (1, 1, 1, 1), 1: (1, -1, 1, 1), 2: (*shape, 1, 1), 3: (1, *shape)}[len(shape)])
    assert np.array_equal(stored, nc1hwc0(whole, 16))
    assert np.array_equal(to_original(stored, "NC1HWC0", "ND", shape), x)


def test_padding_may_hold_anything() -> None:
    x = original("NCHW")
    stored = nc1hwc0(x, 16)
    marks = nc1hwc0(np.ones_like(x), 16) == 0
    stored[marks] = -7
    assert np.array_equal(to_original(stored, "NC1HWC0", "NCHW", x.shape), x)


LAYOUTS = [*BLOCKED, "FRACTAL_NZ", "FRACTAL_ZZ", "NHWC", "ND"]
dims = st.integers(1, 6)


@given(st.sampled_from(LAYOUTS), st.lists(st.integers(1, 21), min_size=5, max_size=5), st.sampled_from([4, 8, 16, 32]))
def test_undoing_a_layout_gives_the_tensor_back(layout: str, sizes: list[int], c0: int) -> None:
    rank = 5 if layout in ("NDC1HWC0", "FRACTAL_Z_3D") else 4
    shape = tuple(1 + size % 7 if i != 1 else size for i, size in enumerate(sizes[:rank]))
    x = np.random.default_rng(sum(sizes)).integers(-(1 << 15), 1 << 15, shape).astype(np.int16)
    letters = "NCDHW" if rank == 5 else "NCHW"
    stored = L.to_stored(x, letters, layout, c0)
    assert np.array_equal(to_original(stored, layout, letters, shape), x)


@given(
    st.sampled_from(LAYOUTS), st.sampled_from([4, 16, 32]),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=5, max_size=5), st.sampled_from([1, 4]),
)
def test_a_region_is_the_same_cut_of_the_whole(
    layout: str, c0: int, ends: list[tuple[int, int]], groups: int,
) -> None:
    rank = 5 if layout in ("NDC1HWC0", "FRACTAL_Z_3D") else 4
    letters = "NCDHW" if rank == 5 else "NCHW"
    shape = (8, 19, 3, 7, 2)[:rank]
    groups = groups if layout == "FRACTAL_Z" else 1
    x = np.arange(math.prod(shape)).reshape(shape)
    stored = L.to_stored(x, letters, layout, c0, groups)
    region = tuple(
        slice(min(a, b) % size, min(a, b) % size + 1 + max(a, b) % (size - min(a, b) % size))
        for (a, b), size in zip(ends, shape, strict=False)
    )
    assert np.array_equal(L.read_region(stored, layout, letters, shape, region, groups), x[region])


@given(st.lists(dims, max_size=5), st.integers(1, 40))
def test_regions_cover_a_tensor_once_in_row_major_order(shape: list[int], elements: int) -> None:
    x = np.arange(math.prod(shape)).reshape(shape)
    pieces = [x[region].reshape(-1) for region in L.regions(tuple(shape), elements)]
    assert np.array_equal(np.concatenate(pieces), x.reshape(-1))


def test_an_empty_tensor_has_no_regions() -> None:
    assert list(L.regions((3, 0, 2), 10)) == []


@pytest.mark.parametrize(("layout", "stored", "own", "shape"), [
    ("NC1HWC0", (1, 1, 6, 6, 16), "NCHW", (1, 17, 6, 6)),
    ("NC1HWC0", (1, 6, 6, 16), "NCHW", (1, 16, 6, 6)),
    ("FRACTAL_Z", (10, 1, 16, 16), "NCHW", (16, 16, 3, 3)),
    ("FRACTAL_NZ", (1, 1, 16, 16), "ND", (17, 16)),
    ("NHWC", (1, 6, 6, 15), "NCHW", (1, 16, 6, 6)),
    ("C1HWNCoC0", (1, 3, 3, 1, 16, 8), "HWCN", (3, 3, 5, 1)),
    ("ND", (7,), "ND", (8,)),
    ("FRACTAL_ZN_LSTM", (4, 4, 16, 16), "ND", (64, 64)),
])
def test_a_shape_that_cannot_be_in_there_is_a_layout_error(
    layout: str, stored: tuple[int, ...], own: str, shape: tuple[int, ...],
) -> None:
    assert not L.fits(layout, stored, own, shape)
    with pytest.raises(L.LayoutError):
        to_original(np.zeros(stored), layout, own, shape)


def test_several_orders_fit_where_channels_height_and_width_are_equal() -> None:
    assert L.candidates("NC1HWC0", (1, 1, 16, 16, 16), (1, 16, 16, 16)) == ["NCHW", "NHWC"]
    assert L.candidates("NC1HWC0", (1, 2, 6, 6, 16), (1, 20, 6, 6)) == ["NCHW"]
    assert L.candidates("NC1HWC0", (1, 2, 6, 6, 16), (1, 6, 6, 20)) == ["NHWC"]


@pytest.mark.parametrize("name", ["NC1HWC0", "NDC1HWC0", "FRACTAL_Z", "FRACTAL_NZ", "FRACTAL_ZZ", "C1HWNCoC0"])
def test_a_damaged_header_with_blocks_of_no_elements_fits_nothing(name: str) -> None:
    for original in ((2, 3, 4, 5), (3, 4), (5,), (0, 3, 4, 5)):
        for stored in ((2, 1, 4, 5, 0), (1, 1, 16, 0), (0, 0, 0, 0), (1, 1, 0, 16), (1, 2, 1, 4, 5, 0), ()):
            assert not L.fits(name, stored, "NCHW", original)
            with pytest.raises(L.LayoutError):
                to_original(np.zeros(stored), name, "NCHW", original)
