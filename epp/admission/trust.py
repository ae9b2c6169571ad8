"""Whose control headers are believed: a request's headers -> what of them counts.

Without settings everybody's do, as in the reference picker. A header that is not believed is taken away, for
us and for the engine; so are the marker and the secret, which are nobody's business behind us.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from epp.domain.controls import (
    DEFAULT_FLOW,
    FAIRNESS_HEADERS,
    OBJECTIVE_HEADERS,
    SELECTION_HEADER,
    TPOT_HEADERS,
    TTFT_HEADERS,
    TTL_HEADER,
    Controls,
)
from epp.domain.units import duration_s

FAIRNESS_ID_CHARS = 256
"""Longer ids share the default flow."""
NUMBER_CHARS = 32
"""Longer durations are not read."""
_LONGEST_S = 1e7
"""No promise is that far off (four months)."""


class Taken(StrEnum):
    """From whom a header is taken."""

    CLIENTS = "clients"
    """From everybody."""
    MARKER = "marker"
    """With the header that the gateway marks its requests with."""
    SECRET = "secret"  # noqa: S105 - a word of the configuration
    """With the header that holds a shared secret."""
    STRIP = "strip"
    """From nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSettings:
    """The words are those of the configuration."""

    objective: Taken = Taken.STRIP
    fairness_id: Taken = Taken.STRIP
    ttl: Taken = Taken.STRIP
    slo: Taken = Taken.STRIP
    test_selection: Taken = Taken.STRIP
    marker: str = ""
    """Name of the marking header, lower case."""
    marker_value: str = ""
    """What it must say; empty for anything."""
    secret: str = ""
    """Name of the header with the secret, lower case."""
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """Any of them will do, so that one can be replaced by another without a gap."""
    tenants: frozenset[str] | None = None
    """Known fairness ids; the others share the default flow. None: all are known."""


class Trust:
    def __init__(self, settings: TrustSettings | None = None) -> None:
        """None: control headers are taken as they come."""
        self._guarded: tuple[tuple[Taken, tuple[str, ...]], ...] = ()
        self._keys: tuple[str, ...] = ()
        self._open = settings is None
        self._settings = s = settings or TrustSettings()
        self._secrets = s.secrets
        self.tenants = s.tenants
        """Known fairness ids, if they are listed."""
        if settings is None:
            return
        rules = (
            (s.objective, OBJECTIVE_HEADERS),
            (s.fairness_id, FAIRNESS_HEADERS),
            (s.ttl, (TTL_HEADER,)),
            (s.slo, (*TTFT_HEADERS, *TPOT_HEADERS)),
            (s.test_selection, (SELECTION_HEADER,)),
        )
        self._guarded = tuple((taken, names) for taken, names in rules if taken is not Taken.CLIENTS)
        self._keys = tuple(name for name in (s.marker, s.secret) if name)

    def replace_secrets(self, secrets: tuple[bytes, ...]) -> None:
        """From now on these count."""
        self._secrets = secrets

    def controls(self, headers: Mapping[str, str]) -> Controls:
        """`headers` with names in lower case. Never raises: what cannot be read is as if it had not come."""
        if self._open:
            return _taken(headers, (), None)
        stripped = self._stripped(headers)
        if stripped:
            headers = {name: value for name, value in headers.items() if name not in stripped}
        return _taken(headers, stripped, self.tenants)

    def _stripped(self, headers: Mapping[str, str]) -> tuple[str, ...]:
        names = [name for name in self._keys if name in headers]
        believed: dict[Taken, bool] = {}
        for taken, guarded in self._guarded:
            for name in guarded:
                if name not in headers:
                    continue
                if taken not in believed:
                    believed[taken] = self._believes(taken, headers)
                if not believed[taken]:
                    names.append(name)
        return tuple(names)

    def _believes(self, taken: Taken, headers: Mapping[str, str]) -> bool:
        s = self._settings
        if taken is Taken.MARKER:
            value = headers.get(s.marker)
            return value is not None and (not s.marker_value or value == s.marker_value)
        if taken is Taken.SECRET:
            return _same(headers.get(s.secret, ""), self._secrets)
        return False


def _same(value: str, secrets: Sequence[bytes]) -> bool:
    """How long it takes tells nothing but the lengths."""
    given = value.encode("utf-8", "backslashreplace")
    same = False
    for secret in secrets:
        same |= hmac.compare_digest(given, secret)
    return same


def _taken(headers: Mapping[str, str], stripped: tuple[str, ...], tenants: frozenset[str] | None) -> Controls:
    get = headers.get
    fairness_id = get(FAIRNESS_HEADERS[0]) or get(FAIRNESS_HEADERS[1]) or DEFAULT_FLOW
    known = True
    if len(fairness_id) > FAIRNESS_ID_CHARS:
        fairness_id = DEFAULT_FLOW
    if tenants is not None and fairness_id not in tenants:
        fairness_id, known = DEFAULT_FLOW, False
    ttl = get(TTL_HEADER)
    ttft = get(TTFT_HEADERS[0]) or get(TTFT_HEADERS[1])
    tpot = get(TPOT_HEADERS[0]) or get(TPOT_HEADERS[1])
    return Controls(
        headers,
        stripped,
        get(OBJECTIVE_HEADERS[0]) or get(OBJECTIVE_HEADERS[1]) or "",
        fairness_id,
        known,
        _ttl_s(ttl) if ttl else None,
        _milliseconds(ttft) if ttft else None,
        _milliseconds(tpot) if tpot else None,
        get(SELECTION_HEADER, ""),
    )


def _ttl_s(text: str) -> float | None:
    if len(text) > NUMBER_CHARS:
        return None
    try:
        seconds = duration_s(text.strip())
    except ValueError:
        return None
    return seconds if 0 < seconds <= _LONGEST_S else None


def _milliseconds(text: str) -> float | None:
    """As seconds."""
    if len(text) > NUMBER_CHARS:
        return None
    try:
        seconds = float(text) / 1e3
    except ValueError:
        return None
    return seconds if isfinite(seconds) and 0 < seconds <= _LONGEST_S else None
