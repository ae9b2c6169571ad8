"""Prometheus text and OpenMetrics bodies: the samples of one wanted name, found without reading the rest.

A body of an engine is 30 to 60 KB and a handful of its lines are wanted. Measured on 55 KB: one `bytes.find`
over all of it takes 12 us, one compiled expression 220 us. All samples of a name stand together in both
formats, and an engine writes its names in the same order every time, so the place of the last scrape is tried
first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

MAX_SAMPLES = 1024
"""Samples of one name that are read; an engine has one a rank."""
_LOOK_BACK = 2048
"""How far before its last place a name is looked for."""

_BEFORE_EXEMPLAR = re.compile(rb'[ \t]*(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?[^#{]*')
_LABEL = re.compile(rb'[ \t]*([^\W\d][\w.:]*)[ \t]*=[ \t]*"((?:[^"\\\n]|\\.)*)"[ \t]*(?:,|$)')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ENDS = (b" ", b"\t", b"{")


class Sample(NamedTuple):
    """One line. `labels` is what stands between the braces, as sent; `value` is NaN when it is no number."""

    labels: bytes
    value: float
    at: float | None
    """Timestamp as sent (the formats differ in its unit), None without one."""


def samples(body: bytes, name: bytes, hint: int = 0) -> tuple[list[Sample], int]:
    """All samples of `name`, in their order, and the hint for the next body of the same engine.

    Never raises: a line that cannot be read is left out.
    """
    at = _first(body, name, hint)
    if at < 0:
        return [], 0
    found: list[Sample] = []
    hint = at
    size = len(name)
    while len(found) < MAX_SAMPLES and body.startswith(name, at) and body[at + size : at + size + 1] in _ENDS:
        end = body.find(b"\n", at)
        sample = _sample(body[at + size : end] if end >= 0 else body[at + size :])
        if sample is not None:
            found.append(sample)
        if end < 0:
            break
        at = end + 1
    return found, hint


def _sample(rest: bytes) -> Sample | None:
    """What follows the name on its line: `{labels} value timestamp # exemplar`; only the value must be."""
    if b" # " in rest:  # an exemplar, or a label's value that looks like one
        match = _BEFORE_EXEMPLAR.match(rest)
        rest = match[0] if match is not None else rest
    labels = b""
    close = rest.rfind(b"}")  # a value has no brace, so the last one ends the labels
    if close >= 0:
        labels = rest[rest.find(b"{") + 1 : close]
        rest = rest[close + 1 :]
    words = rest.split()
    if not words:
        return None
    return Sample(labels, _number(words[0]), _number(words[1]) if len(words) > 1 else None)


def _first(body: bytes, name: bytes, hint: int) -> int:
    """Where the first sample line of `name` begins; -1 when there is none."""
    needle = b"\n" + name
    size = len(needle)
    if hint:
        at = _line(body, needle, max(0, hint - _LOOK_BACK), min(len(body), hint + _LOOK_BACK))
        # The window may begin inside the group: only a line of another name before it proves the first.
        if at > 0 and not _same_name(body, name, at):
            return at
    if body.startswith(name) and body[size - 1 : size] in _ENDS:
        return 0
    return _line(body, needle, 0, len(body))


def _line(body: bytes, needle: bytes, start: int, end: int) -> int:
    size = len(needle)
    while True:
        start = body.find(needle, start, end)
        if start < 0:
            return -1
        if body[start + size : start + size + 1] in _ENDS:
            return start + 1
        start += size


def _same_name(body: bytes, name: bytes, at: int) -> bool:
    before = body.rfind(b"\n", 0, at - 1) + 1
    return body.startswith(name, before) and body[before + len(name) : before + len(name) + 1] in _ENDS


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


@lru_cache(maxsize=4096)
def labels_of(raw: bytes) -> Mapping[str, str]:
    """Labels between the braces, with `\\\\`, `\\"` and `\\n` resolved. Stops at what is no label."""
    labels: dict[str, str] = {}
    at = 0
    while match := _LABEL.match(raw, at):
        key, value = match.groups()
        text = value.decode("utf-8", "replace")
        labels[key.decode("utf-8", "replace")] = _ESCAPE.sub(_unescape, text) if "\\" in text else text
        at = match.end()
    return MappingProxyType(labels)


def _unescape(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1] if match[1] in '\\"' else match[0]
