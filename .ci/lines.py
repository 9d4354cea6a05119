"""Lines of code for each folder of the package: no comments, docstrings, blank lines, generated schemas.

    python .ci/lines.py [FOLDER_OF_THE_PACKAGE]
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
          tokenize.ENDMARKER)


def code_lines(text: str) -> int:
    """Lines on which something stands that Python runs."""
    told: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        has_text = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if has_text and ast.get_docstring(node, clean=False) is not None:
            told |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - told)


def main(package: Path) -> int:
    lines: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for path in sorted(package.rglob("*.py")):
        if path.name.endswith("_pb2.py"):
            continue
        inside = path.relative_to(package).parts
        room = inside[0] if len(inside) > 1 else "(itself)"
        lines[room] += code_lines(path.read_text(encoding="utf-8"))
        files[room] += 1
    for room in sorted(lines):
        print(f"{room:<12} {files[room]:>4} files {lines[room]:>6} lines")
    print(f"{'all':<12} {files.total():>4} files {lines.total():>6} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "acccmp"))
