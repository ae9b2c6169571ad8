"""Usage out of vLLM's gRPC answers (GenerateResponse, EmbedResponse)."""

from __future__ import annotations

from typing import Final

from epp.domain.request import Usage
from epp.parsing.protowire import Broken, fields
from epp.parsing.vllmgrpc import FRAME_HEAD

MAX_MESSAGE_BYTES: Final = 1 << 20
"""Longer messages (thousands of embedding dimensions are far from it) are counted and skipped."""

# GenerateResponse; in EmbedResponse, 1 are floats and 2 is the number of prompt tokens.
_CHUNK, _COMPLETE = 1, 2
# prompt, completion and cached tokens in GenerateStreamChunk and in GenerateComplete
_COUNTS: Final = {_CHUNK: (2, 3, 4), _COMPLETE: (3, 4, 5)}


class GrpcReader:
    """`events` counts messages."""

    __slots__ = ("_held", "_skip", "_usage", "events", "response_id")

    def __init__(self) -> None:
        self.events = 0
        self.response_id = ""
        self._held = bytearray()
        self._skip = 0
        self._usage: Usage | None = None

    def feed(self, chunk: bytes) -> None:
        if self._skip:
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            chunk = chunk[skipped:]
        self._held += chunk
        at = 0
        while len(self._held) - at >= FRAME_HEAD:
            size = int.from_bytes(self._held[at + 1 : at + FRAME_HEAD], "big")
            end = at + FRAME_HEAD + size
            if end > len(self._held):
                if size <= MAX_MESSAGE_BYTES:
                    break
                self._skip = end - len(self._held)
                end = len(self._held)
            elif self._held[at] == 0 and size <= MAX_MESSAGE_BYTES:
                self._read(memoryview(bytes(self._held[at + FRAME_HEAD : end])))
            self.events += 1
            at = end
        del self._held[:at]

    def finish(self) -> Usage | None:
        return self._usage

    def _read(self, message: memoryview) -> None:
        try:
            for number, value in fields(message):
                if number == _COMPLETE and isinstance(value, int):
                    self._usage = Usage(prompt_tokens=value)
                elif number in _COUNTS and not isinstance(value, int):
                    found = _numbers(value)
                    prompt, completion, cached = _COUNTS[number]
                    if prompt in found:
                        # proto3 leaves zeros out
                        self._usage = Usage(
                            prompt_tokens=found[prompt],
                            completion_tokens=found.get(completion, 0),
                            cached_tokens=found.get(cached, 0),
                        )
        except Broken:
            return


def _numbers(message: memoryview) -> dict[int, int]:
    try:
        return {number: value for number, value in fields(message) if isinstance(value, int)}
    except Broken:
        return {}
