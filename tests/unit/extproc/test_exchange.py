"""The exchange's table: each body mode, skipped phases, and any order of messages."""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.domain.errors import Reason, Refused
from epp.domain.views import AnswerPlan, Ending, Route
from epp.extproc.actions import (
    BODY_LIMIT_BYTES,
    Action,
    BodyMode,
    BodyReply,
    Close,
    Fail,
    HeadersReply,
    Immediate,
    Side,
    StreamedReply,
    Target,
    TrailersReply,
)
from epp.extproc.codec import encode
from epp.extproc.exchange import DESTINATION, TABLE, Exchange
from epp.extproc.messages import AnswerState, Budget, Message, Piece, RequestState
from tests.fakes.door import FakeCall, FakeDoor
from tests.unit.extproc.envoys import (
    ANSWER_TRAILERS,
    HEADERS,
    TRAILERS,
    answer_body,
    answer_headers,
    body,
    exchange,
    headers,
    planned,
    play,
    restoring,
)

M = Message


def test_duplex_answers_nothing_before_the_whole_body() -> None:
    door = FakeDoor()
    made = exchange(door)
    assert play(made, [headers(), body(b"ab"), body(b"cd")]) == []
    actions = play(made, [body(b"ef", end=True)])
    assert isinstance(actions[0], HeadersReply)
    assert actions[0].set == [(DESTINATION, "10.0.0.1:8000")]
    assert actions[0].target is not None
    assert [(a.chunk, a.last) for a in actions[1:] if isinstance(a, StreamedReply)] == [
        (b"ab", False), (b"cd", False), (b"ef", True),
    ]  # fmt: skip
    call = door.calls[0]
    assert call.body == b"abcdef"
    assert call.head is not None
    assert (call.head.path, call.head.request_id, call.head.received_at) == ("/v1/completions", "r1", 5.0)


@pytest.mark.parametrize(("size", "pieces"), [(0, 1), (62_000, 1), (62_001, 2), (125_000, 3)])
def test_duplex_body_goes_out_in_limited_pieces(size: int, pieces: int) -> None:
    made = exchange(FakeDoor())
    actions = play(made, [headers(), body(b"x" * size, end=True)])[1:]
    sent = [a for a in actions if isinstance(a, StreamedReply)]
    assert len(sent) == len(actions) == pieces
    assert all(len(a.chunk) <= BODY_LIMIT_BYTES for a in sent)
    assert [a.last for a in sent] == [False] * (pieces - 1) + [True]


def test_duplex_with_trailers_ends_the_body_by_them() -> None:
    made = exchange(FakeDoor())
    assert play(made, [headers(), body(b"ab")]) == []
    actions = play(made, [TRAILERS])
    assert [type(a) for a in actions] == [HeadersReply, StreamedReply, TrailersReply]
    assert isinstance(actions[1], StreamedReply)
    assert not actions[1].last


def test_a_changed_body_replaces_the_received_one_and_its_length() -> None:
    made = exchange(FakeDoor(verdict=lambda call: Route("a:1", body=b"longer body")))
    actions = play(made, [headers(), body(b"a"), body(b"b", end=True)])
    assert isinstance(actions[0], HeadersReply)
    assert ("content-length", "11") in actions[0].set
    assert [a.chunk for a in actions if isinstance(a, StreamedReply)] == [b"longer body"]


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL])
def test_buffered_answers_headers_empty_and_routes_at_the_body(mode: BodyMode) -> None:
    door = FakeDoor()
    made = exchange(door, mode)
    first = play(made, [headers()])
    assert first == [HeadersReply(Side.REQUEST)]
    actions = play(made, [body(b"all", end=True)])
    assert len(actions) == 1
    assert isinstance(actions[0], BodyReply)
    assert actions[0].set == [(DESTINATION, "10.0.0.1:8000")]
    assert actions[0].body is None
    assert not door.calls[0].truncated


def test_partial_body_without_end_is_truncated_and_changed_without_a_length() -> None:
    door = FakeDoor(verdict=lambda call: Route("a:1", body=b"new"))
    made = exchange(door, BodyMode.BUFFERED_PARTIAL)
    actions = play(made, [headers(), body(b"firs")])
    assert door.calls[0].truncated
    reply = actions[1]
    assert isinstance(reply, BodyReply)
    assert (reply.body, list(reply.remove)) == (b"new", ["content-length"])


def test_buffered_body_with_trailers_is_whole() -> None:
    door = FakeDoor()
    made = exchange(door, BodyMode.BUFFERED)
    actions = play(made, [headers(), body(b"all"), TRAILERS])
    assert [type(a) for a in actions] == [HeadersReply, BodyReply, TrailersReply]
    assert not door.calls[0].truncated


def test_streamed_routes_at_the_headers_and_waves_pieces_through() -> None:
    door = FakeDoor()
    made = exchange(door, BodyMode.STREAMED)
    actions = play(made, [headers(), body(b"a"), body(b"b", end=True)])
    assert isinstance(actions[0], HeadersReply)
    assert actions[0].target is not None
    assert actions[1:] == [BodyReply(Side.REQUEST), BodyReply(Side.REQUEST)]
    assert door.calls[0].truncated


@pytest.mark.parametrize("mode", list(BodyMode))
def test_header_only_requests_are_routed_at_once(mode: BodyMode) -> None:
    door = FakeDoor()
    actions = play(exchange(door, mode), [headers(end=True)])
    assert len(actions) == 1
    assert isinstance(actions[0], HeadersReply)
    assert actions[0].target is not None
    call = door.calls[0]
    assert call.head is not None
    assert (call.body, call.truncated, call.head.has_body) == (b"", False, False)


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.FULL_DUPLEX, BodyMode.STREAMED])
def test_skipped_request_headers(mode: BodyMode) -> None:
    actions = play(exchange(FakeDoor(), mode), [body(b"all", end=True)])
    assert len(actions) == 1
    assert isinstance(actions[0], StreamedReply | BodyReply)
    assert actions[0].target is not None


def test_a_second_end_of_stream_is_legal() -> None:
    made = exchange(FakeDoor())
    play(made, [headers(), body(b"a", end=True)])
    assert play(made, [body(b"", end=True)]) == []
    play(made, [answer_headers(), answer_body(b"x", end=True)])
    assert play(made, [answer_body(b"", end=True)]) == []


@pytest.mark.parametrize("last_message", ["end", "trailers"])
def test_duplex_answers_are_echoed_piece_by_piece(last_message: str) -> None:
    door = FakeDoor()
    made = exchange(door)
    play(made, [headers(end=True)])
    actions = play(made, [answer_headers(), answer_body(b"a"), answer_body(b"b" * 62_001)])
    assert isinstance(actions[0], HeadersReply)
    assert actions[0].set == [("x-seen", "1")]
    assert [len(a.chunk) for a in actions if isinstance(a, StreamedReply)] == [1, 62_000, 1]
    end = answer_body(b"", end=True) if last_message == "end" else ANSWER_TRAILERS
    actions = play(made, [end])
    assert isinstance(actions[-1], StreamedReply if last_message == "end" else TrailersReply)
    made.over()
    call = door.calls[0]
    assert (call.endings, call.first_tokens) == ([Ending.NATURAL], 1)
    assert call.answer_head is not None
    assert (call.answer_head.status, call.answer_head.served) == (200, "10.0.0.9:1")
    assert call.report is not None
    assert (call.report.observed, call.report.body_bytes) == (True, 62_002)


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.BUFFERED])
def test_other_answer_modes_get_one_reply_a_message(mode: BodyMode) -> None:
    made = exchange(restoring(), answer=mode)
    play(made, [headers(end=True)])
    end = mode is BodyMode.STREAMED
    answer = [answer_headers(), answer_body(b'{"model":"target"}', end=end), ANSWER_TRAILERS]
    actions = play(made, answer[: 2 if end else 3])
    assert isinstance(actions[0], HeadersReply)
    assert actions[1] == BodyReply(Side.ANSWER, b'{"model":"m"}')
    assert made.over() is Ending.NATURAL


def lengthy(length: object) -> tuple[Message, Piece]:
    return M.ANSWER_HEADERS, Piece(headers={":status": "200", "content-length": str(length)})


def test_the_piece_that_completes_the_length_goes_with_the_end() -> None:
    made = exchange(FakeDoor())
    play(made, [headers(end=True), lengthy(5)])
    assert play(made, [answer_body(b"ab")]) == [StreamedReply(Side.ANSWER, b"ab", False)]
    assert play(made, [answer_body(b"cde")]) == []
    assert play(made, [answer_body(b"", end=True)]) == [StreamedReply(Side.ANSWER, b"cde", True)]


def test_the_piece_that_completes_the_length_goes_before_trailers() -> None:
    made = exchange(FakeDoor())
    play(made, [headers(end=True), lengthy(62_003), answer_body(b"x" * 62_003)])
    actions = play(made, [ANSWER_TRAILERS])
    assert actions == [StreamedReply(Side.ANSWER, b"xxx", False), TrailersReply(Side.ANSWER)]


@given(
    st.sampled_from(["0", "3", "4", "70000", "-1", "x", "\u00b2", "9" * 30]),
    st.lists(st.sampled_from([b"", b"a", b"bcd", b"x" * 70_000]), max_size=5),
    st.booleans(),
)
def test_whatever_length_is_promised_every_byte_goes_back(
    length: str, parts: list[bytes], trailers: bool
) -> None:
    made = exchange(FakeDoor())
    messages = [headers(end=True), lengthy(length), *[answer_body(part) for part in parts]]
    actions = play(made, [*messages, ANSWER_TRAILERS if trailers else answer_body(b"", end=True)])
    sent = [a for a in actions if isinstance(a, StreamedReply) and a.side is Side.ANSWER]
    assert b"".join(a.chunk for a in sent) == b"".join(parts)
    assert [a.last for a in sent if a.last] == ([] if trailers else [True])


def test_what_was_held_back_is_sent_before_the_trailers() -> None:
    made = exchange(restoring())
    play(made, [headers(end=True), answer_headers(), answer_body(b'"model":"tar')])
    actions = play(made, [ANSWER_TRAILERS])
    assert actions == [StreamedReply(Side.ANSWER, b'"model":"tar', False), TrailersReply(Side.ANSWER)]


def test_an_answer_without_its_request_is_legal() -> None:
    door = FakeDoor()
    actions = play(exchange(door), [answer_headers(), answer_body(b"a", end=True)])
    assert [type(a) for a in actions] == [HeadersReply, StreamedReply]
    assert door.calls[0].head is None


def test_a_refusal_is_an_immediate_answer() -> None:
    door = FakeDoor(early=Refused(Reason.SHED, "later"))
    made = exchange(door)
    actions = play(made, [headers()])
    assert isinstance(actions[0], Immediate)
    assert actions[0].answer.status == 429
    assert actions[1] == Close()
    made.over()
    assert door.calls[0].endings == [Ending.REFUSED]


def test_too_long_bodies_are_413() -> None:
    door = FakeDoor()
    actions = play(exchange(door, max_body_bytes=10), [headers(), body(b"12345678"), body(b"901")])
    assert isinstance(actions[0], Immediate)
    assert actions[0].answer.status == 413
    assert door.calls[0].body is None


def test_bodies_of_all_streams_share_a_budget() -> None:
    door = FakeDoor()
    budget = Budget(10)
    one, two = (Exchange(door, lambda: 0.0, lambda: "id", budget=budget) for _ in range(2))
    assert play(one, [headers(), body(b"123456")]) == []
    refused = play(two, [headers(), body(b"123456")])
    assert isinstance(refused[0], Immediate)
    assert refused[0].answer.status == 429
    play(one, [body(b"7", end=True)])
    assert budget.used == 0


def test_skipping_the_response_ends_the_stream() -> None:
    made = exchange(FakeDoor(verdict=lambda call: Route("a:1", skip_response=True)))
    assert play(made, [headers(), body(b"a", end=True)])[-1] == Close()


def test_envoys_own_answer_overtakes_a_waiting_decision() -> None:
    class Waiting:
        def __await__(self) -> object:  # never driven: the exchange does no I/O
            raise AssertionError

    door = FakeDoor(verdict=lambda call: Waiting())  # type: ignore[arg-type, return-value]
    made = exchange(door)
    play(made, [headers(), body(b"a", end=True)])
    assert made.pending is not None
    actions = play(made, [answer_headers(), body(b""), TRAILERS, answer_body(b"x", end=True)])
    assert [type(a) for a in actions] == [HeadersReply, StreamedReply]
    assert made.pending is None
    assert made.decided(Route("a:1")) == []


def test_a_late_verdict_pays_what_is_owed() -> None:
    class Waiting:
        def __await__(self) -> object:
            raise AssertionError

    door = FakeDoor(verdict=lambda call: Waiting())  # type: ignore[arg-type, return-value]
    made = exchange(door, BodyMode.STREAMED)
    assert play(made, [headers(), body(b"a"), body(b"b", end=True), TRAILERS]) == []
    actions = made.decided(Route("a:1"))
    assert [type(a) for a in actions] == [HeadersReply, BodyReply, BodyReply, TrailersReply]


IMPOSSIBLE = [
    [headers(), headers()],
    [headers(end=True), body(b"x")],
    [headers(), body(b"a", end=True), body(b"more")],
    [headers(end=True), answer_headers(), answer_headers()],
    [headers(end=True), answer_headers(), answer_body(b"", end=True), answer_body(b"more")],
    [headers(end=True), answer_headers(), ANSWER_TRAILERS, ANSWER_TRAILERS],
    [headers(end=True), TRAILERS, TRAILERS],
    [answer_headers(), headers()],
]


@pytest.mark.parametrize("messages", IMPOSSIBLE)
def test_impossible_orders_fail_clearly(messages: list[tuple[Message, Piece]]) -> None:
    door = FakeDoor()
    made = exchange(door)
    actions = play(made, messages)
    assert isinstance(actions[-1], Fail)
    assert "Envoy cannot send" in actions[-1].message
    made.over()
    assert door.calls[0].endings == [Ending.ERROR]


MODES = st.sampled_from(list(BodyMode))
PLANS = st.builds(
    AnswerPlan,
    stream=st.booleans(),
    restore=st.sampled_from([None, ("bcb", "m")]),
    ask=st.booleans(),
    observe=st.booleans(),
)
PIECES = st.builds(
    lambda message, data, end: (
        message,
        Piece(
            headers=HEADERS if message in (M.REQUEST_HEADERS, M.ANSWER_HEADERS) else None,
            data=data if message in (M.REQUEST_BODY, M.ANSWER_BODY) else b"",
            end_of_stream=end,
        ),
    ),
    st.sampled_from(list(Message)),
    st.sampled_from([b"", b"a", b"bc" * 40_000]),
    st.booleans(),
)


@given(MODES, MODES, PLANS, st.lists(PIECES, max_size=12))
def test_any_order_is_answered_or_failed_and_ends_once(
    request: BodyMode, answer: BodyMode, plan: AnswerPlan, messages: list[tuple[Message, Piece]]
) -> None:
    door = planned(plan)
    made = exchange(door, request, answer)
    budget = made._budget
    actions: list[Action] = []
    for message, piece in messages:
        new = made.receive(message, piece)
        actions += new
        if any(isinstance(a, Close | Fail) for a in new):
            break
    made.over()
    made.over()
    assert budget.used == 0
    assert len(door.calls) <= 1
    for call in door.calls:
        assert len(call.endings) == 1
        assert call.first_tokens <= 1
    heads = [a for a in actions if isinstance(a, HeadersReply)]
    assert sum(a.side is Side.REQUEST for a in heads) <= 1
    assert sum(a.side is Side.ANSWER for a in heads) <= 1
    assert sum(getattr(a, "target", None) is not None for a in actions) <= 1
    for side in Side:
        lasts = [a.last for a in actions if isinstance(a, StreamedReply) and a.side is side]
        assert True not in lasts[:-1], "nothing follows a last piece"
    assert all(len(a.chunk) <= BODY_LIMIT_BYTES for a in actions if isinstance(a, StreamedReply))


@given(st.binary(max_size=200_000), st.lists(st.integers(0, 200_000), max_size=6), st.booleans())
def test_any_split_of_a_body_passes_byte_for_byte(data: bytes, cuts: list[int], trailers: bool) -> None:
    door = FakeDoor()
    made = exchange(door)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(edges)]
    messages = [headers(), *[body(part) for part in parts[:-1]], body(parts[-1], end=not trailers)]
    actions = play(made, messages + ([TRAILERS] if trailers else []))
    assert b"".join(a.chunk for a in actions if isinstance(a, StreamedReply)) == data
    assert door.calls[0].body == data


def test_every_row_of_the_table_can_be_reached() -> None:
    """Walks all short message sequences and notes which rows they take."""
    reached: set[tuple[RequestState | AnswerState, Message]] = set()

    class Waiting:
        def __await__(self) -> object:
            raise AssertionError

    def walk(prefix: list[tuple[Message, Piece]], waiting: bool) -> None:
        door = FakeDoor(verdict=(lambda call: Waiting()) if waiting else (lambda call: Route("a:1")))  # type: ignore[arg-type, return-value]
        made = exchange(door, BodyMode.STREAMED if waiting else BodyMode.FULL_DUPLEX)
        play(made, prefix)
        for message, _piece in alphabet:
            state = made.request if message.name.startswith("REQUEST") else made.answer
            if (state, message) in TABLE and made.request is not RequestState.CLOSED:
                reached.add((state, message))
        if len(prefix) < 3 and made.request is not RequestState.CLOSED:
            for following in alphabet:
                walk([*prefix, following], waiting)

    alphabet = [
        headers(),
        body(b"", True),
        TRAILERS,
        answer_headers(),
        answer_body(b"", True),
        ANSWER_TRAILERS,
    ]
    walk([], False)
    walk([], True)
    assert reached == set(TABLE)


@pytest.mark.parametrize("mode", [BodyMode.FULL_DUPLEX, BodyMode.BUFFERED])
def test_a_routed_body_is_not_kept_for_the_life_of_the_stream(mode: BodyMode) -> None:
    def routed(call: FakeCall) -> Route:
        call.body = b""
        return Route("a:1")

    made = exchange(FakeDoor(verdict=routed), mode)
    data = bytes(bytearray(1000))
    held = sys.getrefcount(data)
    play(made, [headers(), body(data, end=True)])
    assert sys.getrefcount(data) == held


@pytest.mark.parametrize("last_message", [[], [ANSWER_TRAILERS]])
def test_a_partial_answer_is_changed_to_its_end(last_message: list[tuple[Message, Piece]]) -> None:
    """Envoy sends one piece and the rest of a longer answer past us: what is held back would be lost."""
    made = exchange(restoring(), answer=BodyMode.BUFFERED_PARTIAL)
    first = answer_body(b'{"model":"target","x":{"model":"tar')
    actions = play(made, [headers(end=True), answer_headers(), first, *last_message])
    assert BodyReply(Side.ANSWER, b'{"model":"m","x":{"model":"tar') in actions


def test_an_answer_that_is_held_back_costs_no_message() -> None:
    made = exchange(restoring())
    assert play(made, [headers(end=True), answer_headers(), answer_body(b'"model":"tar')])[2:] == []
    assert play(made, [answer_body(b'get"', end=True)]) == [StreamedReply(Side.ANSWER, b'"model":"m"', True)]


@pytest.mark.parametrize("status", ["", "2²0", "99999999999", "-20", "9" * 5000])
def test_a_status_that_is_none_is_not_known(status: str) -> None:
    door = FakeDoor()
    made = exchange(door)
    play(made, [headers(end=True), (M.ANSWER_HEADERS, Piece(headers={":status": status}))])
    head = door.calls[0].answer_head
    assert head is not None
    assert head.status == 0


def test_request_ids_are_bounded() -> None:
    door = FakeDoor()
    play(exchange(door), [(M.REQUEST_HEADERS, Piece(headers={**HEADERS, "x-request-id": "i" * 60_000}))])
    head = door.calls[0].head
    assert head is not None
    assert head.request_id == "i" * 256


def test_a_stream_that_we_end_ourselves_ends_naturally() -> None:
    door = FakeDoor(verdict=lambda call: Route("a:1", skip_response=True))
    made = exchange(door)
    play(made, [headers(), body(b"a", end=True)])
    made.over()
    assert door.calls[0].endings == [Ending.NATURAL]


@pytest.mark.parametrize(
    ("messages", "ending"),
    [
        ([headers(), body(b"a")], Ending.CLIENT_DISCONNECT),
        ([headers(end=True)], Ending.CLIENT_DISCONNECT),
        ([headers(end=True), answer_headers()], Ending.NATURAL),
    ],
)
def test_endings_of_answers_that_are_not_seen(messages: list[tuple[Message, Piece]], ending: Ending) -> None:
    door = FakeDoor()
    made = exchange(door, answer=BodyMode.NONE)
    play(made, messages)
    made.over()
    assert door.calls[0].endings == [ending]


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL, BodyMode.STREAMED])
def test_modes_that_wait_for_each_reply_get_one_also_for_a_second_end(mode: BodyMode) -> None:
    made = exchange(FakeDoor(), mode)
    play(made, [headers(), body(b"a", end=True)])
    assert play(made, [body(b"", end=True)]) == [BodyReply(Side.REQUEST)]


def test_only_the_first_piece_is_replaced_by_a_changed_one() -> None:
    class Waiting:
        def __await__(self) -> object:
            raise AssertionError

    door = FakeDoor(verdict=lambda call: Waiting())  # type: ignore[arg-type, return-value]
    made = exchange(door, BodyMode.STREAMED)
    assert play(made, [body(b"first"), body(b"second", end=True)]) == []
    first, second = made.decided(Route("a:1", body=b"changed"))
    assert isinstance(first, BodyReply)
    assert (first.body, list(first.remove)) == (b"changed", ["content-length"])
    assert second == BodyReply(Side.REQUEST)


def told(remove: tuple[str, ...] = ()) -> FakeDoor:
    """Names no endpoint."""
    return FakeDoor(verdict=lambda call: Route("", [("x-model", "m")], remove, skip_response=True))


def test_a_door_that_names_no_endpoint_only_tells_more() -> None:
    actions = play(exchange(told(("x-old",))), [headers(), body(b"x" * 62_001), body(b"y", end=True)])
    first = actions[0]
    assert isinstance(first, HeadersReply)
    assert (first.set, first.remove) == ([("x-model", "m"), ("content-length", "62002")], ("x-old",))
    message = encode(first)
    assert message is not None
    assert message.request_headers.response.clear_route_cache
    assert not message.HasField("dynamic_metadata")
    assert [type(a) for a in actions[1:]] == [StreamedReply, StreamedReply, StreamedReply, Close]


def test_the_length_of_a_body_that_came_buffered_is_left_to_envoy() -> None:
    made = exchange(told(), BodyMode.BUFFERED)
    assert play(made, [headers(), body(b"{}", end=True)]) == [
        HeadersReply(Side.REQUEST),
        BodyReply(Side.REQUEST, None, [("x-model", "m")], (), Target("")),
        Close(),
    ]


def test_a_body_with_trailers_behind_it_gets_no_length() -> None:
    actions = play(exchange(told()), [headers(), body(b"ab"), TRAILERS])
    assert isinstance(actions[0], HeadersReply)
    assert actions[0].set == [("x-model", "m")]
