"""Text to tokens and back: four bytes are a token. Deterministic, and stable from turn to turn.

Tokens are kept as packed bytes, four each: a block of 16 tokens is a slice of 64 bytes. Every message
of a chat is padded to whole tokens by itself, so a conversation that repeats an answer as it came gets
the very tokens that were generated, and finds their blocks in the cache.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Final

from xxhash import xxh3_64_intdigest

TOKEN_BYTES: Final = 4
END: Final = b"</s>"
_NORMAL: Final = NormalDist()
_PADS: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


def pack(text: bytes) -> bytes:
    """The tokens of a text; the last one is filled up with zeros."""
    return text + _PADS[len(text) & 3]


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as packed tokens. Raises OverflowError for an id outside 0 .. 2**32 - 1."""
    return b"".join([token.to_bytes(TOKEN_BYTES, "little") for token in ids])


def pack_chat(messages: Iterable[tuple[str, bytes]], preamble: bytes = b"") -> bytes:
    """A chat of (role, content) with the opening of the answer behind it; the preamble stands first."""
    parts = [pack(preamble), END] if preamble else []
    for role, content in messages:
        parts += (_opening(role), pack(content), END)
    parts.append(_opening("assistant"))
    return b"".join(parts)


def _opening(role: str) -> bytes:
    return pack(b"<" + role.encode("utf-8", "replace") + b">")


def count(packed: bytes) -> int:
    return len(packed) // TOKEN_BYTES


def chain(parent: int, block: bytes) -> int:
    """The key of a block: its tokens and, through the parent's key, all tokens before it."""
    return xxh3_64_intdigest(block, parent)


def chain_all(packed: bytes, block_tokens: int, root: int) -> list[int]:
    """Keys of all full blocks of a prompt, in order."""
    size = block_tokens * TOKEN_BYTES
    keys = []
    key = root
    for at in range(0, len(packed) - size + 1, size):
        key = xxh3_64_intdigest(packed[at : at + size], key)
        keys.append(key)
    return keys


def root_of(lora: str, salt: str) -> int:
    """Where a chain starts: prompts for different adapters or with different salts share no block."""
    return xxh3_64_intdigest(f"{lora}\0{salt}".encode("utf-8", "replace"))


class Speech:
    """Answers: a stretch of a fixed text that the prompt chooses. Four ASCII bytes a token, safe in JSON."""

    _WORDS: Final = (
        "the sun and sea has low old new red bay sky air ice oak ivy owl fox hen elk bee ant cat dog cow ram"
        " map pen ink cup jar box bag hat tie key bed mat rug lid can tin pot pan jam tea pie fig nut pea rye"
    )
    _SPAN: Final = 4096
    """Tokens of the fixed text; longer answers repeat it."""

    __slots__ = ("_seed", "_text")

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self._seed = seed & 0xFFFFFFFFFFFFFFFF
        self._text = "".join([word + " " for word in rng.choices(self._WORDS.split(), k=self._SPAN)]).encode()

    def answer(self, prompt: bytes, tokens: int) -> bytes:
        """Packed tokens of an answer; a longer one begins with a shorter one."""
        start = xxh3_64_intdigest(prompt, self._seed) % self._SPAN * TOKEN_BYTES
        text = self._text
        need = start + tokens * TOKEN_BYTES
        if need > len(text):
            text = text * (need // len(text) + 1)
        return text[start:need]

    def natural_length(self, prompt: bytes) -> int:
        """Tokens after which the answer stops by itself: log-normal, median 190, a tenth over 680."""
        share = (xxh3_64_intdigest(prompt, self._seed ^ 0x5EED) + 0.5) / 2**64
        deviations = _NORMAL.inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
        return max(1, min(8192, round(190 * math.exp(deviations))))
