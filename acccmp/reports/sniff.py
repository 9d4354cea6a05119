"""What the files look like that acccmp itself writes about comparisons: a sniff function for each row of
`acccmp.kinds`."""

from __future__ import annotations

from acccmp.core.identify import Evidence

_DATABASE = b"SQLite format 3\0"


def report(evidence: Evidence) -> str:
    return "a report of acccmp" if _has_schema(evidence, b"report") else ""


def baseline(evidence: Evidence) -> str:
    return "a baseline of acccmp" if _has_schema(evidence, b"baseline") else ""


def history(evidence: Evidence) -> str:
    """By SQLite's application id, at byte 68: `acccmp.releases.history.APPLICATION_ID`."""
    is_ours = evidence.head.startswith(_DATABASE) and evidence.head[68:72] == b"ACCP"
    return "a history of acccmp" if is_ours else ""


def _has_schema(evidence: Evidence, name: bytes) -> bool:
    """Is it JSON that begins with this schema of ours?"""
    return evidence.head.startswith(b"{") and b'"schema": "acccmp.' + name + b"/" in evidence.head[:80]
