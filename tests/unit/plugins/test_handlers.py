"""Profile handlers and the plugins of the conformance suite."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from epp.datalayer.inflight import Ledger
from epp.domain.errors import Reason, Refused
from epp.scheduling.contract import Cycle
from tests.builders import endpoint, request, snapshot
from tests.laws.world import build


def cycle_of(headers: dict[str, str], *profiles: str) -> Cycle:
    pool = snapshot(
        endpoints=[endpoint(0, ip="10.0.0.1"), endpoint(1, ip="10.0.0.2"), endpoint(2, ip="fd00::1")]
    )
    return Cycle(
        request=request(headers=headers), snapshot=pool, now=0.0, rng=Random(1), inflight=Ledger(),
        profiles=profiles,
    )  # fmt: skip


def test_single_profile() -> None:
    assert list(build("single-profile-handler").next_profiles(cycle_of({}, "only"), {})) == ["only"]


@pytest.mark.parametrize(
    ("headers", "profile"),
    [({"epp-profile": "prefill"}, "prefill"), ({}, "decode"), ({"epp-profile": " "}, "decode")],
)
def test_header_profile(headers: dict[str, str], profile: str) -> None:
    cycle = cycle_of(headers, "decode", "prefill")
    assert list(build("header-profile-handler").next_profiles(cycle, {})) == [profile]


def test_header_profile_by_other_names() -> None:
    handler = build("header-profile-handler", headerName="X-P", defaultProfile="b")
    assert list(handler.next_profiles(cycle_of({}, "a", "b"), {})) == ["b"]
    assert list(handler.next_profiles(cycle_of({"x-p": "a"}, "a", "b"), {})) == ["a"]


def test_header_profile_that_is_not_there() -> None:
    with pytest.raises(Refused, match="'encode' is no profile of decode, prefill") as caught:
        build("header-profile-handler").next_profiles(
            cycle_of({"epp-profile": "encode"}, "decode", "prefill"), {}
        )
    assert caught.value.reason is Reason.NO_ENDPOINT_LEFT


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (None, []),
        ("", []),
        ("10.0.0.1", [0]),
        ("10.0.0.1:8000, 10.0.0.2", [0, 1]),
        ("10.0.0.1:9", []),
        ("fd00::1", [2]),
        ("[fd00::1]", [2]),
        ("[fd00::1]:8000", [2]),
    ],
)
def test_selection_by_header(header: str | None, kept: list[int]) -> None:
    cycle = cycle_of({} if header is None else {"test-epp-endpoint-selection": header})
    answer = build("header-based-testing-filter").keep(cycle, np.arange(3))
    assert np.flatnonzero(answer).tolist() == kept
