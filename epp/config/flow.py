"""`flowControl` and the plugins that it names -> what the queues are built with.

As in the reference picker: a policy that nothing names is the default one of its kind, which is the plugin
named like its type if there is one; a limit of 0 is as if it were left out; a TTL of 0 is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from epp.admission.band import BandSettings
from epp.admission.eviction import EvictionFilter, EvictionOrder, EvictionSettings
from epp.admission.fairness import GLOBAL_STRICT, FairnessPolicy
from epp.admission.limits import BAND_LIMITS, UNLIMITED, Limits
from epp.admission.order import FIRST_COME, OrderingPolicy
from epp.admission.registry import RegistrySettings
from epp.admission.saturation import UtilizationParameters
from epp.admission.settings import DEFAULT_TTL_S, FlowControlSettings
from epp.admission.usage import STATIC_LIMIT, UsageLimitPolicy
from epp.admission.vtc import VirtualTokenCounter
from epp.config.build import Builder
from epp.config.catalog import Kind
from epp.config.own import OwnBlock
from epp.config.problems import Path, Report
from epp.config.quantities import UNLIMITED as WORD_UNLIMITED
from epp.config.resolve import Instance, Instances
from epp.config.schema import Band, FlowControl
from epp.config.trust import Trust
from epp.datalayer.pace import DEFAULT_INTERVAL_S
from epp.domain.units import duration_s
from epp.scheduling.profile import Named

BLOCK = "flowControl"
DEFAULTS: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.FAIRNESS: GLOBAL_STRICT,
        Kind.ORDER: FIRST_COME,
        Kind.USAGE: STATIC_LIMIT,
        Kind.EVICTION_FILTER: "sheddable-eviction-filter",
        Kind.EVICTION_ORDER: "priority-then-time-eviction-order-policy",
    }
)
LEDGER_GRACE_S = 0.01
"""After an aborted request has ended, until a detector that reads our own ledger knows; the reference's."""
SCRAPE_MARGIN_S = 0.25
"""What engines take to abort, beside scraping and staleness; the reference's."""


def tell_closed(block: FlowControl | None, instances: Instances) -> None:
    """The notice that a block has no effect while its gate is closed. What it names is not looked at, except
    for the detector, which counts without queues too."""
    if block is None:
        return
    bands = [block.default_priority_band, block.default_negative_priority_band, *block.priority_bands]
    for band in bands:
        if band is not None:
            instances.taken |= {band.fairness_policy_ref, band.ordering_policy_ref}
    instances.taken.add(block.usage_limit_policy_plugin_ref)
    if block != FlowControl(saturation_detector=block.saturation_detector):
        rest = " but for its saturationDetector" if block.saturation_detector is not None else ""
        words = f"it has no effect{rest} without the feature gate '{BLOCK}'"
        instances.report.notice((BLOCK,), words, key=True)


class FlowAssembly:
    def __init__(self, instances: Instances, builder: Builder) -> None:
        self._instances = instances
        self._builder = builder
        self._report: Report = instances.report
        self._used: dict[str, Named[object]] = {}

    @property
    def policies(self) -> tuple[Named[object], ...]:
        """Every plugin that the settings hold, with its name."""
        return tuple(self._used.values())

    def build(
        self, block: FlowControl, own: OwnBlock, detector: Instance | None, scrape_interval_s: float | None
    ) -> FlowControlSettings:
        """Not to be used when it reports a problem."""
        default = self._template(block.default_priority_band, "defaultPriorityBand")
        negative = self._template(block.default_negative_priority_band, "defaultNegativePriorityBand")
        bands = self._bands(block.priority_bands)
        usage = self._policy(
            block.usage_limit_policy_plugin_ref, (BLOCK, "usageLimitPolicyPluginRef"), Kind.USAGE,
            UsageLimitPolicy,
        )  # fmt: skip
        eviction = self._eviction(detector, scrape_interval_s) if block.enable_eviction else None
        ttl_s = DEFAULT_TTL_S if block.default_request_ttl is None else block.default_request_ttl or None
        empty = block.no_endpoint_request_ttl
        trust = own.trust or Trust()
        return FlowControlSettings(
            limits=self._limits(block, (BLOCK,), UNLIMITED),
            ttl_s=ttl_s,
            no_endpoint_ttl_s=ttl_s if empty is None else empty or None,
            usage=usage,
            eviction=eviction,
            registry=RegistrySettings(
                default=default or self._band(Band(), ()),
                negative=negative,
                bands=MappingProxyType(bands),
                max_fairness_ids=trust.max_fairness_ids,
                known_ids=self._known_ids().union(trust.tenants or ()),
            ),
        )

    def _template(self, band: Band | None, word: str) -> BandSettings | None:
        if band is None:
            return None
        at = (BLOCK, word)
        if band.priority:
            words = "it has no effect here: the band stands for all priorities without one of their own"
            self._report.notice((*at, "priority"), words)
        return self._band(band, at)

    def _bands(self, bands: Sequence[Band]) -> dict[int, BandSettings]:
        found: dict[int, BandSettings] = {}
        for i, band in enumerate(bands):
            at = (BLOCK, "priorityBands", i)
            if band.priority in found:
                self._report.error((*at, "priority"), f"duplicate priority {band.priority}")
            found[band.priority] = self._band(band, at)
        return found

    def _band(self, band: Band, at: Path) -> BandSettings:
        return BandSettings(
            self._limits(band, at, BAND_LIMITS),
            self._policy(band.fairness_policy_ref, (*at, "fairnessPolicyRef"), Kind.FAIRNESS, FairnessPolicy),
            self._policy(band.ordering_policy_ref, (*at, "orderingPolicyRef"), Kind.ORDER, OrderingPolicy),
        )

    def _limits(self, block: FlowControl | Band, at: Path, default: Limits) -> Limits:
        return Limits(
            self._limit(block.max_requests, (*at, "maxRequests"), default.max_requests),
            self._limit(block.max_bytes, (*at, "maxBytes"), default.max_bytes),
        )

    def _limit(self, written: int | None, at: Path, default: int | None) -> int | None:
        if written == 0:
            meant = "no limit" if default is None else f"the default, {default}"
            self._report.notice(at, f"0 means {meant}")
        if written == WORD_UNLIMITED:
            return None
        return written or default

    def _policy(self, name: str, at: Path, kind: Kind, protocol: Any) -> Any:
        """The plugin that is named, or the default one. Of `protocol`, unless a problem was reported."""
        instances, default = self._instances, DEFAULTS[kind]
        if not name:
            name, listed = default, instances.known.get(default)
            at = listed.path if listed is not None else ()
        instance = instances.refer_at(name, at, kind, default=default)
        step = self._builder.get(instance) if instance is not None else None
        if step is None:
            return None
        if not isinstance(step.plugin, protocol):
            raise TypeError(f"{step.type_name} is no {kind}")
        self._used[step.name] = step
        return step.plugin

    def _eviction(self, detector: Instance | None, scrape_interval_s: float | None) -> EvictionSettings:
        """Nothing in the format names these two plugins: the one that is listed counts."""
        chosen = {}
        for kind, protocol in ((Kind.EVICTION_FILTER, EvictionFilter), (Kind.EVICTION_ORDER, EvictionOrder)):
            listed = [name for name, known in self._instances.known.items() if known.row.kind is kind]
            if len(listed) > 1:
                again = self._instances.known[listed[1]]
                self._report.error(again.path, f"a second {kind}; '{listed[0]}' is the first")
            chosen[kind] = self._policy(listed[0] if listed else "", (), kind, protocol)
        return EvictionSettings(
            filter=chosen[Kind.EVICTION_FILTER],
            order=chosen[Kind.EVICTION_ORDER],
            grace_s=eviction_grace_s(detector, scrape_interval_s or DEFAULT_INTERVAL_S),
        )

    def _known_ids(self) -> frozenset[str]:
        """Fairness ids that the policies have a weight for."""
        plugins = [step.plugin for step in self._used.values()]
        counters = [plugin for plugin in plugins if isinstance(plugin, VirtualTokenCounter)]
        return frozenset().union(*(counter.known_ids for counter in counters))


def eviction_grace_s(detector: Instance | None, scrape_interval_s: float) -> float:
    """How long after an aborted request has ended the detector may still count it."""
    parameters = detector.parameters if detector is not None else None
    if not isinstance(parameters, UtilizationParameters):
        return LEDGER_GRACE_S
    stale_s = max(duration_s(parameters.metrics_staleness_threshold), 3.0 * scrape_interval_s)
    return scrape_interval_s + stale_s + SCRAPE_MARGIN_S
