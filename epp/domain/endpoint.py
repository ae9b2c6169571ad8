"""Model servers: what discovery names (EndpointSpec) and what requests are routed to (Endpoint)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One entry of a discovery source, before names are resolved.

    `address` is an IPv4 or IPv6 literal or a host name; a host name may become several endpoints.
    `metrics_port` None means the serving port.
    """

    name: str
    address: str
    port: int
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    metrics_port: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """One model server that can be chosen.

    `slot` is a small dense integer that belongs to this endpoint as long as it is in the pool; live views
    (ledger, prefix index) keep their columns by slot. It is given to another endpoint only after every live
    view was told to forget it. `ip` is a literal without brackets.
    """

    name: str
    namespace: str
    ip: str
    port: int
    slot: int
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    metrics_port: int = 0

    key: str = field(init=False)
    """`namespace/name`, unique in a pool."""
    authority: str = field(init=False)
    """`ip:port` as Envoy wants it; IPv6 in brackets."""

    def __post_init__(self) -> None:
        # Asked for at every request.
        object.__setattr__(self, "key", f"{self.namespace}/{self.name}")
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        object.__setattr__(self, "authority", f"{ip}:{self.port}")
