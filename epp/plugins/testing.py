"""Plugins of the conformance suite: a client names its endpoints, and is told which one served it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from epp.domain.controls import SELECTION_HEADER
from epp.domain.decision import Decision
from epp.domain.request import Request
from epp.domain.snapshot import Bools, Ints
from epp.scheduling.contract import BuildContext, Cycle, NoParameters, PluginType

SERVED_HEADER = "x-conformance-test-served-endpoint"
NOT_SERVED = "fail: missing destination endpoint served metadata"


class HeaderSelection:
    """Keeps the endpoints that the header lists as `ip` or `ip:port` (IPv6 with or without brackets)."""

    def keep(self, cycle: Cycle, rows: Ints) -> Bools:
        listed = cycle.request.headers.get(SELECTION_HEADER, "")
        wanted = {item.strip() for item in listed.split(",") if item.strip()}
        if not wanted:
            return np.zeros(len(rows), dtype=np.bool_)
        endpoints = cycle.snapshot.endpoints
        kept = []
        for row in rows.tolist():
            endpoint = endpoints[row]
            kept.append(endpoint.ip in wanted or endpoint.authority in wanted or f"[{endpoint.ip}]" in wanted)
        return np.asarray(kept, dtype=np.bool_)


class ServedVerifier:
    """Tells the client which endpoint the gateway says it used."""

    def answer_headers(
        self, request: Request, decision: Decision, served: str | None
    ) -> Sequence[tuple[str, str]]:
        return ((SERVED_HEADER, served or NOT_SERVED),)


def _selection(parameters: NoParameters, context: BuildContext) -> HeaderSelection:
    return HeaderSelection()


def _verifier(parameters: NoParameters, context: BuildContext) -> ServedVerifier:
    return ServedVerifier()


PLUGINS = (
    PluginType(
        "header-based-testing-filter",
        NoParameters,
        _selection,
        f"keeps the endpoints listed in the header {SELECTION_HEADER}; none without it (for tests)",
    ),
    PluginType(
        "destination-endpoint-served-verifier",
        NoParameters,
        _verifier,
        f"answers with the endpoint that served, in the header {SERVED_HEADER} (for tests)",
    ),
)
