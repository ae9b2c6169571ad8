"""The door of body-based routing: a request's body comes in, headers that say what is in it go out.

No endpoint is named and nothing is kept: the stream ends with the request, and the answer is never seen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from epp.bodyrouting.basemodels import BaseModels
from epp.bodyrouting.fields import FieldReader, Values
from epp.bodyrouting.metrics import BodyMetrics
from epp.bodyrouting.steps import BASE_MODEL, Step
from epp.domain.errors import Answer, Refused, answer_of
from epp.domain.request import Body, RequestHead, Scanned
from epp.domain.views import Abort, AnswerHead, Clock, Ending, Report, Route, Verdict
from epp.telemetry.tracing import UNTRACED, Trace, Tracer

log = logging.getLogger("epp.bodyrouting")

_WITHOUT_BODY: Final = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))
_TOO_LATE: Final = (
    "the gateway does not show request bodies in time (request_body_mode STREAMED or "
    "NONE), so no header tells their model; use FULL_DUPLEX_STREAMED or BUFFERED"
)


class BodyDoor:
    """`clock` times plugins; it need not be the transport's."""

    def __init__(
        self, steps: Sequence[Step], models: BaseModels, metrics: BodyMetrics, tracer: Tracer, clock: Clock
    ) -> None:
        names = tuple(dict.fromkeys(step.field for step in steps))
        self.reader = FieldReader(names)
        self.steps = tuple((step, names.index(step.field)) for step in steps)
        self.headers = tuple(step.header for step in steps)
        self.models = models
        self.metrics = metrics
        self.tracer = tracer
        self.clock = clock
        self._warned = False

    def open(self, head: RequestHead, abort: Abort | None = None) -> BodyCall:
        return BodyCall(self, head, self.tracer.request(head))

    def open_answer(self, authority: str = "", pool: str = "") -> BodyCall:
        return BodyCall(self, None, UNTRACED)

    def not_shown(self) -> None:
        """A gateway that is not set up for this: said once, counted always."""
        self.metrics.not_shown()
        if not self._warned:
            self._warned = True
            log.warning("%s", _TOO_LATE)


class BodyCall:
    """One request."""

    __slots__ = ("_door", "_head", "_trace")

    def __init__(self, door: BodyDoor, head: RequestHead | None, trace: Trace) -> None:
        self._door = door
        self._head = head
        self._trace = trace

    def allow(self, subset: tuple[str, ...]) -> None:
        """Endpoints are no business of ours."""

    def refuse_early(self) -> Answer | None:
        return None

    def refuse(self, refused: Refused) -> Answer:
        self._door.metrics.refused(refused)
        self._trace.refused(refused)
        return answer_of(refused, "" if self._head is None else self._head.request_id)

    def decide(self, body: Body, *, truncated: bool = False, scanned: Scanned | None = None) -> Verdict:
        door, head = self._door, self._head
        if head is None or not head.has_body or head.method in _WITHOUT_BODY:
            return self._route((), door.headers)
        if truncated and not len(body):
            door.not_shown()
            return self._route((), door.headers)
        self._trace.enter("parse")
        began = door.clock()
        try:
            values = door.reader.read(head, body, truncated)
        except Refused as refused:
            return self.refuse(refused)
        return self._run(values, began)

    def _run(self, values: Values, began: float) -> Route:
        door = self._door
        metrics = door.metrics
        found: list[tuple[str, str]] = []
        gone: list[str] = []
        for place, (step, index) in enumerate(door.steps):
            value = values[index]
            if step.type == BASE_MODEL:
                value = door.models.of(value) if value else ""
            elif value is None:
                metrics.not_found(step.field)
            elif not value:
                metrics.empty(step.field)
            if value:
                found.append((step.header, value))
            else:
                gone.append(step.header)
            now = door.clock()
            metrics.ran(place, now - began)
            began = now
        if found:
            metrics.succeeded()
        return self._route(found, gone)

    def _route(self, found: Sequence[tuple[str, str]], gone: Sequence[str]) -> Route:
        """What was not found is taken off, whatever the client said there."""
        if log.isEnabledFor(logging.DEBUG):
            # Names only: what else than the model is in a body is nobody's business.
            told = ", ".join(name for name, _ in found) or "nothing"
            log.debug("%s: %s set", self._head.request_id if self._head else "-", told)
        return Route("", (*found, *self._trace.headers), gone, skip_response=True)

    def answered(self, head: AnswerHead) -> Sequence[tuple[str, str]]:
        return ()

    def first_token(self, at: float) -> None:
        """Answers are not looked at."""

    def end(self, ending: Ending, report: Report) -> None:
        self._trace.end(ending)
