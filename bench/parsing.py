"""What a request's body and an answer's chunk cost: `python bench/parsing.py`.

Prints CPU microseconds for chat bodies of 0.1, 32 and 400 KB: parse (decode, flatten, find the model), hash
in blocks of 64 tokens (256 bytes), and both. Mixed text is not all ASCII: slower to decode. Then for one
SSE chunk of a token, and for a model name put back in it.
"""

from __future__ import annotations

import json
import random
import time
import timeit
from collections.abc import Callable, Sequence

from epp.domain.request import Api, RequestHead
from epp.parsing.blocks import HASH_BYTES, block_hashes
from epp.parsing.rewrite import ModelRestorer
from epp.parsing.select import Parsers, default_parsers
from epp.parsing.usage import answer_reader

BLOCK_TOKENS = 64
MAX_BLOCKS = 2048
ENGLISH = ("route", "the", "request", "to", "where", "its", "prefix", "is", "cached,\n", 'say "why"', "or")
MIXED = (*ENGLISH, "日本")


def chat_body(size: int, seed: int, words: Sequence[str] = MIXED) -> bytes:
    """A conversation of about `size` bytes in turns of up to 4 KB; one line break or quote in six words."""
    rng = random.Random(seed)
    body = {"model": "meta-llama/Llama-3.1-8B-Instruct", "stream": True, "max_tokens": 256}
    messages: list[dict[str, str]] = []
    left = size - 90
    while left > 0:
        turn = min(left, 4000)
        text = " ".join(rng.choice(words) for _ in range(max(1, turn // 7)))
        messages.append({"role": "assistant" if len(messages) % 2 else "user", "content": text})
        left -= turn
    return json.dumps({"messages": messages, **body}, ensure_ascii=False).encode()


def best_us(call: Callable[[], object], seconds: float = 0.3) -> float:
    """CPU microseconds of one call, the best of five rounds."""
    timer = timeit.Timer(call, timer=time.process_time)
    once = max(timer.timeit(3) / 3, 1e-7)
    number = max(1, int(seconds / 5 / once))
    return min(timer.repeat(5, number)) / number * 1e6


def main() -> None:
    parsers = Parsers(default_parsers())
    head = RequestHead({}, "POST", "/v1/chat/completions", "bench", 0.0)
    print(f"{'body':>12} {'bytes':>8} {'blocks':>7} {'parse us':>9} {'hash us':>8} {'both us':>8}")
    sizes = (("0.1 KB", 100), ("32 KB", 32 << 10), ("400 KB", 400 << 10))
    kinds = [(name, size, ENGLISH) for name, size in sizes] + [(f"{n} mixed", s, MIXED) for n, s in sizes[1:]]
    for name, size, words in kinds:
        body = chat_body(size, 1, words)
        prompts = parsers.parse(head, body).prompts
        blocks = len(block_hashes(prompts, BLOCK_TOKENS, MAX_BLOCKS)[0]) // HASH_BYTES

        def parse(body: bytes = body) -> object:
            return parsers.parse(head, body)

        def both(body: bytes = body) -> object:
            return block_hashes(parsers.parse(head, body).prompts, BLOCK_TOKENS, MAX_BLOCKS)

        parse_us = best_us(parse)
        hash_us = best_us(lambda prompts=prompts: block_hashes(prompts, BLOCK_TOKENS, MAX_BLOCKS))  # type: ignore[misc]
        print(f"{name:>12} {len(body):8} {blocks:7} {parse_us:9.1f} {hash_us:8.1f} {best_us(both):8.1f}")

    chunk = (
        b'data: {"id":"chatcmpl-7f0c","object":"chat.completion.chunk","created":1760000000,"model":"base",'
        b'"choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}\n\n'
    )
    reader = answer_reader(Api.CHAT, "text/event-stream", "")
    restorer = ModelRestorer("base", "alias")
    print(f"SSE chunk of {len(chunk)} bytes: usage {best_us(lambda: reader.feed(chunk)):.2f} us", end=", ")
    print(f"model restored {best_us(lambda: restorer.feed(chunk, False)):.2f} us")


if __name__ == "__main__":
    main()
