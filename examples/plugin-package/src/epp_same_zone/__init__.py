"""Prefers endpoints of one zone: traffic between zones is slower, and cloud providers charge for it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from epp.domain.endpoint import Endpoint
from epp.domain.snapshot import Floats, Ints
from epp.scheduling.contract import BuildContext, Cycle, PluginType


class Parameters(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What `epp plugins same-zone-scorer` shows."""

    zone: Annotated[str, Meta(min_length=1, description="the zone that is preferred")]
    label: Annotated[str, Meta(min_length=1, description="endpoint label with its zone")] = (
        "topology.kubernetes.io/zone"
    )
    elsewhere: Annotated[
        float, Meta(ge=0, le=1, description="score of endpoints of other zones; those of the zone have 1")
    ] = 0.0


class SameZone:
    """1 in the zone, `elsewhere` outside and where the label is missing. Labels are read once for a pool."""

    def __init__(self, parameters: Parameters, context: BuildContext) -> None:
        self._parameters = parameters
        self._endpoints: tuple[Endpoint, ...] = ()
        self._scores = np.zeros(0)

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        endpoints = cycle.snapshot.endpoints
        if endpoints is not self._endpoints:
            wanted = self._parameters
            near = [endpoint.labels.get(wanted.label) == wanted.zone for endpoint in endpoints]
            self._scores = np.where(near, 1.0, wanted.elsewhere)
            self._endpoints = endpoints
        return self._scores[rows]


SAME_ZONE = PluginType(
    type_name="same-zone-scorer",
    parameters=Parameters,
    build=SameZone,
    summary="prefers endpoints of one zone",
)
