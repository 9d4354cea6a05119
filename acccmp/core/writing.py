"""The one door through which files of ours go out: whole or not at all, and those of one result together or not at all.

Everything is written under a name that nobody can guess, beside the place where it belongs, and takes its own name when
all of it is complete. Whoever writes holds a lock on such a name; names of ours that nobody holds are what a killed run
left behind, and are removed the next time something is written in that folder.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from acccmp.errors import InputError

try:
    fcntl: ModuleType | None = __import__("fcntl")
except ModuleNotFoundError:  # a system without locks: there, leftovers stay
    fcntl = None

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_OURS = re.compile(r"\.acccmp-[0-9a-f]{16}\.part")


@dataclass(frozen=True)
class _Part:
    """A file or folder on its way: its name until it is complete, what holds the lock, its place (None: none)."""

    work: Path
    handle: int
    path: Path | None
    file: BinaryIO | None = None


class Result:
    """The files and folders of one result, none of which is in its place yet: see `together`."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._made: list[Path] = []  # folders that were not there before, the outermost first
        self._begun: list[Path] = []  # names that were about to be made: an interrupt may come at once
        self._at: object = ""  # what was begun last, which a full disk is told of

    def file(self, path: Path) -> BinaryIO:
        """A new file, open for writing bytes, that will be at `path` and take the place of an older one.

        Raises InputError when something else than a file is there.
        """
        self._at = path
        there = _mode(path)
        if there is not None and not stat.S_ISREG(there):
            what = "a folder is" if stat.S_ISDIR(there) else "a pipe or a device is"
            raise InputError(f"{path}: cannot be written: {what} there; give another name")
        self._make(path.parent)
        while True:
            work = self._new_name(path.parent)
            file = open(work, "xb", opener=lambda name, flags: os.open(name, flags | _NO_LINK, 0o666))  # noqa: SIM115
            if _locked(file.fileno(), work):
                self._parts.append(_Part(work, file.fileno(), path, file))
                return file
            file.close()

    def folder(self, path: Path) -> Path:
        """A new folder to be filled, that will be at `path`. Raises InputError when more than an empty one is there."""
        self._at = path
        if os.path.lexists(path) and (not path.is_dir() or path.is_symlink() or os.listdir(path)):
            raise InputError(f"{path} is there already; remove it or choose another folder")
        self._make(path.parent)
        return self._new_folder(path.parent, path)

    def _new_folder(self, parent: Path, path: Path | None) -> Path:
        while True:
            work = self._new_name(parent)
            work.mkdir()
            handle = os.open(work, os.O_RDONLY | _NO_LINK)
            if _locked(handle, work):
                self._parts.append(_Part(work, handle, path))
                return work
            os.close(handle)

    def _new_name(self, parent: Path) -> Path:
        self._begun.append(_new_name(parent))
        return self._begun[-1]

    def _make(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            self._made.append(new)
        _sweep(os.path.abspath(folder))

    def _complete(self, durable: bool) -> None:
        """Put all of it in its place. What stood there is moved away first: new never stands beside old."""
        parts = [(part, part.path) for part in self._parts if part.path is not None]
        for part, self._at in parts:
            if part.file is not None:
                part.file.flush()
                if durable:
                    os.fsync(part.file.fileno())
        moves: list[tuple[Path, Path]] = []
        try:
            for _, self._at in parts if len(parts) > 1 else []:
                if os.path.lexists(self._at):
                    moves.append((self._at, self._new_folder(self._at.parent, None) / "old"))
                    os.rename(*moves[-1])
            for part, self._at in parts:
                moves.append((part.work, self._at))
                os.replace(*moves[-1])
        except BaseException:
            for before, now in reversed(moves):
                with suppress(OSError):  # the last one did not move
                    os.rename(now, before)
            raise

    def _close(self, done: bool) -> None:
        """Let go, and remove what is not in its place."""
        for part in self._parts:
            with suppress(OSError):
                if part.file is None:
                    shutil.rmtree(part.work, ignore_errors=True)
                    os.close(part.handle)
                else:
                    part.work.unlink(missing_ok=True)
                    part.file.close()
        for work in [] if done else self._begun:
            with suppress(OSError):
                shutil.rmtree(work) if work.is_dir() else work.unlink(missing_ok=True)
        for new in [] if done else reversed(self._made):
            with suppress(OSError):
                new.rmdir()

    def _in_words(self, text: str) -> str:
        """A message in which files are called by the names that they will have."""
        for part in self._parts:
            text = text.replace(str(part.work), str(part.path or part.work))
        return text


@contextmanager
def together(*, durable: bool = False) -> Iterator[Result]:
    """Files and folders that take their places when the block ends well; else nothing is left of them.

    `durable`: what is written is on the disk, not on its way to it, before it takes the place of an older file. Raises
    InputError, which names the file, when the disk says no; what else is raised inside goes through.
    """
    result, done = Result(), False
    try:
        yield result
        result._complete(durable)
        done = True
    except OSError as error:
        why = error.strerror or error
        raise InputError(result._in_words(f"{result._at}: cannot be written: {why}")) from error
    except InputError as error:
        if (words := result._in_words(str(error))) == str(error):
            raise
        raise InputError(words) from error
    finally:
        result._close(done)


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """One file: see `together`."""
    with together(durable=durable) as result:
        yield result.file(path)


def write_bytes(path: Path, data: bytes) -> None:
    """A file with these bytes: see `together`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """A file with this text: see `write_texts`."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> list[Path]:
    """Files with these texts in UTF-8, together; names of other encodings go out as they came in, other halves of
    surrogate pairs as escapes."""
    with together() as result:
        for path, text in texts.items():
            try:
                raw = text.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                raw = text.encode("utf-8", "backslashreplace")
            result.file(path).write(raw)
    return list(texts)


def one_line(text: str) -> str:
    """A text as one line of a file: what is not printable is written as an escape like `\\n` or `\\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def append(path: Path, line: str) -> None:
    """One line more at the end of a file, which is made when it is not there: all of the line or none of it.

    Raises InputError, which names the file, when the disk says no or when it is a link, a pipe or a device.
    """
    raw = line.encode("utf-8", "surrogateescape")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0) | _NO_LINK, 0o666)
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise InputError(f"{path}: is no regular file; a line should be added to it")
            if os.write(handle, raw) != len(raw):
                os.ftruncate(handle, about.st_size)
                raise InputError(f"{path}: cannot be written: no room for {len(raw)} bytes")
        finally:
            os.close(handle)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def remove(path: Path) -> None:
    """Remove a file of ours; fine if there is none. InputError when the disk says no."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be removed: {error.strerror or error}") from error


def make_folder(folder: Path) -> None:
    """A folder for many files, with those above it. InputError when the disk says no."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror or error}") from error


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the files that other programs and libraries are given; it is gone behind the block."""
    try:
        folder = tempfile.mkdtemp(prefix="acccmp-")
    except OSError as error:
        raise InputError(f"no folder for temporary files can be made: {error.strerror or error}") from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- names until then --------------------------------------------------------------------------------------------


def _new_name(folder: Path) -> Path:
    return folder / f".acccmp-{secrets.token_hex(8)}.part"


def _mode(path: Path) -> int | None:
    """What kind of thing is there; None for nothing, and for a link to nothing."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _locked(handle: int, work: Path) -> bool:
    """Hold the lock on a new name; False when somebody swept it away between its making and this."""
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks: nobody sweeps there
            fcntl.flock(handle, fcntl.LOCK_EX)
    return work.exists()


@cache  # once for each folder and process: whoever was killed is another one
def _sweep(folder: str) -> None:
    """Remove what killed runs left in a folder: names of ours that nobody holds."""
    with suppress(OSError):
        for name in filter(_OURS.fullmatch, os.listdir(folder)):
            with suppress(OSError):
                _remove_unless_held(Path(folder, name))


def _remove_unless_held(work: Path) -> None:
    if fcntl is None or work.lstat().st_uid != os.geteuid():
        return
    handle = os.open(work, os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: its writer is alive
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            shutil.rmtree(work)
        else:
            work.unlink()
    finally:
        os.close(handle)
