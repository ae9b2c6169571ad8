"""Session affinity: requests of one session go to one endpoint, as a preference (scorer) or pin (filter)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, field

from epp.domain.decision import Decision
from epp.domain.endpoint import Endpoint
from epp.domain.request import Request
from epp.domain.snapshot import Bools, Floats, Ints, Snapshot
from epp.plugins.bindings import MAX_ID_BYTES, Bindings
from epp.scheduling.contract import BuildContext, Cycle, PluginType

SESSION_ID = "SessionID"
"""Attribute of a cycle that session-id-producer publishes."""


class EncodedHeader(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    header: Annotated[
        str, Meta(min_length=1, description="request and answer header with base64 of namespace/name")
    ] = "x-session-token"


class Source(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    header: Annotated[str, Meta(description="request header with the session id")] = ""
    attribute: Annotated[str, Meta(description="attribute that a producer publishes (SessionID)")] = ""


class SessionIdConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    sources: Annotated[
        tuple[Source, ...],
        Meta(min_length=1, description="where the session id is read; the first found counts"),
    ] = (Source(header="x-session-id"),)
    eviction_ttl_seconds: Annotated[
        float, Meta(gt=0, description="seconds that an unused session stays bound")
    ] = 300.0
    eviction_sweep_seconds: Annotated[
        float, Meta(gt=0, description="seconds between sweeps of expired sessions")
    ] = 10.0


class SessionAffinityParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    strategy: Annotated[
        Literal["encoded_endpoint_header", "session_id"],
        Meta(description="the client carries the endpoint, or the picker remembers the session"),
    ] = "encoded_endpoint_header"
    profile_name: Annotated[
        str, Meta(description="profile whose endpoint is bound; empty for the primary one")
    ] = ""
    encoded_endpoint_header_config: EncodedHeader = field(default_factory=EncodedHeader)
    session_id_config: SessionIdConfig = field(default_factory=SessionIdConfig)


class EncodedEndpoint:
    """Stateless: the client echoes a header that names the endpoint of its last answer."""

    def __init__(self, parameters: SessionAffinityParameters) -> None:
        self._header = parameters.encoded_endpoint_header_config.header.lower()
        self._profile = parameters.profile_name
        self._rows = RowsByKey()

    def bound(self, cycle: Cycle) -> int | None:
        """The session's row of the snapshot, None without a session or when its endpoint is gone."""
        token = cycle.request.headers.get(self._header)
        if not token or len(token) > 4 * MAX_ID_BYTES:
            return None
        try:
            key = base64.b64decode(token, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        return self._rows.of(cycle.snapshot).get(key)

    def answer_headers(
        self, request: Request, decision: Decision, served: str | None
    ) -> Sequence[tuple[str, str]]:
        endpoint = _target(decision, self._profile, served)
        if endpoint is None:
            return ()
        return ((self._header, base64.b64encode(endpoint.key.encode()).decode()),)


class RememberedSession:
    """Stateful: the client sends a session id, we remember the endpoint. Nothing is added to answers."""

    def __init__(self, parameters: SessionAffinityParameters) -> None:
        config = parameters.session_id_config
        self._sources = config.sources
        self._profile = parameters.profile_name
        self._bindings = Bindings(config.eviction_ttl_seconds, config.eviction_sweep_seconds)
        self._rows = RowsByKey()

    def bound(self, cycle: Cycle) -> int | None:
        """As EncodedEndpoint.bound."""
        session = self._session(cycle)
        key = self._bindings.get(session, cycle.now) if session else None
        return self._rows.of(cycle.snapshot).get(key) if key else None

    def chosen(self, cycle: Cycle, decision: Decision) -> None:
        session = self._session(cycle)
        endpoint = _target(decision, self._profile, None) if session else None
        if endpoint is not None:
            self._bindings.bind(session, endpoint.key, cycle.now)

    def dump_state(self) -> Mapping[str, Any]:
        return {"sessions": len(self._bindings)}

    def _session(self, cycle: Cycle) -> str:
        for source in self._sources:
            if source.header:
                found: object = cycle.request.headers.get(source.header.lower())
            else:
                found = cycle.state.get(source.attribute)
            if isinstance(found, str) and found and len(found) <= MAX_ID_BYTES:
                return found
        return ""


class RowsByKey:
    """Rows of a snapshot by endpoint key, kept until the pool changes."""

    def __init__(self) -> None:
        self._endpoints: tuple[Endpoint, ...] | None = None
        self._rows: dict[str, int] = {}

    def of(self, snapshot: Snapshot) -> Mapping[str, int]:
        if snapshot.endpoints is not self._endpoints:
            self._endpoints = snapshot.endpoints
            self._rows = {endpoint.key: row for row, endpoint in enumerate(snapshot.endpoints)}
        return self._rows


class EncodedEndpointScorer(EncodedEndpoint):
    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        return _preference(self.bound(cycle), rows)


class EncodedEndpointFilter(EncodedEndpoint):
    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        return _pin(self.bound(cycle), rows)


class RememberedSessionScorer(RememberedSession):
    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        return _preference(self.bound(cycle), rows)


class RememberedSessionFilter(RememberedSession):
    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        return _pin(self.bound(cycle), rows)


def _preference(bound: int | None, rows: Ints) -> Floats:
    """1 for the bound endpoint, 0 for others and without a session."""
    if bound is None:
        return np.zeros(len(rows))
    return np.where(rows == bound, 1.0, 0.0)


def _pin(bound: int | None, rows: Ints) -> Bools:
    """Only the bound endpoint; all when there is none or it is no candidate."""
    if bound is not None:
        kept: Bools = rows == bound
        if kept.any():
            return kept
    return np.ones(len(rows), dtype=np.bool_)


def _target(decision: Decision, profile: str, served: str | None) -> Endpoint | None:
    """The endpoint that a session is bound to: of the profile, or the one that served."""
    if profile and profile != decision.primary:
        for run in decision.runs:
            if run.profile == profile and run.picked:
                return decision.snapshot.endpoints[run.picked[0]]
        return None
    if served and served != decision.endpoint.authority:
        for endpoint in decision.snapshot.endpoints:
            if endpoint.authority == served:
                return endpoint
    return decision.endpoint


class SessionIdParameters(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    header_name: Annotated[str, Meta(description="request header with the session id")] = ""
    cookie_name: Annotated[str, Meta(description="cookie with the session id")] = ""


class SessionId:
    """Publishes the session id of a header or a cookie as the attribute SessionID."""

    def __init__(self, parameters: SessionIdParameters) -> None:
        self._header = parameters.header_name.lower()
        self._cookie = parameters.cookie_name

    def produce(self, cycle: Cycle) -> None:
        headers = cycle.request.headers
        if self._header:
            value = headers.get(self._header, "")
        else:
            value = _cookie(headers.get("cookie", ""), self._cookie)
        if value:
            cycle.state[SESSION_ID] = value


def _cookie(header: str, name: str) -> str:
    if name not in header:
        return ""
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _scorer(parameters: SessionAffinityParameters, context: BuildContext) -> object:
    _check(parameters)
    if parameters.strategy == "session_id":
        return RememberedSessionScorer(parameters)
    return EncodedEndpointScorer(parameters)


def _filter(parameters: SessionAffinityParameters, context: BuildContext) -> object:
    _check(parameters)
    if parameters.strategy == "session_id":
        return RememberedSessionFilter(parameters)
    return EncodedEndpointFilter(parameters)


def _check(parameters: SessionAffinityParameters) -> None:
    for source in parameters.session_id_config.sources:
        if bool(source.header) == bool(source.attribute):
            raise ValueError("each of sessionIdConfig.sources needs exactly one of header and attribute")


def _producer(parameters: SessionIdParameters, context: BuildContext) -> SessionId:
    if parameters.header_name and parameters.cookie_name:
        raise ValueError("only one of headerName and cookieName can be given")
    if not parameters.header_name and not parameters.cookie_name:
        parameters = msgspec.structs.replace(parameters, header_name="x-session-id")
    return SessionId(parameters)


PLUGINS = (
    PluginType(
        "session-affinity-scorer",
        SessionAffinityParameters,
        _scorer,
        "prefers the endpoint of the session's last request",
        alpha=True,
    ),
    PluginType(
        "session-affinity-filter",
        SessionAffinityParameters,
        _filter,
        "keeps only the endpoint of the session's last request, while it is a candidate",
        alpha=True,
    ),
    PluginType(
        "session-id-producer",
        SessionIdParameters,
        _producer,
        "publishes the session id of a header or a cookie (x-session-id when neither is given)",
    ),
)
