"""Every way to get `flowControl` wrong, in the words that the operator reads."""

from __future__ import annotations

import pytest

from tests.unit.config.configs import mistakes

OPEN = "featureGates: [flowControl]\n"
"""Line 3: what follows begins in line 4."""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "flowControl: {defaultPriorityBand: {fairnessPolicyRef: round-robin-fairness-policy}}\n",
            "c:4:56: flowControl.defaultPriorityBand.fairnessPolicyRef: "
            "no plugin is named 'round-robin-fairness-policy'; list it under 'plugins'",
        ),
        (
            "plugins: [{name: turns, type: round-robin-fairness-policy}]\n"
            "flowControl: {defaultNegativePriorityBand: {fairnessPolicyRef: turn}}\n",
            "c:5:64: flowControl.defaultNegativePriorityBand.fairnessPolicyRef: "
            "no plugin is named 'turn'; did you mean 'turns'?",
        ),
        (
            "plugins: [{name: turns, type: round-robin-fairness-policy}]\n"
            "flowControl: {priorityBands: [{priority: 1}, {priority: 2, orderingPolicyRef: turns}]}\n",
            "c:5:79: flowControl.priorityBands[1].orderingPolicyRef: "
            "'turns' is of kind fairness policy, not ordering policy",
        ),
        (
            "plugins: [{type: queue-scorer}]\nflowControl: {usageLimitPolicyPluginRef: queue-scorer}\n",
            "c:5:42: flowControl.usageLimitPolicyPluginRef: "
            "'queue-scorer' is of kind scheduling, not usage limit policy",
        ),
        (
            "plugins: [{type: edf-ordering-policy}]\n"
            "flowControl: {saturationDetector: {pluginRef: edf-ordering-policy}}\n",
            "c:5:47: flowControl.saturationDetector.pluginRef: "
            "'edf-ordering-policy' is of kind ordering policy, not saturation detector",
        ),
        (
            "plugins: [{type: edf-ordering-policy}]\n"
            "schedulingProfiles: [{name: p, plugins: [{pluginRef: edf-ordering-policy}]}]\n",
            "c:5:54: schedulingProfiles[0].plugins[0].pluginRef: "
            "'edf-ordering-policy' is of kind ordering policy, not scheduling",
        ),
        (
            "flowControl: {priorityBands: [{priority: 1}, {priority: 0}, {priority: 1, maxBytes: 1}]}\n",
            "c:4:72: flowControl.priorityBands[2].priority: duplicate priority 1",
        ),
        (
            "flowControl: {priorityBands: [{priority: 0}, {}]}\n",
            "c:4:46: flowControl.priorityBands[1].priority: duplicate priority 0",
        ),
        (
            "flowControl: {priorityBands: [{priority: high}]}\n",
            "c:4:42: flowControl.priorityBands[0].priority: expected `int`, got `str`: 'high'",
        ),
        (
            "flowControl: {priorityBands: {priority: 1}}\n",
            "c:4:30: flowControl.priorityBands: expected a list, got a mapping",
        ),
        (
            "flowControl: {priorityBands: [{priority: 1, maxRequest: 1}]}\n",
            "c:4:45: flowControl.priorityBands[0].maxRequest: unknown field 'maxRequest'; "
            "did you mean 'maxRequests'?",
        ),
        (
            "flowControl: {maxBytes: -1}\n",
            "c:4:25: flowControl.maxBytes: -1 is negative",
        ),
        (
            "flowControl: {maxRequests: infinite}\n",
            "c:4:28: flowControl.maxRequests: 'infinite' is not a quantity; write it like 5000, 1G or 64Mi",
        ),
        (
            "flowControl: {defaultRequestTTL: 60}\n",
            "c:4:34: flowControl.defaultRequestTTL: 60 is not a duration; write it like 200ms, 2s or 1m30s",
        ),
        (
            "flowControl: {noEndpointRequestTTL: -1s}\n",
            "c:4:37: flowControl.noEndpointRequestTTL: '-1s' is negative",
        ),
        (
            "flowControl: {defaultRequestTtl: 60s}\n",
            "c:4:15: flowControl.defaultRequestTtl: unknown field 'defaultRequestTtl'; "
            "did you mean 'defaultRequestTTL'?",
        ),
        (
            "flowControl: {enableEviction: maybe}\n",
            "c:4:31: flowControl.enableEviction: expected `bool`, got `str`: 'maybe'",
        ),
        (
            "plugins: [{name: fcfs-ordering-policy, type: queue-scorer}]\n",
            "c:4:11: plugins[0]: 'fcfs-ordering-policy' is of kind scheduling, not ordering policy",
        ),
        (
            "plugins: [{type: vtc-fairness-policy, parameters: {weights: {a: 0}}}]\n",
            "c:4:65: plugins[0].parameters.weights.a: expected `float` > 0.0, got 0",
        ),
        (
            "plugins: [{type: program-aware-fairness,"
            " parameters: {lasWeightService: 0, lasWeightHeadWait: 0}}]\n",
            "c:4:54: plugins[0].parameters: lasWeightService and lasWeightHeadWait must not both be 0",
        ),
        (
            "plugins: [{type: soft-reflective-ceiling-policy}]\n",
            "c:4:18: plugins[0].type: plugin type 'soft-reflective-ceiling-policy' is experimental; "
            "--allow-experimental-plugins allows it",
        ),
    ],
)  # fmt: skip
def test_one_mistake(body: str, expected: str) -> None:
    assert mistakes(OPEN + body) == [expected]


def test_a_second_eviction_filter() -> None:
    body = (
        "plugins: [{name: a, type: sheddable-eviction-filter}, {name: b, type: sheddable-eviction-filter}]\n"
        "flowControl: {enableEviction: true}\n"
    )
    assert mistakes(OPEN + body, experimental=True) == [
        "c:4:55: plugins[1]: a second eviction filter; 'a' is the first"
    ]


def test_a_plugin_with_a_mistake_is_no_further_mistake_where_it_is_named() -> None:
    body = (
        "plugins: [{type: round-robin-fairness-policy, parameters: {x: 1}}]\n"
        "flowControl: {defaultPriorityBand: {fairnessPolicyRef: round-robin-fairness-policy}}\n"
    )
    assert mistakes(OPEN + body) == ["c:4:60: plugins[0].parameters.x: unknown field 'x'; it takes none"]
