"""Examples of the reference picker: what is built loads, the rest is refused with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from epp.config.loader import load_file
from epp.datalayer.endpoints_file import parse_endpoints
from epp.datalayer.outliers import BASE_S, CAP_S
from epp.extproc import transport
from tests.unit.config.configs import load, mistakes, notices

SAMPLES = Path(__file__).parents[3] / "deploy" / "config"

DECODE = """\
plugins:
- {type: prefix-cache-scorer}
- {type: decode-filter}
- {type: max-score-picker}
- {type: single-profile-handler}
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: decode-filter
  - pluginRef: max-score-picker
  - {pluginRef: prefix-cache-scorer, weight: 2}
"""
OPTIMIZED_BASELINE = """\
plugins:
- type: approx-prefix-cache-producer
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: no-hit-lru-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: no-hit-lru-scorer, weight: 2}
"""
CHART_DEFAULT = """\
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- {type: metrics-data-source, parameters: {scheme: http, path: /metrics, insecureSkipVerify: true}}
- {type: core-metrics-extractor, parameters: {defaultEngine: sglang}}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
dataLayer:
  sources:
  - pluginRef: metrics-data-source
    extractors: [{pluginRef: core-metrics-extractor}]
"""
STANDALONE = """\
plugins:
- {name: disc, type: file-discovery, parameters: {path: /etc/epp/endpoints.yaml, watchFile: true}}
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins: [{pluginRef: queue-scorer, weight: 2}, {pluginRef: kv-cache-utilization-scorer, weight: 2},
            {pluginRef: prefix-cache-scorer, weight: 3}]
dataLayer: {discovery: {pluginRef: disc}}
"""
PAYLOAD_AGNOSTIC = """\
plugins: [{type: passthrough-parser}, {type: active-request-scorer}, {type: session-affinity-scorer}]
schedulingProfiles:
- name: default
  plugins: [{pluginRef: active-request-scorer, weight: 1}, {pluginRef: session-affinity-scorer, weight: 1}]
requestHandler: {parsers: [{pluginRef: passthrough-parser}]}
"""
FLOW_CONTROL = """\
featureGates: [flowControl]
plugins: [{type: program-aware-fairness}]
flowControl: {defaultPriorityBand: {fairnessPolicyRef: program-aware-fairness}}
"""


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        (DECODE, [2]),
        (OPTIMIZED_BASELINE, [2, 2, 3, 2]),
        (CHART_DEFAULT, [2, 2, 3]),
        (STANDALONE, [2, 2, 3]),
        (PAYLOAD_AGNOSTIC, [1, 1]),
        (FLOW_CONTROL, []),
    ],
    ids=["decode", "optimized-baseline", "chart", "standalone", "payload-agnostic", "flow-control"],
)
def test_examples_load(text: str, weights: list[float]) -> None:
    loaded = load(text, allow_experimental=True)
    assert [weight for _, weight in loaded.profiles[0].scorers] == weights
    assert not notices(loaded)


def test_the_chart_names_its_engine() -> None:
    engines = load(CHART_DEFAULT).data.engines
    assert engines is not None
    assert engines.default == "sglang"


PREFILL_DECODE = """\
plugins:
- type: approx-prefix-cache-producer
  parameters: {maxPrefixTokensToMatch: 16384, lruCapacityPerServer: 31250}
- type: prefix-cache-scorer
- type: queue-scorer
- type: prefill-filter
- type: decode-filter
- type: max-score-picker
- {type: disagg-profile-handler, parameters: {deciders: {prefill: prefix-based-pd-decider}}}
- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 16}}
schedulingProfiles:
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: max-score-picker},
                            {pluginRef: prefix-cache-scorer, weight: 2}, {pluginRef: queue-scorer}]}
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: max-score-picker},
                           {pluginRef: prefix-cache-scorer, weight: 2}, {pluginRef: queue-scorer, weight: 1}]}
"""
PRECISE = """\
plugins:
- {type: token-producer, parameters: {modelName: hf-repo/model-name, vllm: {url: http://localhost:8000}}}
- type: endpoint-notification-source
- type: metrics-data-source
- type: core-metrics-extractor
- type: decode-filter
- {type: precise-prefix-cache-producer, parameters: {tokenProcessorConfig: {blockSize: 64}}}
- {type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}}
- type: max-score-picker
dataLayer:
  sources:
  - {pluginRef: metrics-data-source, extractors: [{pluginRef: core-metrics-extractor}]}
  - {pluginRef: endpoint-notification-source, extractors: [{pluginRef: precise-prefix-cache-producer}]}
schedulingProfiles:
- {name: default, plugins: [{pluginRef: decode-filter}, {pluginRef: prefix-cache-scorer, weight: 2}]}
"""


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (
            PREFILL_DECODE,
            {
                "disagg-profile-handler": "prefill/decode disaggregation is not built",
                "prefix-based-pd-decider": "prefill/decode disaggregation is not built",
            },
        ),
        (
            PRECISE,
            {
                "token-producer": "no tokenizer is asked",
                "endpoint-notification-source": "the index of KV-cache events is not built",
                "precise-prefix-cache-producer": "the index of KV-cache events is not built",
            },
        ),
    ],
    ids=["prefill-decode", "precise"],
)
def test_what_is_not_built_is_refused_with_its_reason(text: str, refused: dict[str, str]) -> None:
    found = [line for line in mistakes(text) if "profiles need a profile handler" not in line]
    assert len(found) == len(refused)
    for name, reason in refused.items():
        assert any(f"'{name}' is not supported yet" in line and line.endswith(reason) for line in found)


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_our_samples_are_right_and_listed(path: Path) -> None:
    if path.name == "endpoints.yaml":
        assert len(parse_endpoints(path.read_bytes(), str(path))) == 4
    else:
        assert not load_file(path, allow_experimental=True).notices
    assert f"`{path.name}`" in (SAMPLES / "README.md").read_text()


def test_defaults_of_our_block_are_those_of_the_rooms() -> None:
    own = load("plugins: []\n").own
    limits = transport.Limits()
    assert own.limits.max_body_bytes == limits.max_body_bytes
    assert own.limits.max_buffered_bytes == limits.max_buffered_bytes
    assert own.limits.max_streams == limits.max_streams
    assert own.limits.progress_timeout == limits.progress_timeout_s
    assert own.limits.answer_timeout == limits.answer_timeout_s
    assert own.limits.max_connection_age == limits.max_connection_age_s
    assert (own.outliers.base_time, own.outliers.max_time) == (BASE_S, CAP_S)


def test_the_standalone_sample_shows_every_setting_with_its_default() -> None:
    assert load_file(SAMPLES / "standalone.yaml").own == load("plugins: []\n").own
