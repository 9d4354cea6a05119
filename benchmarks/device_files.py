"""The table of what was found in each real device file: variants, ops, inputs, weights, mapping, or why it is refused.

    python benchmarks/device_files.py > table.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acccmp.errors import AcccmpError
from acccmp.jobs.inspect import inspect

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
ROOMS = ("om", "atc_json", "mindspore", "cambricon")


def row(path: Path) -> tuple[str, ...]:
    """The cells of one file."""
    size = f"{path.stat().st_size:,}"
    try:
        facts = inspect(path)
    except AcccmpError as error:
        return path.name, size, "refused: " + str(error).replace(f"{path}: ", ""), "", "", "", ""
    kind = " ".join(str(facts[key]) for key in ("kind", "variant") if facts.get(key))
    if facts.get("encrypted"):
        return path.name, size, f"{kind}, encrypted ({facts['encrypted']})", "", "", "", ""
    mapping: Mapping[str, Any] = facts.get("mapping") or {}
    weights: Mapping[str, Any] = facts.get("weights") or {}
    return (
        path.name, size, kind, str(facts.get("nodes", "")), _tensors(facts.get("inputs", ())),
        _tensors(facts.get("outputs", ())),
        "; ".join(filter(None, (
            f"{weights['tensors']} weights of {weights['bytes']:,} bytes" if weights.get("tensors") else "",
            f"{mapping['originals']} originals in {mapping['device ops with originals']} ops"
            if mapping.get("originals") else "",
            f"{facts['cores']} cores" if facts.get("cores") else "",
            f"{len(facts['models'])} models inside" if facts.get("models") else "",
            f"{facts['header']['models']} models" if facts.get("header", {}).get("models", 1) > 1 else "",
        ))),
    )


def _tensors(found: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{t['name'].rpartition('/')[2]} {'x'.join(map(str, t['shape'] or ()))} {t['dtype']}" for t in found
    )


def main() -> None:
    cells = ("file", "bytes", "what", "ops", "inputs", "outputs", "also")
    print("| " + " | ".join(cells) + " |")
    print("|" + "---|" * len(cells))
    for room in ROOMS:
        for path in sorted((SHARED / room).iterdir()):
            print("| " + " | ".join(row(path)) + " |")


if __name__ == "__main__":
    main()
