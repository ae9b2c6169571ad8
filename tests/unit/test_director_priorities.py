"""Priorities and fairness ids in the director: where they come from, what is shed, what the engine sees."""

from __future__ import annotations

import pytest

from epp.admission.trust import Taken, Trust, TrustSettings
from epp.datalayer.load import Load
from epp.datalayer.observation.observation import Rules
from epp.domain.errors import Answer
from epp.domain.objective import Objective
from epp.domain.views import Route
from tests.house import House, chat, refusal

OBJECTIVE, FAIRNESS = "x-llm-d-inference-objective", "x-llm-d-inference-fairness-id"
SATURATED = Load(waiting=50.0, running=5.0, kv_used=0.1)
IDLE = Load(waiting=0.0, running=0.0, kv_used=0.1)


def house(trust: TrustSettings | None = None, load: Load = SATURATED, default: int = 0) -> House:
    made = House(2, trust=Trust(trust))
    made.objectives.default_priority = default
    made.objectives.replace({"batch": Objective("batch", -1), "gold": Objective("gold", 5)})
    for endpoint in made.store.endpoints:
        made.store.report(endpoint, load, made.now)
    return made


@pytest.mark.parametrize(
    ("headers", "load", "passes"),
    [
        ({OBJECTIVE: "batch"}, SATURATED, False),
        ({OBJECTIVE: "batch"}, IDLE, True),
        ({OBJECTIVE: "gold"}, SATURATED, True),
        ({OBJECTIVE: "unknown"}, SATURATED, True),
        ({}, SATURATED, True),
        ({"x-gateway-inference-objective": "batch"}, SATURATED, False),
    ],
)
def test_sheddable_requests_are_refused_while_the_pool_is_saturated(
    headers: dict[str, str], load: Load, passes: bool
) -> None:
    verdict = house(load=load).open(headers=headers).decide(chat())
    if passes:
        assert isinstance(verdict, Route)
        return
    assert isinstance(verdict, Answer)
    assert (refusal(verdict)["status"], refusal(verdict)["code"]) == (429, "overloaded")
    assert ("x-llm-d-request-dropped-reason", "rejected-saturated") in verdict.headers
    assert any(name == "retry-after" for name, _ in verdict.headers)


def test_the_default_may_be_sheddable() -> None:
    assert refusal(house(default=-1).open().decide(chat()))["status"] == 429
    assert isinstance(house(default=-1).open(headers={OBJECTIVE: "gold"}).decide(chat()), Route)


def test_objectives_that_change_count_from_the_next_request_on() -> None:
    made = house()
    assert refusal(made.open(headers={OBJECTIVE: "batch"}).decide(chat()))["status"] == 429
    made.objectives.replace({"batch": Objective("batch", 0)})
    assert isinstance(made.open(headers={OBJECTIVE: "batch"}).decide(chat()), Route)


def test_metrics_are_told_who_asked() -> None:
    made = house()
    for headers in ({OBJECTIVE: "gold", FAIRNESS: "a"}, {OBJECTIVE: "batch", FAIRNESS: "b"}, {}):
        made.open(headers=headers).decide(chat())
    page = made.page()
    for labels in ('fairness_id="a",priority="5"', 'fairness_id="default-flow",priority="0"'):
        assert f'request_total{{model_name="m",target_model_name="m",{labels}' in page
    assert 'fairness_id="b",priority="-1",error_code="ResourceExhausted"' in page


def test_what_is_not_believed_counts_for_nothing_and_is_taken_off() -> None:
    headers = {OBJECTIVE: "batch", FAIRNESS: "a", "x-request-id": "r"}
    made = house(TrustSettings(fairness_id=Taken.CLIENTS))
    verdict = made.open(headers=headers).decide(chat())
    assert isinstance(verdict, Route)
    assert verdict.remove_headers == (OBJECTIVE,)
    assert 'fairness_id="a",priority="0"' in made.page()
    believed = house(load=IDLE).open(headers=headers).decide(chat())
    assert isinstance(believed, Route)
    assert believed.remove_headers == ()


def test_nobody_else_sees_what_is_not_believed() -> None:
    made = house(TrustSettings())
    call = made.open(headers={OBJECTIVE: "paid"})
    call.decide(chat())
    request = call._request
    assert request is not None
    assert not Rules(objectives=frozenset({"paid"})).ask(request)


def test_unknown_tenants_may_lower_their_priority_but_not_raise_it() -> None:
    everybody = TrustSettings(objective=Taken.CLIENTS, fairness_id=Taken.CLIENTS, tenants=frozenset({"a"}))
    made = house(everybody, load=IDLE)
    for objective, tenant in (("gold", "a"), ("gold", "b"), ("batch", "c")):
        made.open(headers={OBJECTIVE: objective, FAIRNESS: tenant}).decide(chat())
    page = made.page()
    for labels in ('"a",priority="5"', '"default-flow",priority="0"', '"default-flow",priority="-1"'):
        assert f"fairness_id={labels}" in page


SELECTING = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: header-based-testing-filter}
- {type: random-picker}
schedulingProfiles:
- {name: default, plugins: [{pluginRef: header-based-testing-filter}, {pluginRef: random-picker}]}
"""


def test_a_test_selects_its_endpoint_only_where_that_is_taken() -> None:
    headers = {"test-epp-endpoint-selection": "10.0.0.2"}
    for trust in (None, TrustSettings(test_selection=Taken.CLIENTS)):
        verdict = House(3, config=SELECTING, trust=Trust(trust)).open(headers=headers).decide(chat())
        assert isinstance(verdict, Route)
        assert verdict.destination == "10.0.0.2:8000"
    untaken = House(3, config=SELECTING, trust=Trust(TrustSettings()))
    assert refusal(untaken.open(headers=headers).decide(chat()))["status"] == 429
