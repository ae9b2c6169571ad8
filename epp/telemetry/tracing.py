"""Traces of requests: the incoming context is continued, spans carry the reasons, and it is passed on.

Whether a request is sampled is decided first, from its `traceparent` or by chance, without the SDK; one that
is not costs a look at one header. Spans: gateway.request over parse, admit, schedule and answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Protocol

from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from epp.domain.decision import Decision
from epp.domain.errors import Refused
from epp.domain.request import Request, RequestHead, Usage
from epp.domain.views import Ending
from epp.telemetry.reasons import headline

if TYPE_CHECKING:
    from epp.telemetry.provider import Provider

TRACEPARENT = "traceparent"
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_LOW64 = (1 << 64) - 1
_SAMPLED = TraceFlags.SAMPLED
_FAILED = frozenset({Ending.ERROR, Ending.DRAINED})


class Trace(Protocol):
    """The trace of one request. Nothing here raises; calls after `end` do nothing."""

    @property
    def recording(self) -> bool:
        """False: building attributes is wasted."""

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """Request headers that pass the context on to the model server."""

    def enter(self, step: str) -> None:
        """Ends the step before and begins this one: parse, admit, schedule, answer."""

    def parsed(self, request: Request) -> None: ...

    def decided(self, decision: Decision) -> None: ...

    def refused(self, refused: Refused) -> None: ...

    def end(self, ending: Ending, *, status: int | None = None, usage: Usage | None = None) -> None: ...


class _Unrecorded:
    """A request that is not sampled."""

    __slots__ = ("headers",)
    recording = False

    def __init__(self, headers: Sequence[tuple[str, str]] = ()) -> None:
        self.headers = headers

    def enter(self, step: str) -> None:
        pass

    def parsed(self, request: Request) -> None:
        pass

    def decided(self, decision: Decision) -> None:
        pass

    def refused(self, refused: Refused) -> None:
        pass

    def end(self, ending: Ending, *, status: int | None = None, usage: Usage | None = None) -> None:
        pass


UNTRACED: Trace = _Unrecorded()


class _Recorded:
    """A sampled request."""

    __slots__ = ("_context", "_provider", "_root", "_step", "headers")
    recording = True

    def __init__(self, provider: Provider, root: Span, head: RequestHead) -> None:
        self._provider = provider
        self._root = root
        self._step: Span | None = None
        self._context = set_span_in_context(root)
        ours = root.get_span_context()
        self.headers = ((TRACEPARENT, _written(ours.trace_id, ours.span_id, int(ours.trace_flags))),)
        root.set_attributes(
            {
                "http.request.method": head.method,
                "url.path": head.path,
                "epp.request_id": head.request_id,
            }
        )

    def enter(self, step: str) -> None:
        if self._step is not None:
            self._step.end()
        if not self._root.is_recording():
            return
        self._step = self._provider.tracer.start_span(step, context=self._context)

    def parsed(self, request: Request) -> None:
        self._root.set_attributes(
            {
                "gen_ai.request.model": request.model,
                "epp.api": request.api.value,
                "epp.stream": request.stream,
                "epp.input_tokens": request.input_tokens,
            }
        )

    def decided(self, decision: Decision) -> None:
        span = self._step or self._root
        span.set_attributes(
            {
                "epp.destination": decision.destination,
                "epp.target_model": decision.target_model,
                "epp.reasons": headline(decision),
                "epp.cached_tokens": decision.cached_tokens,
                "epp.seed": decision.seed,
                "epp.pool_size": len(decision.snapshot),
            }
        )
        for run in decision.runs:
            for drop in run.drops:
                if len(drop.rows):
                    span.add_event("dropped", {"filter": drop.filter, "endpoints": len(drop.rows)})
            for plugin, fault in run.faults:
                span.add_event("fault", {"plugin": plugin, "fault": fault})

    def refused(self, refused: Refused) -> None:
        row = refused.reason.value
        (self._step or self._root).add_event("refused", {"reason": row.code, "message": refused.message})
        self._root.set_attribute("http.response.status_code", row.status)
        if row.status >= 500:
            self._root.set_status(Status(StatusCode.ERROR, row.code))

    def end(self, ending: Ending, *, status: int | None = None, usage: Usage | None = None) -> None:
        if self._step is not None:
            self._step.end()
            self._step = None
        root = self._root
        if not root.is_recording():
            return
        root.set_attribute("epp.ending", ending.value)
        if status is not None:
            root.set_attribute("http.response.status_code", status)
        if usage is not None:
            counts = (
                ("gen_ai.usage.input_tokens", usage.prompt_tokens),
                ("gen_ai.usage.output_tokens", usage.completion_tokens),
                ("gen_ai.usage.cached_tokens", usage.cached_tokens),
            )
            for name, count in counts:
                if count is not None:
                    root.set_attribute(name, count)
        if ending in _FAILED or (status is not None and status >= 500):
            root.set_status(Status(StatusCode.ERROR, ending.value))
        root.end()


@dataclass(frozen=True, slots=True)
class Sampling:
    """`ratio` of root traces; `parent_based`: a caller's decision, where there is one, goes before."""

    ratio: float = 0.1
    parent_based: bool = True

    def takes(self, trace_id: int, parent_sampled: bool | None) -> bool:
        """The low 64 bits decide, as in the SDKs, so that every hop of one ratio decides alike."""
        if self.parent_based and parent_sampled is not None:
            return parent_sampled
        return (trace_id & _LOW64) < round(self.ratio * (1 << 64))


class Tracer:
    """`provider` None: tracing is off, and every request's trace is UNTRACED."""

    def __init__(
        self,
        provider: Provider | None = None,
        sampling: Sampling | None = None,
        rng: Random | None = None,
        notices: Sequence[str] = (),
    ) -> None:
        self._provider = provider
        self._sampling = sampling or Sampling()
        self._bits = (rng or Random()).getrandbits
        self.notices = tuple(notices)
        """What the operator should be told at start, once."""

    @property
    def enabled(self) -> bool:
        return self._provider is not None

    def request(self, head: RequestHead) -> Trace:
        """Begins `gateway.request`. Call `end` on what it returns."""
        provider = self._provider
        if provider is None:
            return UNTRACED
        parent = parse_traceparent(head.headers.get(TRACEPARENT))
        if parent is None:
            trace_id, span_id = self._bits(128) or 1, 0
            if not self._sampling.takes(trace_id, None):
                # The next hop must learn our no, or it would draw again.
                return _Unrecorded(((TRACEPARENT, _written(trace_id, self._bits(64) or 1, 0)),))
            context = None
        else:
            trace_id, span_id, flags = parent
            if not self._sampling.takes(trace_id, bool(flags & _SAMPLED)):
                if not flags & _SAMPLED:
                    return UNTRACED  # what came in goes on as it is and says the same
                return _Unrecorded(((TRACEPARENT, _written(trace_id, span_id, flags & ~_SAMPLED)),))
            state = TraceState.from_header([head.headers.get("tracestate", "")])
            remote = SpanContext(trace_id, span_id, True, TraceFlags(flags), state)
            context = set_span_in_context(NonRecordingSpan(remote))
        provider.ids.next_trace_id = trace_id
        root = provider.tracer.start_span("gateway.request", context=context, kind=SpanKind.SERVER)
        return _Recorded(provider, root, head)

    def close(self) -> None:
        """Sends what is left and stops; may block for the exporter's timeout, so call it off the loop."""
        if self._provider is not None:
            self._provider.shutdown()
            self._provider = None


def parse_traceparent(value: str | None) -> tuple[int, int, int] | None:
    """(trace id, span id, flags), or None where W3C Trace Context says to ignore the header."""
    if not value:
        return None
    parts = _TRACEPARENT.fullmatch(value.strip())
    if parts is None or (value.startswith("00") and len(value.strip()) != 55):
        return None
    trace_id, span_id = int(parts[1], 16), int(parts[2], 16)
    return (trace_id, span_id, int(parts[3], 16)) if trace_id and span_id else None


def _written(trace_id: int, span_id: int, flags: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
