"""Replay of recorded traffic: JSON lines with timestamp (ms), input_length, output_length, hash_ids.

The format of the Mooncake traces (kvcache-ai/Mooncake, FAST25): a hash id stands for a block of 512 prompt
tokens and for everything before it, so requests that share their first k ids share 512 k tokens. There is
no text in a trace; text is made from the ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec

from epp.load.calls import Arrival, Manner, Message, Single, Workload
from epp.load.text import BYTES_PER_TOKEN, words

BLOCK_TOKENS = 512
MAX_LINE_BYTES = 4 << 20


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One line of a trace."""

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


class TraceError(ValueError):
    """A line that is not an entry; names file and line."""


def read(path: Path) -> Iterator[Entry]:
    """The entries in file order. Raises TraceError, OSError."""
    decoder = msgspec.json.Decoder(Entry)
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(MAX_LINE_BYTES):
            number += 1
            if not line.strip():
                continue
            try:
                entry = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise TraceError(f"{path}:{number}: {error}") from error
            if entry.input_length < 1 or entry.output_length < 0 or entry.timestamp < 0:
                raise TraceError(f"{path}:{number}: lengths and timestamp must not be negative or empty")
            if entry.input_length > (1 << 24):
                raise TraceError(f"{path}:{number}: input_length above {1 << 24} tokens")
            yield entry


def prompt(entry: Entry) -> str:
    """Text of input_length tokens whose blocks follow the ids.

    A trace may name fewer blocks than the length needs; the rest is text of this entry's last id (or of its
    timestamp), so that it still shares what the ids share and nothing more.
    """
    parts = [words(f"block/{block}", BLOCK_TOKENS) for block in entry.hash_ids]
    missing = entry.input_length - BLOCK_TOKENS * len(parts)
    if missing > 0:
        last = entry.hash_ids[-1] if entry.hash_ids else f"at-{entry.timestamp}"
        parts.append(words(f"tail/{last}", missing))
    return "".join(parts)[: entry.input_length * BYTES_PER_TOKEN]


@dataclass(frozen=True, slots=True)
class Replay:
    """A trace, played `speed` times as fast; prompts are made when they are due, so memory stays small."""

    manner: Manner
    seed: int
    entries: Sequence[Entry]
    speed: float = 1.0

    def arrivals(self) -> Workload:
        """In order of time, whatever the file's order; the first entry is at 0."""
        ordered = sorted(self.entries, key=lambda entry: entry.timestamp)
        began = ordered[0].timestamp if ordered else 0.0
        for index, entry in enumerate(ordered):
            client = self.manner.client(Random(f"{self.seed}/{index}"))
            call = client.call([Message("user", prompt(entry))], max(1, entry.output_length))
            yield Arrival((entry.timestamp - began) / 1000.0 / self.speed, Single(f"trace-{index}", call))
