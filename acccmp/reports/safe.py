"""Names out of untrusted models, made harmless for the place they are shown in and still recognisable.

An operator may be called `<script>`, `=cmd()`, or hold line breaks, terminal escapes and marks that turn the writing
direction. `visible` is the base of all: whatever steers instead of showing is written as an escape like `\\x1b`.
"""

from __future__ import annotations

import hashlib
import html as _html
import json as _json
import re

from acccmp.core.writing import one_line

MOST = 200  # characters of a name that a table shows; longer ones lose their middle


def visible(text: object, most: int | None = MOST) -> str:
    """`text` on one line, with control characters, direction marks and lone surrogates as backslash escapes.

    Longer than `most` characters, it loses its middle, and says how long it was and which hash it has, so that two
    long names stay different. None: nothing is cut.
    """
    shown = one_line(str(text))
    return shown if most is None or len(shown) <= most else _without_middle(shown, most)


def _without_middle(text: str, most: int) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]
    middle = f"...({len(text)} characters, {digest})..."
    kept = max(8, most - len(middle))
    return f"{text[: kept * 2 // 3]}{middle}{text[len(text) - kept // 3:]}"


def short(text: object, width: int) -> str:
    """`visible`, cut in its middle to at most `width` characters, for narrow columns: `block1/...conv2:output:0`."""
    shown = visible(text, None)
    if len(shown) <= width:
        return shown
    if width <= 3:
        return shown[:width]
    tail = (width - 1) * 3 // 5  # ends tell more than beginnings: names are paths
    return f"{shown[: width - 1 - tail]}…{shown[len(shown) - tail:]}"


def html(text: object, most: int | None = MOST) -> str:
    """For HTML, inside an element or a quoted attribute."""
    return _html.escape(visible(text, most), quote=True)


# What a spreadsheet takes for the beginning of a formula, at the beginning of a cell or after a separator at which
# another locale would begin a new cell. The full-width forms count too.
_FORMULA = re.compile(r"(^|[,;\t])(\s*)(?=[=+\-@＝＋－＠])")


def csv(text: object) -> str:
    """For a cell of a CSV file: whole, but a spreadsheet takes it for text.

    An apostrophe is put before what would begin a formula.
    """
    return _FORMULA.sub(r"\1'\2", visible(text, None))


def code(text: object, most: int | None = 120, in_table: bool = True) -> str:
    """For Markdown, as a code span: no mark-up, no HTML, no @mention and no #reference comes out of it."""
    shown = visible(text, most)
    if in_table:
        # after a backslash, renderers disagree whether `\\|` still ends the cell: a broken bar stands in there
        shown = re.sub(r"(?<=\\)\|", "¦", shown).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if shown[:1] in ("`", "") or shown[-1:] == "`" or (shown[:1] == shown[-1:] == " ") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


# What a runner of a pipeline takes for a command to itself: GitHub's and Azure's, at the beginning of a line and
# anywhere in it, TeamCity's, and GitLab's sections. The character that makes it one is written as an escape.
_AT_START = re.compile(r"(?m)^((?:\x1b\[[0-9;]*m|[^\S\n])*):(?=:)")
_ANYWHERE = re.compile(r"#(?=#(?:\[|vso\[|teamcity\[))|(?<=section)_(?=(?:start|end):)", re.IGNORECASE)


def log(text: str) -> str:
    """For a terminal or the log of a pipeline: lines, in which names went through `visible` before. No line of it is a
    command to the pipeline, not even where a table broke a name in two."""
    shown = _AT_START.sub(lambda found: f"{found[1]}\\x3a", text)
    return _ANYWHERE.sub(lambda found: f"\\x{ord(found[0]):02x}", shown)


def json_text(text: str) -> str:
    """For JSON on a terminal or in such a log: the same values, but what would steer is written as `\\u` escapes."""
    shown = re.sub(r"##(?=\[|vso\[|teamcity\[)|section_(?=start:|end:)", lambda m: _escaped(m[0]), text, flags=re.I)
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in shown)


def _escaped(text: str) -> str:
    return "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else _json.dumps(c)[1:-1] for c in text)


_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")
_LINKS = re.compile(r"(@|#|:(?=//)|www(?=\.))")


def prose(text: object, most: int | None = 400) -> str:
    """For running text in Markdown, not at the beginning of a line: every character stands for itself.

    Nothing becomes a link, a mention or a reference: an empty comment is put where renderers would see one.
    """
    escaped = _MARKDOWN.sub(r"\\\1", visible(text, most))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LINKS.sub(r"\1<!-- -->", escaped)


def xml(text: object, most: int | None = 1000) -> str:
    """For XML text and attributes: only characters that XML 1.0 has. Escaping of <, & and quotes is the writer's."""
    return visible(text, most)


def file_name(name: str, most: int = 100) -> str:
    """A file name that stands for `name`: letters, digits, `_`, `-`, inner dots; a hash where that lost some of it."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name).strip(".")[:most] or "_"
    if plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"
