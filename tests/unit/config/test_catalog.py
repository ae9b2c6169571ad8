"""One table of plugin types: built-in rows, published ones, and those known but not built."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import msgspec
import numpy as np
import pytest

from epp.config.catalog import GROUP, BrokenPackageError, Catalog, Kind, Row
from epp.config.describe import fields_of, roles_of
from epp.config.flow import DEFAULTS
from epp.config.not_built import NOT_BUILT
from epp.domain.snapshot import Floats, Ints
from epp.scheduling.contract import BuildContext, Cycle, NoParameters, PluginType
from tests.unit.config.configs import TYPES, load, mistakes

HERE = __name__


class Half:
    """A scorer."""

    def score(self, cycle: Cycle, rows: Ints) -> Floats:
        return np.full(len(rows), 0.5)


def _half(parameters: NoParameters, context: BuildContext) -> Half:
    return Half()


def _fails(parameters: NoParameters, context: BuildContext) -> Half:
    raise RuntimeError("no license")


def _asks(parameters: NoParameters, context: BuildContext) -> Half:
    context.plugin("half-scoer")
    return Half()


class Partner(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    other_plugin_name: str = ""


def _partner(parameters: Partner, context: BuildContext) -> Half:
    return Half()


HALF = PluginType("half-scorer", NoParameters, _half, "a half")
FAILS = PluginType("fails-scorer", NoParameters, _fails, "fails")
ASKS = PluginType("asks-scorer", NoParameters, _asks, "asks")
PARTNER = PluginType("partner-scorer", Partner, _partner, "partner")
NEEDY = PluginType("needy-scorer", NoParameters, _half, "needy", needs=("half-scorer",))
LACKING = PluginType("lacking-scorer", NoParameters, _half, "lacking", needs=("nothing-producer",))
NOT_A_ROW = "text"
NO_STRUCT = PluginType("no-struct", dict, _half, "wrong")  # type: ignore[type-var]


def point(name: str, what: str, module: str = HERE) -> EntryPoint:
    return EntryPoint(name, f"{module}:{what}", GROUP)


def with_published(*points: EntryPoint) -> Catalog:
    return Catalog((TYPES[name] for name in TYPES), points)


def test_published_types_are_used_like_built_in_ones() -> None:
    types = with_published(point("half-scorer", "HALF"))
    loaded = load("plugins: [{type: half-scorer}]\n", plugin_types=types)
    assert isinstance(loaded.profiles[0].scorers[0][0].plugin, Half)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (point("x", "Y", "no_such_package"), "cannot be loaded: ModuleNotFoundError: No module named"),
        (point("x", "NO_SUCH_NAME"), "cannot be loaded: AttributeError"),
        (point("x", "NOT_A_ROW"), "publishes a str as"),
        (point("x", "HALF"), "publishes type 'half-scorer' under the name 'x'"),
        (point("no-struct", "NO_STRUCT"), "are no msgspec Struct"),
    ],
)
def test_a_broken_package_stops_only_who_uses_it(bad: EntryPoint, words: str) -> None:
    types = with_published(bad)
    assert not mistakes("plugins: [{type: queue-scorer}]\n", plugin_types=types)
    (found,) = mistakes(f"plugins: [{{type: {bad.name}}}]\n", plugin_types=types)
    assert found.startswith(f"c:3:18: plugins[0].type: plugin type '{bad.name}': package")
    assert words in found


def test_two_packages_with_one_name() -> None:
    types = with_published(point("half-scorer", "HALF"), point("half-scorer", "HALF", "elsewhere"))
    (found,) = mistakes("plugins: [{type: half-scorer}]\n", plugin_types=types)
    assert f"several packages publish it: elsewhere, {HERE}" in found


def test_built_in_types_win() -> None:
    types = with_published(point("queue-scorer", "HALF"))
    assert types["queue-scorer"].type is TYPES["queue-scorer"].type
    assert types.shadowed() == {"queue-scorer": HERE}
    assert list(types).count("queue-scorer") == 1


def test_a_published_plugin_that_fails_to_start_is_named() -> None:
    types = with_published(point("fails-scorer", "FAILS"))
    assert mistakes("plugins: [{type: fails-scorer}]\n", plugin_types=types) == [
        "c:3:11: plugins[0].parameters: 'fails-scorer' failed to start: RuntimeError: no license"
    ]


def test_a_plugin_that_asks_for_another_gets_an_answer_or_a_hint() -> None:
    types = with_published(point("asks-scorer", "ASKS"), point("half-scorer", "HALF"))
    assert mistakes("plugins: [{type: asks-scorer}, {type: half-scorer}]\n", plugin_types=types) == [
        "c:3:11: plugins[0].parameters: no plugin is named 'half-scoer'; did you mean 'half-scorer'?"
    ]


def test_plugins_are_built_after_those_that_they_need_or_name() -> None:
    types = with_published(*(point(f"{n}-scorer", n.upper()) for n in ("half", "partner", "needy")))
    loaded = load(
        "plugins:\n"
        "- {name: c, type: partner-scorer, parameters: {otherPluginName: b}}\n"
        "- {name: b, type: partner-scorer, parameters: {otherPluginName: a}}\n"
        "- {name: a, type: partner-scorer}\n"
        "- {type: needy-scorer}\n",
        plugin_types=types,
    )
    assert [step.name for step in loaded.plugins][:5] == ["a", "b", "c", "half-scorer", "needy-scorer"]


def test_plugins_that_need_each_other_are_a_mistake() -> None:
    types = with_published(point("partner-scorer", "PARTNER"))
    (found,) = mistakes(
        "plugins:\n"
        "- {name: a, type: partner-scorer, parameters: {otherPluginName: b}}\n"
        "- {name: b, type: partner-scorer, parameters: {otherPluginName: a}}\n",
        plugin_types=types,
    )
    assert found == "c:4:3: plugins[0]: plugins need each other in a circle: a -> b -> a"


def test_a_need_that_nobody_fills() -> None:
    types = with_published(point("lacking-scorer", "LACKING"))
    assert mistakes("plugins: [{type: lacking-scorer}]\n", plugin_types=types) == [
        "c:3:18: plugins[0].type: plugin type 'lacking-scorer' needs 'nothing-producer', which is not there"
    ]


# fmt: off
REFERENCE_TYPES = [
    "single-profile-handler", "disagg-profile-handler", "pd-profile-handler",
    "data-parallel-profile-handler", "header-profile-handler", "disagg-headers-handler",
    "prefill-header-handler", "always-disagg-pd-decider", "always-disagg-multimodal-decider",
    "prefix-based-pd-decider", "max-score-picker", "random-picker", "weighted-random-picker",
    "queue-scorer", "kv-cache-utilization-scorer", "running-requests-size-scorer", "lora-affinity-scorer",
    "prefix-cache-scorer", "precise-prefix-cache-scorer", "token-load-scorer", "load-aware-scorer",
    "active-request-scorer", "no-hit-lru-scorer", "context-length-aware", "mm-embeddings-cache-scorer",
    "latency-scorer", "session-affinity-scorer", "session-affinity-filter", "header-label-affinity-scorer",
    "endpoint-attribute-scorer", "topology-affinity-scorer", "multicluster-queue-scorer",
    "multicluster-kv-cache-utilization-scorer", "multicluster-prefix-cache-scorer", "label-selector-filter",
    "by-label-selector", "by-label", "decode-filter", "prefill-filter", "encode-filter",
    "prefix-cache-affinity-filter", "slo-headroom-tier-filter", "endpoint-attribute-filter",
    "topology-affinity-filter", "utilization-filter", "multicluster-session-affinity-filter",
    "header-based-testing-filter", "destination-endpoint-served-verifier",
    "disaggregatedset-rollout-screener", "latency-slo-admitter", "probabilistic-admitter",
    "approx-prefix-cache-producer", "burst-prefix-cache-producer", "precise-prefix-cache-producer",
    "multicluster-approx-prefix-cache-producer", "p2p-source-producer", "inflight-load-producer",
    "predicted-latency-producer", "token-producer", "tokenizer", "mm-embeddings-cache-producer",
    "session-id-producer", "agent-identity", "request-attribute-reporter", "global-strict-fairness-policy",
    "round-robin-fairness-policy", "program-aware-fairness", "fcfs-ordering-policy", "edf-ordering-policy",
    "slo-deadline-ordering-policy", "static-usage-limit-policy", "priority-holdback-policy",
    "soft-reflective-ceiling-policy", "sheddable-eviction-filter",
    "priority-then-time-eviction-order-policy", "utilization-detector", "concurrency-detector",
    "metrics-data-source", "multicluster-metrics-data-source", "core-metrics-extractor",
    "multicluster-metrics-extractor", "decision-tree-filter", "models-data-source", "models-data-extractor",
    "dcgm-data-source",
    "dcgm-extractor", "topology-extractor", "k8s-notification-source", "endpoint-notification-source",
    "file-discovery", "multicluster-file-discovery", "openai-parser", "anthropic-parser", "vllmhttp-parser",
    "sglanghttp-parser", "vllmgrpc-parser", "vertexai-parser", "passthrough-parser",
    "predicted-latency-scorer",
]
# fmt: on


@pytest.mark.parametrize("name", REFERENCE_TYPES)
def test_every_type_of_the_reference_picker_is_built_or_refused_by_name(name: str) -> None:
    assert (name in TYPES) != (name in NOT_BUILT)


def test_nothing_else_is_promised_for_later() -> None:
    assert set(NOT_BUILT) <= set(REFERENCE_TYPES)


@pytest.mark.parametrize("name", list(TYPES))
def test_every_row_can_be_shown(name: str) -> None:
    row = TYPES[name]
    assert row.name == name
    assert row.type.summary
    assert roles_of(row) not in ((), ("plugin",))
    for field in fields_of(row.type.parameters):
        assert field.type
        msgspec.json.encode(field.default)


def test_kinds() -> None:
    types = TYPES
    kinds = {
        "queue-scorer": Kind.SCHEDULING,
        "utilization-detector": Kind.SATURATION,
        "burst-utilization-detector": Kind.SATURATION,
        "vtc-fairness-policy": Kind.FAIRNESS,
        "program-aware-fairness": Kind.FAIRNESS,
        "edf-ordering-policy": Kind.ORDER,
        "priority-holdback-policy": Kind.USAGE,
        "sheddable-eviction-filter": Kind.EVICTION_FILTER,
        "priority-then-time-eviction-order-policy": Kind.EVICTION_ORDER,
        "openai-parser": Kind.PARSER,
        "metrics-data-source": Kind.SOURCE,
        "core-metrics-extractor": Kind.EXTRACTOR,
        "file-discovery": Kind.DISCOVERY,
    }
    assert {name: types[name].kind for name in kinds} == kinds
    assert roles_of(types["utilization-detector"]) == ("saturation detector", "filter")
    assert roles_of(types["vtc-fairness-policy"]) == ("fairness policy",)
    assert roles_of(types["by-label"]) == ("filter",)
    assert set(roles_of(types["context-length-aware"])) >= {"scorer"}


def test_default_policies_are_of_their_kind() -> None:
    assert {kind: TYPES[name].kind for kind, name in DEFAULTS.items()} == {kind: kind for kind in DEFAULTS}


def test_unknown_names() -> None:
    types = TYPES
    assert "nobody" not in types
    with pytest.raises(KeyError):
        types["nobody"]
    with pytest.raises(BrokenPackageError):
        Catalog((), [point("a", "B", "no_such_package")])["a"]
    assert Row(HALF, Kind.SCHEDULING).name == "half-scorer"
