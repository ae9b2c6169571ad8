"""Whatever is written into a configuration, loading ends with a Loaded or with problems that have a place."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.config.loader import load_text
from epp.config.problems import ConfigError, Problem
from tests.unit.config.configs import HEADER, TYPES

EVERYTHING = yaml.safe_load(
    HEADER
    + """\
featureGates: [haPopulateNonLeaderDatastore, flowControl]
plugins:
- {type: approx-prefix-cache-producer, parameters: {blockSizeTokens: 64}}
- {type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: approx-prefix-cache-producer}}
- {name: labels, type: label-selector-filter, parameters: {matchLabels: {a: b}, matchExpressions: [
    {key: a, operator: In, values: [b]}]}}
- type: session-affinity-scorer
  parameters: {strategy: session_id, sessionIdConfig: {sources: [{header: x}]}}
- {type: max-score-picker}
- {type: single-profile-handler}
- {type: utilization-detector, parameters: {metricsStalenessThreshold: 1s}}
- {type: metrics-data-source, parameters: {scheme: http, port: 9100, interval: 1s}}
- {type: core-metrics-extractor, parameters: {engineConfigs: [{name: x, queuedRequestsSpec: 'q{a=b}'}]}}
- {type: file-discovery, parameters: {path: /e.yaml}}
- {type: openai-parser}
- {type: vtc-fairness-policy, parameters: {weights: {gold: 2}}}
- {type: priority-holdback-policy, parameters: {minCeiling: 0.5}}
schedulingProfiles:
- {name: p, plugins: [{pluginRef: labels}, {pluginRef: prefix-cache-scorer, weight: 2},
   {pluginRef: session-affinity-scorer}, {pluginRef: max-score-picker}]}
dataLayer:
  sources: [{pluginRef: metrics-data-source, extractors: [{pluginRef: core-metrics-extractor}]}]
  discovery: {pluginRef: file-discovery}
flowControl: {saturationDetector: {pluginRef: utilization-detector}, maxBytes: 1G, defaultRequestTTL: 5s,
  usageLimitPolicyPluginRef: priority-holdback-policy, enableEviction: true,
  defaultPriorityBand: {maxRequests: 5, orderingPolicyRef: fcfs-ordering-policy},
  priorityBands: [{priority: 1, fairnessPolicyRef: vtc-fairness-policy}, {priority: -1}]}
requestHandler: {parsers: [{pluginRef: openai-parser}]}
epp: {limits: {maxBodyBytes: 1Mi, maxStreams: 5}, outliers: {baseTime: 1s, maxTime: 2s}, reasonsHeader: true}
"""
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(document, dict):
        for key, value in document.items():
            found += places(value, (*path, key))
    elif isinstance(document, list):
        for i, value in enumerate(document):
            found += places(value, (*path, i))
    return found


def put(document: Any, path: tuple[Any, ...], value: Any) -> None:
    """Does nothing when an earlier change has taken the place away."""
    for step in path[:-1]:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(document, dict) or (isinstance(document, list) and isinstance(path[-1], int)):
        document[path[-1]] = value


WORDS = ["", "x", "p", "a", "1s", "-1", *list(TYPES)[:12], "max-score-picker", "latency-scorer", "default"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**64) | st.floats(-9, 9) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "type", "pluginRef", "x"]), inner, max_size=3)
    ),
    max_leaves=4,
)
CHANGES = st.lists(st.tuples(st.sampled_from(places(EVERYTHING)), VALUES), min_size=1, max_size=4)


def test_the_unchanged_document_is_right() -> None:
    loaded = load_text(json.dumps(EVERYTHING), allow_experimental=True, plugin_types=TYPES)
    assert loaded.profiles[0].name == "p"
    assert [notice.path for notice in loaded.notices] == [("featureGates", 0)]


@settings(max_examples=30, deadline=None)
@given(CHANGES)
def test_changed_documents_load_or_are_explained(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    document = copy.deepcopy(EVERYTHING)
    for path, value in changes:
        put(document, path, value)
    text = json.dumps(document)
    problems: Sequence[Problem] = ()
    try:
        load_text(text, source="c", allow_experimental=True, plugin_types=TYPES)
    except ConfigError as error:
        problems = error.problems
    for problem in problems:
        assert problem.mark is not None, problem
        assert 1 <= problem.mark.column <= len(text) + 1
