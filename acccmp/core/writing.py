"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from acccmp.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path` to write to; when all went well it takes the name, else it is removed.

    Raises InputError when the disk says no. What else is raised inside goes through, and `path` stays as it was.
    """
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.{time.monotonic_ns()}.part")
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
