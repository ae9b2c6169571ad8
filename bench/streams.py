"""Ten thousand streams open at once on one picker: memory, errors, and whether its ledger is exact.

    python bench/streams.py [--transport native|grpcio|both] [--streams 10000]

Each is a chat that was routed and whose streamed answer has begun. Then one more chunk comes on each, and all
answers end. Prints how long opening took, the picker's memory, and llm_d_epp_inflight_requests while all
are open and after; writes out/bench-streams.json. Fails where a stream did, or the ledger is not exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import uvloop
import wanted_table
from grpc_client import Connection, Stream, connect
from grpc_messages import CHUNK, ROUTED, answer_body, answer_head, kind_of, request
from rich.console import Console
from stack import ROOT, Served, epp_serve
from wanted_table import Line

PER_CONNECTION = 500
OPENING = 200
"""Streams that wait for their verdict at a time."""
VARIANTS = 64
PATIENCE_S = 120.0
GIB = 1 << 30


@dataclass(slots=True)
class Seen:
    transport: str
    streams: int
    open_s: float = 0.0
    chunk_s: float = 0.0
    end_s: float = 0.0
    rss_before: int = 0
    rss_open: int = 0
    rss_after: int = 0
    ledger_open: float = 0.0
    ledger_after: float = 0.0
    errors: int = 0

    @property
    def exact(self) -> bool:
        return self.ledger_open == self.streams and self.ledger_after == 0

    @property
    def good(self) -> bool:
        return self.exact and self.errors == 0

    def times(self) -> str:
        opened = f"opened in {self.open_s:.1f} s ({self.streams / self.open_s:,.0f}/s)"
        return f"{opened}, a chunk on each in {self.chunk_s:.2f} s, ended in {self.end_s:.1f} s"

    def memory(self) -> str:
        sizes = [f"{size / (1 << 20):.0f}" for size in (self.rss_before, self.rss_open, self.rss_after)]
        return f"RSS {sizes[0]} MiB before, {sizes[1]} open, {sizes[2]} after"

    def shown(self) -> str:
        exact = "exact" if self.exact else f"{self.ledger_open:g} open, {self.ledger_after:g} after"
        return f"{self.rss_open / GIB:.2f} GiB, {self.errors} errors, ledger {exact}"


class Crowd:
    """All streams, and how many have come how far."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.errors = 0
        self._left = 0
        self._done = asyncio.Event()
        self._awaited: tuple[str, ...] = ROUTED

    def expect(self, messages: tuple[str, ...], streams: int) -> None:
        """That each of so many streams hears these from now on."""
        self._awaited = messages
        self._left = streams * max(1, len(messages))
        self._done.clear()

    async def heard_all(self) -> None:
        if self._left > 0:
            await asyncio.wait_for(self._done.wait(), PATIENCE_S)

    def open(self, connection: Connection, content: bytes) -> None:
        stream = connection.open(self._heard, self._over)
        self.streams.append(stream)
        stream.send(content)

    def _heard(self, _: Stream, message: bytes) -> None:
        if kind_of(message) not in self._awaited:
            self.errors += 1
        self._count()

    def _over(self, _: Stream, in_order: bool) -> None:
        if not in_order:
            self.errors += 1
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self._done.set()


async def crowd(served: Served, seen: Seen) -> None:
    connections = [await connect(served.grpc) for _ in range(-(-seen.streams // PER_CONNECTION))]
    requests = [request(variant, stream=True) for variant in range(VARIANTS)]
    begun = answer_head(stream=True) + answer_body(CHUNK, end=False)
    chunk, last = answer_body(CHUNK, end=False), answer_body(b"data: [DONE]\n\n", end=True)
    everyone = Crowd()
    seen.rss_before = served.child.rss_bytes()
    began = time.perf_counter()
    for first in range(0, seen.streams, OPENING):
        batch = range(first, min(first + OPENING, seen.streams))
        everyone.expect(ROUTED, len(batch))
        for number in batch:
            everyone.open(connections[number % len(connections)], requests[number % VARIANTS])
        await everyone.heard_all()
        everyone.expect(("response_headers", "response_body"), len(batch))
        for stream in everyone.streams[first:]:
            stream.send(begun)
        await everyone.heard_all()
    seen.open_s = time.perf_counter() - began

    began = time.perf_counter()
    everyone.expect(("response_body",), seen.streams)
    for stream in everyone.streams:
        stream.send(chunk)
    await everyone.heard_all()
    seen.chunk_s = time.perf_counter() - began
    seen.rss_open = served.child.rss_bytes()
    seen.ledger_open = await asyncio.to_thread(served.metric, "llm_d_epp_inflight_requests")

    began = time.perf_counter()
    # The last chunk's answer, and the end of the stream itself.
    everyone.expect(("response_body", "end"), seen.streams)
    for stream in everyone.streams:
        stream.send(last, end=True)
    await everyone.heard_all()
    seen.end_s = time.perf_counter() - began
    seen.ledger_after = await _settled(served)
    seen.rss_after = served.child.rss_bytes()
    seen.errors = everyone.errors
    for connection in connections:
        connection.close()


async def _settled(served: Served) -> float:
    """The ledger's sum once it has heard of the last end, or after a moment."""
    for _ in range(20):
        if (left := await asyncio.to_thread(served.metric, "llm_d_epp_inflight_requests")) == 0:
            break
        await asyncio.sleep(0.1)
    return left


def measure(transport: str, streams: int) -> Seen:
    seen = Seen(transport, streams)
    with tempfile.TemporaryDirectory(prefix="epp-bench-") as folder, contextlib.ExitStack() as live:
        engines = [f"127.0.0.1:{port}" for port in range(9, 17)]  # nobody listens there
        served = epp_serve(engines, Path(folder), flags=["--transport", transport])
        live.callback(served.stop_now)
        uvloop.run(crowd(served, seen))
    return seen


def line(runs: list[Seen], streams: int) -> Line:
    reached = {seen.transport: seen.shown() for seen in runs}
    wanted = "< 1 GiB, 0 errors, exact"
    return Line(f"{streams:,} open streams", wanted, reached.get("native", "-"), reached.get("grpcio", "-"))


@click.command(help=__doc__)
@click.option(
    "--transport", type=click.Choice(["native", "grpcio", "both"]), default="both", show_default=True
)
@click.option("--streams", default=10_000, show_default=True, type=click.IntRange(1, 20_000))
@click.option("--out", default=ROOT / "out/bench-streams.json", type=click.Path(path_type=Path))
def main(transport: str, streams: int, out: Path) -> None:
    console = Console(width=150)
    transports = ["native", "grpcio"] if transport == "both" else [transport]
    runs = [measure(name, streams) for name in transports]
    console.print(wanted_table.table([line(runs, streams)]))
    for seen in runs:
        console.print(f"{seen.transport}: {seen.times()}; {seen.memory()}")
    out.parent.mkdir(parents=True, exist_ok=True)
    found = {"lines": [asdict(line(runs, streams))], "runs": [asdict(seen) for seen in runs]}
    out.write_text(json.dumps(found, indent=1))
    console.print(f"written: {out}")
    if not all(seen.good for seen in runs):
        raise click.ClickException("a stream failed, or the ledger is not exact")


if __name__ == "__main__":
    main()
