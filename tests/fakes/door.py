"""A door that answers as told and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from epp.domain.errors import Answer, Refused, answer_of
from epp.domain.request import Body, RequestHead, Scanned
from epp.domain.views import Abort, AnswerHead, AnswerPlan, Ending, Report, Route, Verdict

ROUTE = Route("10.0.0.1:8000", answer=AnswerPlan(ask=True))
"""Asks, so that what the call answers is seen to arrive."""


@dataclass
class FakeCall:
    head: RequestHead | None
    door: FakeDoor
    body: bytes | None = None
    abort: Abort | None = None
    origin: tuple[str, str] = ("", "")
    """Authority and pool."""
    truncated: bool = False
    scanned: Scanned | None = None
    subset: tuple[str, ...] | None = None
    answer_head: AnswerHead | None = None
    first_tokens: int = 0
    report: Report | None = None
    endings: list[Ending] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)

    def allow(self, subset: tuple[str, ...]) -> None:
        self.subset = subset

    def refuse_early(self) -> Answer | None:
        return None if self.door.early is None else answer_of(self.door.early)

    def refuse(self, refused: Refused) -> Answer:
        self.refusals.append(refused)
        return answer_of(refused)

    def decide(
        self, body: Body, *, truncated: bool = False, scanned: Scanned | None = None
    ) -> Verdict | Awaitable[Verdict]:
        assert self.body is None, "a request is decided once"
        self.body, self.truncated, self.scanned = bytes(body), truncated, scanned
        return self.door.verdict(self)

    def answered(self, head: AnswerHead) -> Sequence[tuple[str, str]]:
        assert self.answer_head is None
        self.answer_head = head
        return (("x-seen", "1"),)

    def first_token(self, at: float) -> None:
        assert not self.endings
        self.first_tokens += 1

    def end(self, ending: Ending, report: Report) -> None:
        self.endings.append(ending)
        self.report = report


@dataclass
class FakeDoor:
    verdict: Callable[[FakeCall], Verdict | Awaitable[Verdict]] = lambda call: ROUTE
    early: Refused | None = None
    calls: list[FakeCall] = field(default_factory=list)

    def open(self, head: RequestHead, abort: Abort | None = None) -> FakeCall:
        self.calls.append(FakeCall(head, self, abort=abort, origin=(head.authority, head.pool)))
        return self.calls[-1]

    def open_answer(self, authority: str = "", pool: str = "") -> FakeCall:
        self.calls.append(FakeCall(None, self, origin=(authority, pool)))
        return self.calls[-1]
