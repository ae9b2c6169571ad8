"""Text made from names: the same name and length give the same text on every machine.

A token is four bytes, three letters and a space: the ratio that the picker and the simulated engines assume
for text. A longer text of a name begins with the shorter ones, so cutting keeps prefixes.
"""

from __future__ import annotations

from hashlib import shake_128

BYTES_PER_TOKEN = 4
_LETTERS = bytes(b"abcdefghijklmnopqrstuvwxyz"[value % 26] for value in range(256))


def words(name: str, tokens: int) -> str:
    """`tokens` words of three letters, each with a space after it. 512 take about 6 us."""
    text = bytearray(shake_128(name.encode()).digest(tokens * BYTES_PER_TOKEN).translate(_LETTERS))
    text[BYTES_PER_TOKEN - 1 :: BYTES_PER_TOKEN] = b" " * tokens
    return text.decode("ascii")


def estimate(text_bytes: int) -> int:
    """Tokens in a text of so many bytes."""
    return -(-text_bytes // BYTES_PER_TOKEN)
