"""What an exchange does by the answer's plan; bodies that are left out; requests that we end ourselves."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.domain.errors import Reason, Refused, answer_of
from epp.domain.request import AnswerView
from epp.domain.views import AnswerPlan, Ending, Report, Route
from epp.extproc.actions import (
    BodyMode,
    BodyReply,
    Close,
    Cut,
    HeadersReply,
    Immediate,
    Side,
    StreamedReply,
    TrailersReply,
)
from epp.extproc.exchange import Exchange
from epp.extproc.messages import Message, Piece
from tests.fakes.door import FakeCall, FakeDoor
from tests.unit.extproc.envoys import (
    ANSWER_TRAILERS,
    answer_body,
    answer_headers,
    body,
    exchange,
    headers,
    planned,
    play,
    restoring,
)

UNSEEN = AnswerPlan(observe=False)
ABORTED = answer_of(Refused(Reason.SHED, "make room"))


def seen(door: FakeDoor) -> tuple[list[Ending], Report]:
    (call,) = door.calls
    assert call.report is not None
    return call.endings, call.report


@pytest.mark.parametrize(
    ("ask", "served", "asked_for"),
    [
        (False, None, False),
        (False, "10.0.0.1:8000", False),
        (False, "10.0.0.2:8000", True),
        (True, None, True),
        (True, "10.0.0.1:8000", True),
    ],
)
def test_what_the_call_sets_goes_out_where_it_is_asked_or_another_served(
    ask: bool, served: str | None, asked_for: bool
) -> None:
    plan = AnswerPlan(set=(("x-planned", "1"),), ask=ask)
    door = FakeDoor(verdict=lambda call: Route("10.0.0.1:8000,10.0.0.2:8000", answer=plan))
    made = exchange(door)
    play(made, [headers(end=True)])
    answer = (Message.ANSWER_HEADERS, Piece(headers={":status": "404"}, served=served))
    (reply,) = play(made, [answer])
    assert isinstance(reply, HeadersReply)
    assert list(reply.set) == [("x-planned", "1"), *([("x-seen", "1")] if asked_for else [])]
    head = door.calls[0].answer_head
    assert head is not None
    assert (head.status, head.served) == (404, served)


@pytest.mark.parametrize(
    ("shown", "removed"),
    [({"content-length": "20"}, ["content-length"]), ({"content-encoding": "gzip"}, [])],
)
def test_the_length_goes_where_a_name_is_put_back(shown: dict[str, str], removed: list[str]) -> None:
    made = exchange(restoring())
    play(made, [headers(end=True)])
    (reply,) = play(made, [(Message.ANSWER_HEADERS, Piece(headers={":status": "200", **shown}))])
    assert isinstance(reply, HeadersReply)
    assert list(reply.remove) == removed


@given(
    st.lists(st.integers(0, 60), max_size=5),
    st.sampled_from([BodyMode.FULL_DUPLEX, BodyMode.UNKNOWN, BodyMode.STREAMED]),
    st.booleans(),
    st.booleans(),
)
def test_a_name_is_put_back_wherever_the_answer_is_cut(
    cuts: list[int], mode: BodyMode, trailers: bool, length: bool
) -> None:
    data = b'data: {"model":"target","n":1}\n\ndata: {"model": "target"}\n\n"model":"tar'
    if trailers and mode is BodyMode.STREAMED:
        data = data[: data.index(b'"model":"tar', 50)]  # its end cannot be sent any more
    made = exchange(restoring(), answer=mode)
    shown = {":status": "200", "content-type": "text/event-stream"}
    if length:
        shown["content-length"] = str(len(data))
    play(made, [headers(end=True), (Message.ANSWER_HEADERS, Piece(headers=shown))])
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(edges)]
    pieces = [answer_body(part) for part in parts]
    actions = play(made, [*pieces, ANSWER_TRAILERS if trailers else answer_body(b"", end=True)])
    replies = [a for a in actions if not isinstance(a, TrailersReply)]
    if mode is BodyMode.STREAMED:
        assert all(isinstance(a, BodyReply) for a in replies), "one for each piece"
        whole = [*parts] if trailers else [*parts, b""]
        bodies = [a.body for a in replies if isinstance(a, BodyReply)]
        out = [part if changed is None else changed for part, changed in zip(whole, bodies, strict=True)]
    else:
        out = [a.chunk for a in replies if isinstance(a, StreamedReply)]
    assert b"".join(out) == data.replace(b'"target"', b'"m"')


# --- an answer's body that need not be sent ---------------------------------------------------------------


@pytest.mark.parametrize("answer", list(BodyMode))
@pytest.mark.parametrize("request_mode", list(BodyMode))
def test_the_body_is_left_out_only_where_envoy_obeys(request_mode: BodyMode, answer: BodyMode) -> None:
    obeys = answer is BodyMode.STREAMED and request_mode in (
        BodyMode.NONE,
        BodyMode.STREAMED,
        BodyMode.BUFFERED,
        BodyMode.BUFFERED_PARTIAL,
    )
    door = planned(UNSEEN)
    made = exchange(door, request_mode, answer)
    *_, reply = play(made, [headers(end=True), answer_headers()])
    assert isinstance(reply, HeadersReply)
    assert reply.skip_body is obeys
    head = door.calls[0].head
    assert head is not None
    if answer is BodyMode.NONE:
        assert head.answer_view is AnswerView.NEVER
    else:
        assert head.answer_view is (AnswerView.CHOICE if obeys else AnswerView.ALWAYS)


def test_a_body_is_not_left_out_where_it_is_wanted_or_where_there_is_none() -> None:
    for plan, end in ((AnswerPlan(), False), (UNSEEN, True)):
        *_, reply = play(streamed(planned(plan)), [headers(end=True), answer_headers(end=end)])
        assert isinstance(reply, HeadersReply)
        assert not reply.skip_body


def streamed(door: FakeDoor) -> Exchange:
    return exchange(door, BodyMode.BUFFERED, BodyMode.STREAMED)


@pytest.mark.parametrize("trailers", [False, True])
def test_an_answer_that_is_left_out_ends_naturally(trailers: bool) -> None:
    door = planned(UNSEEN)
    made = streamed(door)
    play(made, [headers(end=True), answer_headers(), *([ANSWER_TRAILERS] if trailers else [])])
    assert made.over() is Ending.NATURAL
    assert seen(door) == ([Ending.NATURAL], Report())
    assert door.calls[0].first_tokens == 0


@pytest.mark.parametrize(("end", "ending"), [(True, Ending.NATURAL), (False, Ending.CLIENT_DISCONNECT)])
def test_a_body_that_comes_all_the_same_is_seen_and_told(end: bool, ending: Ending) -> None:
    door = planned(UNSEEN)
    made = streamed(door)
    actions = play(made, [headers(end=True), answer_headers(), answer_body(b"a"), answer_body(b"b", end)])
    assert actions[2:] == [BodyReply(Side.ANSWER), BodyReply(Side.ANSWER)]
    made.over()
    endings, report = seen(door)
    assert endings == [ending]
    assert (report.observed, report.override_ignored, report.body_bytes) == (True, True, 2)
    assert door.calls[0].first_tokens == 1


def test_nothing_is_ignored_where_nothing_was_said() -> None:
    door = planned(UNSEEN)
    made = exchange(door)
    play(made, [headers(end=True), answer_headers(), answer_body(b"a", end=True)])
    made.over()
    assert not seen(door)[1].override_ignored


# --- a request that we end ourselves ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", [BodyMode.FULL_DUPLEX, BodyMode.BUFFERED])
def test_an_abort_before_the_answer_is_an_answer_of_ours(mode: BodyMode) -> None:
    door = FakeDoor()
    made = exchange(door, mode)
    play(made, [headers(), body(b"a", end=True)])
    assert made.abort(ABORTED) == [Immediate(ABORTED), Close()]
    assert made.abort(ABORTED) == []
    made.over()
    assert seen(door) == ([Ending.REFUSED], Report())


def test_an_abort_ends_the_waiting_for_a_decision() -> None:
    class Waiting:
        def __await__(self) -> object:  # never driven: the exchange does no I/O
            raise AssertionError

    door = FakeDoor(verdict=lambda call: Waiting())  # type: ignore[arg-type, return-value]
    made = exchange(door)
    play(made, [headers(), body(b"a", end=True)])
    assert made.abort(ABORTED) == [Immediate(ABORTED), Close()]
    assert made.pending is None
    assert made.decided(Route("a:1")) == []
    assert made._budget.used == 0


@pytest.mark.parametrize("pieces", [[], [answer_body(b"begun")]])
def test_an_abort_after_the_answers_beginning_is_a_reset(pieces: list[tuple[Message, Piece]]) -> None:
    def routed(call: FakeCall) -> Route:
        return Route("a:1")

    door = FakeDoor(verdict=routed)
    made = exchange(door)
    play(made, [headers(end=True), answer_headers(), *pieces])
    (action,) = made.abort(ABORTED)
    assert isinstance(action, Cut)
    assert made.abort(ABORTED) == []
    made.over()
    endings, report = seen(door)
    assert (endings, report.body_bytes) == ([Ending.ERROR], 5 * len(pieces))


@pytest.mark.parametrize("last", [answer_body(b"b", end=True), ANSWER_TRAILERS])
def test_an_answer_that_is_complete_is_not_cut(last: tuple[Message, Piece]) -> None:
    door = FakeDoor()
    made = exchange(door)
    play(made, [headers(end=True), answer_headers(), answer_body(b"a"), last])
    assert made.abort(ABORTED) == []
    assert made.over() is Ending.NATURAL
    assert made.abort(ABORTED) == []
