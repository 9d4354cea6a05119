"""The one door through which files of a user come in. Nothing else in the package opens, lists or parses one.

Behind it stand regular files only: pipes, devices and sockets are told by their kind before anybody could wait for
them. A file that was found (in a folder, in a list, in a model) must lie `inside` the folder that was given; a link
that leads out of it is refused by name, so that nothing from elsewhere gets into a report or a hand-over. Sizes are
bounded before anything is read, and every refusal of the disk is one FormatError that begins with the file's name.

Files on other machines (a path with an explicit scheme) will be the second row of this door; there are none yet.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, BinaryIO

from acccmp.errors import FormatError

FilePath = str | os.PathLike[str]

DEEPEST = 100  # lists and tables within one another in JSON or TOML; real ones have ten
MOST_FOLDERS = 100_000  # of one tree

_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)
# Not waiting for whoever holds the other end, should the file become a pipe between the look at it and its opening.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


# -- may it be opened? -------------------------------------------------------------------------------------------


def refusal(path: FilePath, inside: FilePath | None = None) -> str:
    """Why this is no file to be opened, in words that go on after its name; "" when it is one."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return _refused(path, error)
    except ValueError as error:
        return _unnameable(error)
    if not stat.S_ISREG(mode):
        return f"is {next((words for of, words in _KINDS if of(mode)), 'something else')}, where a file is wanted"
    if inside is not None and not is_inside(path, inside):
        return f"is a link that leads out of {os.fspath(inside)}, to {os.path.realpath(path)}: it is not opened"
    return ""


def is_inside(path: FilePath, *folders: FilePath) -> bool:
    """Does the path, with all links followed, lie in one of the folders?"""
    try:
        real = _real_place(path)
        return any(real.is_relative_to(_real_folder(folder)) for folder in folders)
    except ValueError:  # no file can have such a name
        return False


def _real_place(path: FilePath) -> Path:
    """Where a path leads with all links followed; of the many files of one folder only the last part is looked at."""
    folder, name = os.path.split(path)
    if name in ("", os.curdir, os.pardir) or os.path.islink(path):
        return Path(os.path.realpath(path))
    return _real_folder(folder or os.curdir) / name


def _real_folder(folder: FilePath) -> Path:
    try:
        about = os.stat(folder)
    except OSError:  # it is not there (yet)
        return Path(os.path.realpath(folder))
    return _resolved(os.fspath(folder), about.st_dev, about.st_ino)


@lru_cache(maxsize=256)
def _resolved(folder: str, _device: int, _number: int) -> Path:
    """Where a folder really lies. A link that leads elsewhere by now has another number, and is followed anew."""
    return Path(os.path.realpath(folder))


def _refused(path: FilePath, error: OSError) -> str:
    if os.path.islink(path) and isinstance(error, FileNotFoundError):
        return "cannot be read: a link to nothing"
    return f"cannot be read: {error.strerror or error}"


def _unnameable(error: ValueError) -> str:
    """A name with a zero byte, or one that the locale's encoding has no characters for (LC_ALL=C)."""
    if isinstance(error, UnicodeEncodeError):
        return f"cannot be read: its name cannot be written in this locale ({error.encoding}); set PYTHONUTF8=1"
    return f"cannot be read: no file has such a name ({error})"


# -- one file ----------------------------------------------------------------------------------------------------


def opened(path: FilePath, inside: FilePath | None = None, most: int | None = None) -> BinaryIO:
    """The file, open for reading bytes. Raises FormatError when it is none, lies outside, is larger than `most` bytes,
    or when the disk says no."""
    wrong = refusal(path, inside)
    if wrong:
        raise FormatError(f"{os.fspath(path)}: {wrong}")
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _AT_ONCE))  # noqa: SIM115
    except OSError as error:
        raise FormatError(f"{os.fspath(path)}: {_refused(path, error)}") from error
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode):
        file.close()
        raise FormatError(f"{os.fspath(path)}: is no regular file any more")
    if most is not None and about.st_size > most:
        file.close()
        raise FormatError(f"{os.fspath(path)}: {about.st_size} bytes are too many, at most {most} are read")
    return file


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def read_bytes(path: FilePath, most: int, inside: FilePath | None = None) -> bytes:
    """All of a file of at most `most` bytes. Raises FormatError as `opened`."""
    with opened(path, inside, most) as file:
        return _read(file, path, size_of(file))  # a buffer of `most` bytes would be made first


def first_bytes(path: FilePath, count: int, inside: FilePath | None = None) -> bytes:
    """The beginning of a file, at most `count` bytes. Raises FormatError as `opened`."""
    with opened(path, inside) as file:
        return _read(file, path, count)


def _read(file: BinaryIO, path: FilePath, count: int) -> bytes:
    try:
        return file.read(count)
    except OSError as error:
        raise FormatError(f"{os.fspath(path)}: {_refused(path, error)}") from error


def read_text(path: FilePath, most: int, inside: FilePath | None = None, errors: str = "strict") -> str:
    """All of a text file in UTF-8. Raises FormatError as `opened`, and when it is no such text."""
    try:
        return read_bytes(path, most, inside).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise FormatError(f"{os.fspath(path)}: no text in UTF-8 (byte {error.start})") from None


@contextmanager
def mapped(path: FilePath, inside: FilePath | None = None) -> Iterator[mmap.mmap]:
    """The bytes of a file without reading them. Raises FormatError as `opened`, and when it is empty."""
    with opened(path, inside) as file:
        view = mapping(file, path)
    try:
        yield view
    finally:
        view.close()


def mapping(file: BinaryIO, path: FilePath, start: int = 0, end: int = 0) -> mmap.mmap:
    """Bytes `start` to `end` (0: the last) of an open file, mapped; `start` is a multiple of the pages' size."""
    if size_of(file) == 0:
        raise FormatError(f"{os.fspath(path)}: the file is empty")
    try:
        return mmap.mmap(file.fileno(), end - start if end else 0, access=mmap.ACCESS_READ, offset=start)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise FormatError(f"{os.fspath(path)}: cannot be read: {why}") from error


# -- folders -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One name in a folder. `outside` says where a link leads that is not followed: the name is neither a folder nor
    a file then."""

    name: str
    path: str
    is_folder: bool
    outside: str = ""


def listed(folder: FilePath, inside: FilePath | None = None) -> list[Entry]:
    """The names in a folder, sorted. Links to folders count as folders, unless they lead out of `inside`; links to
    nothing and in a circle are files that cannot be opened. Raises FormatError when the folder cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted((_entry(entry, inside) for entry in entries), key=lambda entry: entry.name)
    except OSError as error:
        raise FormatError(f"{os.fspath(folder)}: cannot be read: {error.strerror or error}") from error


def _entry(entry: os.DirEntry[str], inside: FilePath | None) -> Entry:
    outside = ""
    if entry.is_symlink() and inside is not None and not is_inside(entry.path, inside):
        outside = os.path.realpath(entry.path)
    try:
        is_folder = not outside and entry.is_dir()
    except OSError:  # a link in a circle
        is_folder = False
    return Entry(entry.name, entry.path, is_folder, outside)


def walked(root: FilePath, deepest: int) -> Iterator[tuple[Path, list[Entry]]]:
    """Every folder at or below `root`, each once however many links lead to it, with its names; links that lead out of
    `root` are not followed, folders below it that cannot be listed are left out. Raises FormatError when `root` cannot
    be."""
    seen: set[tuple[int, int]] = set()
    todo = [(Path(root), 0)]
    while todo and len(seen) < MOST_FOLDERS:
        folder, depth = todo.pop()
        try:
            about = folder.stat()
            entries = listed(folder, root)
        except (OSError, FormatError):
            if depth == 0:
                raise
            continue
        if (about.st_dev, about.st_ino) in seen:
            continue
        seen.add((about.st_dev, about.st_ino))
        yield folder, entries
        if depth < deepest:
            todo += [(folder / entry.name, depth + 1) for entry in entries if entry.is_folder]


def check_tree(root: FilePath, deepest: int = 8) -> None:
    """For a folder that a library will open by itself: FormatError when a file in it is none, or lies elsewhere."""
    for _, entries in walked(root, deepest):
        for entry in entries:
            if not entry.is_folder and (wrong := refusal(entry.path, root)):
                raise FormatError(f"{entry.path}: {wrong}")


# -- texts with a structure --------------------------------------------------------------------------------------


def parse_json(raw: bytes | str, where: object) -> Any:
    """JSON as Python's own values. Raises FormatError that begins with `where` for text that is none, is nested deeper
    than DEEPEST, or has whole numbers of more than 64 bits."""
    return _parsed(json.loads, raw.decode("utf-8-sig", "replace") if isinstance(raw, bytes) else raw, where, "JSON")


def parse_toml(text: str, where: object) -> dict[str, Any]:
    """As `parse_json`, of TOML."""
    import tomllib

    found: dict[str, Any] = _parsed(tomllib.loads, text, where, "TOML")
    return found


def _parsed(parse: Callable[[str], Any], text: str, where: object, kind: str) -> Any:
    try:
        found = parse(text)
    except RecursionError:
        raise FormatError(f"{where}: nested too deeply: more than {DEEPEST} lists and tables") from None
    except ValueError as error:  # also a number of more than 4300 digits
        raise FormatError(f"{where}: not {kind}: {str(error).partition(';')[0]}") from None
    _plain(found, where)
    return found


def read_table(folder: FilePath, name: str, schema: str, most: int = 256 << 20) -> dict[str, Any] | None:
    """A file of ours in a folder: a JSON object that names its `schema` ("acccmp.golden/1"). None where there is none,
    or one of another kind. Raises FormatError when it is damaged or of another version."""
    path = Path(folder) / name
    if not path.is_file():
        return None
    told = parse_json(read_text(path, most, folder, "surrogateescape"), path)
    found = str(told.get("schema", "")) if isinstance(told, dict) else ""
    if found.partition("/")[0] != schema.partition("/")[0]:
        return None
    if found != schema:
        raise FormatError(f"{path}: its schema is {found!r}, this version reads {schema!r}")
    return dict(told)


def is_number(text: str) -> bool:
    """Is it a whole number from 0 on that `int` reads, and that fits into 64 bits?"""
    return text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < 1 << 63


def _plain(value: Any, where: object) -> None:
    """No deeper than DEEPEST, and no whole number beyond 64 bits: nobody further in has to think of these."""
    level = [value]
    for _ in range(DEEPEST):
        if any(type(item) is int and not -(1 << 63) <= item < 1 << 64 for item in level):
            raise FormatError(f"{where}: a whole number of more than 64 bits")
        level = [
            inner for item in level if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise FormatError(f"{where}: nested too deeply: more than {DEEPEST} lists and tables")


# -- archives ----------------------------------------------------------------------------------------------------

_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What zipfile, and zlib below it, say of bytes that are no archive.
_DAMAGES = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError)


@contextmanager
def archive(path: FilePath, inside: FilePath | None = None, members: int = 1 << 16) -> Iterator[Archive]:
    """A zip archive of at most so many members. Raises FormatError as `opened`, and when it is none."""
    with opened(path, inside) as file:
        try:
            packed = zipfile.ZipFile(file)
        except _DAMAGES as error:
            raise FormatError(f"{os.fspath(path)}: no zip archive that can be read: {error}") from None
        with packed:
            found = {member.filename: member for member in packed.infolist() if not member.filename.endswith("/")}
            if len(found) > members:
                raise FormatError(f"{os.fspath(path)}: an archive of {len(found)} members, at most {members} are read")
            yield Archive(os.fspath(path), file, packed, found)


@dataclass(frozen=True)
class Archive:
    """An open zip archive, with its members (no folders) by name."""

    path: str
    file: BinaryIO
    packed: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]

    def stored_at(self, name: str) -> tuple[int, int] | None:
        """First byte in the archive, and size, of a member that is stored as it is; None for one that is packed.

        The size is never more than what is there. Raises FormatError when the member is not where the archive says.
        """
        member = self.members[name]
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            return None
        self.file.seek(member.header_offset)
        head = self.file.read(30)
        if len(head) != 30 or head[:4] != b"PK\x03\x04":
            raise FormatError(f"{self.path}: the member {name!r} is not where the archive says")
        start = member.header_offset + 30 + sum(struct.unpack_from("<HH", head, 26))  # name and extra field
        return start, min(member.file_size, max(0, size_of(self.file) - start))

    @contextmanager
    def member(self, name: str) -> Iterator[IO[bytes]]:
        """A member to read from, unpacked as it is read. FormatError when it is damaged or oddly packed."""
        member = self.members[name]
        what = f"{self.path}: the member {name!r}"
        if member.compress_type not in _PACKINGS or member.flag_bits & 1:
            raise FormatError(f"{what} is encrypted, or packed in a way that is not read here; save it anew")
        try:
            with self.packed.open(member) as stream:
                yield stream
        except _DAMAGES as error:
            raise FormatError(f"{what} is damaged: {error}") from None
