"""Protocols between rooms: live read-only views for plugins, and the events of one request at the door."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from epp.domain.errors import Answer, Refused
from epp.domain.request import Api, Body, RequestHead, Scanned, Usage
from epp.domain.snapshot import Floats, Ints, Snapshot

Clock: TypeAlias = Callable[[], float]
"""Monotonic seconds."""


class InflightView(Protocol):
    """What we ourselves have sent and not yet seen finished. Arrays are gathered by endpoint slot."""

    def requests(self, slots: Ints) -> Floats:
        """Our unfinished requests at each endpoint."""

    def prefill_tokens(self, slots: Ints) -> Floats:
        """Uncached prompt tokens sent to each endpoint whose first token has not come back."""

    def decode_tokens(self, slots: Ints) -> Floats:
        """Output tokens that are still expected from each endpoint."""


class SnapshotSource(Protocol):
    """Where the current snapshot is taken from, once per decision."""

    @property
    def snapshot(self) -> Snapshot: ...


@runtime_checkable
class EndpointObserver(Protocol):
    """A live view with columns by slot. Called by the one writer before the slot is given to another."""

    def forget(self, slot: int) -> None: ...


class ObjectiveSource(Protocol):
    """The objectives that requests name."""

    def priority(self, name: str) -> int:
        """Of requests that name this objective; the default's for an unknown name, and for none."""


class Ending(StrEnum):
    """How a request ended, seen from the picker."""

    NATURAL = "natural"
    CLIENT_DISCONNECT = "client-disconnect"
    ERROR = "error"
    """The model server failed or the answer broke off."""
    REFUSED = "refused"
    """Answered by us; no endpoint was asked."""
    DRAINED = "drained"
    """We were shutting down and the deadline passed."""


class AnswerPlan(Struct, frozen=True, gc=False):
    """What the door does with the model server's answer by itself, so that nobody need be asked meanwhile."""

    api: Api = Api.OPAQUE
    """How usage is read out of it."""
    stream: bool = False
    """The client asked for a streamed answer."""
    set: Sequence[tuple[str, str]] = ()
    """Headers to set on it."""
    restore: tuple[str, str] | None = None
    """(name in the answer, name to write in its place), where the model was rewritten."""
    ask: bool = False
    """What `Call.answered` returns is set too, whoever served; without it only where another endpoint did."""
    observe: bool = True
    """False: the gateway need not send the answer's body, if its modes leave that open."""


class Route(Struct, frozen=True, gc=False):
    """The director's yes: what the door tells Envoy."""

    destination: str
    """`ip:port`, or a comma list in rank order. Empty: none is named, by a door that only tells more about
    the request; the route is looked for anew all the same."""
    set_headers: Sequence[tuple[str, str]] = ()
    """Request headers to set besides the destination."""
    remove_headers: Sequence[str] = ()
    body: bytes | None = None
    """The whole new body when it was changed, else None: the received bytes go on."""
    scores: Mapping[str, float] | None = None
    """By `ip:port`, for `x-gateway-destination-endpoint-scores`; None for none."""
    skip_response: bool = False
    """End the stream after the request phase."""
    answer: AnswerPlan = AnswerPlan()


Verdict: TypeAlias = Route | Answer


class AnswerHead(Struct, frozen=True, gc=False):
    """What the answer's headers tell."""

    status: int
    """0 when they do not tell one."""
    at: float
    """Monotonic seconds."""
    served: str | None = None
    """The `ip:port` that the gateway says it used."""
    streamed: bool = False
    """The content is an event stream."""
    encoded: bool = False
    """The content is compressed."""
    local: bool = False
    """The gateway's own answer, because the model server gave none."""


class Report(Struct, frozen=True, gc=False):
    """What was seen of an answer's body."""

    observed: bool = False
    """Its body came by; else the rest is empty."""
    override_ignored: bool = False
    """The body came although the gateway was told that it need not send it."""
    first_at: float = 0.0
    """Of the first piece of body, monotonic seconds; 0 for none."""
    last_at: float = 0.0
    body_bytes: int = 0
    usage: Usage | None = None
    response_id: str = ""
    gaps: Sequence[int] = ()
    """Pauses between pieces of a streamed answer, counted by the buckets ITL_S and one above; or empty."""
    gaps_s: float = 0.0
    """Their sum."""
    processing_s: float = 0.0
    """Spent by us on the body's pieces."""


class Call(Protocol):
    """One request on its way through the picker. The door calls; every call ends with exactly one `end`."""

    def allow(self, subset: tuple[str, ...]) -> None:
        """The gateway named the endpoints it allows after the headers had come."""

    def refuse_early(self) -> Answer | None:
        """At the headers: an answer if the request will be refused for certain, before its body is read."""

    def refuse(self, refused: Refused) -> Answer:
        """The door itself refuses (a limit); counted like any other refusal."""

    def decide(
        self, body: Body, *, truncated: bool = False, scanned: Scanned | None = None
    ) -> Verdict | Awaitable[Verdict]:
        """With the whole body (empty for none); `truncated` when the gateway sent only a first part, or
        nothing because it routes at the headers; `scanned` when the door looked at a long body by itself.
        An awaitable when the request has to wait."""

    def answered(self, head: AnswerHead) -> Sequence[tuple[str, str]]:
        """The answer's headers have come. Returns headers to set besides the plan's; the door waits for them
        only where the plan says so or another endpoint served than the first one named. Otherwise it may
        tell this late, but before the next decision and before `end`."""

    def first_token(self, at: float) -> None:
        """The answer's body has begun; as late as `answered`, and left out where `end` comes as soon."""

    def end(self, ending: Ending, report: Report) -> None:
        """The stream is over. Frees whatever the request held; safe to call again."""


Abort: TypeAlias = Callable[[Answer], None]
"""Ends a request that was let in: by this answer, or by a reset where its own has begun. May come late."""


class Door(Protocol):
    """What the transport needs of the picker."""

    def open(self, head: RequestHead, abort: Abort | None = None) -> Call: ...

    def open_answer(self, authority: str = "", pool: str = "") -> Call:
        """A stream that begins with the answer: its request phase went elsewhere. What it is for: as in
        RequestHead."""
