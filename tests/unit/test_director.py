"""One request through the director with the real rooms behind it; only time and chance are given."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.admission.gate import Gate
from epp.config.loader import load_preset
from epp.datalayer.inflight import Ledger
from epp.datalayer.outliers import Outliers
from epp.datalayer.store import Store
from epp.director import REASONS_HEADER, Director, RequestCall, Settings
from epp.domain.endpoint import EndpointSpec
from epp.domain.errors import Answer, Reason, Refused
from epp.domain.snapshot import Ints
from epp.domain.views import Ending, Route
from epp.parsing.select import Parsers
from epp.scheduling.subset import subset_rows
from epp.telemetry.metrics import Metrics
from epp.telemetry.reasons import DecisionLog
from epp.telemetry.tracing import Tracer
from tests import builders


class House:
    """A director over `n` endpoints 10.0.0.1:8000 and on."""

    def __init__(self, n: int = 3, settings: Settings | None = None) -> None:
        self.now = 100.0
        self.ledger = Ledger()
        self.outliers = Outliers(Random(1))
        self.store = Store(observers=[self.ledger], health=self.outliers)
        self.metrics = Metrics()
        self.decisions = DecisionLog(100)
        loaded = load_preset()
        self.director = Director(
            parsers=Parsers(loaded.parsers),
            scheduler=loaded.scheduler(self.ledger),
            gate=Gate(loaded.detector.plugin, self.ledger),
            store=self.store,
            ledger=self.ledger,
            outliers=self.outliers,
            metrics=self.metrics,
            tracer=Tracer(),
            decisions=self.decisions,
            settings=settings or Settings(),
            clock=lambda: self.now,
            seed=count().__next__,
        )
        specs = [EndpointSpec(f"pod-{i}", f"10.0.0.{i + 1}", 8000) for i in range(n)]
        self.store.set_endpoints(specs, self.now)

    def open(self, path: str = "/v1/chat/completions", **more: Any) -> RequestCall:
        return self.director.open(builders.head(path, received_at=self.now, **more))

    def inflight(self) -> tuple[float, float]:
        slots: Ints = self.store.snapshot.slots
        return float(self.ledger.requests(slots).sum()), float(self.ledger.prefill_tokens(slots).sum())

    def page(self) -> str:
        return "".join(self.metrics.render())


def chat(text: str = "hello " * 100, **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more}).encode()


def refusal(verdict: Route | Answer) -> dict[str, Any]:
    assert isinstance(verdict, Answer)
    error: dict[str, Any] = json.loads(verdict.body)["error"]
    return {"status": verdict.status, **error}


def test_the_ledger_follows_a_request_to_its_end() -> None:
    house = House()
    call = house.open()
    verdict = call.decide(chat())
    assert isinstance(verdict, Route)
    assert verdict.body is None
    requests, prefill = house.inflight()
    assert requests == 1
    assert prefill > 100
    call.answer_headers(200, {"content-type": "application/json"}, None)
    assert house.inflight()[1] == prefill
    call.answer_chunk(b'{"usage": {"prompt_tokens": 5, "completion_tokens": 3}}', True)
    assert house.inflight() == (1, 0)
    call.end(Ending.NATURAL)
    call.end(Ending.NATURAL)
    assert house.inflight() == (0, 0)
    page = house.page()
    assert 'llm_d_epp_request_total{model_name="m",target_model_name="m"' in page
    assert 'llm_d_epp_request_output_tokens_sum{model_name="m"' in page


def test_the_second_turn_goes_where_the_first_is_cached() -> None:
    house = House(8)
    turn = house.open()
    first = turn.decide(chat("a long story " * 200))
    turn.answer_headers(200, {"content-type": "application/json"}, None)
    turn.answer_chunk(b"{}", True)
    turn.end(Ending.NATURAL)
    second = house.open(request_id="r2").decide(chat("a long story " * 200 + "and then"))
    assert isinstance(first, Route)
    assert isinstance(second, Route)
    assert first.destination == second.destination
    decision = house.decisions.find("r2")
    assert decision is not None
    assert decision.cached_tokens > 500


def test_the_served_endpoint_is_believed() -> None:
    house = House()
    call = house.open()
    verdict = call.decide(chat())
    assert isinstance(verdict, Route)
    other = next(e for e in house.store.endpoints if e.authority != verdict.destination)
    call.answer_headers(200, {}, other.authority)
    row = house.store.endpoints.index(other)
    assert house.ledger.requests(house.store.snapshot.slots)[row] == 1
    call.end(Ending.NATURAL)
    assert house.inflight() == (0, 0)


@pytest.mark.parametrize("header", ["x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"])
def test_a_model_rewrite_splices_and_is_put_back(header: str) -> None:
    house = House()
    body = b'{"messages":[{"role":"user","content":"model"}], "model" : "m","x":1.10}'
    call = house.open(headers={header: "target-model"})
    verdict = call.decide(body)
    assert isinstance(verdict, Route)
    assert verdict.body == body.replace(b'"m"', b'"target-model"')
    change = call.answer_headers(200, {"content-type": "application/json", "content-length": "60"}, None)
    assert "content-length" in change.remove
    sent = call.answer_chunk(b'{"model":"targ', False)
    sent2 = call.answer_chunk(b'et-model","n":1}', True)
    assert sent is not None
    assert sent2 is not None
    assert sent + sent2 == b'{"model":"m","n":1}'


def test_compressed_answers_are_left_alone() -> None:
    call = House().open(headers={"x-llm-d-model-name-rewrite": "t"})
    call.decide(chat())
    assert call.answer_headers(200, {"content-encoding": "gzip"}, None).remove == ()
    assert call.answer_chunk(b"\x1f\x8b...", True) is None


def test_refusals_name_the_field() -> None:
    house = House()
    missing = refusal(house.open().decide(b'{"messages": []}'))
    assert (missing["status"], missing["param"]) == (400, "model")
    assert refusal(house.open().decide(b"{bad"))["status"] == 400
    assert 'epp_refusals_total{reason="missing_required_parameter"' in house.page()
    assert house.inflight() == (0, 0)


def test_an_empty_pool_is_503_but_a_bad_body_is_told_first() -> None:
    house = House(0)
    assert refusal(house.open().decide(b"{bad"))["status"] == 400
    answer = house.open().decide(chat())
    assert refusal(answer)["status"] == 503
    assert isinstance(answer, Answer)
    assert ("x-llm-d-request-dropped-reason", "rejected-no-endpoints") in answer.headers


def test_subsets_bound_the_choice_also_without_a_body() -> None:
    house = House(5)
    for has_body in (True, False):
        call = house.open(has_body=has_body, subset=("10.0.0.4:8000",))
        verdict = call.decide(chat() if has_body else b"")
        assert isinstance(verdict, Route)
        assert verdict.destination == "10.0.0.4:8000"
    assert refusal(house.open(subset=("10.9.9.9",)).decide(chat()))["status"] == 503
    assert refusal(house.open(subset=()).decide(chat()))["status"] == 503
    late = house.open()
    late.allow(("10.0.0.2",))
    verdict = late.decide(chat())
    assert isinstance(verdict, Route)
    assert verdict.destination == "10.0.0.2:8000"


def test_the_subset_filter_can_be_switched_off() -> None:
    house = House(2, Settings(subset_filter=False))
    assert isinstance(house.open(subset=("10.9.9.9",)).decide(chat()), Route)


@pytest.mark.parametrize(
    ("subset", "rows"),
    [
        (("10.0.0.1",), [0, 1]),
        (("10.0.0.1:9",), [0, 1]),
        (("10.0.0.1:8001",), [1]),
        (("[2001:db8::1]:80", "x"), [2]),
        (("2001:db8::1",), [2]),
        (("[2001:db8::1]",), [2]),
    ],
)
def test_subset_entries(subset: Sequence[str], rows: list[int]) -> None:
    pool = [
        builders.endpoint(0, ip="10.0.0.1", port=8000),
        builders.endpoint(1, ip="10.0.0.1", port=8001),
        builders.endpoint(2, ip="2001:db8::1", port=80),
    ]
    assert subset_rows(builders.snapshot(endpoints=pool), tuple(subset)).tolist() == rows


def test_a_follow_up_goes_where_the_response_was_made() -> None:
    house = House(8)
    made_at: dict[str, str] = {}
    for i in range(8):
        call = house.open("/v1/responses", request_id=f"r{i}")
        verdict = call.decide(json.dumps({"model": "m", "input": f"question {i} " * 50}).encode())
        assert isinstance(verdict, Route)
        call.answer_headers(200, {"content-type": "application/json"}, None)
        answer = {"id": f"resp_{i}", "object": "response", "usage": {"input_tokens": 1, "output_tokens": 1}}
        call.answer_chunk(json.dumps(answer).encode(), True)
        call.end(Ending.NATURAL)
        made_at[f"resp_{i}"] = verdict.destination
    assert len(set(made_at.values())) > 1
    for response_id, destination in made_at.items():
        read = house.open(f"/v1/responses/{response_id}", method="GET", has_body=False).decide(b"")
        body = {"model": "m", "input": "more", "previous_response_id": response_id}
        more = house.open("/v1/responses").decide(json.dumps(body).encode())
        assert isinstance(read, Route)
        assert isinstance(more, Route)
        assert read.destination == more.destination == destination


def test_a_failing_endpoint_is_avoided() -> None:
    house = House(4)
    bad = "10.0.0.2:8000"
    for i in range(40):
        call = house.open(request_id=f"r{i}")
        verdict = call.decide(chat(f"{i} " * 50))
        assert isinstance(verdict, Route)
        call.answer_headers(500 if verdict.destination == bad else 200, {"date": "x"}, verdict.destination)
        call.end(Ending.NATURAL)
    assert house.outliers.avoided == 1
    assert "epp_outlier_ejections_total 1\n" in house.page()


def test_envoys_own_503_is_a_refused_connection() -> None:
    house = House(4)
    call = house.open()
    assert isinstance(call.decide(chat()), Route)
    call.answer_headers(503, {"content-type": "application/json", "content-length": "200"}, None)
    assert house.outliers.avoided == 1


@pytest.mark.parametrize("header", ["date", "server", "x-envoy-upstream-service-time", "x-envoy-overloaded"])
def test_one_503_of_an_engine_or_of_envoys_limits_is_not(header: str) -> None:
    house = House(4)
    call = house.open()
    call.decide(chat())
    call.answer_headers(503, {"content-type": "text/plain", header: "1"}, None)
    assert house.outliers.avoided == 0


def test_the_reasons_go_out_where_asked_for() -> None:
    call = House(settings=Settings(reasons_header=True, emit_scores=True)).open()
    verdict = call.decide(chat())
    assert isinstance(verdict, Route)
    assert verdict.scores is not None
    assert set(verdict.scores) == {"10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"}
    headers = dict(call.answer_headers(200, {}, None).set)
    assert "endpoint=" in headers[REASONS_HEADER]


def test_an_answer_without_its_request_is_passed() -> None:
    house = House()
    call = house.director.open_answer()
    call.answer_headers(200, {"content-type": "text/event-stream"}, None)
    assert call.answer_chunk(b"data: {}\n\n", True) is None
    call.end(Ending.NATURAL)


def test_streamed_modes_route_at_the_headers_by_the_model_set_before_us() -> None:
    house = House()
    verdict = house.open(headers={"x-gateway-model-name": "m"}).decide(b"", truncated=True)
    assert isinstance(verdict, Route)
    decision = house.decisions.find("req-1")
    assert decision is not None
    assert decision.target_model == "m"


def test_a_fault_of_ours_is_a_500_with_a_body() -> None:
    house = House()
    call = house.open()
    answer = call.refuse(Refused(Reason.INTERNAL, "broken"))
    assert answer.status == 500
    assert json.loads(answer.body)["error"]["type"] == "server_error"


def test_prompts_and_snapshots_are_not_kept_for_the_life_of_a_stream() -> None:
    house = House()
    calls = []
    for _ in range(3):
        calls.append(house.open())
        calls[-1].decide(chat("x" * (30 << 20)))
    kept = [call._request is not None and call._request.prompts != () for call in calls]
    assert kept == [True, True, False], "a retry elsewhere is learned of as long as that is affordable"
    calls[0].answer_headers(200, {}, None)
    calls[1].end(Ending.CLIENT_DISCONNECT)
    assert house.director.kept_bytes == 0
    snapshot, alone = house.store.snapshot, builders.snapshot()
    house.decisions = house.director.decisions = DecisionLog(1)
    house.store.set_endpoints([EndpointSpec("other", "10.0.1.1", 1)], house.now)
    calls[2].answer_headers(200, {}, None)
    last = house.open()
    last.decide(chat())
    assert sys.getrefcount(snapshot) == sys.getrefcount(alone)


@pytest.mark.parametrize("where", ["body", "rewrite"])
def test_giant_model_names_are_refused(where: str) -> None:
    name = "m" * 5000
    headers = {"x-gateway-model-name-rewrite": name} if where == "rewrite" else {}
    answer = refusal(House().open(headers=headers).decide(chat(model="m" if headers else name)))
    assert (answer["status"], answer["param"]) == (400, "model")
    assert len(answer["message"]) < 200


def test_headers_that_were_not_shown_are_not_overwritten() -> None:
    """request_header_mode SKIP: the client's own request id and trace context are there, unseen."""
    verdict = House().open().decide(chat())
    assert isinstance(verdict, Route)
    assert verdict.set_headers == []
    seen = House().open(headers={"x-request-id": ""}, request_id="made").decide(chat())
    assert isinstance(seen, Route)
    assert seen.set_headers == [("x-request-id", "made")]


def test_a_follow_up_goes_where_the_response_was_really_made() -> None:
    house = House(8)
    call = house.open("/v1/responses")
    verdict = call.decide(b'{"model": "m", "input": "question"}')
    assert isinstance(verdict, Route)
    other = next(e.authority for e in house.store.endpoints if e.authority != verdict.destination)
    call.answer_headers(200, {"content-type": "application/json"}, other)
    call.answer_chunk(b'{"id": "resp_1", "object": "response"}', True)
    call.end(Ending.NATURAL)
    read = house.open("/v1/responses/resp_1", method="GET", has_body=False).decide(b"")
    assert isinstance(read, Route)
    assert read.destination == other


def test_an_answer_without_its_headers_is_read_and_left_as_it_is() -> None:
    """response_header_mode SKIP: the length has gone out, so the model's name cannot be put back."""
    house = House()
    call = house.open(headers={"x-llm-d-model-name-rewrite": "target"})
    assert isinstance(call.decide(chat()), Route)
    assert house.inflight()[1] > 0
    answer = b'{"model":"target","usage":{"prompt_tokens":5,"completion_tokens":3}}'
    assert call.answer_chunk(answer, True) is None
    assert house.inflight()[1] == 0
    call.end(Ending.NATURAL)
    assert 'llm_d_epp_request_output_tokens_sum{model_name="m",target_model_name="target"' in house.page()


def test_a_slots_next_tenant_is_not_blamed() -> None:
    house = House(4)
    calls = [house.open(request_id=f"r{i}") for i in range(100)]
    first = _destination(calls[0].decide(chat()))
    bad = next(e for e in house.store.endpoints if e.authority == first)
    there = [call for call in calls[1:] if _destination(call.decide(chat())) == bad.authority]
    assert len(there) >= 5
    pool = [EndpointSpec(f"pod-{i}", f"10.0.0.{i + 1}", 8000) for i in range(4)]
    without = [spec for spec in pool if f"{spec.address}:8000" != bad.authority]
    house.store.set_endpoints(without, house.now)
    house.now += 60
    house.store.set_endpoints([*without, EndpointSpec("new", "10.0.0.99", 8000)], house.now)
    new = house.store.by_authority("10.0.0.99:8000")
    assert new is not None
    assert new.slot == bad.slot
    for call in there:
        call.answer_headers(500, {"date": "x"}, None)
        call.end(Ending.NATURAL)
    assert house.outliers.avoided == 0


def test_a_gateways_own_refusal_tells_nothing_good_of_an_endpoint() -> None:
    house = House(4)
    for status in (500, 500, 408, 500):
        call = house.open(subset=("10.0.0.1:8000",))
        call.decide(chat())
        local = {"content-type": "text/plain"} if status == 408 else {"date": "x"}
        call.answer_headers(status, local, None)
        call.end(Ending.NATURAL)
    assert house.outliers.avoided == 1


def test_lies_about_output_do_not_reach_the_ledger() -> None:
    house = House()
    for said in (10**15, 10):
        call = house.open()
        call.decide(chat())
        call.answer_headers(200, {"content-type": "application/json"}, None)
        call.answer_chunk(
            json.dumps({"usage": {"prompt_tokens": 1, "completion_tokens": said}}).encode(), True
        )
        call.end(Ending.NATURAL)
    house.open().decide(chat())
    assert house.ledger.decode_tokens(house.store.snapshot.slots).sum() == 10


def _destination(verdict: Route | Answer) -> str:
    assert isinstance(verdict, Route)
    return verdict.destination


STEPS = st.lists(
    st.sampled_from(["decide", "headers", "5xx", "chunk", "last", "elsewhere", "gone", "end"]), max_size=8
)


@given(st.lists(STEPS, max_size=6))
def test_whatever_a_stream_does_the_ledger_comes_back_to_zero(streams: list[list[str]]) -> None:
    house = House()
    for steps in streams:
        call = house.open()
        decided = False
        for step in steps:
            if step == "decide" and not decided:
                decided = True
                call.decide(chat())
            elif step in ("headers", "5xx", "elsewhere"):
                served = "10.0.0.3:8000" if step == "elsewhere" else None
                call.answer_headers(503 if step == "5xx" else 200, {}, served)
            elif step == "gone":
                house.store.set_endpoints([EndpointSpec("other", "10.0.1.1", 1)], house.now)
            elif step in ("chunk", "last"):
                call.answer_chunk(b"x", step == "last")
            elif step == "end":
                call.end(Ending.CLIENT_DISCONNECT)
                break
        call.end(Ending.NATURAL)
    assert house.inflight() == (0, 0)
    assert house.ledger.open_entries == 0
