"""Envoy's moves against an exchange, without a transport."""

from __future__ import annotations

from collections.abc import Sequence

from epp.domain.views import AnswerPlan, Route
from epp.extproc.actions import Action, BodyMode
from epp.extproc.exchange import Exchange
from epp.extproc.messages import Message, Piece
from tests.fakes.door import FakeDoor

HEADERS = {":method": "POST", ":path": "/v1/completions?x=1", "x-request-id": "r1"}
M = Message


def exchange(
    door: FakeDoor,
    request: BodyMode = BodyMode.FULL_DUPLEX,
    answer: BodyMode = BodyMode.FULL_DUPLEX,
    max_body_bytes: int = 1 << 20,
) -> Exchange:
    made = Exchange(door, lambda: 5.0, lambda: "made-id", max_body_bytes=max_body_bytes)
    made.learn_modes(int(request), int(answer))
    return made


def play(made: Exchange, messages: Sequence[tuple[Message, Piece]]) -> list[Action]:
    actions: list[Action] = []
    for message, piece in messages:
        actions += made.receive(message, piece)
    return actions


def headers(end: bool = False) -> tuple[Message, Piece]:
    return M.REQUEST_HEADERS, Piece(headers=HEADERS, end_of_stream=end)


def body(data: bytes, end: bool = False) -> tuple[Message, Piece]:
    return M.REQUEST_BODY, Piece(data=data, end_of_stream=end)


def answer_headers(end: bool = False) -> tuple[Message, Piece]:
    return M.ANSWER_HEADERS, Piece(headers={":status": "200"}, end_of_stream=end, served="10.0.0.9:1")


def answer_body(data: bytes, end: bool = False) -> tuple[Message, Piece]:
    return M.ANSWER_BODY, Piece(data=data, end_of_stream=end)


def planned(plan: AnswerPlan) -> FakeDoor:
    return FakeDoor(verdict=lambda call: Route("10.0.0.1:8000", answer=plan))


def restoring() -> FakeDoor:
    """Of an answer that names the model `target`, which the client calls `m`."""
    return planned(AnswerPlan(restore=("target", "m")))


TRAILERS = (M.REQUEST_TRAILERS, Piece())
ANSWER_TRAILERS = (M.ANSWER_TRAILERS, Piece())
