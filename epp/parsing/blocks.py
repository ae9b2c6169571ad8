"""Prompts -> chained block hashes, the keys of every prefix index.

h[i] = xxh64(bytes of block i, seed = h[i-1]) with h[-1] = 0, so a hash stands for the whole prefix up to it.
A block is block_tokens tokens: 4 bytes of text each, or token ids as little-endian uint32. Model and cache
salt are not in the chain, so that it can be computed while the model is not known yet; a look-up key is
`root(model, salt) ^ h[i]`.
"""

from __future__ import annotations

from collections.abc import Iterable

from xxhash import xxh64_intdigest

from epp.domain.request import Prompt


def block_hashes(prompts: Iterable[Prompt], block_tokens: int, max_blocks: int) -> list[list[int]]:
    """One list of 64-bit hashes for each prompt, at most `max_blocks` long.

    The last block may be shorter than the others and is hashed as it is. About 0.17 us for 256 bytes.
    """
    size = 4 * block_tokens
    if size <= 0:
        raise ValueError("block_tokens must be positive")
    return [_chain(prompt, size, max_blocks * size) for prompt in prompts]


def root(model: str, salt: str) -> int:
    """64 bits for the name space of one model and one cache salt; 0 for neither."""
    seed = xxh64_intdigest(salt.encode("utf-8", "surrogatepass")) if salt else 0
    return xxh64_intdigest(model.encode("utf-8", "surrogatepass"), seed) if model or salt else 0


def _chain(prompt: Prompt, size: int, limit: int) -> list[int]:
    if prompt.tokens is None:
        data = prompt.text
    else:
        data = prompt.tokens[: limit // 4].astype("<u4", copy=False).tobytes()
    digest = xxh64_intdigest  # a local name is faster in the loop
    above = 0
    chain: list[int] = []
    for start in range(0, min(len(data), limit), size):
        above = digest(data[start : start + size], above)
        chain.append(above)
    return chain
