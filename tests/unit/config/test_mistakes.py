"""Every way to get a configuration wrong, in the words that the operator reads."""

from __future__ import annotations

import pytest

from epp.config.loader import load_text
from epp.config.problems import ConfigError
from tests.unit.config.configs import mistakes

PROFILE = "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}]}]\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "plugins:\n- type: que-scorer\n",
            "c:4:9: plugins[0].type: unknown plugin type 'que-scorer'; did you mean 'queue-scorer'?",
        ),
        (
            "plugins:\n- name: x\n",
            "c:4:3: plugins[0]: 'type' is required",
        ),
        (
            "plugins:\n- type: queue-scorer\n- type: queue-scorer\n",
            "c:5:9: plugins[1].type: duplicate plugin name 'queue-scorer'",
        ),
        (
            "plugins:\n- {name: a, type: queue-scorer}\n- {name: a, type: random-picker}\n",
            "c:5:10: plugins[1].name: duplicate plugin name 'a'",
        ),
        (
            "plugins:\n- type: approx-prefix-cache-producer\n  parameters:\n    blocksize: 16\n",
            "c:6:5: plugins[0].parameters.blocksize: unknown field 'blocksize'; did you mean 'blockSize'?",
        ),
        (
            "plugins:\n- type: max-score-picker\n  parameters:\n    maxNumOfEndpoints: 0\n",
            "c:6:24: plugins[0].parameters.maxNumOfEndpoints: expected `int` >= 1, got 0",
        ),
        (
            "plugins:\n- type: queue-scorer\n  parameters: {a: 1}\n",
            "c:5:16: plugins[0].parameters.a: unknown field 'a'; it takes none",
        ),
        (
            "plugins:\n- type: session-affinity-scorer\n",
            "c:4:9: plugins[0].type: plugin type 'session-affinity-scorer' is experimental; "
            "--allow-experimental-plugins allows it",
        ),
        (
            "plugins:\n- type: latency-scorer\n",
            "c:4:9: plugins[0].type: plugin type 'latency-scorer' is not supported yet: "
            "predicted latency is not built",
        ),
        (
            "plugins: [{type: queue-scorer}]\n"
            "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scoer}]}]\n",
            "c:4:54: schedulingProfiles[0].plugins[0].pluginRef: no plugin is named 'queue-scoer'; "
            "did you mean 'queue-scorer'?",
        ),
        (
            PROFILE,
            "c:3:54: schedulingProfiles[0].plugins[0].pluginRef: no plugin is named 'queue-scorer'; "
            "list it under 'plugins'",
        ),
        (
            "plugins: [{type: openai-parser}]\n"
            "schedulingProfiles: [{name: p, plugins: [{pluginRef: openai-parser}]}]\n",
            "c:4:54: schedulingProfiles[0].plugins[0].pluginRef: "
            "'openai-parser' is of kind parser, not scheduling",
        ),
        (
            "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{plugins: [{pluginRef: queue-scorer}]}]\n",
            "c:4:22: schedulingProfiles[0]: 'name' is required",
        ),
        (
            "plugins: []\nschedulingProfiles: [{name: p, plugins: [{weight: 2}]}]\n",
            "c:4:42: schedulingProfiles[0].plugins[0]: 'pluginRef' is required",
        ),
        (
            "plugins: [{type: random-picker}, {type: max-score-picker}]\n",
            "c:3:34: plugins[1]: profile 'default' has a second picker: 'max-score-picker'",
        ),
        (
            "plugins: [{type: single-profile-handler}, {name: b, type: single-profile-handler}]\n",
            "c:3:43: plugins[1]: a second profile handler; 'single-profile-handler' is the first",
        ),
        (
            "schedulingProfiles: [{name: p}, {name: q}]\n",
            "c:3:21: schedulingProfiles: 2 profiles need a profile handler",
        ),
        (
            "plugins: [{type: single-profile-handler}]\nschedulingProfiles: [{name: p}, {name: q}]\n",
            "c:3:11: plugins[0]: single-profile-handler takes one profile, not 2",
        ),
        (
            "schedulingProfiles: [{name: p}, {name: p}]\n",
            "c:3:40: schedulingProfiles[1].name: duplicate profile name 'p'",
        ),
        (
            "plugins: [{name: max-score-picker, type: queue-scorer}]\n",
            "c:3:11: plugins[0]: the name 'max-score-picker' is needed for the default plugin of that type",
        ),
        (
            "plugins: [{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: approx}}]\n",
            "c:3:81: plugins[0].parameters.prefixMatchInfoProducerName: no plugin is named 'approx'",
        ),
        (
            "plugins: [{type: prefix-cache-scorer, parameters:"
            " {prefixMatchInfoProducerName: precise-prefix-cache-producer}}]\n",
            "c:3:81: plugins[0].parameters.prefixMatchInfoProducerName: plugin type "
            "'precise-prefix-cache-producer' is not supported yet: the index of KV-cache events is not built",
        ),
        (
            "featureGates: [flowContrl]\n",
            "c:3:16: featureGates[0]: unknown feature gate 'flowContrl'; did you mean 'flowControl'?",
        ),
        (
            "featureGates: [flowControl=maybe]\n",
            "c:3:16: featureGates[0]: feature gate 'flowControl' takes true or false, not 'maybe'",
        ),
        (
            "flowControl: {maxBytes: 1J}\n",
            "c:3:25: flowControl.maxBytes: '1J' is not a quantity; write it like 5000, 1G or 64Mi",
        ),
        (
            "flowControl: {saturationDetector: {pluginRef: nobody}}\n",
            "c:3:47: flowControl.saturationDetector.pluginRef: no plugin is named 'nobody'",
        ),
        (
            "dataLayer: {crossReplicaSyncInterval: 200ms}\n",
            "c:3:13: dataLayer.crossReplicaSyncInterval: 'crossReplicaSyncInterval' is not supported yet: "
            "replicas do not exchange their load",
        ),
        (
            "dataLayer: {peerDiscovery: {pluginRef: x}}\n",
            "c:3:13: dataLayer.peerDiscovery: 'peerDiscovery' is not supported yet: "
            "replicas do not exchange their load",
        ),
        (
            "plugins: [{type: file-discovery}]\n",
            "c:3:11: plugins[0].parameters: 'path' is required",
        ),
        (
            "plugins: [{type: core-metrics-extractor, parameters: {defaultEngine: vlm}}]\n",
            "c:3:70: plugins[0].parameters.defaultEngine: unknown engine 'vlm'; did you mean 'vllm'?",
        ),
        (
            "plugins: [{type: core-metrics-extractor, parameters:"
            " {engineConfigs: [{name: a, loraSpec: 'x{y'}]}}]\n",
            "c:3:91: plugins[0].parameters.engineConfigs[0].loraSpec: "
            "'x{y' is not a metric: expected name or name{label=value,...}",
        ),
        (
            "plugins: [{type: metrics-data-source, parameters: {scheme: https, caCertPath: /none.pem}}]\n",
            "c:3:51: plugins[0].parameters: a TLS file cannot be used: [Errno 2] No such file or directory: "
            "'/none.pem'",
        ),
        (
            "epp: {scrape: {serverName: engine/vllm}}\n",
            "c:3:28: epp.scrape.serverName: 'engine/vllm' is not the name of a host",
        ),
        (
            "plugins: [{type: metrics-data-source}, {type: models-data-extractor}]\n"
            "dataLayer: {sources: [{pluginRef: metrics-data-source,"
            " extractors: [{pluginRef: models-data-extractor}]}]}\n",
            "c:4:69: dataLayer.sources[0].extractors[0]: "
            "'models-data-extractor' cannot read 'metrics-data-source'",
        ),
        (
            "plugins: [{type: metrics-data-source}, {name: b, type: metrics-data-source}]\n"
            "dataLayer: {sources: [{pluginRef: metrics-data-source}, {pluginRef: b}]}\n",
            "c:4:57: dataLayer.sources[1]: a second metrics-data-source is not supported yet: "
            "one of each type is read",
        ),
        (
            "schedulingProfile: []\n",
            "c:3:1: schedulingProfile: unknown field 'schedulingProfile'; did you mean 'schedulingProfiles'?",
        ),
        (
            "epp: {limits: {maxStreams: 0}}\n",
            "c:3:28: epp.limits.maxStreams: expected `int` >= 1, got 0",
        ),
        (
            "epp: {limits: {maxBufferedBytes: 1Mi}}\n",
            "c:3:34: epp.limits.maxBufferedBytes: maxBufferedBytes (1048576 bytes) is less than maxBodyBytes "
            "(67108864 bytes)",
        ),
        (
            "epp: {outliers: {baseTime: 5m}}\n",
            "c:3:17: epp.outliers.maxTime: maxTime is shorter than baseTime",
        ),
        (
            "epp: {observe: sample}\n",
            "c:3:16: epp.observe: 'sample' is not 'auto', 'all', 'sampled' or 'ends'; "
            "did you mean 'sampled'?",
        ),
        (
            "epp: {observe: {mode: some}}\n",
            "c:3:23: epp.observe.mode: 'some' is not 'auto', 'all', 'sampled' or 'ends'",
        ),
        (
            "epp: {observe: {always: {header: 'a b'}}}\n",
            "c:3:34: epp.observe.always.header: 'a b' is not the name of a header",
        ),
        (
            "epp: {observe: [all]}\n",
            "c:3:16: epp.observe: expected a mapping, got a list",
        ),
        (
            "epp: {limits: {progressTimeout: 0s}}\n",
            "c:3:33: epp.limits.progressTimeout: '0s' must be more than 0",
        ),
    ],
)  # fmt: skip
def test_one_mistake(body: str, expected: str) -> None:
    assert mistakes(body) == [expected]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            "kind: EndpointPickerConfig\n",
            "c:1:1: 'apiVersion' is required; it is 'llm-d.ai/v1alpha1' or "
            "'inference.networking.x-k8s.io/v1alpha1'",
        ),
        (
            "apiVersion: llm-d.ai/v1\nkind: EndpointPickerConfig\n",
            "c:1:13: apiVersion: unknown apiVersion 'llm-d.ai/v1'; it is 'llm-d.ai/v1alpha1' or "
            "'inference.networking.x-k8s.io/v1alpha1'",
        ),
        (
            "apiVersion: llm-d.ai/v1alpha1\nkind: InferencePool\n",
            "c:2:7: kind: unknown kind 'InferencePool'; it is 'EndpointPickerConfig'",
        ),
        ("apiVersion: llm-d.ai/v1alpha1\n", "c:1:1: 'kind' is required; it is 'EndpointPickerConfig'"),
        ("- a\n", "c:1:1: expected a mapping, got a list"),
    ],
)
def test_headers(header: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(header, source="c")
    assert str(caught.value) == expected


def test_what_is_not_built_does_not_hide_what_is_wrong_in_it() -> None:
    assert mistakes("dataLayer: {peerDiscovery: {plugin: x}}\n") == [
        "c:3:13: dataLayer.peerDiscovery: 'peerDiscovery' is not supported yet: "
        "replicas do not exchange their load",
        "c:3:29: dataLayer.peerDiscovery.plugin: unknown field 'plugin'; did you mean 'pluginRef'?",
    ]


def test_all_mistakes_are_told_in_the_order_of_the_text() -> None:
    found = mistakes(
        "plugins:\n"
        "- type: quue-scorer\n"
        "- type: [1]\n"
        "- type: max-score-picker\n"
        "  parameters: {maxNumOfEndpoints: x}\n"
        "- type: latency-scorer\n"
        "schedulingProfiles:\n"
        "- name: p\n"
        "  plugins:\n"
        "  - pluginRef: quue-scorer\n"
        "  - pluginRef: max-score-picker\n"
        "  - pluginRef: nobody\n"
        "featureGates: [what]\n"
        "typo: 1\n"
    )
    assert [line.split(": ")[1] for line in found] == [
        "plugins[0].type",
        "plugins[1].type",
        "plugins[2].parameters.maxNumOfEndpoints",
        "plugins[3].type",
        "schedulingProfiles[0].plugins[2].pluginRef",
        "featureGates[0]",
        "typo",
    ]


def test_a_problem_is_one_printable_line() -> None:
    assert mistakes('plugins: [{type: "\\x1b[2Ja\\nb"}]\n') == [
        "c:3:18: plugins[0].type: unknown plugin type '?[2Ja?b'"
    ]


def test_the_flag_allows_experimental_plugins() -> None:
    assert not mistakes("plugins: [{type: session-affinity-scorer}]\n", experimental=True)
