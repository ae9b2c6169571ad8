"""What the metrics and the page say of real queues."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from epp.config.loaded import Loaded
from epp.config.loader import load_text
from epp.datalayer.inflight import Ledger
from epp.datalayer.objectives import Objectives
from epp.datalayer.store import Store
from epp.domain.endpoint import EndpointSpec
from epp.domain.errors import Answer
from epp.domain.objective import Objective
from epp.domain.request import Api, Request, RequestHead
from epp.domain.views import Verdict
from epp.flowcontrol import open_queues, show_flow
from epp.queues import Entry, Queues
from epp.telemetry.metrics import Metrics
from epp.web.flow import text
from tests.unit.telemetry.pages import Page, page
from tests.unit.test_queues import Caller

NEW = "llm_d_epp_flow_control_"
CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
plugins:
- type: queue-scorer
- {type: concurrency-detector, parameters: {maxConcurrency: 2}}
- {type: round-robin-fairness-policy, name: in-turn}
- {type: priority-holdback-policy, parameters: {minCeiling: 0.4}}
schedulingProfiles:
- {name: default, plugins: [{pluginRef: queue-scorer}]}
flowControl:
  saturationDetector: {pluginRef: concurrency-detector}
  usageLimitPolicyPluginRef: priority-holdback-policy
  enableEviction: true
  maxRequests: 10
  priorityBands:
  - {priority: 5, maxRequests: 4, fairnessPolicyRef: in-turn}
  - {priority: -1, maxRequests: unlimited, maxBytes: unlimited}
"""


class House:
    """Queues over one endpoint that takes two requests."""

    def __init__(self, loaded: Loaded) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        self.ledger = Ledger()
        self.store = Store(observers=[self.ledger])
        self.store.set_endpoints([EndpointSpec("pod", "10.0.0.1", 8000)], self.now)
        objectives = Objectives()
        objectives.replace({"low": Objective("low", -1)})
        self.metrics = Metrics()
        queues = open_queues(loaded, store=self.store, ledger=self.ledger, clock=self.clock, chance=Random(1))
        if queues is not None:
            self.store.on_change = queues.changed
            queues.provision(objectives.priorities)
        self.page = show_flow(
            loaded, queues, metrics=self.metrics, pool="pool", store=self.store, inflight=self.ledger,
            clock=self.clock,
        )  # fmt: skip
        self.queues = queues

    def clock(self) -> float:
        return self.now

    def enter(
        self, caller: Caller, priority: int = 0, team: str = "team", model: str = "m"
    ) -> tuple[Entry | None, Verdict | asyncio.Future[Verdict]]:
        assert self.queues is not None
        head = RequestHead({}, "POST", "/v1/completions", "r", self.now)
        request = Request(head, Api.COMPLETIONS, model, model, 10, priority=priority, fairness_id=team)
        return self.queues.enter(caller, request)

    def end(self, caller: Caller, ticket: Entry | None) -> None:
        assert self.queues is not None
        assert ticket is not None
        if caller.entry is not None:
            caller.entry.end()
        self.queues.ended(ticket, input_tokens=None, output_tokens=None)

    def read(self) -> Page:
        return page(self.metrics)


@pytest.fixture
def loaded() -> Loaded:
    return load_text(CONFIG, allow_experimental=True)


def flowing(house: House) -> Queues:
    assert house.queues is not None
    return house.queues


async def test_each_request_counts_once_however_it_leaves(loaded: Loaded) -> None:
    house = House(loaded)
    first, second = Caller(house.ledger), Caller(house.ledger)
    running = [(caller, house.enter(caller, 5)[0]) for caller in (first, second)]
    leaving, waiting = Caller(house.ledger), [Caller(house.ledger) for _ in range(3)]
    gone, _ = house.enter(leaving, 5, "other-team")
    tickets = [house.enter(caller, 5)[0] for caller in waiting]
    assert isinstance(house.enter(Caller(house.ledger), 5, "team")[1], Answer)  # the band is full
    assert flowing(house).early(5, "team", 10) is not None
    read = house.read()
    assert read.value(NEW + "queue_size", fairness_id="team", priority="5", model_name="m") == 3
    assert read.value(NEW + "queue_bytes", fairness_id="other-team") == 10
    assert read.value(NEW + "capacity_utilization_requests", priority="5") == 1
    assert read.value(NEW + "global_capacity_utilization_requests") == 0.4
    assert read.value(NEW + "pool_saturation", stage="effective") == 1
    assert read.values(NEW + "stale_endpoints") == []  # this detector goes by what we sent
    house.now += 2.0
    house.end(leaving, gone)
    for caller, ticket in running:
        house.end(caller, ticket)
    await asyncio.sleep(0)
    house.now += 70.0
    flowing(house).run()
    read = house.read()
    outcomes = {
        labels["outcome"]: read.value(NEW + "requests_total", **labels)
        for labels in read.labels(NEW + "requests_total")
    }
    assert outcomes == {
        "Dispatched": 4, "EvictedContextCancelled": 1, "EvictedTTL": 1, "RejectedCapacity": 2,
    }  # fmt: skip
    assert {each["priority"] for each in read.labels(NEW + "requests_total")} == {"5"}
    waited = NEW + "request_queue_duration_seconds"
    assert read.value(waited + "_sum", outcome="EvictedContextCancelled", fairness_id="other-team") == 2
    assert read.value(waited + "_bucket", outcome="Dispatched", le="1") == 2
    assert read.value(waited + "_bucket", outcome="Dispatched", le="2.5") == 4
    assert read.values(waited + "_count", outcome="RejectedCapacity", model_name="") == [1]
    assert set(read.values(NEW + "queue_size")) == {0}
    assert read.value(NEW + "dispatch_cycle_duration_seconds_count") > 0
    assert sum(ticket is not None and ticket.outcome is not None for ticket in tickets) == 3


async def test_a_band_without_limits_is_measured_by_the_limits_of_all(loaded: Loaded) -> None:
    house = House(loaded)
    for _ in range(3):
        house.enter(Caller(house.ledger), -1)
    read = house.read()
    assert read.value(NEW + "capacity_utilization_requests", priority="-1") == 0.2
    assert read.value(NEW + "capacity_utilization_bytes", priority="-1") == 0


async def test_aborts_are_counted_for_those_who_wanted_the_room(loaded: Loaded) -> None:
    house = House(loaded)
    low = Caller(house.ledger)
    ticket, _ = house.enter(low, -1)
    for _ in range(3):
        house.enter(Caller(house.ledger), 5)
    assert len(low.aborted) == 1
    house.now += 0.3
    house.end(low, ticket)
    house.end(low, ticket)
    read = house.read()
    assert read.value(NEW + "revocations_issued_total", priority="5") == 1
    assert read.value(NEW + "revocations_total", outcome="confirmed") == 1
    assert read.value(NEW + "revocation_confirmation_seconds_sum") == pytest.approx(0.3)
    assert house.page.describe()["evictions"]["issued"] == {"5": 1}


async def test_the_page_says_why_requests_wait(loaded: Loaded) -> None:
    house = House(loaded)
    for _ in range(2):
        house.enter(Caller(house.ledger), 5)
    house.enter(Caller(house.ledger), 5, "a")
    house.now += 1.5
    for _ in range(2):
        house.enter(Caller(house.ledger), 5, "b")
    house.enter(Caller(house.ledger), 0, "c")
    said = house.page.describe()
    assert said["saturation"] == {"decode": 1.0, "effective": 1.0}
    assert (said["all"]["waiting"], said["all"]["max_requests"], said["all"]["in_flight"]) == (4, 10, 2)
    top, middle, low = said["bands"]
    assert [band["priority"] for band in said["bands"]] == [5, 0, -1]
    assert (top["waiting"], top["max_requests"], top["share_of_requests"]) == (3, 4, 0.75)
    assert (top["fairness_policy"], middle["fairness_policy"]) == ("in-turn", "global-strict-fairness-policy")
    assert [band["ceiling"] for band in said["bands"]] == [1.0, 0.7, 0.4]
    assert not any(band["below_ceiling"] for band in said["bands"])
    assert top["retry_after_s"][0] <= top["retry_after_s"][1] <= 60
    assert (top["refuses"], low["max_requests"]) == (None, None)
    flows = [(one["fairness_id"], one["waiting"], one["oldest_wait_s"]) for one in said["flows"]]
    assert flows == [("b", 2, 0.0), ("a", 1, 1.5), ("c", 1, 0.0)]
    house.enter(Caller(house.ledger), 5, "a")
    assert house.page.describe()["bands"][0]["refuses"] == "RejectedCapacity"
    lines = text(house.page.describe(), ()).splitlines()
    assert lines[0] == "saturation  decode 1, effective 1 (concurrency-detector)"
    assert lines[1] == "waiting     5/10 requests, 50/- bytes; in flight 2"
    (row,) = [line.split() for line in lines if line.startswith("5 ")]
    assert row[1:4] == ["4/4", "40/1000000000", "2"]
    assert "RejectedCapacity" in row


async def test_a_policy_that_counts_its_calls_is_not_disturbed_by_the_page() -> None:
    config = CONFIG.replace(
        "{type: priority-holdback-policy, parameters: {minCeiling: 0.4}}",
        "{type: soft-reflective-ceiling-policy, name: priority-holdback-policy}",
    )
    loaded = load_text(config, allow_experimental=True)
    assert loaded.flow is not None
    house = House(loaded)

    def calls() -> Any:
        return vars(loaded.flow.usage)  # type: ignore[union-attr]

    before = dict(calls())
    house.page.describe()
    assert calls() == before


async def test_of_many_flows_the_longest_are_shown(loaded: Loaded) -> None:
    config = CONFIG.replace("maxRequests: 10\n", "maxRequests: 1000\n")
    house = House(load_text(config, allow_experimental=True))
    for i in range(30):
        for _ in range(i + 1):
            house.enter(Caller(house.ledger), -1, f"team-{i}")
    said = house.page.describe()
    assert [one["fairness_id"] for one in said["flows"]] == [f"team-{i}" for i in range(29, 9, -1)]
    assert said["flows_waiting"] >= 29


async def test_without_the_gate_there_is_the_saturation_alone() -> None:
    house = House(load_text(CONFIG.replace("featureGates: [flowControl]", ""), allow_experimental=True))
    assert house.queues is None
    assert house.page.describe()["enabled"] is False
    read = house.read()
    assert read.value(NEW + "pool_saturation", stage="decode") == 0
    assert read.values(NEW + "global_capacity_utilization_requests") == []


async def test_old_metrics_show_as_stale_endpoints() -> None:
    house = House(load_text(CONFIG.replace("concurrency-detector, parameters: {maxConcurrency: 2}",
                                           "utilization-detector").replace("concurrency", "utilization"),
                            allow_experimental=True))  # fmt: skip
    assert house.read().value(NEW + "stale_endpoints", detector="utilization-detector") == 1
