"""Protobuf text format as a tree that forgets nothing: what a prototxt says, known to our schema or not.

Caffe forks add layers and parameters of their own. A reader that goes through the schema drops them; this tree keeps
every field in its order and every scalar as it was spelled, so that an unknown layer is written back unchanged.
Comments and white space are not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from acccmp.errors import FormatError

DEEPEST = 64  # levels of nested blocks; real nets use 4


@dataclass(frozen=True)
class Block:
    """The fields of one `{ ... }`, in the order of the file: a name and a scalar's text, or a name and a Block.

    Scalars are kept as spelled: `"quoted"`, `0.5`, `MAX`. `line` is where the block begins, for error messages.
    """

    fields: tuple[tuple[str, str | Block], ...] = ()
    line: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.fields)

    def all(self, name: str) -> list[str | Block]:
        """Every value of field `name`."""
        return [value for key, value in self.fields if key == name]

    def blocks(self, name: str) -> list[Block]:
        """Every value of field `name` that is a block."""
        return [value for key, value in self.fields if key == name and isinstance(value, Block)]

    def strings(self, name: str) -> list[str]:
        """Every scalar of field `name`, unquoted."""
        return [unquoted(value) for key, value in self.fields if key == name and isinstance(value, str)]

    def string(self, name: str, missing: str = "") -> str:
        """The last scalar of field `name`, unquoted, as protobuf's rule for fields that come once."""
        found = self.strings(name)
        return found[-1] if found else missing

    def block(self, name: str) -> Block:
        """All blocks of field `name` merged into one; an empty one if there is none."""
        found = self.blocks(name)
        return found[0] if len(found) == 1 else Block(tuple(field for block in found for field in block.fields))

    def without(self, *names: str) -> Block:
        """The block less the fields of these names."""
        return replace(self, fields=tuple(field for field in self.fields if field[0] not in names))


# -- reading -----------------------------------------------------------------------------------------------------

# Possessive (`*+`): there is nothing to go back to, and remembering where costs 200 bytes a character.
_TOKEN = re.compile(
    r"""(?P<space>(?:[\s]|\#[^\n]*)++)
      | (?P<string>"(?:[^"\\\n]++|\\.)*+"|'(?:[^'\\\n]++|\\.)*+')
      | (?P<word>[-+]?[A-Za-z0-9_.][A-Za-z0-9_.+\-/]*|\[[A-Za-z_][A-Za-z0-9_./]*\.[A-Za-z0-9_./]*\])
      | (?P<mark>[{}<>\[\]:;,])""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"{": "}", "<": ">"}


def _tokens(text: str, where: str) -> Iterator[tuple[str, str, int]]:
    """(kind, text, line) of each token. FormatError at the first character that begins none."""
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            rest = text[at : at + 12].split("\n")[0]
            raise FormatError(f"{where}: line {line}: {rest!r} is not protobuf text")
        if found.lastgroup != "space":
            yield found.lastgroup or "", found.group(), line
        line += found.group().count("\n")
        at = found.end()
    yield "end", "", line


def parse(text: str, where: str) -> Block:
    """The tree of a text-format message. `where` begins every error message.

    Raises FormatError with the line for what is no protobuf text, and for blocks that are never closed.
    """
    reader = _Reader(text, where)
    fields = reader.fields("", 0)
    return Block(tuple(fields), 1)


class _Reader:
    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.stream = _tokens(text, where)
        self.kind, self.text, self.line = next(self.stream)

    def step(self) -> str:
        taken = self.text
        self.kind, self.text, self.line = next(self.stream)
        return taken

    def wrong(self, wanted: str) -> FormatError:
        if self.kind == "end":
            return FormatError(f"{self.where}: ends at line {self.line} where {wanted} is due; the file seems cut off")
        return FormatError(f"{self.where}: line {self.line}: {wanted} is due, found {self.text[:40]!r}")

    def fields(self, closing: str, depth: int, opened: int = 0, name: str = "") -> list[tuple[str, str | Block]]:
        if depth > DEEPEST:
            raise FormatError(f"{self.where}: line {self.line}: blocks are nested deeper than {DEEPEST}")
        found: list[tuple[str, str | Block]] = []
        while not (self.kind == "mark" and self.text == closing):
            if self.kind == "end":
                if not closing:
                    return found
                raise FormatError(
                    f"{self.where}: the block {name!r} of line {opened} is never closed; the file seems cut off"
                )
            if self.kind != "word":
                raise self.wrong("the name of a field")
            found += self.field(depth)
            while self.kind == "mark" and self.text in ",;":
                self.step()
        return found

    def field(self, depth: int) -> list[tuple[str, str | Block]]:
        name = self.step()
        colon = self.kind == "mark" and self.text == ":"
        if colon:
            self.step()
        if self.kind == "mark" and self.text == "[":
            self.step()
            found: list[tuple[str, str | Block]] = []
            while not (self.kind == "mark" and self.text == "]"):
                found.append((name, self.value(name, depth, colon)))
                if self.kind == "mark" and self.text == ",":
                    self.step()
                elif not (self.kind == "mark" and self.text == "]"):
                    raise self.wrong("',' or ']'")
            self.step()
            return found
        return [(name, self.value(name, depth, colon))]

    def value(self, name: str, depth: int, colon: bool) -> str | Block:
        if self.kind == "mark" and self.text in _CLOSING:
            line, closing = self.line, _CLOSING[self.step()]
            inside = self.fields(closing, depth + 1, line, name)
            self.step()
            return Block(tuple(inside), line)
        if not colon:
            raise self.wrong(f"':' or '{{' after {name!r}")
        if self.kind == "string":
            pieces = [self.step()]
            while self.kind == "string":
                pieces.append(self.step())
            return pieces[0] if len(pieces) == 1 else quoted("".join(unquoted(piece) for piece in pieces))
        if self.kind == "word":
            return self.step()
        raise self.wrong(f"a value of {name!r}")


# -- scalars -----------------------------------------------------------------------------------------------------

_ESCAPE = re.compile(rb"\\(?:x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


@cache
def _meant(escape: bytes) -> bytes:
    """The byte that an escape (`\\n`, `\\x41`, `\\101`) stands for."""
    code = escape[1:]
    if code[:1] == b"x" and len(code) > 1:
        return bytes([int(code[1:], 16)])
    return bytes([int(code, 8) & 0xFF]) if code[:1] in b"01234567" else _LETTERS.get(code, code)


def unquoted(scalar: str) -> str:
    """The string that a quoted scalar stands for; any other scalar as it is."""
    if scalar[:1] not in ('"', "'"):
        return scalar
    body = scalar[1:-1]
    if "\\" not in body:
        return body
    raw = _ESCAPE.sub(lambda found: _meant(found[0]), body.encode("utf-8", "surrogateescape"))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def quoted(text: str) -> str:
    """`text` as a quoted scalar; `unquoted` is the inverse."""
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char == "\n":
            out.append("\\n")
        elif ord(char) < 32 or ord(char) == 127:
            out.append(f"\\{ord(char):03o}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


# -- writing -----------------------------------------------------------------------------------------------------


def render(block: Block, indent: int = 0) -> str:
    """The tree as text, two blanks a level. `parse` is the inverse."""
    pad = "  " * indent
    lines = []
    for name, value in block.fields:
        if isinstance(value, str):
            lines.append(f"{pad}{name}: {value}\n")
        elif value.fields:
            lines.append(f"{pad}{name} {{\n{render(value, indent + 1)}{pad}}}\n")
        else:
            lines.append(f"{pad}{name} {{\n{pad}}}\n")
    return "".join(lines)
