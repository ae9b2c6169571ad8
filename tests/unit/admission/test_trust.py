"""Whose control headers count, and what is taken away from the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.admission.trust import Taken, Trust, TrustSettings
from epp.domain.controls import DEFAULT_FLOW, Controls

PLAIN = {":method": "POST", "content-type": "application/json"}
ASKED = {
    "x-llm-d-inference-objective": "gold",
    "x-llm-d-inference-fairness-id": "a",
    "x-llm-d-inference-ttl": "1500ms",
    "x-llm-d-slo-ttft-ms": "250",
    "x-slo-tpot-ms": "12.5",
    "test-epp-endpoint-selection": "10.0.0.1",
}
ALL = PLAIN | ASKED
NOTHING = Controls(headers=PLAIN)


def everything(taken: Taken, **more: object) -> Trust:
    names = ("objective", "fairness_id", "ttl", "slo", "test_selection")
    return Trust(TrustSettings(**dict.fromkeys(names, taken), **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("trust", [Trust(), everything(Taken.CLIENTS)])
def test_taken_from_everybody(trust: Trust) -> None:
    assert trust.controls(ALL) == Controls(
        headers=ALL, objective="gold", fairness_id="a", ttl_s=1.5, ttft_slo_s=0.25, tpot_slo_s=0.0125,
        test_selection="10.0.0.1",
    )  # fmt: skip
    assert trust.controls(ALL).headers is ALL
    assert trust.controls(PLAIN) == NOTHING


def test_the_first_name_wins_over_its_alias() -> None:
    both = {"x-gateway-inference-objective": "old", "x-llm-d-inference-objective": "new"}
    assert Trust().controls(both).objective == "new"
    assert Trust().controls({"x-gateway-inference-objective": "old"}).objective == "old"
    assert Trust().controls({"x-gateway-inference-fairness-id": "t"}).fairness_id == "t"


def test_a_section_that_names_nothing_strips_everything() -> None:
    controls = Trust(TrustSettings()).controls(ALL)
    assert set(controls.stripped) == set(ASKED)
    assert controls == Controls(headers=PLAIN, stripped=controls.stripped)
    aliases = {"x-gateway-inference-objective": "gold", "x-slo-ttft-ms": "1"}
    assert Trust(TrustSettings()).controls(aliases).stripped == tuple(aliases)


def test_a_marker_that_may_say_anything_or_one_thing() -> None:
    trust = everything(Taken.MARKER, marker="x-from-gateway")
    assert trust.controls(ALL | {"x-from-gateway": ""}).objective == "gold"
    assert trust.controls(ALL).objective == ""
    strict = everything(Taken.MARKER, marker="x-from-gateway", marker_value="yes")
    assert strict.controls(ALL | {"x-from-gateway": "no"}).objective == ""
    controls = strict.controls(ALL | {"x-from-gateway": "yes"})
    assert controls.objective == "gold"
    assert controls.stripped == ("x-from-gateway",)
    assert controls.headers == ALL


def test_a_secret_and_the_one_that_follows_it() -> None:
    trust = everything(Taken.SECRET, secret="x-key", secrets=(b"old", b"new"))
    for value in ("old", "new"):
        controls = trust.controls(ALL | {"x-key": value})
        assert (controls.objective, controls.stripped) == ("gold", ("x-key",))
        assert controls.headers == ALL
    for value in ("", "ol", "oldnew", "ø", "\udcff"):
        controls = trust.controls(ALL | {"x-key": value})
        assert controls.objective == ""
        assert set(controls.stripped) == {"x-key", *ASKED}
    assert trust.controls(ALL).objective == ""


def test_the_secret_is_never_shown() -> None:
    settings = TrustSettings(secret="x-key", secrets=(b"hush",))
    trust = Trust(settings)
    assert "hush" not in f"{settings!r} {trust!r} {trust.controls({'x-key': 'hush'})!r}"


def test_each_header_has_its_own_rule() -> None:
    trust = Trust(TrustSettings(objective=Taken.MARKER, fairness_id=Taken.CLIENTS, marker="m"))
    controls = trust.controls(ALL)
    assert (controls.objective, controls.fairness_id, controls.ttl_s) == ("", "a", None)
    assert "x-llm-d-inference-fairness-id" in controls.headers


def test_unknown_tenants_share_the_default_flow() -> None:
    trust = everything(Taken.CLIENTS, tenants=frozenset({"a"}))
    assert (trust.controls(ALL).fairness_id, trust.controls(ALL).known_tenant) == ("a", True)
    for headers in (PLAIN, ALL | {"x-llm-d-inference-fairness-id": "b"}):
        controls = trust.controls(headers)
        assert (controls.fairness_id, controls.known_tenant) == (DEFAULT_FLOW, False)


def test_giant_ids_share_the_default_flow() -> None:
    assert Trust().controls({"x-llm-d-inference-fairness-id": "x" * 257}).fairness_id == DEFAULT_FLOW


@pytest.mark.parametrize("value", ["", "-1s", "0", "5", "soon", "9" * 40 + "s", "999999999h", "1e3s"])
def test_a_ttl_that_means_nothing_is_none(value: str) -> None:
    assert Trust().controls({"x-llm-d-inference-ttl": value}).ttl_s is None


@pytest.mark.parametrize("value", ["", "-1", "0", "nan", "inf", "1e400", "fast", "1" * 40])
def test_an_slo_that_means_nothing_is_none(value: str) -> None:
    controls = Trust().controls({"x-llm-d-slo-ttft-ms": value, "x-llm-d-slo-tpot-ms": value})
    assert (controls.ttft_slo_s, controls.tpot_slo_s) == (None, None)


HEADERS = st.dictionaries(st.sampled_from([*ALL, "m", "k", "x-slo-ttft-ms"]), st.text(max_size=40))
SETTINGS = st.builds(
    TrustSettings,
    objective=st.sampled_from(Taken),
    fairness_id=st.sampled_from(Taken),
    ttl=st.sampled_from(Taken),
    slo=st.sampled_from(Taken),
    test_selection=st.sampled_from(Taken),
    marker=st.just("m"),
    secret=st.just("k"),
    secrets=st.just((b"s",)),
    tenants=st.none() | st.frozensets(st.text(max_size=3)),
)


@given(HEADERS, st.none() | SETTINGS)
def test_whatever_comes_is_split_into_what_stays_and_what_is_stripped(
    headers: dict[str, str], settings: TrustSettings | None
) -> None:
    controls = Trust(settings).controls(headers)
    assert set(controls.stripped).isdisjoint(controls.headers)
    assert {*controls.stripped, *controls.headers} == set(headers)
    assert len(set(controls.stripped)) == len(controls.stripped)
    assert all(headers[name] == value for name, value in controls.headers.items())
