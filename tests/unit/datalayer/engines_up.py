"""Small real HTTP servers on loopback that play the model server's metrics and models pages."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from epp.datalayer.load import Load
from epp.datalayer.store import Store
from epp.domain.endpoint import Endpoint, EndpointSpec

VLLM = (
    b"vllm:num_requests_running 8\nvllm:num_requests_waiting %d\nvllm:kv_cache_usage_perc 0.25\n"
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1\n'
)


def http(body: bytes, status: int = 200, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Words", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Server:
    """What `answer` returns is written; None closes the connection instead."""

    answer: Callable[[int], bytes | Awaitable[bytes | None] | None]
    """Given the number of the request, from 0."""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(request)
                answer = self.answer(len(self.requests) - 1)
                if isinstance(answer, Awaitable):
                    answer = await answer
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
                if b"connection: close" in answer[:512].lower():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()
            self.closed.set()


@asynccontextmanager
async def up(
    answer: Callable[[int], bytes | Awaitable[bytes | None] | None],
    tls: ssl.SSLContext | None = None,
    port: int = 0,
) -> AsyncIterator[Server]:
    server = Server(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", port, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


class Watched(Store):
    """A store that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.news: asyncio.Queue[str] = asyncio.Queue()
        self.loads: list[Load] = []

    def report(self, endpoint: Endpoint, load: Load, now: float) -> None:
        super().report(endpoint, load, now)
        self.loads.append(load)
        self.news.put_nowait(endpoint.name)

    def set_models(self, endpoint: Endpoint, names: frozenset[str] | None, now: float) -> None:
        super().set_models(endpoint, names, now)
        self.news.put_nowait(endpoint.name)

    def put(self, *ports: int) -> None:
        specs = [EndpointSpec(f"e{i}", "127.0.0.1", port) for i, port in enumerate(ports)]
        self.set_endpoints(specs, 0.0)


class Errors:
    """Counts, and can be waited for."""

    def __init__(self) -> None:
        self.polls: asyncio.Queue[str] = asyncio.Queue()
        self.extracts: list[tuple[str, str]] = []
        self.total = 0

    def poll_errors(self, source: str) -> None:
        self.total += 1
        self.polls.put_nowait(source)

    def extract_errors(self, source: str, extractor: str) -> None:
        self.extracts.append((source, extractor))


@asynccontextmanager
async def running(job: Callable[[], Awaitable[None]]) -> AsyncIterator[asyncio.Task[None]]:
    """The job, cancelled at the end; it must have run until then."""

    async def run() -> None:
        await job()

    task = asyncio.create_task(run())
    try:
        yield task
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
