"""One ext_proc stream as a state table without I/O: messages in, actions out.

The request side and the answer side have a state each. TABLE says for every (state, message) which method
takes it; a pair that is not there is an order that Envoy cannot produce, and ends the stream with a clear
status. Envoy may skip any phase, may reply on its own while we decide (then the answer's headers overtake the
request), may send a second end_of_stream, and may open a stream for the answer alone; all of these are rows.

Request bodies, by Envoy's body mode:
- FULL_DUPLEX (and unknown): nothing is answered before the whole body is here, since the headers' answer must
  carry the endpoint; then headers, then the body in pieces.
- BUFFERED, BUFFERED_PARTIAL: headers are answered empty, because Envoy sends the body only then; the body's
  answer carries the endpoint.
- STREAMED, NONE: routed at the headers; pieces are waved through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from epp.domain.errors import Answer, Reason, Refused
from epp.domain.request import AnswerView
from epp.domain.views import Abort, AnswerPlan, Call, Clock, Door, Ending, Report, Route, Verdict
from epp.extproc.actions import (
    BODY_LIMIT_BYTES,
    Action,
    BodyMode,
    BodyReply,
    Close,
    Cut,
    Fail,
    Fields,
    HeadersReply,
    Immediate,
    Side,
    StreamedReply,
    Target,
    TrailersReply,
)
from epp.extproc.answer import AnswerWatch, head_of
from epp.extproc.head import request_head
from epp.extproc.messages import AnswerState, Budget, Message, Piece, RequestState

DESTINATION = "x-gateway-destination-endpoint"
_CONTENT_LENGTH = "content-length"
_LENGTH_DIGITS = 16
_MAX_BODY_PIECES = 1 << 20
"""A peer that sends millions of tiny pieces is not Envoy."""


class Exchange:
    """Feed messages with `receive`, verdicts of waiting decisions with `decided`, the end with `over`."""

    __slots__ = (
        "_abort", "_answer_left", "_authority", "_bodies_owed", "_budget", "_call", "_clock", "_door",
        "_failed", "_gathered", "_headers_owed", "_held", "_max_body_bytes", "_new_id", "_out",
        "_overridden", "_pieces", "_plan", "_pool", "_refused", "_skipped", "_target", "_trailers_owed",
        "_watch", "answer", "answer_mode", "pending", "request", "request_mode",
    )  # fmt: skip

    def __init__(
        self,
        door: Door,
        clock: Clock,
        new_id: Callable[[], str],
        *,
        max_body_bytes: int = 64 << 20,
        budget: Budget | None = None,
        abort: Abort | None = None,
        authority: str = "",
        pool: str = "",
    ) -> None:
        """`abort` is what the door gets to end the request by; the transport calls `self.abort` then.
        `authority` and `pool`: as the gateway's call says; a pool may also come with the first messages."""
        self._abort = abort
        self._authority = authority
        self._pool = pool
        self._door = door
        self._clock = clock
        self._new_id = new_id
        self._max_body_bytes = max_body_bytes
        self._budget = budget or Budget(max_body_bytes)
        self.request_mode = BodyMode.UNKNOWN
        self.answer_mode = BodyMode.UNKNOWN
        self.request = RequestState.START
        self.answer = AnswerState.NONE
        self.pending: Awaitable[Verdict] | None = None
        """A decision that has to wait; the transport awaits it and calls `decided`."""
        self._call: Call | None = None
        self._refused = False
        self._failed = False
        self._skipped = False
        self._headers_owed = False
        self._bodies_owed = 0
        self._trailers_owed = False
        self._pieces: list[bytes] = []
        self._gathered = 0
        self._out: list[Action] = []
        self._answer_left = 0
        """Bytes that content-length still promises; 0 where it promised none."""
        self._held = b""
        self._plan = AnswerPlan()
        self._target = ""
        """`ip:port` of the first endpoint that was named."""
        self._watch: AnswerWatch | None = None
        self._overridden = False
        """Envoy was told that it need not send the answer's body, and has not done so yet."""

    @property
    def waits_for_request(self) -> bool:
        """The next move is Envoy's and the request is not complete: the time limit for uploads applies."""
        return self.request in (RequestState.START, RequestState.GATHER) and self.answer is AnswerState.NONE

    @property
    def sees_upload(self) -> bool:
        """False where Envoy keeps the body to itself until it is whole: its own time limits apply then."""
        return self.request_mode not in (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL)

    def learn_modes(self, request: int, answer: int) -> None:
        """Body modes from `protocol_config` of the stream's first message."""
        known = BodyMode._value2member_map_
        self.request_mode = BodyMode(request) if request in known else BodyMode.UNKNOWN
        self.answer_mode = BodyMode(answer) if answer in known else BodyMode.UNKNOWN

    def receive(self, message: Message, piece: Piece) -> list[Action]:
        """Actions in the order in which they are to be sent."""
        if piece.pool and not self._pool and self._call is None:
            self._pool = piece.pool
        state = self.request if message in _REQUEST_MESSAGES else self.answer
        take = TABLE.get((state, message))
        if take is None or self.request is RequestState.CLOSED:
            self._violation(f"{message.name.lower()} in state {self.request.name}/{self.answer.name}")
        else:
            take(self, piece)
        return self._taken()

    def decided(self, verdict: Verdict) -> list[Action]:
        """The verdict of a decision that was `pending`."""
        self.pending = None
        if self.request is RequestState.DECIDING:
            self._apply(verdict)
        return self._taken()

    def refuse(self, refused: Refused) -> list[Action]:
        """A limit of the transport was reached. Nothing, once the answer has begun."""
        if self.request is not RequestState.CLOSED and self.answer is AnswerState.NONE:
            self._immediate(self._opened().refuse(refused))
        return self._taken()

    def abort(self, answer: Answer) -> list[Action]:
        """We end a request that was let in: by this answer, or by a reset where its own has begun. Nothing,
        where that is complete."""
        if self.request is RequestState.CLOSED or self.answer in (AnswerState.DONE, AnswerState.OVER):
            return []
        if self.answer is AnswerState.NONE:
            self._immediate(answer)
        else:
            self.request = RequestState.CLOSED
            self._failed = True
            self._out.append(Cut("the request was aborted"))
        self.pending = None
        return self._taken()

    def over(self, *, drained: bool = False) -> Ending | None:
        """The stream ended: half-closed, reset or cut off by us. None when there was nothing to end."""
        self._let_go()
        self.pending = None
        self.request = RequestState.CLOSED
        call, self._call = self._call, None
        if call is None:
            return None
        ending = Ending.DRAINED if drained else self._ending()
        watch, self._watch = self._watch, None
        call.end(ending, Report() if watch is None else watch.report())
        return ending

    def _taken(self) -> list[Action]:
        """What is to be sent; not kept, since it may hold a whole body."""
        out, self._out = self._out, []
        return out

    def _ending(self) -> Ending:
        if self._failed:
            return Ending.ERROR
        if self._refused:
            return Ending.REFUSED
        if self._skipped or self.answer in (AnswerState.DONE, AnswerState.OVER):
            return Ending.NATURAL
        if self.answer is AnswerState.BODY and (self._overridden or self.answer_mode is BodyMode.NONE):
            # Without answer bodies, the reset at the end of the request is all there is to see.
            return Ending.NATURAL
        return Ending.CLIENT_DISCONNECT

    # --- request side -------------------------------------------------------------------------------------

    def _request_headers(self, piece: Piece) -> None:
        call = self._open(piece)
        early = call.refuse_early()
        if early is not None:
            return self._immediate(early)
        self._headers_owed = True
        if piece.end_of_stream or self.request_mode in (BodyMode.NONE, BodyMode.STREAMED):
            return self._decide(b"", truncated=not piece.end_of_stream)
        if self.request_mode in (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL):
            self._headers_owed = False
            self._out.append(HeadersReply(Side.REQUEST))
        self.request = RequestState.GATHER
        return None

    def _first_body(self, piece: Piece) -> None:
        """Envoy was told to skip the request headers."""
        self._open(piece)
        self.request = RequestState.GATHER
        return self._request_body(piece)

    def _request_body(self, piece: Piece) -> None:
        self._allow(piece)
        self._gathered += len(piece.data)
        budget = self._budget
        budget.used += len(piece.data)
        if self._gathered > self._max_body_bytes or len(self._pieces) > _MAX_BODY_PIECES:
            text = f"the request body is larger than {self._max_body_bytes} bytes"
            return self._immediate(self._opened().refuse(Refused(Reason.BODY_TOO_LARGE, text)))
        if budget.used > budget.limit:
            text = f"requests that are being read hold more than {budget.limit} bytes together"
            return self._immediate(self._opened().refuse(Refused(Reason.TOO_MANY_STREAMS, text)))
        if piece.data:
            self._pieces.append(piece.data)
        mode = self.request_mode
        whole = mode in (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL, BodyMode.STREAMED)
        if piece.end_of_stream or whole:
            self._bodies_owed = 1
            # A whole body with trailers behind it does not carry end_of_stream either; parsed leniently then.
            cut = whole and mode is not BodyMode.BUFFERED and not piece.end_of_stream
            self._decide(b"".join(self._pieces), truncated=cut)
        return None

    def _late_body(self, piece: Piece) -> None:
        """After the decision was asked for: pieces of STREAMED, or a second end_of_stream."""
        if piece.data and self.request_mode is not BodyMode.STREAMED:
            self._violation("request_body after the end of the request")
        elif self.request_mode in (BodyMode.FULL_DUPLEX, BodyMode.UNKNOWN):
            pass
        elif self.request is RequestState.DECIDING:
            self._bodies_owed += 1
        else:
            self._out.append(BodyReply(Side.REQUEST))

    def _request_trailers(self, piece: Piece) -> None:
        self._allow(piece)
        self._trailers_owed = True
        self._decide(b"".join(self._pieces), truncated=False)

    def _late_trailers(self, piece: Piece) -> None:
        if self.request is RequestState.DECIDING:
            self._trailers_owed = True
        else:
            self.request = RequestState.OVER
            self._out.append(TrailersReply(Side.REQUEST))

    def _ignore(self, piece: Piece) -> None:
        """Nothing is waiting for a reply."""

    def _decide(self, body: bytes, *, truncated: bool) -> None:
        self.request = RequestState.DECIDING
        verdict = self._opened().decide(body, truncated=truncated)
        if isinstance(verdict, Route | Answer):
            self._apply(verdict)
        else:
            self.pending = verdict

    def _apply(self, verdict: Verdict) -> None:
        if isinstance(verdict, Answer):
            return self._immediate(verdict)
        self.request = RequestState.PASS
        self._plan = verdict.answer
        self._target = verdict.destination.partition(",")[0]
        set_headers: Fields = verdict.set_headers
        if verdict.destination:
            set_headers = [(DESTINATION, verdict.destination), *set_headers]
        remove: Sequence[str] = verdict.remove_headers
        target: Target | None = Target(verdict.destination, verdict.scores)
        duplex = self.request_mode in (BodyMode.FULL_DUPLEX, BodyMode.UNKNOWN)
        if verdict.body is not None:
            if duplex or self.request_mode is BodyMode.BUFFERED:
                # Envoy refuses a changed BUFFERED body whose length is not the header's.
                set_headers = [*set_headers, (_CONTENT_LENGTH, str(len(verdict.body)))]
            else:
                # More of the body may follow behind the part that we changed.
                remove = [*remove, _CONTENT_LENGTH]
        elif duplex and not verdict.destination and self._gathered and not self._trailers_owed:
            # Envoy takes it off a body that is sent in pieces; the filter behind us may want to know it.
            set_headers = [*set_headers, (_CONTENT_LENGTH, str(self._gathered))]
        if self._headers_owed:
            self._out.append(HeadersReply(Side.REQUEST, set_headers, remove, target))
            set_headers, remove, target = (), (), None
        if duplex:
            self._echo(verdict.body, target)
            target = None if self._bodies_owed or self._pieces else target
        else:
            body = verdict.body
            for _ in range(self._bodies_owed):
                self._out.append(BodyReply(Side.REQUEST, body, set_headers, remove, target))
                body, target = None, None
                set_headers, remove = (), ()
        if self._trailers_owed:
            self.request = RequestState.OVER
            self._out.append(TrailersReply(Side.REQUEST, target))
        self._let_go()
        if verdict.skip_response:
            self._skipped = True
            self._out.append(Close())
        return None

    def _echo(self, body: bytes | None, target: Target | None) -> None:
        """The body in pieces of at most BODY_LIMIT_BYTES; the received pieces go back as they came."""
        if not self._bodies_owed and not self._pieces:
            return
        last = not self._trailers_owed
        pieces = list(_split(self._pieces if body is None else [body])) or [b""]
        for index, chunk in enumerate(pieces, 1):
            self._out.append(StreamedReply(Side.REQUEST, chunk, last and index == len(pieces), target))
            target = None

    # --- answer side --------------------------------------------------------------------------------------

    def _answer_headers(self, piece: Piece) -> None:
        call, watch = self._begin_answer()
        plan = self._plan
        headers = piece.headers or {}
        head = head_of(headers, piece.served, self._clock())
        watch.headers(headers, head)
        more = call.answered(head)
        set_headers = plan.set
        if more and (plan.ask or (head.served and head.served != self._target)):
            set_headers = [*set_headers, *more]
        # Without a body there is nothing to leave out.
        self._overridden = not plan.observe and not piece.end_of_stream and self._may_skip_body()
        remove = (_CONTENT_LENGTH,) if watch.changes_length else ()
        self._out.append(HeadersReply(Side.ANSWER, set_headers, remove, skip_body=self._overridden))
        length = headers.get(_CONTENT_LENGTH, "")
        if length.isascii() and length.isdigit() and len(length) < _LENGTH_DIGITS:
            self._answer_left = int(length)
        if piece.end_of_stream:
            self.answer = AnswerState.DONE

    def _may_skip_body(self) -> bool:
        """Envoy takes no override where a body is full duplex."""
        return self.answer_mode is BodyMode.STREAMED and self.request_mode not in (
            BodyMode.FULL_DUPLEX,
            BodyMode.UNKNOWN,
        )

    def _answer_body(self, piece: Piece) -> None:
        call, watch = self._begin_answer()
        if self._overridden:
            self._overridden = False
            watch.override_ignored = True
        # These are one message, which need not carry end_of_stream: trailers, or the rest of a body over
        # Envoy's limit, may follow.
        last = piece.end_of_stream or self.answer_mode in (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL)
        changed, first = watch.chunk(piece.data, last)
        if first:
            call.first_token(self._clock())
        if self.answer_mode in (BodyMode.FULL_DUPLEX, BodyMode.UNKNOWN):
            self._echo_answer(self._held + (piece.data if changed is None else changed), piece, last)
        else:
            self._out.append(BodyReply(Side.ANSWER, changed))
        if last:
            self.answer = AnswerState.DONE

    def _echo_answer(self, chunk: bytes, piece: Piece, last: bool) -> None:
        """As it came, but for the piece that completes content-length: only the empty end of the stream can
        follow it, which Envoy sends right behind, so the two go back as one message."""
        self._held = b""
        if len(chunk) > BODY_LIMIT_BYTES:
            *parts, chunk = _split([chunk])
            self._out += [StreamedReply(Side.ANSWER, part, False) for part in parts]
        if self._answer_left > 0:
            self._answer_left -= len(piece.data)
            if not self._answer_left and not last:
                self._held = chunk
                return
        if chunk or last:
            self._out.append(StreamedReply(Side.ANSWER, chunk, last))

    def _late_answer_body(self, piece: Piece) -> None:
        """A second end_of_stream."""
        if piece.data:
            self._violation("response_body after the end of the answer")
        elif self.answer_mode in (BodyMode.STREAMED, BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL):
            self._out.append(BodyReply(Side.ANSWER))

    def _answer_trailers(self, piece: Piece) -> None:
        _, watch = self._begin_answer()
        if self.answer is AnswerState.BODY:
            held_back = self._held + (watch.flush() or b"")
            if held_back and self.answer_mode in (BodyMode.FULL_DUPLEX, BodyMode.UNKNOWN):
                self._out += [StreamedReply(Side.ANSWER, part, False) for part in _split([held_back])]
        self._out.append(TrailersReply(Side.ANSWER))
        self.answer = AnswerState.OVER

    def _begin_answer(self) -> tuple[Call, AnswerWatch]:
        if self.answer is AnswerState.NONE:
            self.answer = AnswerState.BODY
            self._opened()
            if self.request in (RequestState.START, RequestState.GATHER, RequestState.DECIDING):
                # Envoy's own answer: nothing of the request is left to decide.
                self.request = RequestState.OVERTAKEN
                self.pending = None
                self._let_go()
            self._watch = AnswerWatch(self._plan, self._clock)
        watch = self._watch
        assert watch is not None
        return self._opened(), watch

    # --- both ---------------------------------------------------------------------------------------------

    def _open(self, piece: Piece) -> Call:
        head = request_head(
            piece.headers or {},
            self._new_id,
            self._clock(),
            not (piece.end_of_stream and piece.headers is not None),
            piece.subset,
            self._answer_view(),
            self._authority,
            self._pool,
        )
        self._call = self._door.open(head, self._abort)
        return self._call

    def _answer_view(self) -> AnswerView:
        if self.answer_mode is BodyMode.NONE:
            return AnswerView.NEVER
        return AnswerView.CHOICE if self._may_skip_body() else AnswerView.ALWAYS

    def _opened(self) -> Call:
        if self._call is None:
            self._call = self._door.open_answer(self._authority, self._pool)
        return self._call

    def _allow(self, piece: Piece) -> None:
        if piece.subset is not None and self._call is not None:
            self._call.allow(piece.subset)

    def _immediate(self, answer: Answer) -> None:
        self._refused = True
        self.request = RequestState.CLOSED
        self._let_go()
        self._out.append(Immediate(answer))
        self._out.append(Close())

    def _let_go(self) -> None:
        """The body is not needed any more."""
        self._pieces = []
        self._budget.used -= self._gathered
        self._gathered = 0

    def _violation(self, message: str) -> None:
        self.request = RequestState.CLOSED
        self._failed = True
        self.pending = None
        self._let_go()
        self._out.append(Fail(f"a message that Envoy cannot send here: {message}"))


def _split(pieces: Sequence[bytes]) -> list[bytes]:
    parts: list[bytes] = []
    for piece in pieces:
        if len(piece) <= BODY_LIMIT_BYTES:
            parts.append(piece)
        else:
            parts += [piece[at : at + BODY_LIMIT_BYTES] for at in range(0, len(piece), BODY_LIMIT_BYTES)]
    return parts


_REQUEST_MESSAGES = (Message.REQUEST_HEADERS, Message.REQUEST_BODY, Message.REQUEST_TRAILERS)

_Take = Callable[[Exchange, Piece], None]
R, A, M, E = RequestState, AnswerState, Message, Exchange
TABLE: Mapping[tuple[RequestState | AnswerState, Message], _Take] = {
    (R.START, M.REQUEST_HEADERS): E._request_headers,
    (R.START, M.REQUEST_BODY): E._first_body,
    (R.START, M.REQUEST_TRAILERS): E._late_trailers,
    (R.GATHER, M.REQUEST_BODY): E._request_body,
    (R.GATHER, M.REQUEST_TRAILERS): E._request_trailers,
    (R.DECIDING, M.REQUEST_BODY): E._late_body,
    (R.DECIDING, M.REQUEST_TRAILERS): E._late_trailers,
    (R.PASS, M.REQUEST_BODY): E._late_body,
    (R.PASS, M.REQUEST_TRAILERS): E._late_trailers,
    (R.OVERTAKEN, M.REQUEST_BODY): E._ignore,
    (R.OVERTAKEN, M.REQUEST_TRAILERS): E._ignore,
    (A.NONE, M.ANSWER_HEADERS): E._answer_headers,
    (A.NONE, M.ANSWER_BODY): E._answer_body,
    (A.NONE, M.ANSWER_TRAILERS): E._answer_trailers,
    (A.BODY, M.ANSWER_BODY): E._answer_body,
    (A.BODY, M.ANSWER_TRAILERS): E._answer_trailers,
    (A.DONE, M.ANSWER_BODY): E._late_answer_body,
    (A.DONE, M.ANSWER_TRAILERS): E._answer_trailers,
}
