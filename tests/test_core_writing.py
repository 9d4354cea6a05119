"""Files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from acccmp.core.writing import replacing
from acccmp.errors import FormatError, InputError


def test_a_file_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with replacing(tmp_path / "f") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "f").read_bytes() == b"old"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"f": b"new"}


def test_a_job_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise FormatError("weights are missing")

    with pytest.raises(FormatError, match="weights are missing"), replacing(tmp_path / "f") as file:
        file.writelines(pieces())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"f": b"old"}


def test_a_disk_that_says_no_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/f: cannot be written: Not a directory"), replacing(tmp_path / "file/f"):
        pass
