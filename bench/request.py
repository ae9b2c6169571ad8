"""What one request costs epp without a transport: wire bytes in, exchange, director, wire bytes out.

    python bench/request.py [--profile] [--repeat 300]

The gateway benchmark shows the whole with Envoy and grpc, and the noise of four processes; this shows our own
part in a tight loop, hence with warm caches: a lower bound. `parse wire` is what protobuf takes of it.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from gateway_load import chat_body

from epp.app import App, Options
from epp.config.sources import PoolConfigs, preset
from epp.domain.views import Door
from epp.extproc.codec import decode, encode
from epp.extproc.exchange import Exchange

DUPLEX = processing_mode_pb2.ProcessingMode.FULL_DUPLEX_STREAMED
PIECE_BYTES = 16_384
REQUEST_HEADERS = {
    ":authority": "gateway",
    ":path": "/v1/chat/completions",
    ":method": "POST",
    ":scheme": "http",
    "content-type": "application/json",
    "x-forwarded-for": "192.0.2.1",
    "x-forwarded-proto": "http",
    "x-request-id": "4dcc748a-89dc-4072-b46e-139faa47211d",
}
ANSWER_HEADERS = {
    ":status": "200",
    "content-type": "application/json",
    "date": "Sat, 21 Nov 2026 16:00:00 GMT",
    "server": "engine",
    "x-gateway-destination-endpoint-served": "127.0.0.1:8000",
}
ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "model": "bench",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12},
}


def conversation(size_kb: float, variant: int) -> list[bytes]:
    """The messages of one request in full duplex, as Envoy sends them."""
    head, answer_head, answer = (pb.ProcessingRequest() for _ in range(3))
    for message, headers in (
        (head.request_headers, REQUEST_HEADERS),
        (answer_head.response_headers, ANSWER_HEADERS),
    ):
        message.headers.headers.extend(
            [base_pb2.HeaderValue(key=key, raw_value=value.encode()) for key, value in headers.items()]
        )
    body = chat_body(size_kb, variant)
    pieces = []
    for at in range(0, len(body), PIECE_BYTES):
        piece = pb.ProcessingRequest()
        piece.request_body.body = body[at : at + PIECE_BYTES]
        piece.request_body.end_of_stream = at + PIECE_BYTES >= len(body)
        pieces.append(piece)
    answer.response_body.body = json.dumps(ANSWER).encode()
    answer.response_body.end_of_stream = True
    return [message.SerializeToString() for message in (head, *pieces, answer_head, answer)]


def play(exchange: Exchange, wire: list[bytes]) -> int:
    """Bytes sent back."""
    sent = 0
    exchange.learn_modes(DUPLEX, DUPLEX)
    for raw in wire:
        decoded = decode(pb.ProcessingRequest.FromString(raw))
        assert decoded is not None
        for action in exchange.receive(*decoded):
            message = encode(action)
            if message is not None:
                sent += len(message.SerializeToString())
    exchange.over()
    return sent


def best_us(work: Callable[[int], object], repeat: int) -> float:
    """Least of six rounds, CPU microseconds a call."""
    rounds = []
    for _ in range(6):
        began = time.process_time()
        for number in range(repeat):
            work(number)
        rounds.append((time.process_time() - began) / repeat)
    return min(rounds) * 1e6


def measure(door: Door, repeat: int, profile: bool) -> None:
    for size_kb in (0.1, 32, 400):
        wires = [conversation(size_kb, variant) for variant in range(32)]
        few = repeat if size_kb < 100 else max(repeat // 8, 1)

        def whole(number: int, wires: list[list[bytes]] = wires) -> int:
            return play(Exchange(door, time.monotonic, lambda: "id"), wires[number % 32])

        def parse(number: int, wires: list[list[bytes]] = wires) -> None:
            for raw in wires[number % 32]:
                pb.ProcessingRequest.FromString(raw)

        for number in range(64):
            whole(number)
        click.echo(
            f"{size_kb:6g} KB: {best_us(whole, few):8.1f} us, parse wire {best_us(parse, few):6.1f} us"
        )
        if profile:
            profiler = cProfile.Profile()
            profiler.enable()
            for number in range(few):
                whole(number)
            profiler.disable()
            pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


async def run(repeat: int, profile: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="epp-bench-") as directory:
        endpoints = Path(directory) / "endpoints.yaml"
        named = [f'{{name: engine-{i}, address: 127.0.0.1, port: "{8000 + i}"}}' for i in range(8)]
        endpoints.write_text(f"endpoints: [{', '.join(named)}]\n")
        options = Options(endpoints_file=endpoints, secure_serving=False, tracing=False)
        app = App(options, PoolConfigs(preset()))
        app.pool.load()
        measure(app.pool.generation.director, repeat, profile)


@click.command(help=__doc__)
@click.option("--profile", is_flag=True, help="Print where the time goes, by function.")
@click.option("--repeat", default=300, show_default=True, type=click.IntRange(10), help="Requests a round.")
def main(profile: bool, repeat: int) -> None:
    asyncio.run(run(repeat, profile))


if __name__ == "__main__":
    main()
