"""What lies beside a dump or a model that could be the mapping, or shows which one is missing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from acccmp.core import reading
from acccmp.core.identify import identify
from acccmp.errors import AcccmpError, FormatError
from acccmp.kinds import all_kinds, suffixes

MOST_FILES = 2000  # files of one folder that are looked at


@dataclass(frozen=True)
class Neighbours:
    """`mappings` are device models that can be given as mapping, best first; `fusion_results` only count passes."""

    mappings: tuple[Path, ...] = ()
    fusion_results: tuple[Path, ...] = ()

    @property
    def advice(self) -> str:
        """One line: what to give as mapping, or how to get it; for a comparison that was asked for without one."""
        if self.mappings:
            more = f" (or {len(self.mappings) - 1} more beside it)" if len(self.mappings) > 1 else ""
            named = f"--mapping {self.mappings[0]}{more}"
            return f"no mapping was given, ops are paired by name alone: {named} would pair all"
        how = "give the .om, its JSON (atc --mode=1 --om=MODEL.om --json=OUT.json) or ge_*_Build.pbtxt as --mapping"
        if self.fusion_results:
            return (
                f"no mapping was given: {self.fusion_results[0]} only counts what was fused, not which ops; {how}"
            )
        return f"no mapping was given, and no device model lies beside the files: {how}"


def look_beside(places: Iterable[str | os.PathLike[str]]) -> Neighbours:
    """The device models in the folders of these files (or in these folders, and the one above); nothing is loaded.

    Files that cannot be read or are of other kinds are left out.
    """
    folders: dict[Path, None] = {}
    for place in places:
        path = Path(place).absolute()
        for folder in (path, path.parent) if path.is_dir() else (path.parent,):
            folders.setdefault(folder)
    found: dict[str, list[Path]] = {kind.name: [] for kind in all_kinds() if kind.role == "device"}
    fusion: list[Path] = []
    for folder in folders:
        for path in _files(folder):
            if path.name.startswith("fusion_result"):
                fusion.append(path)
                continue
            kind = _kind(path)
            if kind in found:
                found[kind].append(path)
    return Neighbours(tuple(path for paths in found.values() for path in paths), tuple(fusion))


def _files(folder: Path) -> list[Path]:
    try:
        names = [entry.name for entry in reading.listed(folder)[:MOST_FILES] if not entry.is_folder]
    except FormatError:
        return []
    return [folder / name for name in names if name.endswith(suffixes("device"))]


def _kind(path: Path) -> str:
    """The kind of a file by its bytes; JSON counts when it begins like ATC's, not like an index or a manifest."""
    try:
        kind = identify(path).kind.name
        if kind == "atc_json":
            return kind if b'"graph"' in reading.first_bytes(path, 1 << 16) else ""
        return kind
    except (AcccmpError, OSError):
        return ""
