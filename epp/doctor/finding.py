"""What a check found: a value, printed or written as JSON by the command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct

_SHOWN = 5
"""Names in one finding; of more their number is told."""


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Works, but not as well as it could, or not for everybody."""
    ERROR = "error"
    """Requests fail by it, or go where they must not."""
    SKIPPED = "skipped"
    """Could not be looked at."""


class Finding(Struct, frozen=True):
    level: Level
    subject: str
    """What was looked at."""
    found: str
    mend: str = ""
    """What to do about it; empty where there is nothing to do."""


def ok(subject: str, found: str) -> Finding:
    return Finding(Level.OK, subject, found)


def warning(subject: str, found: str, mend: str) -> Finding:
    return Finding(Level.WARNING, subject, found, mend)


def error(subject: str, found: str, mend: str) -> Finding:
    return Finding(Level.ERROR, subject, found, mend)


def skipped(subject: str, why: str, mend: str = "") -> Finding:
    return Finding(Level.SKIPPED, subject, why, mend)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that differ only in their subject become one, in the order of their first. Of `endpoint a` and
    `endpoint b` the first word stands once."""
    subjects: dict[tuple[Level, str, str], list[str]] = {}
    for finding in findings:
        subjects.setdefault((finding.level, finding.found, finding.mend), []).append(finding.subject)
    return [Finding(level, _together(names), found, mend) for (level, found, mend), names in subjects.items()]


def _together(subjects: Sequence[str]) -> str:
    kinds = {subject.partition(" ")[0] for subject in subjects}
    if len(kinds) > 1 or any(" " not in subject for subject in subjects):
        return listed(subjects)
    return f"{kinds.pop()} {listed([subject.partition(' ')[2] for subject in subjects])}"


def listed(names: Sequence[str]) -> str:
    """`a, b and 7 more`."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
