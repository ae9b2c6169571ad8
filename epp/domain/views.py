"""Protocols between rooms: live read-only views for plugins, and the events of one request at the door."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol, TypeAlias

from msgspec import Struct

from epp.domain.errors import Answer, Refused
from epp.domain.request import RequestHead
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


class EndpointObserver(Protocol):
    """A live view with columns by slot. Called by the one writer before the slot is given to another."""

    def forget(self, slot: int) -> None: ...


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


class Route(Struct, frozen=True):
    """The director's yes: what the door tells Envoy."""

    destination: str
    """`ip:port`, or a comma list in rank order."""
    set_headers: Sequence[tuple[str, str]] = ()
    """Request headers to set besides the destination."""
    remove_headers: Sequence[str] = ()
    body: bytes | None = None
    """The whole new body when it was changed, else None: the received bytes go on."""
    scores: Mapping[str, float] | None = None
    """By `ip:port`, for `x-gateway-destination-endpoint-scores`; None for none."""
    skip_response: bool = False
    """End the stream after the request phase."""


Verdict: TypeAlias = Route | Answer


class HeaderChange(Struct, frozen=True):
    """What to change in the model server's headers."""

    set: Sequence[tuple[str, str]] = ()
    remove: Sequence[str] = ()


class Call(Protocol):
    """One request on its way through the picker. The door calls; every call ends with exactly one `end`."""

    def allow(self, subset: tuple[str, ...]) -> None:
        """The gateway named the endpoints it allows after the headers had come."""

    def refuse_early(self) -> Answer | None:
        """At the headers: an answer if the request will be refused for certain, before its body is read."""

    def refuse(self, refused: Refused) -> Answer:
        """The door itself refuses (a limit); counted like any other refusal."""

    def decide(self, body: bytes, *, truncated: bool = False) -> Verdict | Awaitable[Verdict]:
        """With the whole body (empty for none); `truncated` when the gateway sent only a first part, or
        nothing because it routes at the headers. An awaitable when the request has to wait."""

    def answer_headers(self, status: int, headers: Mapping[str, str], served: str | None) -> HeaderChange:
        """At the model server's headers. `served` is the `ip:port` that the gateway says it used."""

    def answer_chunk(self, chunk: bytes, last: bool) -> bytes | None:
        """At every piece of the answer: None to pass it on as it is, else what is sent instead."""

    def end(self, ending: Ending) -> None:
        """The stream is over. Frees whatever the request held; safe to call again."""


class Door(Protocol):
    """What the transport needs of the picker."""

    def open(self, head: RequestHead) -> Call: ...

    def open_answer(self) -> Call:
        """A stream that begins with the answer: its request phase went elsewhere."""
