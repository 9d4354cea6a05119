"""Directory trees of dumps: time / device / model / id / step, and the choice of one run among them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Choice:
    """What the user chose; None leaves the choice to us."""

    run: str | None = None
    device: str | None = None
    model: str | None = None
    step: str | None = None

    @property
    def asked(self) -> str:
        return ", ".join(f"{k} {v!r}" for k, v in vars(self).items() if v is not None)


def find_leaf(root: Path, choice: Choice) -> tuple[Path, list[str]]:
    return root, []


def place_of(root: Path, leaf: Path) -> dict[str, str]:
    return {}
