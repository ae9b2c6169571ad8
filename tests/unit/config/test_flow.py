"""`flowControl` becomes what the queues are built with; silence means the reference picker's default."""

from __future__ import annotations

import pytest

from epp.admission.attained import AttainedService
from epp.admission.band import BandSettings
from epp.admission.burst import BurstDetector
from epp.admission.control import FlowControl
from epp.admission.eviction import LowestThenNewest, Sheddable
from epp.admission.fairness import GlobalStrict, RoundRobin
from epp.admission.limits import UNLIMITED, Limits
from epp.admission.order import EarliestDeadline, FirstCome
from epp.admission.settings import FlowControlSettings
from epp.admission.usage import PriorityHoldback, StaticLimit
from epp.config.loaded import Loaded
from tests.unit.config.configs import load, notices

OPEN = "featureGates: [flowControl]\n"
DEFAULT = "defaultPriorityBand"


def flow(body: str = "", *, experimental: bool = False) -> FlowControlSettings:
    loaded = load(OPEN + body, allow_experimental=experimental)
    assert loaded.flow is not None
    return loaded.flow


def block(words: str) -> FlowControlSettings:
    return flow(f"flowControl: {{{words}}}\n")


def default_band(words: str) -> BandSettings:
    return block(f"{DEFAULT}: {{{words}}}").registry.default


def test_the_gate_alone_gives_every_default() -> None:
    found = flow()
    assert found.limits == UNLIMITED
    assert (found.ttl_s, found.no_endpoint_ttl_s) == (60.0, 60.0)
    assert isinstance(found.usage, StaticLimit)
    assert found.usage.ceilings(0.5, [1, 0]) == [1.0, 1.0]
    assert found.eviction is None
    registry = found.registry
    assert registry.default.limits == Limits(max_requests=5000, max_bytes=1_000_000_000)
    assert isinstance(registry.default.fairness, GlobalStrict)
    assert isinstance(registry.default.order, FirstCome)
    assert registry.negative is None
    assert not registry.bands
    assert registry.known_ids == frozenset()
    assert registry.max_fairness_ids == 1000
    assert FlowControl[None](found, 0.0).registry.priorities == [0]


def test_an_empty_block_is_no_block() -> None:
    found, bare = block(""), flow()
    assert (found.limits, found.ttl_s, found.no_endpoint_ttl_s) == (bare.limits, 60.0, 60.0)
    assert not notices(load(OPEN + "flowControl: {}\n"))


@pytest.mark.parametrize(
    ("words", "ttl_s", "empty_s"),
    [
        ("defaultRequestTTL: 5s", 5.0, 5.0),
        ("defaultRequestTTL: 5s, noEndpointRequestTTL: 3m", 5.0, 180.0),
        ("noEndpointRequestTTL: 3m", 60.0, 180.0),
        ("defaultRequestTTL: 0s", None, None),
        ("defaultRequestTTL: 0", None, None),
        ("defaultRequestTTL: 0s, noEndpointRequestTTL: 7s", None, 7.0),
        ("noEndpointRequestTTL: 0s", 60.0, None),
    ],
)
def test_times_to_live(words: str, ttl_s: float | None, empty_s: float | None) -> None:
    found = block(words)
    assert (found.ttl_s, found.no_endpoint_ttl_s) == (ttl_s, empty_s)


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        ("maxRequests: 10k, maxBytes: 2Gi", Limits(10_000, 2 << 30)),
        ("maxRequests: unlimited", UNLIMITED),
        ("maxRequests: 0", UNLIMITED),
    ],
)
def test_limits_of_all_bands(words: str, limits: Limits) -> None:
    assert block(words).limits == limits


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        ("maxRequests: 7", Limits(7, 1_000_000_000)),
        ("maxBytes: 1Mi", Limits(5000, 1 << 20)),
        ("maxRequests: unlimited, maxBytes: unlimited", UNLIMITED),
        ("maxRequests: 0, maxBytes: 0", Limits(5000, 1_000_000_000)),
    ],
)
def test_limits_of_a_band(words: str, limits: Limits) -> None:
    assert default_band(words).limits == limits


def test_a_limit_of_0_is_told() -> None:
    loaded = load(OPEN + "flowControl: {maxBytes: 0, defaultNegativePriorityBand: {maxRequests: 0}}\n")
    assert sorted(notices(loaded)) == [
        "c:4:25: flowControl.maxBytes: 0 means no limit",
        "c:4:71: flowControl.defaultNegativePriorityBand.maxRequests: 0 means the default, 5000",
    ]


BANDS = """\
plugins: [{type: round-robin-fairness-policy}, {name: soonest, type: edf-ordering-policy}]
flowControl:
  defaultPriorityBand: {maxRequests: 1, fairnessPolicyRef: round-robin-fairness-policy}
  defaultNegativePriorityBand: {maxRequests: 2}
  priorityBands:
  - {priority: 5, maxRequests: 3, orderingPolicyRef: soonest}
  - {priority: -5, maxRequests: 4, fairnessPolicyRef: round-robin-fairness-policy}
  - {maxRequests: 6}
"""


def test_bands() -> None:
    registry = flow(BANDS).registry
    assert {priority: band.limits.max_requests for priority, band in registry.bands.items()} == {
        5: 3, -5: 4, 0: 6,
    }  # fmt: skip
    assert registry.default.limits.max_requests == 1
    assert registry.negative is not None
    assert registry.negative.limits.max_requests == 2
    assert isinstance(registry.default.fairness, RoundRobin)
    assert registry.bands[-5].fairness is registry.default.fairness
    assert isinstance(registry.bands[5].order, EarliestDeadline)
    # A band with an entry takes nothing from the one for the others.
    assert isinstance(registry.bands[5].fairness, GlobalStrict)
    assert registry.negative.fairness is registry.bands[5].fairness


def test_the_queues_use_the_bands_of_the_configuration() -> None:
    registry = FlowControl[None](flow(BANDS), 0.0).registry
    registry.provision([7, -1], 0.0)
    assert registry.priorities == [7, 5, 0, -1, -5]
    assert [band.held.limits.max_requests for band in registry.bands] == [1, 3, 6, 2, 4]


def test_a_priority_in_a_band_for_many_is_told() -> None:
    loaded = load(OPEN + f"flowControl: {{{DEFAULT}: {{priority: 3}}}}\n")
    assert notices(loaded) == [
        "c:4:47: flowControl.defaultPriorityBand.priority: it has no effect here: "
        "the band stands for all priorities without one of their own"
    ]


@pytest.mark.parametrize(
    "words",
    [
        "fairnessPolicyRef: global-strict-fairness-policy",
        "orderingPolicyRef: fcfs-ordering-policy",
        "fairnessPolicyRef: ''",
    ],
)
def test_default_policies_may_be_named_without_being_listed(words: str) -> None:
    band = default_band(words)
    assert isinstance(band.fairness, GlobalStrict)
    assert isinstance(band.order, FirstCome)


def test_a_listed_plugin_with_the_name_of_the_default_is_the_default() -> None:
    half = flow("plugins: [{type: static-usage-limit-policy, parameters: {threshold: 0.5}}]\n")
    assert half.usage.ceilings(0.0, [0]) == [0.5]
    renamed = load(
        OPEN + "plugins: [{name: x, type: static-usage-limit-policy, parameters: {threshold: 0.5}}]\n"
    )
    assert renamed.flow is not None
    assert renamed.flow.usage.ceilings(0.0, [0]) == [1.0]
    assert notices(renamed) == ["c:4:11: plugins[0]: nothing refers to 'x'; it has no effect"]


def test_the_usage_limit_policy() -> None:
    found = flow(
        "plugins: [{name: u, type: priority-holdback-policy, parameters: {minCeiling: 0.5}}]\n"
        "flowControl: {usageLimitPolicyPluginRef: u}\n",
        experimental=True,
    )
    assert isinstance(found.usage, PriorityHoldback)


def test_the_virtual_token_counter_makes_its_ids_known() -> None:
    found = flow(
        "plugins:\n"
        "- {name: a, type: vtc-fairness-policy, parameters: {weights: {gold: 4, silver: 2}}}\n"
        "- {name: b, type: vtc-fairness-policy, parameters: {weights: {bronze: 1}}}\n"
        "flowControl:\n"
        f"  {DEFAULT}: {{fairnessPolicyRef: a}}\n"
        "  priorityBands: [{priority: 1, fairnessPolicyRef: b}]\n"
    )
    assert found.registry.known_ids == {"gold", "silver", "bronze"}


def test_known_tenants_have_flows_of_their_own() -> None:
    found = flow("epp: {trust: {fairnessId: clients, tenants: [gold], maxFairnessIds: 7}}\n")
    assert found.registry.known_ids == {"gold"}
    assert found.registry.max_fairness_ids == 7


def test_fairness_by_program() -> None:
    found = flow(
        "plugins: [{type: program-aware-fairness}]\n"
        "flowControl: {defaultPriorityBand: {fairnessPolicyRef: program-aware-fairness}}\n"
    )
    assert isinstance(found.registry.default.fairness, AttainedService)


def grace_s(plugins: str, detector: str = "utilization-detector") -> float:
    found = flow(
        f"plugins: [{plugins}]\n"
        f"flowControl: {{enableEviction: true, saturationDetector: {{pluginRef: {detector}}}}}\n"
    )
    assert found.eviction is not None
    return found.eviction.grace_s


def test_eviction() -> None:
    found = block("enableEviction: true").eviction
    assert found is not None
    assert isinstance(found.filter, Sheddable)
    assert isinstance(found.order, LowestThenNewest)
    assert (found.most_at_once, found.timeout_s) == (2, 10.0)
    assert block("enableEviction: false").eviction is None


def test_aborted_requests_are_gone_when_the_detector_can_know() -> None:
    assert grace_s("{type: concurrency-detector}", "concurrency-detector") == 0.01
    assert grace_s("") == pytest.approx(0.1 + 0.3 + 0.25)
    assert grace_s("{type: metrics-data-source, parameters: {interval: 1s}}") == pytest.approx(4.25)
    slow = "{name: d, type: burst-utilization-detector, parameters: {metricsStalenessThreshold: 2s}}"
    assert grace_s(slow, "d") == pytest.approx(0.1 + 2.0 + 0.25)


def test_listed_eviction_plugins_count_once_eviction_is_on() -> None:
    plugins = "plugins: [{name: who, type: sheddable-eviction-filter}]\n"
    on = load(OPEN + plugins + "flowControl: {enableEviction: true}\n", allow_experimental=True)
    assert "who" in [step.name for step in on.policies]
    assert not notices(on)
    off = load(OPEN + plugins, allow_experimental=True)
    assert notices(off) == ["c:4:11: plugins[0]: nothing refers to 'who'; it has no effect"]


def test_every_policy_in_the_settings_has_a_name() -> None:
    loaded = load(OPEN + BANDS)
    assert {step.name for step in loaded.policies} == {
        "round-robin-fairness-policy", "global-strict-fairness-policy", "soonest", "fcfs-ordering-policy",
        "static-usage-limit-policy",
    }  # fmt: skip
    assert loaded.flow is not None
    soonest = loaded.flow.registry.bands[5].order
    assert [step.name for step in loaded.policies if step.plugin is soonest] == ["soonest"]
    assert {step.name for step in loaded.policies}.isdisjoint(step.name for step in loaded.plugins)


@pytest.mark.parametrize(
    "gates",
    ["", "featureGates: [flowControl=false]\n", "featureGates: [flowControl, 'flowControl=False']\n"],
)
def test_without_the_gate_there_are_no_queues(gates: str) -> None:
    loaded = load(gates + "plugins: []\n")
    assert loaded.flow is None
    assert loaded.policies == ()
    assert not notices(loaded)
    assert "fcfs-ordering-policy" not in [instance.name for instance in loaded.instances]


@pytest.mark.parametrize("word", ["flowControl", "flowControl=true", "flowControl=TRUE"])
def test_ways_to_open_the_gate(word: str) -> None:
    assert load(f"featureGates: ['flowControl=false', '{word}']\n").flow is not None


def test_a_block_without_its_gate_has_no_effect_and_that_is_told() -> None:
    loaded = load(
        "plugins: [{type: round-robin-fairness-policy}, {type: concurrency-detector}]\n"
        "flowControl:\n"
        "  maxRequests: 3\n"
        "  saturationDetector: {pluginRef: concurrency-detector}\n"
        "  priorityBands: [{priority: 1, fairnessPolicyRef: round-robin-fairness-policy}]\n"
        "schedulingProfiles: [{name: p}]\n"
    )
    assert loaded.flow is None
    assert loaded.detector.name == "concurrency-detector"
    assert notices(loaded) == [
        "c:4:1: flowControl: it has no effect but for its saturationDetector "
        "without the feature gate 'flowControl'"
    ]


def test_a_block_with_a_detector_alone_needs_no_gate() -> None:
    loaded = load("flowControl: {saturationDetector: {pluginRef: utilization-detector}}\n")
    assert loaded.detector.name == "utilization-detector"
    assert not notices(loaded)


def detector(body: str) -> Loaded:
    return load(
        "plugins:\n"
        "- {name: top, type: concurrency-detector}\n"
        "- {name: below, type: burst-utilization-detector}\n"
        "schedulingProfiles: [{name: p}]\n" + body
    )


def test_the_detector_of_the_block_wins() -> None:
    both = detector(
        "saturationDetector: {pluginRef: top}\nflowControl: {saturationDetector: {pluginRef: below}}\n"
    )
    assert both.detector.name == "below"
    assert isinstance(both.detector.plugin, BurstDetector)
    assert detector("saturationDetector: {pluginRef: top}\n").detector.name == "top"
    assert detector("flowControl: {saturationDetector: {}}\n").detector.name == "utilization-detector"
