"""The compiled transport: Rust moves and reads the bytes, this file calls the door with what it found.

Its thread queues events and makes a descriptor readable; the event loop then takes them in batches, so the
door is only ever called by the loop. What was seen of answers waits for the next
request, or a moment.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from epp.domain.errors import Answer, Reason, Refused, answer_of
from epp.domain.request import AnswerView, Api, Body, Scanned, Usage
from epp.domain.views import AnswerHead, Call, Clock, Door, Ending, Report, Route, Verdict
from epp.extproc.head import request_head
from epp.extproc.sparing import SparingLog
from epp.extproc.transport import Limits, StreamSink, Tls
from epp.telemetry.buckets import HANDOFF_S, ITL_S, STREAM_S

if TYPE_CHECKING:
    from inference_epp_native import Server

_BATCH = 256
"""Events taken at once; the loop does its other work between two batches."""
_FLUSH_EVERY = 8
"""Replies that leave together: the first of a batch must not wait for the last, but waking the thread costs
more than most of them."""
_AWAITED = frozenset({"headers", "decide", "limited", "answered", "health"})
"""Events that may be replied to."""
_HOUSEKEEPING_S = 1.0
_NO_REPORT = Report()
_VIEWS = {view.name: view for view in AnswerView}
_ENDINGS = {ending.value: ending for ending in Ending}

log = logging.getLogger("epp.extproc")


def is_built() -> bool:
    """Whether the compiled part is installed."""
    return importlib.util.find_spec("inference_epp_native") is not None


class NativeTransport:
    """Serves Envoy's ExternalProcessor. `ready` answers gRPC health on the same port; None: no health there.

    `early`: the door is asked at the headers whether it refuses. `scan`: ends of paths, the longest first,
    whose long bodies are hashed while they come in. `fixed`: an endpoint that every request gets without the
    door being asked (for measurements of the transport alone).
    """

    def __init__(
        self,
        door: Door,
        *,
        address: str,
        sink: StreamSink,
        new_id: Callable[[], str],
        limits: Limits | None = None,
        tls: Callable[[], Tls] | None = None,
        reload_tls: bool = False,
        ready: Callable[[], bool] | None = None,
        early: bool = False,
        scan: Mapping[str, Api] | None = None,
        fixed: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        from inference_epp_native import Server

        limits = limits or Limits()
        self._door = door
        self._address = address
        self._sink = sink
        self._new_id = new_id
        self._tls = tls
        self._reload_tls = reload_tls
        self._ready = ready
        self._clock = clock
        self._calls: dict[int, Call] = {}
        self._waiting: dict[int, asyncio.Future[Verdict]] = {}
        self._port = 0
        self._told_opened = 0
        self._stopped: asyncio.Future[None] | None = None
        self._housekeeper: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server = Server(
            max_body_bytes=limits.max_body_bytes,
            max_buffered_bytes=limits.max_buffered_bytes,
            max_streams=limits.max_streams,
            max_message_bytes=limits.receive_bytes,
            progress_timeout_s=limits.progress_timeout_s,
            answer_timeout_s=limits.answer_timeout_s,
            max_connection_age_s=limits.max_connection_age_s,
            ask_headers=early,
            health_checking=ready is not None,
            gap_bounds=ITL_S,
            stream_bounds=STREAM_S,
            handoff_bounds=HANDOFF_S,
            scan=[(suffix, api.value) for suffix, api in (scan or {}).items()],
            fixed=fixed,
        )
        self._told = SparingLog(log, clock)
        self._handlers: dict[str, Callable[..., None]] = {
            "headers": self._headers,
            "decide": self._decide,
            "limited": self._limited,
            "answered": self._answered,
            "first_token": self._first_token,
            "end": self._end,
            "health": self._health,
            "log": self._log,
            "stopped": self._thread_over,
        }
        """By the names of events, native/src/convert/events.rs."""

    @property
    def port(self) -> int:
        return self._port

    @property
    def open_streams(self) -> int:
        return self._server.open_streams

    @property
    def opened_streams(self) -> int:
        return self._server.opened_streams

    @property
    def known_streams(self) -> int:
        """Whose end the door has not been told."""
        return len(self._calls.keys() | self._waiting.keys())

    @property
    def held_bytes(self) -> int:
        return self._server.held_bytes

    async def start(self) -> None:
        pair = self._tls() if self._tls is not None else None
        self._port = self._server.start(self._address, None if pair is None else (pair.certificate, pair.key))
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        self._loop.add_reader(self._server.wake_fd, self._look)
        self._housekeeper = self._loop.create_task(self._keep_house(pair), name="extproc-house")

    async def stop(self, grace_s: float) -> None:
        if self._stopped is None or self._loop is None:
            return
        if self._housekeeper is not None:
            self._housekeeper.cancel()
        if not self._stopped.done():
            for stream in tuple(self._waiting):
                self._abort(stream, Refused(Reason.SHUTTING_DOWN, "the endpoint picker is shutting down"))
            self._server.stop(grace_s)
            await self._stopped
        self._server.join()
        self._loop.remove_reader(self._server.wake_fd)
        self.collect()

    def hurry(self, hurry: bool) -> None:
        self._server.set_eager(hurry)

    def collect(self) -> None:
        server, sink = self._server, self._sink
        counts = server.counts()
        opened = server.opened_streams
        sink.streams(opened - self._told_opened, counts["closed"], *counts["durations"])
        self._told_opened = opened
        sink.handoffs(*counts["handoffs"])
        for kind, count in counts["violations"].items():
            for _ in range(count):
                sink.protocol_violation(kind)
        sink.connections(server.connections, counts["handshake_failures"])
        for _ in range(counts["faults"]):
            sink.internal_error("transport")

    async def _keep_house(self, pair: Tls | None) -> None:
        """Counts before they are asked for, and certificates that have changed."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            try:
                self.collect()
                now = self._tls() if self._reload_tls and self._tls is not None else pair
                if now is not pair and now is not None:
                    pair = now
                    self._server.set_certificate(now.certificate, now.key)
            except ValueError as error:
                log.warning("the new certificate is not used, the last one is kept: %s", error)
            except Exception:
                log.exception("the transport's housekeeping failed, and goes on")

    # --- events -------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """The descriptor is readable."""
        server, handlers = self._server, self._handlers
        unsent = 0
        for stream, name, *content in server.drain(_BATCH):
            try:
                handlers[name](stream, *content)
            except Exception:
                self._fault(stream)
                unsent += 1
            if name in _AWAITED:
                unsent += 1
                if unsent >= _FLUSH_EVERY:
                    server.flush()
                    unsent = 0
        if unsent:
            server.flush()

    def _fault(self, stream: int) -> None:
        log.exception("a stream ended by a fault of ours")
        self._sink.internal_error("stream")
        self._abort(stream, Refused(Reason.INTERNAL, "the endpoint picker failed; its log says why"))

    def _abort(self, stream: int, refused: Refused) -> None:
        call = self._calls.get(stream)
        answer = answer_of(refused)
        if call is not None:
            try:
                answer = call.refuse(refused)
            except Exception:
                log.exception("a request could not be refused in the door's own way")
        self._server.abort(stream, answer)

    def _call(self, stream: int, head: tuple[Any, ...] | None) -> Call:
        """The stream's call; `head` comes with its first event."""
        if head is None:
            return self._calls[stream]
        headers, received_at, has_body, subset, view, answer_only, authority, pool = head
        if answer_only:
            call = self._door.open_answer(authority, pool)
        else:
            made = request_head(
                headers, self._new_id, received_at, has_body, subset, _VIEWS[view], authority, pool
            )
            call = self._door.open(made, partial(self._aborted, stream))
        self._calls[stream] = call
        return call

    def _aborted(self, stream: int, answer: Answer) -> None:
        """By the door's own will."""
        self._server.abort(stream, answer)
        self._server.flush()

    def _headers(self, stream: int, head: tuple[Any, ...]) -> None:
        early = self._call(stream, head).refuse_early()
        if early is None:
            self._server.go_on(stream)
        else:
            self._server.refused(stream, early)

    def _decide(
        self,
        stream: int,
        head: tuple[Any, ...] | None,
        subset: tuple[str, ...] | None,
        body: Body,
        truncated: bool,
        scanned: tuple[Any, ...] | None = None,
    ) -> None:
        call = self._call(stream, head)
        if subset is not None:
            call.allow(subset)
        seen = None if scanned is None else Scanned(*scanned)
        verdict = call.decide(body, truncated=truncated, scanned=seen)
        if isinstance(verdict, Route | Answer):
            self._server.decided(stream, verdict)
        else:
            self._wait(stream, verdict)

    def _wait(self, stream: int, verdict: Awaitable[Verdict]) -> None:
        waiting = asyncio.ensure_future(verdict)
        self._waiting[stream] = waiting

        def decided(done: asyncio.Future[Verdict]) -> None:
            if self._waiting.pop(stream, None) is None:
                # The stream has ended, or goes on without it; whatever it came to is not asked for.
                _ = done.cancelled() or done.exception()
                return
            try:
                self._server.decided(stream, done.result())
            except (Exception, asyncio.CancelledError):
                self._fault(stream)
            self._server.flush()

        waiting.add_done_callback(decided)

    def _limited(self, stream: int, head: tuple[Any, ...] | None, reason: str, text: str) -> None:
        call = self._call(stream, head)
        self._server.refused(stream, call.refuse(Refused(Reason[reason], text)))

    def _answered(
        self, stream: int, head: tuple[Any, ...] | None, answer: tuple[Any, ...], wait: bool
    ) -> None:
        self._forsake(stream)
        if head is None and stream not in self._calls:
            return  # it could not be opened, and is being ended
        fields = self._call(stream, head).answered(AnswerHead(*answer))
        if wait:
            self._server.set_answer(stream, fields)

    def _first_token(self, stream: int, head: tuple[Any, ...] | None, at: float) -> None:
        self._forsake(stream)
        if head is not None or stream in self._calls:
            self._call(stream, head).first_token(at)

    def _end(
        self,
        stream: int,
        head: tuple[Any, ...] | None,
        ending: str,
        report: tuple[Any, ...] | None,
        answer: tuple[Any, ...] | None,
    ) -> None:
        self._forsake(stream)
        if head is None and stream not in self._calls:
            return  # it could not be opened
        call = self._call(stream, head)
        del self._calls[stream]
        try:
            if answer is not None:
                call.answered(AnswerHead(*answer))
        finally:
            call.end(_ENDINGS[ending], _NO_REPORT if report is None else _report(*report))

    def _forsake(self, stream: int) -> None:
        """Nobody waits for the verdict any more."""
        if self._waiting and (waiting := self._waiting.pop(stream, None)) is not None:
            waiting.cancel()

    def _health(self, stream: int) -> None:
        serving = False
        try:
            serving = self._ready is not None and self._ready()
        finally:
            self._server.health(stream, serving)

    def _log(self, stream: int, warning: bool, text: str) -> None:
        self._told.say(logging.WARNING if warning else logging.INFO, text)

    def _thread_over(self, stream: int, asked: bool) -> None:
        if not asked:
            log.critical("the native transport's thread has ended by a fault: shutting down")
            self._sink.internal_error("transport")
            for stream in tuple(self._calls):
                self._forsake(stream)
                self._calls.pop(stream).end(Ending.ERROR, _NO_REPORT)
            os.kill(os.getpid(), signal.SIGTERM)
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)


def _report(
    observed: bool,
    override_ignored: bool,
    first_at: float,
    last_at: float,
    body_bytes: int,
    usage: tuple[int | None, ...] | None,
    *rest: Any,
) -> Report:
    counts = None if usage is None else Usage(*usage)
    return Report(observed, override_ignored, first_at, last_at, body_bytes, counts, *rest)
