"""The model's name on its way in (spliced into the body) and on its way out (restored in the answer)."""

from __future__ import annotations

import json
import re

from epp.domain.request import Body

_EMPTY = re.compile(rb"\s*\}")


def splice_model(body: Body, span: tuple[int, int] | None, new: str) -> bytes:
    """The body with the model replaced and every other byte as it came.

    `span` is `Request.model_span`: an empty one is the place just behind the outermost brace, where a body
    without a model gets one. None says that there is no place for a model (an API whose engine has only one,
    a cut body that does not show it): the body goes on as it is.
    """
    if span is None:
        return bytes(body)
    start, end = span
    value = json.dumps(new, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if start == end:
        more = b"" if _EMPTY.match(body, start) else b","
        value = b'"model":' + value + more
    elif body[start : start + 1] != b'"' and body[start:end] != b"null":
        # A form's field: the plain text, on one line.
        if "\r" in new or "\n" in new:
            raise ValueError("a model's name has no line breaks")
        value = new.encode("utf-8", "surrogatepass")
    return b"".join((memoryview(body)[:start], value, memoryview(body)[end:]))


class ModelRestorer:
    """Writes the name that the client used where the answer names the target: in `"model":"..."`, with or
    without a space, also when a chunk ends within it. Of a chunk at most the length of that is held back.
    """

    __slots__ = ("_held", "_new", "_pattern", "_patterns")

    def __init__(self, target: str, incoming: str) -> None:
        self._held = b""
        self._pattern: re.Pattern[bytes] | None = None
        if target == incoming or not target or not incoming:
            return
        name = json.dumps(target, ensure_ascii=False).encode("utf-8", "surrogatepass")
        new = json.dumps(incoming, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._patterns = (b'"model":' + name, b'"model": ' + name)
        self._pattern = re.compile(rb'("model": ?)' + re.escape(name))
        self._new = new

    def feed(self, chunk: bytes, last: bool) -> bytes:
        """What goes to the client now; empty when all of it is held back."""
        if self._pattern is None:
            return chunk
        data = self._held + chunk if self._held else chunk
        done = 0
        if b'"model"' in data:
            parts: list[bytes] = []
            at = 0
            for found in self._pattern.finditer(data):
                parts += (data[at : found.start()], found[1], self._new)
                at = found.end()
            if parts:
                written = b"".join(parts)
                done = len(written)
                data = written + data[at:]
        kept = 0 if last or data.endswith(b"\n") else self._beginning(data, done)
        self._held = data[len(data) - kept :] if kept else b""
        return data[: len(data) - kept] if kept else data

    def _beginning(self, data: bytes, done: int) -> int:
        """How many bytes at the end may be the beginning of a name; the first `done` are names put back."""
        at = data.find(b'"', max(done, len(data) - len(self._patterns[1]) + 1))
        while at >= 0:
            tail = data[at:]
            if any(pattern.startswith(tail) for pattern in self._patterns):
                return len(tail)
            at = data.find(b'"', at + 1)
        return 0
