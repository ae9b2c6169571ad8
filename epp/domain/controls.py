"""The headers by which a request says how it wants to be treated, and what they came to.

Names are the reference picker's; of an alias the first name wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

OBJECTIVE_HEADERS = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
FAIRNESS_HEADERS = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
TTL_HEADER = "x-llm-d-inference-ttl"
"""How long this request may wait, as a Go duration: `1500ms`."""
TTFT_HEADERS = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")
TPOT_HEADERS = ("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms")
SELECTION_HEADER = "test-epp-endpoint-selection"
"""For tests: the endpoints that may serve it."""
DEFAULT_FLOW = "default-flow"
"""Fairness id of requests without one."""

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Controls(Struct, frozen=True, gc=False):
    """What is believed of one request's control headers."""

    headers: Mapping[str, str] = _NO_HEADERS
    """All of the request's headers but `stripped`."""
    stripped: tuple[str, ...] = ()
    """Names that came and that neither we nor the engine shall see."""
    objective: str = ""
    fairness_id: str = DEFAULT_FLOW
    known_tenant: bool = True
    """False: its objective may lower its priority but not raise it."""
    ttl_s: float | None = None
    """How long it wants to wait at most."""
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
    test_selection: str = ""
