"""The admissions of bench/overload.py by name. Flow control is built from bench/overload.yaml, as `epp serve`
builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from overload_admission import Build, Door, Open, Queued, Shedding
from policy_routers import Picker

from epp.admission.band import BandSettings
from epp.admission.burst import BurstDetector, BurstParameters
from epp.admission.eviction import EvictionSettings
from epp.admission.fairness import FairnessPolicy
from epp.admission.saturation import SaturationDetector, UtilizationDetector, UtilizationParameters
from epp.admission.settings import FlowControlSettings
from epp.admission.usage import HoldbackParameters, PriorityHoldback, StaticLimit, StaticLimitParameters
from epp.config.loader import load_file

OPEN: Final = "no admission"
REFERENCE: Final = "reference rules"
OURS: Final = "flow control"
RECOMMENDED: Final = Path(__file__).with_name("overload.yaml")
ENGINES: Final = 8
"""That the limits in it are meant for."""


@dataclass(frozen=True, slots=True)
class Change:
    """To what is recommended. None leaves it as it is."""

    burst: Mapping[str, Any] | None = None
    """Parameters of the burst detector, which replace all that are there."""
    utilization: bool = False
    """The reference's detector, with its defaults."""
    min_ceiling: float | None = None
    """1.0 for the same ceiling for all."""
    fairness: FairnessPolicy | None = None
    eviction: bool = False
    """Running sheddable requests may be aborted."""


AS_IT_IS: Final = Change()


def flow_control(engines: int, seed: int, change: Change = AS_IT_IS) -> Build:
    def build(picker: Picker, door: Door) -> Queued:
        # Detectors keep what they saw, so each run has one of its own.
        loaded = load_file(RECOMMENDED, allow_experimental=True)
        assert loaded.flow is not None
        settings = _changed(loaded.flow, engines / ENGINES, change)
        return Queued(picker, door, settings, _detector(loaded.detector.plugin, change), seed)

    return build


def admissions(engines: int, seed: int) -> Mapping[str, Build]:
    return {OPEN: Open, REFERENCE: Shedding, OURS: flow_control(engines, seed)}


def _changed(settings: FlowControlSettings, size: float, change: Change) -> FlowControlSettings:
    bands = {
        priority: _band(band, size, change.fairness) for priority, band in settings.registry.bands.items()
    }
    usage = settings.usage
    if change.min_ceiling == 1.0:
        usage = StaticLimit(StaticLimitParameters())
    elif change.min_ceiling is not None:
        usage = PriorityHoldback(HoldbackParameters(min_ceiling=change.min_ceiling))
    eviction = EvictionSettings() if change.eviction else settings.eviction
    return replace(settings, usage=usage, eviction=eviction, registry=replace(settings.registry, bands=bands))


def _band(band: BandSettings, size: float, fairness: FairnessPolicy | None) -> BandSettings:
    assert band.limits.max_requests is not None
    limits = replace(band.limits, max_requests=round(band.limits.max_requests * size))
    return replace(band, limits=limits, fairness=fairness or band.fairness)


def _detector(detector: SaturationDetector, change: Change) -> SaturationDetector:
    if change.utilization:
        return UtilizationDetector(UtilizationParameters())
    if change.burst is not None:
        return BurstDetector(msgspec.convert(change.burst, BurstParameters))
    return detector
