"""The overload demo's parts: who asks, what is counted, what is promised, what epp is told."""

from __future__ import annotations

from collections import Counter
from math import inf
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from epp.cli.demo import gateway
from epp.cli.demo.overload import stack, tables
from epp.cli.demo.overload.play import Job
from epp.cli.demo.overload.scene import BANDS, CAPACITY, FLOODER, TENANTS, Ask, Band, Phases, asks
from epp.cli.demo.overload.tally import between, tally
from epp.cli.demo.overload.verdict import complaints
from epp.config.loader import load_text
from epp.load.calls import Call

PHASES = Phases.of(100.0)
TOP, STANDARD, BATCH = BANDS
CALL = Call("/v1/chat/completions", {}, b"{}", stream=True, model="m", input_tokens=1)


def job(
    at: float, band: Band, tenant: str = "ash", *, ttft_s: float = inf, told: tuple[int, ...] = ()
) -> Job:
    """Answered after so long, or refused so often."""
    made = Job(Ask(at, tenant, band, CALL, 0))
    made.first_token_at = made.answered_at = at + ttft_s
    made.retry_after_s = list(told)
    made.away = bool(told) and ttft_s == inf
    return made


def good() -> list[Job]:
    flooded = PHASES.flood_at + 1
    return [
        job(flooded, TOP, ttft_s=0.1),
        job(flooded, STANDARD, ttft_s=3.0, told=(2,)),
        job(flooded, BATCH, FLOODER, told=(9, 60)),
        job(PHASES.calm_at, STANDARD, ttft_s=0.1),
    ]


SLOW = [job(PHASES.flood_at + 1, TOP, ttft_s=9.0)]


def test_the_same_asks_for_the_same_seed_in_order_of_time() -> None:
    first, again, other = asks(PHASES, 1), asks(PHASES, 1), asks(PHASES, 2)
    assert first == again != other
    assert [ask.at for ask in first] == sorted(ask.at for ask in first)
    assert {ask.call.headers["x-llm-d-inference-objective"] for ask in first} == {band.name for band in BANDS}
    assert {ask.call.headers["x-llm-d-inference-fairness-id"] for ask in first} == set(TENANTS)


def test_the_flood_is_more_than_the_engines_can_do_and_the_calm_is_half() -> None:
    flood_s, calm_s = PHASES.ebb_at - PHASES.flood_at, PHASES.flood_at
    found = Counter(PHASES.name(ask.at) for ask in asks(PHASES, 1))
    assert found["FLOOD"] / flood_s / CAPACITY == pytest.approx(2.5, rel=0.15)
    assert found["calm"] / calm_s / CAPACITY == pytest.approx(0.5, rel=0.25)
    top = sum(ask.band is TOP and PHASES.name(ask.at) == "FLOOD" for ask in asks(PHASES, 1))
    assert top / flood_s / CAPACITY < 0.5


def test_counts_tell_answers_refusals_and_who_still_waits() -> None:
    failed = job(1.0, TOP)
    failed.failure = "reset"
    jobs = [job(1.0, TOP, ttft_s=0.5, told=(3,)), job(2.0, TOP, told=(1, 7)), job(3.0, TOP), failed]
    one = tally(jobs)
    assert (one.asked, one.answered, one.refused, one.waiting, one.failed) == (4, 1, 1, 1, 1)
    assert (one.refusals, one.retry_after_s, one.ttft_p99_s) == (3, (1, 7), inf)
    assert tally(between(jobs, 0.0, 2.0)).ttft_p99_s == 0.5
    assert tally([]).ttft_p99_s is None


def test_nothing_is_said_when_all_held() -> None:
    assert complaints(good(), SLOW, PHASES) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (job(20.0, TOP, told=(1,)), "interactive requests were refused"),
        (job(20.0, TOP), "got no answer"),
        (job(20.0, TOP, ttft_s=9.0), "waited as long as without queues"),
        (job(20.0, BATCH, told=(61,)), "Retry-After was between 2 and 61"),
        (job(20.0, BATCH, told=(0,)), "Retry-After was between 0 and 60"),
        (job(20.0, STANDARD, told=(3,)), "of those who do not flood"),
        (job(90.0, STANDARD, FLOODER, told=(3,)), "after the flood"),
        (job(20.0, BATCH), "still waited at the end"),
    ],
)
def test_what_did_not_hold_is_said(more: Job, words: str) -> None:
    assert any(words in sentence for sentence in complaints([*good(), more], SLOW, PHASES))


def test_no_overload_is_no_proof() -> None:
    assert any("no overload" in sentence for sentence in complaints(good()[:1], SLOW, PHASES))


def test_the_tables_show_every_band() -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(tables.picture("with queues", good(), PHASES, 50.0))
        console.print(tables.comparison({"without": SLOW, "with queues": good()}, PHASES))
    text = captured.get()
    assert "with queues: 50 of 100 s, FLOOD" in text
    for band in BANDS:
        assert f"{band.name}: answered" in text
    assert "9-60" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 79


def test_epp_reads_both_configurations(tmp_path: Path) -> None:
    plain, queued = stack.documents(tmp_path / "endpoints.yaml", tmp_path / "objectives.yaml")
    assert load_text(yaml.safe_dump(plain), source="demo").flow is None
    loaded = load_text(yaml.safe_dump(queued), source="demo", allow_experimental=True)
    assert loaded.flow is not None
    assert set(loaded.flow.registry.bands) == {band.priority for band in BANDS}
    assert not loaded.notices


def test_its_gateway_lets_clients_say_how_important_they_are() -> None:
    ports = gateway.Ports(picked=18081, admin=18083, epp=18084, epp_health=18085)
    text = gateway.believing(ports)
    assert "x-llm-d-inference-objective" not in text
    assert "x-gateway-destination-endpoint-subset" in text
