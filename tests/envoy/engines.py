"""Real HTTP model servers inside the test's event loop, which do what a request's headers ask them to.

`x-act: json` (the default) answers at once; `stream` sends one event, waits until the test lets it go on and
ends; `named` sends two at once, which name the request's model, one of them in two pieces; `die` sends one
event, waits like `stream` and drops the connection; `hold` answers nothing until let go.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field

from aiohttp import web

from bench.stack import free_port

EVENT = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
LAST = (
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\n'
    b"data: [DONE]\n\n"
)
METRICS = """\
vllm:num_requests_waiting{model_name="base"} 0
vllm:num_requests_running{model_name="base"} 0
vllm:kv_cache_usage_perc{model_name="base"} 0.1
"""


@dataclass(slots=True)
class Seen:
    """A request as it reached an engine."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Engine:
    """One model server. `seen` holds what came, newest last, health probes and scrapes left out."""

    port: int
    seen: list[Seen] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """A request is here in whole."""
    go: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the test: streams go on, held requests are answered."""
    open: int = 0
    """Requests being answered now."""
    host: str = "127.0.0.1"
    _runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=256 << 20)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def reset(self) -> None:
        self.seen.clear()
        self.arrived.clear()
        self.go.clear()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=METRICS, content_type="text/plain")

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        models = [{"id": name, "object": "model"} for name in ("base", "another-model")]
        return web.json_response({"object": "list", "data": models})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.path, headers, body))
        self.arrived.set()
        self.open += 1
        try:
            return await self._act(request, headers.get("x-act", "json"), body)
        finally:
            self.open -= 1

    async def _act(self, request: web.Request, act: str, body: bytes) -> web.StreamResponse:
        if act == "hold":
            await self.go.wait()
        named = re.search(rb'"model": ?"([^"]*)"', body[:1000] + body[-1000:])
        model = named[1].decode() if named else "base"
        if act in ("json", "hold"):
            usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
            answer = {"id": "x", "object": "chat.completion", "model": model, "usage": usage}
            return web.Response(body=json.dumps(answer).encode(), content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if act == "named":
            event = f'data: {{"model":"{model}","choices":[{{"delta":{{"content":"hi"}}}}]}}\n\n'.encode()
            middle = event.index(b'"choices"') - 4  # within the model's name
            for piece in (event[:middle], event[middle:] + event, LAST):
                await response.write(piece)
                await asyncio.sleep(0)  # a piece of its own
            await response.write_eof()
            return response
        await response.write(EVENT)
        if act == "die":
            await self.go.wait()
            assert request.transport is not None
            request.transport.abort()
            return response
        await self.go.wait()
        await response.write(LAST)
        await response.write_eof()
        return response


async def start_engines(count: int) -> list[Engine]:
    engines = [Engine(free_port()) for _ in range(count)]
    for engine in engines:
        await engine.start()
    return engines
