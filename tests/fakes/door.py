"""A door that answers as told and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from epp.domain.errors import Answer, Refused, answer_of
from epp.domain.request import RequestHead
from epp.domain.views import Ending, HeaderChange, Route, Verdict


@dataclass
class FakeCall:
    head: RequestHead | None
    door: FakeDoor
    body: bytes | None = None
    truncated: bool = False
    subset: tuple[str, ...] | None = None
    status: int | None = None
    served: str | None = None
    answer: bytes = b""
    lasts: int = 0
    endings: list[Ending] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)

    def allow(self, subset: tuple[str, ...]) -> None:
        self.subset = subset

    def refuse_early(self) -> Answer | None:
        return None if self.door.early is None else answer_of(self.door.early)

    def refuse(self, refused: Refused) -> Answer:
        self.refusals.append(refused)
        return answer_of(refused)

    def decide(self, body: bytes, *, truncated: bool = False) -> Verdict | Awaitable[Verdict]:
        assert self.body is None, "a request is decided once"
        self.body, self.truncated = body, truncated
        return self.door.verdict(self)

    def answer_headers(self, status: int, headers: Mapping[str, str], served: str | None) -> HeaderChange:
        assert self.status is None
        self.status, self.served = status, served
        return HeaderChange(set=(("x-seen", "1"),))

    def answer_chunk(self, chunk: bytes, last: bool) -> bytes | None:
        assert not self.endings
        self.answer += chunk
        self.lasts += last
        return self.door.change(chunk, last)

    def end(self, ending: Ending) -> None:
        self.endings.append(ending)


@dataclass
class FakeDoor:
    verdict: Callable[[FakeCall], Verdict | Awaitable[Verdict]] = lambda call: Route("10.0.0.1:8000")
    early: Refused | None = None
    change: Callable[[bytes, bool], bytes | None] = lambda chunk, last: None
    calls: list[FakeCall] = field(default_factory=list)

    def open(self, head: RequestHead) -> FakeCall:
        self.calls.append(FakeCall(head, self))
        return self.calls[-1]

    def open_answer(self) -> FakeCall:
        self.calls.append(FakeCall(None, self))
        return self.calls[-1]
