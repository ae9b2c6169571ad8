"""The compiled exchange answers every stream as the Python one does, and tells Python the same."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import event as seen
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.domain.errors import Answer, Reason, Refused, answer_of
from epp.domain.request import AnswerView, Api, Body, RequestHead, Usage
from epp.domain.views import Abort, AnswerHead, AnswerPlan, Ending, Report, Route, Verdict
from epp.extproc.actions import Action, Close, Cut, Fail
from epp.extproc.codec import decode, encode
from epp.extproc.exchange import Exchange
from epp.extproc.messages import Budget, RequestState
from epp.telemetry.buckets import ITL_S
from tests.fakes.door import FakeCall, FakeDoor
from tests.native import streams as on

native = pytest.importorskip("inference_epp_native")

Happening = tuple[Any, ...]
Ended = tuple[int, str]
SHED = answer_of(Refused(Reason.SHED, "no room, \u00a9"))
EARLY = Refused(Reason.FORBIDDEN, "not you")
MORE = (("x-seen", "1"),)
MAX_BODY_BYTES = 130_000
BUDGET_BYTES = 200_000


class Later:
    """A verdict that is still to come."""

    def __await__(self) -> Any:
        raise NotImplementedError


class Recorder(FakeDoor):
    """Also remembers in which order what was asked."""

    def __init__(self, verdict: Verdict | None, early: Refused | None) -> None:
        super().__init__(lambda call: Later() if verdict is None else verdict, early)
        self.happened: list[Happening] = []

    def open(self, head: RequestHead, abort: Abort | None = None) -> RecordedCall:
        self.happened.append(
            (
                "open", dict(head.headers), head.received_at, head.has_body, head.subset, head.answer_view,
                head.authority, head.pool,
            )
        )  # fmt: skip
        return RecordedCall(head, self)

    def open_answer(self, authority: str = "", pool: str = "") -> RecordedCall:
        self.happened.append(("open answer", authority, pool))
        return RecordedCall(None, self)


class RecordedCall(FakeCall):
    door: Recorder

    def refuse(self, refused: Refused) -> Answer:
        self.door.happened.append(("refuse", refused.reason, refused.message))
        return super().refuse(refused)

    def decide(self, body: Body, *, truncated: bool = False) -> Verdict | Awaitable[Verdict]:
        self.door.happened.append(("decide", self.subset, bytes(body), truncated))
        return super().decide(bytes(body), truncated=truncated)

    def answered(self, head: AnswerHead) -> Sequence[tuple[str, str]]:
        self.door.happened.append(("answered", head))
        super().answered(head)
        return MORE

    def first_token(self, at: float) -> None:
        self.door.happened.append(("first token", at))
        super().first_token(at)

    def end(self, ending: Ending, report: Report) -> None:
        super().end(ending, report)
        self.door.happened.append(("end", ending, report))


class Setting(msgspec.Struct):
    modes: tuple[int, int]
    verdict: Verdict | None
    early: Refused | None
    ask_headers: bool
    held_elsewhere_bytes: int
    origin: tuple[str, str]
    """Authority and pool, as the call itself tells them."""


class Reference:
    """The Python exchange."""

    def __init__(self, setting: Setting) -> None:
        self.now = 0.0
        self.door = Recorder(setting.verdict, setting.early)
        self.budget = Budget(BUDGET_BYTES)
        self.budget.used = setting.held_elsewhere_bytes
        authority, pool = setting.origin
        self.exchange = Exchange(
            self.door,
            lambda: self.now,
            lambda: "id",
            max_body_bytes=MAX_BODY_BYTES,
            budget=self.budget,
            authority=authority,
            pool=pool,
        )
        self.exchange.learn_modes(*setting.modes)
        self.answers: list[pb.ProcessingResponse] = []
        self.ended: Ended | None = None

    def take(self, actions: Sequence[Action]) -> None:
        for action in actions:
            message = encode(action)
            if message is not None:
                self.answers.append(message)
            elif isinstance(action, Close):
                self.ended = (0, "")
            elif isinstance(action, Fail):
                self.ended = (3, action.message)
            elif isinstance(action, Cut):
                self.ended = (14, action.message)


class Compiled:
    """The compiled exchange, with the replies that the Python one gets by return."""

    def __init__(self, setting: Setting) -> None:
        self.now = 0.0
        self.setting = setting
        self.filler = native.ExchangeProbe(1 << 30, 1 << 30, False, list(ITL_S))
        self.filler.receive(asked(request_headers=on.headers_of([], False)), 0.0)
        self.filler.receive(asked(request_body=on.body_of(setting.held_elsewhere_bytes, False)), 0.0)
        self.exchange = native.ExchangeProbe(
            MAX_BODY_BYTES, BUDGET_BYTES, setting.ask_headers, list(ITL_S), sharing=self.filler
        )
        self.exchange.came_from(*(text.encode() for text in setting.origin))
        self.exchange.learn_modes(*setting.modes)
        self.happened: list[Happening] = []
        self.answers: list[pb.ProcessingResponse] = []
        self.ended: Ended | None = None

    def take(self, effects: tuple[list[bytes], list[Happening], Ended | None]) -> None:
        frames, events, ended = effects
        self.answers += [pb.ProcessingResponse.FromString(frame) for frame in frames]
        self.ended = ended or self.ended
        for event in events:
            self._hear(*event[1:])

    def _hear(self, name: str, head: Any, *rest: Any) -> None:
        if head is not None:
            headers, received_at, has_body, subset, view, answer_only, *origin = head
            if answer_only:
                self.happened.append(("open answer", *origin))
            else:
                seen_at = (received_at, has_body, subset, AnswerView[view])
                self.happened.append(("open", headers, *seen_at, *origin))
        if name == "headers":
            early = self.setting.early
            if early is None:
                self.take(self.exchange.go_on(self.now))
            else:
                self.take(self.exchange.refused(answer_of(early), self.now))
        elif name == "decide":
            subset, body, truncated, scanned = rest
            assert scanned is None
            assert isinstance(body, bytes if len(body) <= 1 << 16 else memoryview)
            self.happened.append(("decide", subset, bytes(body), truncated))
            if self.setting.verdict is not None:
                self.take(self.exchange.decided(self.setting.verdict, self.now))
        elif name == "limited":
            limit, text = rest
            self.happened.append(("refuse", Reason[limit], text))
            assert self.exchange.blocked
            self.take(self.exchange.refused(answer_of(Refused(Reason[limit], text)), self.now))
        elif name == "answered":
            answer, wait = rest
            self.happened.append(("answered", AnswerHead(*answer)))
            assert self.exchange.blocked == wait
            if wait:
                self.take(self.exchange.answer_set(MORE, self.now))
        elif name == "first_token":
            self.happened.append(("first token", *rest))
        else:
            assert name == "end"
            ending, report, answered = rest
            assert answered is None
            self.happened.append(("end", Ending(ending), reported(report)))


def reported(fields: tuple[Any, ...] | None) -> Report:
    if fields is None:
        return Report()
    counts = fields[5]
    return Report(*(*fields[:5], None if counts is None else Usage(*counts), *fields[6:]))


def asked(**content: Any) -> bytes:
    return bytes(pb.ProcessingRequest(**content).SerializeToString())


PLANS = st.builds(
    AnswerPlan,
    api=st.sampled_from([Api.OPAQUE, Api.CHAT]),
    stream=st.booleans(),
    set=st.sampled_from([(), (("x-plan", "a\tb\u200b\u00fc"), ("x-empty", ""))]),
    restore=st.sampled_from([None, None, ("served-name", "public")]),
    ask=st.booleans(),
    observe=st.booleans(),
)
ROUTES = st.builds(
    Route,
    destination=st.sampled_from(["10.0.0.1:8000", "10.0.0.1:8000,10.0.0.2:8000", ""]),
    set_headers=st.sampled_from([(), [("x-a", "1\x00\ud800"), ("x-b", "\u2028\u00e9")]]),
    remove_headers=st.sampled_from([(), ["x-c", "x-d"]]),
    body=st.sampled_from([None, None, b"", b"changed", b"y" * 62_001, b"z" * 130_000]),
    scores=st.sampled_from([None, {}, {"10.0.0.1:8000": 0.5, "10.0.0.2:8000": 0.0}]),
    skip_response=st.sampled_from([False, False, False, True]),
    answer=PLANS,
)
SETTINGS = st.builds(
    Setting,
    modes=st.tuples(st.sampled_from(on.MODES), st.sampled_from(on.MODES)) | st.just((4, 4)),
    verdict=ROUTES | ROUTES | st.sampled_from([None, None, SHED]),
    early=st.sampled_from([None, None, None, EARLY]),
    ask_headers=st.booleans(),
    held_elsewhere_bytes=st.sampled_from([0, 0, 100_000, BUDGET_BYTES]),
    origin=st.sampled_from([("", ""), ("", ""), ("epp.models:9002", ""), ("epp", "models/llama")]),
)
LIMITS = [(Reason.TOO_MANY_STREAMS, "more than 3 requests are open"), (Reason.TIMED_OUT, "late")]
DEEDS = st.sampled_from(["verdict", "verdict", "verdict", "refusal", "abort", "limit"])


@settings(max_examples=400)
@given(SETTINGS, on.streams(), st.data())
def test_any_stream_is_answered_alike(
    setting: Setting, messages: list[pb.ProcessingRequest], data: st.DataObject
) -> None:
    if not setting.ask_headers:
        setting.early = None
    reference, compiled = Reference(setting), Compiled(setting)
    deeds: list[Any] = list(messages)
    for _ in range(data.draw(st.sampled_from([0, 1, 1, 2, 3]))):
        deeds.insert(data.draw(st.integers(0, len(deeds))), data.draw(DEEDS))
    late = data.draw(ROUTES)
    for at, deed in enumerate(deeds):
        reference.now = compiled.now = now = at * 0.013
        if deed == "verdict":
            reference.take(reference.exchange.decided(late))
            compiled.take(compiled.exchange.decided(late, now))
        elif deed == "refusal":
            reference.take(reference.exchange.decided(SHED))
            compiled.take(compiled.exchange.decided(SHED, now))
        elif deed == "abort":
            reference.take(reference.exchange.abort(SHED))
            compiled.take(compiled.exchange.abort(SHED, now))
        elif deed == "limit":
            reason, text = data.draw(st.sampled_from(LIMITS))
            reference.take(reference.exchange.refuse(Refused(reason, text)))
            compiled.take(compiled.exchange.limit(reason.name, text, now))
        else:
            decoded = decode(deed)
            assert decoded is not None
            reference.take(reference.exchange.receive(*decoded))
            compiled.take(compiled.exchange.receive(deed.SerializeToString(), now))
        agree(reference, compiled)
        if reference.ended is not None and data.draw(st.integers(0, 3)):
            break  # what follows is never given to it; but if it were, nothing would go wrong
    drained = not data.draw(st.integers(0, 9))
    reference.exchange.over(drained=drained)
    compiled.take(compiled.exchange.over(drained, compiled.now))
    agree(reference, compiled)
    assert without_time(compiled.happened) == without_time(reference.door.happened)
    told = " ".join(each[0] for each in compiled.happened)
    seen(f"closed by us: {reference.ended and reference.ended[0]}; told: {told}")
    reference.exchange.over()
    compiled.take(compiled.exchange.over(False, compiled.now))
    assert len(compiled.happened) == len(reference.door.happened)
    assert reference.budget.used == setting.held_elsewhere_bytes


def agree(reference: Reference, compiled: Compiled) -> None:
    assert compiled.answers == reference.answers
    assert compiled.ended == reference.ended
    mine, its = reference.exchange, compiled.exchange
    assert its.deciding == (mine.request is RequestState.DECIDING)
    assert its.waits_for_request == mine.waits_for_request
    assert its.sees_upload == mine.sees_upload
    assert its.used_bytes == reference.budget.used
    assert not its.blocked


def without_time(happened: list[Happening]) -> list[Happening]:
    """Reports but for the time that was spent on them."""
    return [
        (*each[:2], msgspec.structs.replace(each[2], processing_s=0.0, gaps=tuple(each[2].gaps)))
        if each[0] == "end"
        else each
        for each in happened
    ]


def probe(ask_headers: bool = False) -> Any:
    made = native.ExchangeProbe(1 << 20, 1 << 20, ask_headers, list(ITL_S))
    made.learn_modes(4, 4)
    return made


HEADERS = asked(request_headers=on.headers_of([(":path", b"/v1/models")], True))
SERVED = ("x-gateway-destination-endpoint-served", b"10.9.9.9:1")
ANSWER_HEADERS = asked(response_headers=on.headers_of([(":status", b"200")], False))


def test_a_stream_that_ends_while_the_headers_are_asked_about() -> None:
    made = probe(ask_headers=True)
    frames, events, _ = made.receive(HEADERS, 1.0)
    assert (frames, [event[1] for event in events]) == ([], ["headers"])
    assert made.blocked
    assert not made.waits_for_request
    _, events, _ = made.over(False, 2.0)
    assert [event[1:] for event in events] == [("end", None, "client-disconnect", None, None)]
    assert made.go_on(3.0) == made.refused(SHED, 3.0) == ([], [], None)


def test_a_stream_that_ends_while_its_refusal_is_made() -> None:
    made = probe()
    _, events, close = made.limit("TIMED_OUT", "late", 1.0)
    assert ([event[1:] for event in events], close) == (
        [("limited", ({}, 1.0, False, None, "ALWAYS", True, "", ""), "TIMED_OUT", "late")],
        None,
    )
    assert made.limit("TIMED_OUT", "again", 1.0) == ([], [], None)
    _, events, _ = made.over(False, 2.0)
    assert [event[2:] for event in events] == [(None, "refused", None, None)]
    assert made.refused(SHED, 3.0) == ([], [], None)


def test_an_abort_is_a_reply_too() -> None:
    """Where the right one could not be made."""
    for made in (probe(), probe(ask_headers=True)):
        if made.receive(HEADERS, 1.0)[1][0][1] == "decide":
            made.limit("TIMED_OUT", "late", 1.0)
        assert made.blocked
        frames, _, close = made.abort(SHED, 1.0)
        assert (len(frames), close, made.blocked) == (1, (0, ""), False)
    made = probe()
    made.receive(asked(response_headers=on.headers_of([SERVED], True)), 1.0)
    assert made.blocked
    frames, _, close = made.abort(SHED, 2.0)
    assert (len(frames), close, made.blocked) == (1, None, False)
    assert made.over(False, 3.0)[1][0][3] == "natural"


@pytest.mark.parametrize("ended", ["abort", "over"])
def test_an_answer_that_ends_before_its_headers_are_set(ended: str) -> None:
    made = probe()
    made.receive(HEADERS, 1.0)
    made.decided(Route("10.0.0.1:8000", answer=AnswerPlan(ask=True)), 1.0)
    frames, events, _ = made.receive(ANSWER_HEADERS, 2.0)
    assert (frames, events[0][1], events[0][4], made.blocked) == ([], "answered", True, True)
    if ended == "abort":
        assert made.abort(SHED, 3.0) == ([], [], (14, "the request was aborted"))
        assert not made.blocked
    _, events, _ = made.over(False, 3.0)
    assert events[0][3] == ("error" if ended == "abort" else "client-disconnect")
    assert made.answer_set(MORE, 4.0) == ([], [], None)


def test_a_long_body_is_shown_and_not_copied() -> None:
    made = probe()
    made.receive(asked(request_headers=on.headers_of([("content-length", b"200000")], False)), 1.0)
    assert made.receive(asked(request_body=on.body_of(60_000, False, b"abc")), 1.0) == ([], [], None)
    assert made.held_bytes == 60_000
    _, events, _ = made.receive(asked(request_body=on.body_of(140_000, True, b"abc")), 1.0)
    body = events[0][4]
    assert isinstance(body, memoryview)
    assert body.readonly
    assert bytes(body) == on.body_of(60_000, True, b"abc").body + on.body_of(140_000, True, b"abc").body
    assert isinstance(body.obj, native.Body)
    with pytest.raises(TypeError):
        body[0] = 0
    frames, _, _ = made.decided(Route("10.0.0.1:8000"), 2.0)
    assert made.held_bytes == 0
    made.over(False, 3.0)
    del made
    answers = [pb.ProcessingResponse.FromString(frame) for frame in frames]
    chunks = [answer.request_body.response.body_mutation.streamed_response.body for answer in answers[1:]]
    assert [len(chunk) for chunk in chunks] == [60_000, 62_000, 62_000, 16_000]
    assert b"".join(chunks) == body


def test_what_is_no_verdict_is_refused() -> None:
    made = probe()
    made.receive(HEADERS, 1.0)
    for wrong in (None, 5, "10.0.0.1:8000", Route("\ud800"), Route("a", body="text")):  # type: ignore[arg-type]
        with pytest.raises((AttributeError, TypeError, UnicodeEncodeError)):
            made.decided(wrong, 1.0)
    assert made.deciding


def test_bodies_that_are_dropped_do_not_count() -> None:
    first = probe()
    second = native.ExchangeProbe(1 << 20, 1 << 20, False, list(ITL_S), sharing=first)
    for made in (first, second):
        made.receive(asked(request_headers=on.headers_of([], False)), 1.0)
        made.receive(asked(request_body=on.body_of(1000, False)), 1.0)
    assert first.used_bytes == 2000
    del second, made
    assert first.used_bytes == 1000
