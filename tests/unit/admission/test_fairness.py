"""Which flow goes next, policy by policy."""

from __future__ import annotations

from math import inf
from random import Random

import msgspec
import pytest

from epp.admission import attained, eviction, fairness, order, usage, vtc
from epp.admission.attained import AttainedService, AttainedServiceParameters
from epp.admission.fairness import FairnessPolicy
from epp.admission.order import EarliestDeadline, OrderingPolicy, SloDeadline
from epp.admission.room import Slots
from epp.admission.ticket import Ticket
from epp.admission.vtc import TokenCounterParameters
from epp.scheduling.contract import BuildContext
from tests.unit.admission.flows import NOTHING, ask, band, control, counter, send, strict, turns


def test_strict_goes_by_the_order_alone() -> None:
    flow = control(band(strict()))
    for i, name in enumerate(["a-1", "a-2", "b-1", "a-3", "c-1"]):
        ask(flow, name, float(i))
    assert send(flow, 9) == ["a-1", "a-2", "b-1", "a-3", "c-1"]


def test_flows_take_turns() -> None:
    flow = control(band(turns()))
    for name in ["a-1", "a-2", "a-3", "b-1", "c-1", "c-2"]:
        ask(flow, name)
    assert send(flow, 4) == ["a-1", "b-1", "c-1", "a-2"]
    ask(flow, "b-2")
    assert send(flow, 9) == ["c-2", "a-3", "b-2"]


def test_the_order_of_a_flow_follows_its_policy() -> None:
    soon = control(band(strict(), EarliestDeadline(NOTHING)), ttl_s=60.0)
    ask(soon, "a-late")
    ask(soon, "a-never", ttl_s=inf)
    ask(soon, "b-soon", ttl_s=1.0)
    assert send(soon, 3) == ["b-soon", "a-late", "a-never"]
    slo = control(band(strict(), SloDeadline(NOTHING)))
    ask(slo, "a-none", 0.0)
    ask(slo, "a-slow", 1.0, received_at=0.5, ttft_slo_s=2.0)
    ask(slo, "a-fast", 1.0, received_at=1.0, ttft_slo_s=0.2)
    assert send(slo, 3) == ["a-fast", "a-slow", "a-none"]


def served(shares: dict[str, float], lengths: dict[str, tuple[int, int]], turns: int) -> dict[str, float]:
    """Weighted tokens that flows get which always have requests waiting."""
    flow = control(band(counter(**shares)), ttl_s=None)
    rng = Random(3)
    got = dict.fromkeys(lengths, 0.0)

    def ask_again(name: str) -> None:
        ask(flow, f"{name}-x", input_tokens=rng.randint(1, 2 * lengths[name][0]))

    for name in lengths:
        for _ in range(2):
            ask_again(name)
    for _ in range(turns):
        for ticket in flow.dispatch(0.0, Slots(1 + flow.in_flight)):
            name, output = ticket.flow.fairness_id, rng.randint(0, 2 * lengths[ticket.flow.fairness_id][1])
            flow.finished(ticket, 0.0, output_tokens=output)
            got[name] += ticket.input_tokens + 2 * output
            ask_again(name)
    return got


def test_the_token_counter_shares_tokens_not_requests() -> None:
    got = served({}, {"long": (1000, 400), "short": (10, 5)}, 4_000)
    assert got["long"] == pytest.approx(got["short"], rel=0.1)


def test_the_token_counter_obeys_shares() -> None:
    got = served({"gold": 3.0}, {"gold": (100, 50), "tin": (100, 50)}, 4_000)
    assert got["gold"] == pytest.approx(3 * got["tin"], rel=0.05)


def test_who_was_away_saves_nothing_up_and_is_not_punished() -> None:
    flow = control(band(counter()), ttl_s=None)
    for _ in range(20):
        ask(flow, "busy-x", input_tokens=10)
    assert send(flow, 10) == ["busy-x"] * 10
    for _ in range(5):
        ask(flow, "new-x", input_tokens=10)
    assert sorted(send(flow, 6)) == ["busy-x"] * 3 + ["new-x"] * 3


def test_a_flow_that_comes_when_nobody_waits_starts_where_the_last_one_left() -> None:
    flow = control(band(counter()), ttl_s=None)
    for _ in range(5):
        ask(flow, "a-x", input_tokens=100)
    send(flow, 5)
    ask(flow, "b-x", input_tokens=100)
    ask(flow, "b-y", input_tokens=100)
    ask(flow, "a-y", input_tokens=100)
    # b was lifted to where a stood, so a is not the one to wait for two.
    assert send(flow, 2) == ["b-x", "a-y"]


def test_output_counts_as_it_comes_and_what_was_charged_in_advance_comes_back() -> None:
    flow = control(band(counter()), ttl_s=None)
    for name in ("a-1", "a-2", "b-1", "b-2"):
        ask(flow, name, input_tokens=10, expected_output=100)
    first, second = flow.dispatch(0.0, Slots(2))
    assert (first.waiter, second.waiter) == ("a-1", "b-1")
    assert first.flow.counter == second.flow.counter == 10 + 2 * 100
    flow.generated(first, 50)
    assert first.flow.counter == 210
    flow.generated(first, 120)
    assert first.flow.counter == 250
    flow.finished(second, 0.0, output_tokens=1)
    assert second.flow.counter == 12
    flow.finished(first, 0.0, input_tokens=0, output_tokens=0)
    assert first.flow.counter == 0
    assert send(flow, 1) == ["a-2"]


def by_formula(tickets: list[Ticket[str]], services: dict[str, float], now: float) -> set[str]:
    """The flows with the highest score of the reference's formula."""
    heads: dict[str, float] = {}
    for ticket in tickets:
        name = ticket.flow.fairness_id
        heads[name] = min(heads.get(name, inf), ticket.enqueued_at)

    def scaled(values: dict[str, float]) -> dict[str, float]:
        low, width = min(values.values()), max(values.values()) - min(values.values())
        return {name: (value - low) / width if width else 0.0 for name, value in values.items()}

    little = scaled({name: services.get(name, 0.0) for name in heads})
    waits = scaled({name: now - at for name, at in heads.items()})
    scores = {name: 0.8 * (1 - little[name]) + 0.2 * waits[name] for name in heads}
    return {name for name, score in scores.items() if score > max(scores.values()) - 1e-9}


def test_attained_service_follows_the_formula() -> None:
    rng = Random(5)
    policy = AttainedService(AttainedServiceParameters())
    flow = control(band(policy), ttl_s=None)
    waiting: list[Ticket[str]] = []
    services: dict[str, float] = {}
    now = 1000.0
    for _ in range(600):
        passed = rng.choice([0.0, 1.0, 30.0])
        now += passed
        services = {name: value * 0.5 ** (passed / 60.0) for name, value in services.items()}
        for _ in range(rng.randint(0, 3)):
            name = rng.choice("abcde")
            waiting.append(ask(flow, f"{name}-x", now, input_tokens=rng.randint(0, 500)))
        for ticket in flow.dispatch(now, Slots(1 + flow.in_flight)):
            assert ticket.flow.fairness_id in by_formula(waiting, services, now)
            waiting.remove(ticket)
            output = rng.randint(0, 200)
            flow.finished(ticket, now, output_tokens=output)
            name = ticket.flow.fairness_id
            services[name] = services.get(name, 0.0) + ticket.input_tokens + 2 * output


def test_parameters_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="must not both be 0"):
        AttainedService(AttainedServiceParameters(las_weight_service=0.0, las_weight_head_wait=0.0))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"weights": {"a": 0}}, TokenCounterParameters)


PROTOCOLS = {
    "fairness": (fairness.PLUGINS + vtc.PLUGINS + attained.PLUGINS, FairnessPolicy),
    "order": (order.PLUGINS, OrderingPolicy),
    "usage": (usage.PLUGINS, usage.UsageLimitPolicy),
    "filter": (eviction.PLUGINS[:1], eviction.EvictionFilter),
    "eviction order": (eviction.PLUGINS[1:], eviction.EvictionOrder),
}


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_every_row_builds_what_it_promises(kind: str) -> None:
    rows, protocol = PROTOCOLS[kind]
    for row in rows:
        given = {"minCeiling": 0.5} if row.type_name == "priority-holdback-policy" else {}
        built = row.build(msgspec.convert(given, row.parameters), BuildContext("x", {}.__getitem__))
        assert isinstance(built, protocol), row.type_name
