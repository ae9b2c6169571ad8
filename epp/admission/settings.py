"""What flow control is built with."""

from __future__ import annotations

from dataclasses import dataclass, field

from epp.admission.eviction import EvictionSettings
from epp.admission.limits import UNLIMITED, Limits
from epp.admission.registry import RegistrySettings
from epp.admission.usage import StaticLimit, StaticLimitParameters, UsageLimitPolicy

DEFAULT_TTL_S = 60.0


@dataclass(frozen=True, slots=True)
class FlowControlSettings:
    """The defaults are the reference picker's."""

    limits: Limits = UNLIMITED
    """Of all bands together."""
    ttl_s: float | None = DEFAULT_TTL_S
    """How long a request waits; None for ever."""
    no_endpoint_ttl_s: float | None = DEFAULT_TTL_S
    """How long it waits while there is no endpoint; None as long as its TTL."""
    usage: UsageLimitPolicy = field(default_factory=lambda: StaticLimit(StaticLimitParameters()))
    eviction: EvictionSettings | None = None
    """None: nothing that runs is aborted."""
    registry: RegistrySettings = field(default_factory=RegistrySettings)
