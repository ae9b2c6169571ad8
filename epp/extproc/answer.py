"""What the door sees of one answer as it passes by: when, how much, its usage; a model's name put back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from epp.domain.views import AnswerHead, AnswerPlan, Clock, Report
from epp.parsing.rewrite import ModelRestorer
from epp.parsing.usage import AnswerReader, answer_reader
from epp.telemetry.buckets import ITL_S

_ENGINES_OWN = ("date", "server", "x-envoy-upstream-service-time", "x-envoy-overloaded")
"""On every answer of a model server that came through, or on Envoy's own about its own limits."""


def head_of(headers: Mapping[str, str], served: str | None, at: float) -> AnswerHead:
    status = headers.get(":status", "")
    known = len(status) == 3 and status.isascii() and status.isdigit()
    return AnswerHead(
        status=int(status) if known else 0,
        at=at,
        served=served,
        streamed="text/event-stream" in headers.get("content-type", ""),
        encoded=headers.get("content-encoding", "") not in ("", "identity"),
        local=not any(name in headers for name in _ENGINES_OWN),
    )


class AnswerWatch:
    """Feed every piece; `report` after the last."""

    __slots__ = (
        "_bytes", "_clock", "_first_at", "_gaps", "_gaps_s", "_last_at", "_plan", "_processing_s", "_reader",
        "_restorer", "_seen", "_streamed", "override_ignored",
    )  # fmt: skip

    def __init__(self, plan: AnswerPlan, clock: Clock) -> None:
        self._plan = plan
        self._clock = clock
        self._reader: AnswerReader | None = None
        self._restorer: ModelRestorer | None = None
        self._streamed = plan.stream
        self._seen = False
        self._first_at = 0.0
        self._last_at = 0.0
        self._bytes = 0
        self._gaps: list[int] | None = None
        self._gaps_s = 0.0
        self._processing_s = 0.0
        self.override_ignored = False

    @property
    def changes_length(self) -> bool:
        """The name that is put back may be longer or shorter."""
        return self._restorer is not None

    def headers(self, headers: Mapping[str, str], head: AnswerHead) -> None:
        plan = self._plan
        self._last_at = head.at
        self._streamed = head.streamed or plan.stream
        encoding = headers.get("content-encoding", "")
        self._reader = answer_reader(plan.api, headers.get("content-type", ""), encoding)
        if plan.restore is not None and not head.encoded:
            self._restorer = ModelRestorer(*plan.restore)

    def chunk(self, data: bytes, last: bool) -> tuple[bytes | None, bool]:
        """What is sent instead, None for the piece itself; and whether it is the first with content."""
        began = self._clock()
        self._seen = True
        reader = self._reader
        if reader is None:  # Envoy was told to skip the headers: the kind must be guessed, the length stands
            reader = self._reader = answer_reader(self._plan.api, "", "")
        first = False
        if data:
            if not self._bytes:
                first = True
                self._first_at = began
            elif self._streamed:
                self._gap(began - self._last_at)
            self._last_at = began
            self._bytes += len(data)
        reader.feed(data)
        changed = self._restorer.feed(data, last) if self._restorer is not None else None
        self._processing_s += self._clock() - began
        return changed, first

    def flush(self) -> bytes | None:
        """The end came as trailers: what of the body was held back."""
        return self._restorer.feed(b"", True) if self._restorer is not None else None

    def _gap(self, seconds: float) -> None:
        if self._gaps is None:
            self._gaps = [0] * (len(ITL_S) + 1)
        self._gaps[bisect_left(ITL_S, seconds)] += 1
        self._gaps_s += seconds

    def report(self) -> Report:
        reader = self._reader
        if not self._seen or reader is None:
            return Report()
        return Report(
            observed=True,
            override_ignored=self.override_ignored,
            first_at=self._first_at,
            last_at=self._last_at,
            body_bytes=self._bytes,
            usage=reader.finish(),
            response_id=reader.response_id,
            gaps=self._gaps or (),
            gaps_s=self._gaps_s,
            processing_s=self._processing_s,
        )
