"""Images, video, audio and files in prompts: never decoded, each becomes a placeholder made of its hash.

So two requests with the same picture share a prefix, and two with different ones do not. Sizes are the
reference's estimates where it has one; a placeholder token is 4 bytes as text tokens are.
"""

from __future__ import annotations

from typing import Final

import msgspec
from xxhash import xxh64_intdigest

from epp.parsing.rawjson import NONE, is_set, opening

IMAGE_TOKENS: Final = 640 * 360 // 1024
"""Default resolution over the reference's factor."""
VIDEO_TOKENS: Final = 10 * IMAGE_TOKENS
"""10 s at one frame a second, the reference's defaults."""
AUDIO_TOKENS: Final = 250
"""10 s at 25 tokens a second, what Qwen2-Audio makes of it."""
FILE_TOKENS: Final = IMAGE_TOKENS
"""As one page seen as an image."""


class Reference(msgspec.Struct, gc=False):
    """`{"url": ...}`, `{"data": ...}` and their kin; details beside them do not count."""

    url: msgspec.Raw = NONE
    data: msgspec.Raw = NONE
    file_data: msgspec.Raw = NONE
    file_id: msgspec.Raw = NONE


_REFERENCE = msgspec.json.Decoder(Reference)


def hash32(raw: msgspec.Raw) -> int:
    """xxh64 of the url or data, low 32 bits. The JSON text is hashed, without its quotes."""
    view = memoryview(raw)
    if opening(view) == b"{":
        found = _REFERENCE.decode(view)
        for value in (found.url, found.data, found.file_data, found.file_id):
            if is_set(value):
                view = memoryview(value)
                break
    if opening(view) == b'"':
        view = view[1:-1]
    return xxh64_intdigest(view) & 0xFFFFFFFF


def placeholder(raw: msgspec.Raw, tokens: int) -> bytes:
    """`tokens` times the hash, little endian."""
    return hash32(raw).to_bytes(4, "little") * tokens
