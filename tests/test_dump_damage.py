"""Damaged dumps: whatever happens to one file, it is said, and every other file is still there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dump_bytes import (
    FLOAT16,
    INT32,
    NC1HWC0,
    ND,
    big,
    blob,
    header,
    input_,
    nano,
    nano_input,
    nano_output,
    output,
    put,
)
from hypothesis import given
from hypothesis import strategies as st

from acccmp.core.dump import Port
from acccmp.core.layout import LayoutError
from acccmp.dumps import arrays
from acccmp.dumps.read import read_dump
from acccmp.errors import AcccmpError
from benchmarks.damage import damage

T = 1700000000001000


def all_kinds(folder: Path) -> Path:
    """One small dump of each container, with every part of a header in it."""
    x = np.arange(32, dtype="<f2")
    origin = blob(1, "relu")
    put(folder, f"Conv2D.m_conv1.1.1.{T}", big(
        header("m/conv1", (output(FLOAT16, NC1HWC0, (1, 1, 1, 2, 16), 64, (1, 9, 1, 2), origin=origin),),
               (input_(INT32, ND, (4,), 16, (4,)),), blob(7, blob(1, "a") + blob(2, "b"))), bytes(16), x.tobytes()))
    put(folder, f"Relu.relu.2.1.{T + 1}", header("relu", (output(FLOAT16, ND, (32,), 64, (32,), data=x.tobytes()),)))
    put(folder, f"Pool.pool.3.1.{T + 2}", nano(
        [(nano_input(1, ND, 64, (32,), (32,)), x.tobytes())],
        [(nano_output(1, ND, 64, (32,), (32,), "pool", 0), x.tobytes())]))
    for thread in range(2):
        told = '{"threadMode":1,"slice_instance_num":2,"outputCutList":[[2]],"output_tensor_slice":' \
            '[[[{"lower":0,"higher":2}]],[[{"lower":2,"higher":4}]]]}'
        put(folder, f"A.sliced.4.1.{T + 3}.4.0.{thread}.0", big(
            header("sliced", (output(FLOAT16, ND, (2,), 4),), (), blob(7, blob(1, "f") + blob(2, told))), bytes(4)))
    return folder


def test_300_damages_of_every_container_lose_nothing_but_the_damaged_file(tmp_path: Path) -> None:
    outcome = damage(all_kinds(tmp_path / "d"), 300, seed=1)
    assert outcome.failures == []
    assert sum(outcome.trials.values()) == 300
    assert len({kind for kind, _ in outcome.trials}) == 6


def test_damages_of_the_vendors_dumps(shared: Path) -> None:
    for name in ("fusion", "net_fp16_5hd_fused3"):
        outcome = damage(shared / "peer_results" / name / "npu", 100, seed=2)
        assert outcome.failures == []


def test_damages_of_golden_folders(shared: Path, tmp_path: Path) -> None:
    arrays.write_golden(tmp_path / "g", [(Port(f"n{i}", "output", 0), np.full((2, i + 1), i)) for i in range(5)], {})
    for folder in (tmp_path / "g", shared / "peer_results" / "fusion" / "golden"):
        assert damage(folder, 60, seed=3).failures == []


def test_swapped_files_are_unreadable_not_compared_with_the_wrong_op(shared: Path, tmp_path: Path) -> None:
    source = shared / "peer_results" / "net_fp16_5hd_fused3" / "npu"
    a, b, *_ = sorted(source.iterdir())
    put(tmp_path, a.name, b.read_bytes())
    put(tmp_path, b.name, a.read_bytes())
    dump = read_dump(tmp_path)
    assert len(dump) == 0
    assert len(dump.broken) == 2
    assert all("mixed up" in item.reason for item in dump.broken)


@pytest.mark.parametrize("name", [f"Op.a.1.1.{T}", "a.0.5.npy", "a.npz", "plain"])
@given(data=st.binary(max_size=200), start=st.sampled_from([
    b"", b"\x20" + bytes(7), b"\x93NUMPY\x01\x00", bytes(8) + b"\x5a" * 4, b"\x40" + bytes(7) + b"\x5a" * 4,
    b"\x0a\x032.0", b"PK\x03\x04",
]))
def test_random_bytes_are_never_more_than_our_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes, start: bytes,
) -> None:
    path = put(tmp_path_factory.mktemp("r"), name, start + data)
    for what in (path, path.parent):
        try:
            dump = read_dump(what)
        except AcccmpError:
            continue
        for ref in dump.values():
            try:
                ref.numpy()
            except (AcccmpError, LayoutError):
                continue
