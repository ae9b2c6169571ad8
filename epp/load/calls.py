"""What is sent: one HTTP request, how it is shaped, and the sessions that say what comes after an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any, NamedTuple, Protocol

import msgspec

from epp.load.text import estimate

OBJECTIVE_HEADER = "x-llm-d-inference-objective"
FAIRNESS_HEADER = "x-llm-d-inference-fairness-id"


class Endpoint(StrEnum):
    """The two APIs that load is played at, by the path below the base URL."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"


class Message(NamedTuple):
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Call:
    """One request, ready to be sent."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    stream: bool
    model: str
    input_tokens: int
    """Estimated from the text; the engine's usage replaces it where it is reported."""


class Session(Protocol):
    """One client: what it asks first, and what it does with each answer."""

    @property
    def name(self) -> str: ...

    def first(self) -> Call: ...

    def after(self, answer: str) -> tuple[float, Call] | None:
        """Seconds of thinking and the next request, or None when the client is done."""
        ...


class Arrival(NamedTuple):
    """A session that begins at an instant, in seconds since the start."""

    at: float
    session: Session


Workload = Iterator[Arrival]


@dataclass(frozen=True, slots=True)
class Single:
    """A client that asks once."""

    name: str
    call: Call

    def first(self) -> Call:
        return self.call

    def after(self, answer: str) -> tuple[float, Call] | None:
        return None


@dataclass(frozen=True, slots=True)
class Mix:
    """Names drawn by weight; empty draws nothing."""

    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Mix:
        """`a=3,b=1` or `a,b`. Raises ValueError."""
        pairs = [part.partition("=") for part in text.split(",") if part]
        try:
            weights = tuple(float(weight) if sign else 1.0 for _, sign, weight in pairs)
        except ValueError:
            raise ValueError(f"{text!r}: a weight is not a number; write NAME=WEIGHT,...") from None
        names = tuple(name.strip() for name, _, _ in pairs)
        if not names or not all(names) or not all(0 <= w < 1e9 for w in weights) or not sum(weights) > 0:
            raise ValueError(f"{text!r}: write NAME=WEIGHT,... with weights of 0 or more, not all 0")
        return cls(names, weights)

    def draw(self, rng: Random) -> str:
        return rng.choices(self.names, self.weights)[0] if self.names else ""


@dataclass(frozen=True, slots=True)
class Manner:
    """How every request of a run is put: API, model mix, headers, streaming, extra body fields."""

    models: Mix
    endpoint: Endpoint = Endpoint.CHAT
    stream: bool = True
    ignore_eos: bool = True
    """Ask for exactly the output length, as benchmarks do; an extension of vLLM and SGLang."""
    headers: Mapping[str, str] = field(default_factory=dict)
    objectives: Mix = field(default_factory=Mix)
    flows: Mix = field(default_factory=Mix)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def client(self, rng: Random) -> Client:
        """The model and headers that one session keeps for all its requests."""
        headers = dict(self.headers)
        if objective := self.objectives.draw(rng):
            headers[OBJECTIVE_HEADER] = objective
        if flow := self.flows.draw(rng):
            headers[FAIRNESS_HEADER] = flow
        return Client(self, self.models.draw(rng), headers)


@dataclass(frozen=True, slots=True)
class Client:
    """Builds the calls of one session."""

    manner: Manner
    model: str
    headers: Mapping[str, str]

    def call(self, messages: Sequence[Message], output_tokens: int) -> Call:
        """A chat of the messages; for completions their texts in order, so that turn n+1 extends turn n."""
        manner = self.manner
        body: dict[str, Any] = {"model": self.model}
        size = sum(len(message.content) for message in messages)
        if manner.endpoint is Endpoint.CHAT:
            body["messages"] = [{"role": m.role, "content": m.content} for m in messages]
        else:
            body["prompt"] = "".join(message.content for message in messages)
        body["max_tokens"] = output_tokens
        if manner.ignore_eos:
            body["ignore_eos"] = True
        if manner.stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        body.update(manner.extra)
        return Call(
            path=manner.endpoint.value,
            headers=self.headers,
            body=msgspec.json.encode(body),
            stream=bool(body.get("stream", False)),
            model=self.model,
            input_tokens=estimate(size),
        )
