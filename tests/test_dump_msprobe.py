"""Folders of msprobe: names, the index, npy and .pt files, steps and ranks."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from acccmp.core.dump import Port
from acccmp.dumps.read import read_dump
from acccmp.errors import FormatError, InputError

CONV = "Module.conv1.Conv2d.forward.0"
RELU = "Functional.relu.10.forward"


def entry(name: str, array: np.ndarray, dtype: str) -> dict[str, object]:
    return {"type": "torch.Tensor", "dtype": dtype, "shape": list(array.shape), "data_name": name}


def pt(path: Path, data: bytes, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("t/data.pkl", b"\x80\x02 never unpickled")
        archive.writestr("t/data/0", data)


def probe(folder: Path, mark: float = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.arange(6, dtype="f4").reshape(2, 3) + np.float32(mark)
    half = x.astype("f2").T.copy()
    tensors = folder / "dump_tensor_data"
    tensors.mkdir(parents=True)
    pt(tensors / f"{CONV}.input.0.pt", x.tobytes())
    for index in (0, 2, 10):
        np.save(tensors / f"{CONV}.output.{index}.npy", half * index)
    np.save(tensors / f"{RELU}.output.0.npy", x)
    np.save(tensors / f"{CONV}.parameters.weight.npy", x)
    (folder / "dump.json").write_text(json.dumps({"framework": "pytorch", "level": "mix", "data": {
        RELU: {"output": [entry(f"{RELU}.output.0.npy", x, "torch.float32")]},
        CONV: {"input_args": [entry(f"{CONV}.input.0.pt", x, "torch.float32")], "output": [[{}]]},
    }}))
    return x, half


def test_ops_come_in_the_order_of_the_index_and_arguments_as_numbers(tmp_path: Path) -> None:
    x, half = probe(tmp_path)
    dump = read_dump(tmp_path)
    assert list(dump) == [Port(RELU, "output", 0), Port(CONV, "input", 0), *(Port(CONV, "output", i) for i in range(3))]
    assert np.array_equal(dump[Port(CONV, "input", 0)].numpy(), x)
    assert np.array_equal(dump[Port(CONV, "output", 2)].numpy(), half * 10)
    assert [op.op_type for op in dump.ops.values()] == ["relu", "Conv2d"]
    assert any("1 files are parameters" in note for note in dump.notes)


def test_the_last_step_is_read_and_ranks_are_chosen_between(tmp_path: Path) -> None:
    for step in (2, 10):
        probe(tmp_path / f"step{step}" / "rank0", step)
    assert read_dump(tmp_path)[Port(RELU, "output", 0)].numpy()[0, 0] == 10
    assert read_dump(tmp_path, step=2)[Port(RELU, "output", 0)].numpy()[0, 0] == 2
    probe(tmp_path / "step10" / "rank1", 11)
    with pytest.raises(InputError, match=r"2 devices \(0, 1\)"):
        read_dump(tmp_path)
    assert read_dump(tmp_path, device=1)[Port(RELU, "output", 0)].numpy()[0, 0] == 11
    with pytest.raises(InputError, match="no step '3'; there are: 10, 2"):
        read_dump(tmp_path, step=3)
    with pytest.raises(InputError, match="no run '2026'"):  # a choice that steps and ranks do not have
        read_dump(tmp_path, run="2026")


def test_a_pt_file_of_another_size_or_kind_is_broken_alone(tmp_path: Path) -> None:
    x, _ = probe(tmp_path)
    path = tmp_path / "dump_tensor_data" / f"{CONV}.input.0.pt"
    pt(path, x.tobytes()[:-4])
    assert "needs 24 bytes, its storage has 20" in read_dump(tmp_path).broken[0].reason
    pt(path, x.tobytes(), zipfile.ZIP_DEFLATED)
    assert "one is wanted" in read_dump(tmp_path).broken[0].reason
    path.write_bytes(b"old torch format")
    dump = read_dump(tmp_path)
    assert len(dump) == 4
    assert "no zip archive that can be read" in dump.broken[0].reason


def test_statistics_alone_and_a_damaged_index_say_so(tmp_path: Path) -> None:
    (tmp_path / "dump.json").write_text('{"data": {}}')
    with pytest.raises(InputError, match="statistics only"):
        read_dump(tmp_path)
    (tmp_path / "dump.json").write_text('{"data": ')
    with pytest.raises(FormatError, match=r"dump\.json: not JSON"):
        read_dump(tmp_path)
