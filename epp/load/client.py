"""Sends one call, reads its answer as it comes, and returns what happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from epp.load.answers import Answer
from epp.load.calls import Call
from epp.load.records import Record
from epp.load.transport import Pool, TransportError

ENDPOINT_HEADERS = ("x-inference-pod", "x-gateway-destination-endpoint-served")
"""Answer headers that tell who answered; the first that is there counts."""
USER_AGENT = "epp-load"


class _Reply:
    """Takes the pieces of one HTTP answer. Errors are kept as a short excerpt of their body."""

    __slots__ = ("_clock", "answer", "headers", "refusal", "status")

    def __init__(self, clock: Callable[[], float], stream: bool) -> None:
        self._clock = clock
        self.answer = Answer(stream=stream)
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.refusal = b""

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        if self.answer.stream and not headers.get("content-type", "").startswith("text/event-stream"):
            self.answer.stream = False

    def body(self, data: bytes) -> None:
        if self.status == 200:
            self.answer.feed(data, self._clock())
        elif len(self.refusal) < 512:
            self.refusal += data[:512]


class Client:
    """Plays calls at one target. `clock` gives seconds; all instants of the records are on it."""

    def __init__(
        self,
        pool: Pool,
        clock: Callable[[], float],
        *,
        timeout_s: float = 600.0,
        endpoint_headers: Sequence[str] = ENDPOINT_HEADERS,
        run: str = "load",
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._timeout_s = timeout_s
        self._endpoint_headers = tuple(name.lower() for name in endpoint_headers)
        self._run = run
        self._count = 0

    async def ask(self, call: Call, session: str, turn: int, intended_at: float) -> tuple[Record, str]:
        """The record, and the text of the answer. Never raises for what the other side does."""
        self._count += 1
        request = self._render(call, f"{self._run}-{self._count}")
        reply = _Reply(self._clock, call.stream)
        record = Record(session, turn, call.model, intended_at, self._clock(), input_tokens=call.input_tokens)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._pool.exchange(request, reply)
        except TransportError as error:
            record.error, record.detail = error.kind, str(error)
        except TimeoutError:
            record.error, record.detail = "timeout", f"no complete answer within {self._timeout_s:g} s"
        record.ended_at = self._clock()
        self._note(record, reply)
        return record, reply.answer.text if record.ok else ""

    def _note(self, record: Record, reply: _Reply) -> None:
        record.status = reply.status
        record.retry_after = reply.headers.get("retry-after", "")
        for name in self._endpoint_headers:
            if value := reply.headers.get(name):
                record.endpoint = value
                break
        answer = reply.answer
        if not record.error:
            if reply.status == 200:
                answer.finish()
                record.error, record.detail = answer.error, answer.detail
            else:
                record.error = f"http-{reply.status}"
                record.detail = reply.refusal.decode("utf-8", "replace")
        record.first_token_at = answer.first_token_at
        record.gaps = answer.gaps
        record.output_tokens = answer.output_tokens
        record.cached_tokens = answer.cached_tokens
        if answer.prompt_tokens is not None:
            record.input_tokens = answer.prompt_tokens

    def _render(self, call: Call, request_id: str) -> bytes:
        target = self._pool.target
        lines = [
            f"POST {target.prefix}{call.path} HTTP/1.1",
            f"host: {target.authority}",
            f"user-agent: {USER_AGENT}",
            f"accept: {'text/event-stream' if call.stream else 'application/json'}",
            "accept-encoding: identity",
            "content-type: application/json",
            f"content-length: {len(call.body)}",
            f"x-request-id: {request_id}",
        ]
        lines.extend(f"{name}: {value}" for name, value in call.headers.items())
        return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + call.body
