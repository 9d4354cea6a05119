"""What the folder of a written slice looks like. Every folder is asked, so nothing else of slicing is imported."""

from __future__ import annotations

from pathlib import Path

from acccmp.core import reading
from acccmp.core.identify import HEAD, Evidence
from acccmp.dumps.names import parse_device
from acccmp.errors import FormatError

MANIFEST = "manifest.json"
RESULT = "dump_result_"  # how the names of written slices begin


def written_slice(evidence: Evidence) -> str:
    """The folder of a slice, or one that holds such folders and no dumps beside them."""
    folder = evidence.path
    if evidence.has(MANIFEST):
        if _is_told(folder):
            return "the folder of a slice"
        return "the folder of a damaged slice" if evidence.has("reproduce.py") else ""
    if not evidence.is_folder:
        return ""
    entries = reading.listed(folder, folder)
    results = [entry.name for entry in entries if entry.name.startswith(RESULT) and entry.is_folder]
    if not results or any(
        entry.name not in results and (entry.is_folder or parse_device(entry.name) is not None) for entry in entries
    ):
        return ""
    return "a folder of slices" if any(_is_told(folder / name) for name in results) else ""


def _is_told(folder: Path) -> bool:
    """Does its manifest begin as that of a slice?"""
    try:
        return b'"acccmp.slice/' in reading.first_bytes(folder / MANIFEST, HEAD, folder)
    except FormatError:
        return False
