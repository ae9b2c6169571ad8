"""What follows what, without a server: where to go on, and after how long."""

from __future__ import annotations

import random

import pytest

from epp.kube.resource import PODS, Resource
from epp.kube.watchstate import (
    GONE_AFTER,
    LONGEST_ASKED_S,
    LONGEST_WAIT_S,
    RELIST_AFTER,
    SETTLED_S,
    Course,
    Step,
)

POOLS = Resource("inference.networking.k8s.io", "v1", "inferencepools", "InferencePool")


class Most(random.Random):
    """Always the longest."""

    def uniform(self, a: float, b: float) -> float:
        return b


def course(resource: Resource = PODS, namespace: str | None = "shop") -> Course:
    return Course(resource, namespace, Most(), resync_s=(600.0, 1800.0))


def watching(now: float = 0.0, version: str = "7") -> Course:
    at = course()
    at.listed(version, now)
    at.watching(now)
    return at


def test_a_list_is_followed_by_a_watch_from_its_version() -> None:
    at = course()
    assert (at.step, at.synced) == (Step.LIST, False)
    at.listed("7", 0.0)
    assert (at.step, at.version, at.synced, at.trouble) == (Step.WATCH, "7", True, "")


def test_events_and_bookmarks_move_the_version() -> None:
    at = watching()
    at.told("9")
    assert at.version == "9"
    assert at.ended(60.0) == 0.0
    assert (at.step, at.version) == (Step.WATCH, "9")


def test_a_watch_that_says_nothing_and_ends_at_once_is_not_hammered() -> None:
    at = watching()
    waits = []
    for _ in range(4):
        at.watching(0.0)
        waits.append(at.ended(0.1))
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert at.step is Step.WATCH


def test_waits_grow_to_a_limit_and_a_word_ends_them() -> None:
    at = watching()
    waits = [at.failed(0, "Disconnected", "gone", 1.0) for _ in range(12)]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == LONGEST_WAIT_S
    at.watching(2.0)
    at.told("8")
    assert at.failed(0, "Disconnected", "gone", 2.0) == 0.5
    assert (at.step, at.version) == (Step.WATCH, "8"), "a cut connection is no reason to list again"


def test_a_long_watch_makes_up_for_failures_though_nothing_was_said() -> None:
    at = watching()
    for _ in range(5):
        at.failed(0, "Disconnected", "gone", 1.0)
    at.watching(2.0)
    assert at.failed(0, "Disconnected", "gone", 2.0 + SETTLED_S) == 0.5


def test_waits_are_jittered_down_to_nothing() -> None:
    at = Course(PODS, None, random.Random(3), resync_s=(1.0, 1.0))
    waits = [at.failed(500, "InternalError", "no", 0.0) for _ in range(200)]
    assert min(waits) < 1.0
    assert max(waits) > LONGEST_WAIT_S * 0.9


def test_forgotten_history_lists_again_at_once_but_not_in_a_circle() -> None:
    at = watching()
    assert at.failed(410, "Expired", "too old", 1.0) == 0.0
    assert at.step is Step.LIST
    at.listed("8", 1.0)
    assert at.synced, "the last world stays"
    assert at.failed(410, "Expired", "too old", 1.0) > 0.0, "list and watch do not chase each other"


def test_a_version_that_the_server_cannot_serve_is_given_up() -> None:
    at = watching()
    for _ in range(RELIST_AFTER - 1):
        at.failed(504, "Timeout", "too large resource version", 1.0)
        assert at.step is Step.WATCH
    at.failed(504, "Timeout", "too large resource version", 1.0)
    assert at.step is Step.LIST


@pytest.mark.parametrize("status", [401, 403, 429])
def test_refusals_that_say_nothing_of_the_version_keep_it(status: int) -> None:
    at = watching()
    for _ in range(10):
        at.failed(status, "No", "no", 1.0)
    assert at.step is Step.WATCH


def test_a_pause_that_the_server_asks_for_is_kept_within_reason() -> None:
    at = watching()
    assert at.failed(429, "TooManyRequests", "later", 1.0, asked_s=7.0) == pytest.approx(8.4)
    assert at.failed(429, "TooManyRequests", "later", 1.0, asked_s=1e9) == LONGEST_ASKED_S * 1.2


def test_the_list_is_read_anew_in_time() -> None:
    at = watching(now=100.0)
    at.ended(100.0 + 1799.0)
    assert at.step is Step.WATCH
    at.watching(100.0 + 1799.0)
    at.ended(100.0 + 1800.0)
    assert at.step is Step.LIST
    assert at.synced


def test_a_resource_that_was_never_there_is_absent_and_that_is_a_whole_world() -> None:
    at = course(POOLS)
    wait_s = at.failed(404, "NotFound", "404 page not found", 0.0)
    assert (at.synced, at.absent, at.trouble) == (True, True, "")
    assert 0 < wait_s <= LONGEST_WAIT_S
    at.listed("3", 1.0)
    assert (at.synced, at.absent) == (True, False)


def test_a_resource_that_was_there_is_given_up_only_after_a_while() -> None:
    at = watching()
    for _ in range(GONE_AFTER - 1):
        at.failed(404, "NotFound", "no", 1.0)
        assert not at.absent
        assert "does not know pods/v1" in at.trouble
    at.failed(404, "NotFound", "no", 1.0)
    assert at.absent


def test_trouble_names_the_rule_that_is_missing() -> None:
    at = course(POOLS)
    at.failed(403, "Forbidden", "inferencepools is forbidden", 0.0)
    assert at.trouble == (
        "may not list inferencepools.inference.networking.k8s.io/v1 in namespace shop: a Role for this "
        'account needs {apiGroups: ["inference.networking.k8s.io"], resources: ["inferencepools"], '
        'verbs: ["get", "list", "watch"]} (inferencepools is forbidden)'
    )
    everywhere = course(PODS, None)
    everywhere.listed("1", 0.0)
    everywhere.failed(403, "Forbidden", "no", 0.0)
    assert everywhere.trouble.startswith("may not watch pods/v1 in all namespaces: a ClusterRole ")


def test_trouble_stays_until_the_watch_is_open() -> None:
    at = course()
    at.failed(500, "InternalError", "no", 0.0)
    assert at.trouble == "cannot list pods/v1 in namespace shop: 500 InternalError: no"
    at.listed("1", 0.0)
    assert at.trouble
    at.watching(0.0)
    assert not at.trouble
