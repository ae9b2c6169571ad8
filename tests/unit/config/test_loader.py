"""What a configuration builds, and what is filled in where it is silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from epp.config.loader import load_file, load_preset, load_text
from epp.config.own import Observe
from epp.config.presets import PRESETS
from epp.config.problems import ConfigError
from epp.datalayer.inflight import Ledger
from tests.builders import request, snapshot
from tests.unit.config.configs import HEADER, load, notices


def test_the_reference_preset_is_its_default_profile() -> None:
    loaded = load_preset("reference")
    (profile,) = loaded.profiles
    assert profile.name == "default"
    assert {step.name: weight for step, weight in profile.scorers} == {
        "queue-scorer": 2, "kv-cache-utilization-scorer": 2, "prefix-cache-scorer": 3,
    }  # fmt: skip
    assert profile.picker.type_name == "max-score-picker"
    assert loaded.handler.type_name == "single-profile-handler"
    assert loaded.detector.type_name == "utilization-detector"
    assert [p.type_name for p in loaded.parsers] == [
        "openai-parser", "anthropic-parser", "vllmhttp-parser", "passthrough-parser",
    ]  # fmt: skip
    assert loaded.data.scrape is not None
    assert loaded.data.scrape.source.path == "/metrics"
    assert loaded.data.scrape.interval_s is None
    assert loaded.data.discovery is None
    assert not loaded.notices


def test_the_default_preset_is_least_expected_work() -> None:
    loaded = load_preset()
    assert [step.name for step, _ in loaded.profiles[0].scorers] == ["expected-work-scorer"]
    assert loaded.plugins[0].name == "approx-prefix-cache-producer"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_decide(name: str) -> None:
    scheduler = load_preset(name).scheduler(Ledger())
    pool = snapshot(3, waiting=[9.0, 0.0, 9.0], running=[9.0, 0.0, 9.0])
    _, decision = scheduler.schedule(request(), pool, np.arange(3), now=100.0, seed=1)
    assert decision.endpoint is pool.endpoints[1]


def test_an_unknown_preset() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'refrence'; did you mean 'reference'"):
        load_preset("refrence")


def test_needed_producers_are_added_and_come_first() -> None:
    loaded = load("plugins: [{type: prefix-cache-scorer}]\n")
    names = [step.name for step in loaded.plugins]
    assert names.index("approx-prefix-cache-producer") < names.index("prefix-cache-scorer")


def test_a_listed_producer_is_used_whatever_its_name() -> None:
    loaded = load(
        "plugins:\n"
        "- {type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: mine}}\n"
        "- {name: mine, type: approx-prefix-cache-producer, parameters: {lruCapacityPerServer: 7}}\n"
    )
    producers = [step for step in loaded.plugins if step.type_name == "approx-prefix-cache-producer"]
    assert [step.name for step in producers] == ["mine"]
    assert [step.name for step in loaded.plugins][:2] == ["mine", "prefix-cache-scorer"]


def test_a_producer_named_by_its_type_need_not_be_listed() -> None:
    loaded = load(
        "plugins:\n"
        "- type: token-load-scorer\n"
        "  parameters: {inFlightLoadProducerName: inflight-load-producer}\n"
    )
    assert "inflight-load-producer" in [step.name for step in loaded.plugins]


def test_without_profiles_one_uses_every_listed_plugin() -> None:
    loaded = load("plugins: [{type: decode-filter}, {type: queue-scorer}, {type: random-picker}]\n")
    (profile,) = loaded.profiles
    assert profile.name == "default"
    assert [step.name for step in profile.filters] == ["decode-filter"]
    assert [(step.name, weight) for step, weight in profile.scorers] == [("queue-scorer", 1.0)]
    assert profile.picker.name == "random-picker"
    assert not loaded.notices


def test_nothing_but_the_header_picks_at_random() -> None:
    (profile,) = load("plugins: []\n").profiles
    assert not profile.filters
    assert not profile.scorers
    assert profile.picker.name == "max-score-picker"


def test_a_listed_detector_is_one_of_its_filters() -> None:
    loaded = load("plugins: [{type: utilization-detector}, {type: queue-scorer}]\n")
    assert [step.name for step in loaded.profiles[0].filters] == ["utilization-detector"]
    assert not loaded.notices


def test_a_plugin_may_have_two_parts() -> None:
    (profile,) = load(
        "plugins: [{type: context-length-aware, parameters: {enableFiltering: true}}]\n"
    ).profiles
    assert [step.name for step, _ in profile.scorers] == ["context-length-aware"]
    assert [step.name for step in profile.filters] == ["context-length-aware"]


def test_weights_default_to_one_and_may_be_zero() -> None:
    loaded = load(
        "plugins: [{type: queue-scorer}, {type: load-aware-scorer}]\n"
        "schedulingProfiles:\n"
        "- {name: p, plugins: [{pluginRef: queue-scorer}, {pluginRef: load-aware-scorer, weight: 0}]}\n"
    )
    assert [weight for _, weight in loaded.profiles[0].scorers] == [1.0, 0.0]


def test_a_weight_without_effect_is_accepted_and_told() -> None:
    loaded = load(
        "plugins: [{type: decode-filter}, {type: single-profile-handler}]\n"
        "schedulingProfiles:\n"
        "- name: p\n"
        "  plugins:\n"
        "  - {pluginRef: decode-filter, weight: 3}\n"
        "  - {pluginRef: single-profile-handler}\n"
    )
    assert notices(loaded) == [
        "c:7:40: schedulingProfiles[0].plugins[0].weight: 'decode-filter' is no scorer; "
        "its weight has no effect",
        "c:8:5: schedulingProfiles[0].plugins[1]: 'single-profile-handler' has no effect in a profile; "
        "it works by being listed",
    ]


def test_what_is_listed_and_not_used_is_told() -> None:
    loaded = load(
        "plugins: [{type: queue-scorer}, {type: random-picker}, {type: openai-parser}]\n"
        "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}]}]\n"
    )
    assert notices(loaded) == [
        "c:3:33: plugins[1]: 'random-picker' is used by no profile",
        "c:3:56: plugins[2]: nothing refers to 'openai-parser'; it has no effect",
    ]


def test_deprecated_words_are_accepted_and_told() -> None:
    loaded = load_text(
        "apiVersion: inference.networking.x-k8s.io/v1alpha1\n"
        "kind: EndpointPickerConfig\n"
        "plugins:\n"
        "- {name: d, type: concurrency-detector}\n"
        "- {type: passthrough-parser}\n"
        "- {type: by-label, parameters: {label: a, validValues: [b]}}\n"
        "saturationDetector: {pluginRef: d}\n"
        "parser: {pluginRef: passthrough-parser}\n",
        source="c",
    )
    assert loaded.detector.name == "d"
    assert [parser.type_name for parser in loaded.parsers] == ["passthrough-parser"]
    told = sorted(notices(loaded))
    assert [line.split(": ")[0] for line in told] == ["c:1:13", "c:6:10", "c:7:1", "c:8:1"]
    assert all("deprecated" in line for line in told)


def test_a_detector_may_filter_and_detect() -> None:
    loaded = load(
        "plugins: [{name: full, type: utilization-detector, parameters: {queueDepthThreshold: 9}}]\n"
        "flowControl: {saturationDetector: {pluginRef: full}}\n"
        "schedulingProfiles: [{name: p, plugins: [{pluginRef: full}]}]\n"
    )
    assert loaded.detector.plugin is loaded.profiles[0].filters[0].plugin
    pool = snapshot(1, waiting=[9.0])
    assert loaded.detector.plugin.saturation(pool, np.arange(1), Ledger(), 100.0) == pytest.approx(1.0)


def test_a_detector_that_is_listed_counts_without_a_reference() -> None:
    loaded = load("plugins: [{name: mine, type: utilization-detector}]\nschedulingProfiles: [{name: p}]\n")
    assert loaded.detector.name == "mine"
    assert not loaded.notices


def test_data_layer_settings() -> None:
    loaded = load(
        "plugins:\n"
        "- {type: metrics-data-source, parameters: {path: /m, port: 9100, interval: 1s}}\n"
        "- type: core-metrics-extractor\n"
        "  parameters:\n"
        "    defaultEngine: mine\n"
        "    engineConfigs:\n"
        "    - name: mine\n"
        "      queuedRequestsSpec: 'q{kind=waiting}'\n"
        "      kvUsageSpec: kv\n"
        "      cacheBlockSizeLabelName: page\n"
        "- {type: models-data-source}\n"
        "- {type: models-data-extractor}\n"
        "- {name: disc, type: file-discovery, parameters: {path: /e.yaml, watchFile: true}}\n"
        "dataLayer:\n"
        "  sources:\n"
        "  - {pluginRef: metrics-data-source, extractors: [{pluginRef: core-metrics-extractor}]}\n"
        "  - {pluginRef: models-data-source, extractors: [{pluginRef: models-data-extractor}]}\n"
        "  discovery: {pluginRef: disc}\n"
    )
    data = loaded.data
    assert data.scrape is not None
    assert data.engines is not None
    assert data.models is not None
    assert data.discovery is not None
    assert (data.scrape.source.path, data.scrape.source.port, data.scrape.interval_s) == ("/m", 9100, 1.0)
    engine = data.engines.engines[data.engines.default]
    assert [(spec.name, spec.labels) for spec in engine.waiting] == [(b"q", (("kind", "waiting"),))]
    assert engine.block_size_label == "page"
    assert "vllm" in data.engines.engines
    assert data.models.path == "/v1/models"
    assert (data.discovery.path, data.discovery.watch_file) == ("/e.yaml", True)
    assert not loaded.notices


def test_listed_data_plugins_count_without_a_data_layer_block() -> None:
    loaded = load("plugins: [{type: metrics-data-source, parameters: {port: 9100}}]\n")
    assert loaded.data.scrape is not None
    assert loaded.data.scrape.source.port == 9100
    assert not loaded.notices


def test_without_injected_defaults_nothing_is_scraped() -> None:
    data = load("plugins: []\ndataLayer: {injectDefaults: false}\n").data
    assert data.scrape is None
    assert data.engines is None


def test_our_own_block() -> None:
    own = load("epp:\n  limits: {maxBodyBytes: 1Mi, progressTimeout: 5s}\n  reasonsHeader: true\n").own
    assert own.limits.max_body_bytes == 1 << 20
    assert own.limits.progress_timeout == 5.0
    assert own.limits.max_streams == 20_000
    assert own.reasons_header


def test_how_answers_are_observed() -> None:
    assert load("plugins: []\n").own.observe.mode == "auto"
    assert load("epp: {observe: sampled}\n").own.observe == Observe(mode="sampled")
    own = load(
        "epp:\n  observe:\n    mode: ends\n    sampleInterval: 2s\n    samplesPerSecond: 3\n"
        "    prefillTokensPerSecond: 20000\n"
        "    always: {header: X-Bill-Me, models: [a], objectives: [paid]}\n"
    ).own.observe
    assert (own.mode, own.sample_interval, own.samples_per_second) == ("ends", 2.0, 3.0)
    assert own.prefill_tokens_per_second == 20_000
    assert (own.always.header, own.always.models, own.always.objectives) == ("X-Bill-Me", ["a"], ["paid"])


def test_gates() -> None:
    loaded = load("featureGates: [flowControl=false, haPopulateNonLeaderDatastore]\n")
    assert notices(loaded) == [
        "c:3:35: featureGates[1]: 'haPopulateNonLeaderDatastore' has no effect without leader election"
    ]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(HEADER + "plugins: [{type: queue-scorer}]\n")
    assert load_file(path).source == str(path)
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_file(tmp_path / "none.yaml")
    path.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="not UTF-8: byte 3"):
        load_file(path)
    path.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="the configuration is empty"):
        load_file(path)


def test_engines_that_are_asked_for_models_by_https_are_those_that_are_scraped_so() -> None:
    sources = (
        "plugins:\n"
        "- {type: metrics-data-source, parameters: {scheme: https, port: 9100, insecureSkipVerify: false}}\n"
        "- {type: core-metrics-extractor}\n"
        "- {type: models-data-source, parameters: {scheme: https}}\n"
        "- {type: models-data-extractor}\n"
        "dataLayer:\n"
        "  sources:\n"
        "  - {pluginRef: metrics-data-source, extractors: [{pluginRef: core-metrics-extractor}]}\n"
        "  - {pluginRef: models-data-source, extractors: [{pluginRef: models-data-extractor}]}\n"
    )
    data = load(sources + "epp: {scrape: {serverName: engine.example.com}}\n").data
    assert data.scrape is not None
    assert data.models is not None
    assert data.scrape.source.server_name == data.models.server_name == "engine.example.com"
    assert not data.models.insecure_skip_verify
    assert (data.models.path, data.models.port) == ("/v1/models", None)
    plain = load(sources.replace("parameters: {scheme: https}", "parameters: {scheme: http}")).data.models
    assert plain is not None
    assert plain.scheme == "http"


def test_what_would_count_if_certificates_were_verified_is_told() -> None:
    body = "plugins: [{type: metrics-data-source, parameters: {scheme: https%s}}]\n"
    own = "epp: {scrape: {serverName: engine.example.com}}\n"
    (told,) = notices(load(body % "" + own))
    assert told.startswith("c:4:28: epp.scrape.serverName: it has no effect: certificates are not verified")
    assert not load(body % ", insecureSkipVerify: false" + own).notices
