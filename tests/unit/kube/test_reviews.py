"""What is asked of the cluster about callers, and what is believed without asking."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.domain.access import ALLOWED, Access
from epp.kube.api import KubeError
from epp.kube.reviews import (
    ALLOWED_S,
    AT_ONCE,
    BURST,
    FORBIDDEN_S,
    IDENTITY_PATH,
    PERMISSION_PATH,
    QUESTIONS_PER_S,
    REMEMBERED,
    STALE_S,
    TOKEN_BYTES_MAX,
    TOKEN_S,
    Reviews,
)

NOBODY = Access(401, "the cluster does not know this token, or it has expired")
SECRET = "a-very-secret-token"


class Cluster:
    """The two reviews, as an API server answers them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.users: dict[str, str] = {SECRET: "prometheus"}
        self.allowed: set[tuple[str, str, str]] = {("prometheus", "get", "/metrics")}
        self.fault: Exception | None = None
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.gate: asyncio.Event | None = None
        """Questions wait for it."""

    async def post(self, path: str, *, body: Any = None) -> dict[str, Any]:
        self.asked.append((path, body["spec"]))
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        if path == IDENTITY_PATH:
            assert body["kind"] == "TokenReview"
            name = self.users.get(body["spec"]["token"])
            if name is None:
                return {**body, "status": {"error": "invalid bearer token"}}
            user = {"username": name, "uid": f"uid-{name}", "groups": ["all"], "extra": {"pod": ["p"]}}
            return {**body, "status": {"authenticated": True, "user": user}}
        assert path == PERMISSION_PATH
        assert body["kind"] == "SubjectAccessReview"
        spec = body["spec"]
        assert (spec["uid"], spec["groups"], spec["extra"]) == (
            f"uid-{spec['user']}",
            ["all"],
            {"pod": ["p"]},
        )
        what = spec["nonResourceAttributes"]
        return {"status": {"allowed": (spec["user"], what["verb"], what["path"]) in self.allowed}}

    def clock(self) -> float:
        return self.now

    def counted(self) -> tuple[int, int]:
        """Questions of the two kinds, since asked last."""
        paths = [path for path, _ in self.asked]
        self.asked.clear()
        return paths.count(IDENTITY_PATH), paths.count(PERMISSION_PATH)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def reviews(cluster: Cluster) -> Reviews:
    return Reviews(cluster, clock=cluster.clock)


async def test_yes_and_no(cluster: Cluster) -> None:
    one = reviews(cluster)
    assert await one.review(SECRET, "get", "/metrics") == ALLOWED
    assert await one.review("made-up", "get", "/metrics") == NOBODY
    for verb, path in (("post", "/metrics"), ("get", "/debug/pprof")):
        access = await one.review(SECRET, verb, path)
        assert access.status == 403
        assert access.why.startswith(f"prometheus may not {verb} {path}")


@pytest.mark.parametrize("token", ["", "x" * (TOKEN_BYTES_MAX + 1)])
async def test_what_is_no_token_is_not_asked_about(cluster: Cluster, token: str) -> None:
    assert (await reviews(cluster).review(token, "get", "/metrics")).status == 401
    assert cluster.counted() == (0, 0)


@pytest.mark.parametrize(
    "status",
    [
        {"authenticated": False, "user": {"username": "prometheus"}},
        {"authenticated": "true", "user": {"username": "prometheus"}},
        {"user": {"username": "prometheus"}},
        {"authenticated": True, "user": {"username": ""}},
        {"authenticated": True},
        None,
    ],
)
async def test_half_a_yes_is_none(status: Any) -> None:
    class Api:
        async def post(self, path: str, *, body: Any = None) -> dict[str, Any]:
            return {"status": status if path == IDENTITY_PATH else {"allowed": True}}

    assert await Reviews(Api()).review("token", "get", "/metrics") == NOBODY


async def test_answers_are_remembered_for_a_while(cluster: Cluster) -> None:
    one = reviews(cluster)
    for token in (SECRET, "made-up"):
        for _ in range(3):
            await one.review(token, "get", "/metrics")
    assert cluster.counted() == (2, 1)
    await one.review(SECRET, "get", "/other")
    await one.review(SECRET, "get", "/other")
    assert cluster.counted() == (0, 1)
    cluster.now += FORBIDDEN_S
    await one.review(SECRET, "get", "/other")
    await one.review(SECRET, "get", "/metrics")
    assert cluster.counted() == (0, 1)
    cluster.now += TOKEN_S - FORBIDDEN_S
    await one.review(SECRET, "get", "/metrics")
    assert cluster.counted() == (1, 0)
    cluster.now += ALLOWED_S
    await one.review(SECRET, "get", "/metrics")
    assert cluster.counted() == (1, 1)


async def test_what_was_taken_back_ends_in_time(cluster: Cluster) -> None:
    one = reviews(cluster)
    assert await one.review(SECRET, "get", "/metrics") == ALLOWED
    del cluster.users[SECRET]
    cluster.now += TOKEN_S
    assert await one.review(SECRET, "get", "/metrics") == NOBODY
    cluster.users[SECRET] = "prometheus"
    cluster.allowed.clear()
    cluster.now += ALLOWED_S
    assert (await one.review(SECRET, "get", "/metrics")).status == 403


async def test_two_tokens_of_one_user_share_what_it_may(cluster: Cluster) -> None:
    cluster.users["other"] = "prometheus"
    one = reviews(cluster)
    await one.review(SECRET, "get", "/metrics")
    await one.review("other", "get", "/metrics")
    assert cluster.counted() == (2, 1)


async def test_callers_of_one_token_share_a_question(cluster: Cluster) -> None:
    cluster.gate = asyncio.Event()
    one = reviews(cluster)
    callers = [asyncio.create_task(one.review(SECRET, "get", "/metrics")) for _ in range(50)]
    await asyncio.sleep(0)
    callers[0].cancel()  # who asked first goes away
    cluster.gate.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [ALLOWED] * 49
    assert cluster.counted() == (1, 1)


FAULTS = [
    (KubeError(0, "Disconnected", "refused"), "Disconnected"),
    (KubeError(500, "InternalError", "etcd"), "500 InternalError"),
    (KubeError(429, "TooManyRequests", "later"), "429 TooManyRequests"),
    (KubeError(403, "Forbidden", "no"), "our own account may not create tokenreviews.authentication.k8s.io"),
    (TimeoutError(), "no answer in 5 s"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS)
async def test_who_cannot_be_asked_about_is_neither_known_nor_refused(
    cluster: Cluster, fault: Exception, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.fault = fault
    one = reviews(cluster)
    for _ in range(3):
        access = await one.review(SECRET, "get", "/metrics")
        assert access.status == 503
        assert words in access.why
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert words in caplog.text
    cluster.fault = None
    with caplog.at_level(logging.INFO):
        assert await one.review(SECRET, "get", "/metrics") == ALLOWED
    assert caplog.records[-1].levelname == "INFO"


async def test_a_yes_goes_on_while_the_cluster_is_away_but_not_for_ever(cluster: Cluster) -> None:
    one = reviews(cluster)
    await one.review(SECRET, "get", "/metrics")
    await one.review(SECRET, "get", "/other")
    cluster.fault = KubeError(0, "Disconnected", "refused")
    cluster.now += ALLOWED_S
    assert await one.review(SECRET, "get", "/metrics") == ALLOWED
    assert (await one.review(SECRET, "get", "/other")).status == 503
    assert (await one.review("made-up", "get", "/metrics")).status == 503
    cluster.now += STALE_S
    assert (await one.review(SECRET, "get", "/metrics")).status == 503


async def test_no_token_in_any_word(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    one = reviews(cluster)
    said = []
    with caplog.at_level(logging.DEBUG):
        for fault in (None, *(fault for fault, _ in FAULTS)):
            cluster.fault = fault
            cluster.now += ALLOWED_S + STALE_S
            said += [str(await one.review(token, "get", "/x")) for token in (SECRET, SECRET + "-2")]
    assert SECRET not in caplog.text + "".join(said)
    assert SECRET not in repr(vars(one))


async def test_strangers_cannot_make_us_flood_the_cluster(cluster: Cluster) -> None:
    one = reviews(cluster)
    assert await one.review(SECRET, "get", "/metrics") == ALLOWED
    cluster.now += TOKEN_S
    cluster.counted()
    answers = [await one.review(f"made-up-{i}", "get", "/metrics") for i in range(500)]
    assert [access.status for access in answers] == [401] * int(BURST) + [503] * (500 - int(BURST))
    assert cluster.counted() == (BURST, 0)
    assert await one.review(SECRET, "get", "/metrics") == ALLOWED  # known from before, and nobody was asked
    assert cluster.counted() == (0, 0)
    cluster.now += 1.0
    answers = [await one.review(f"again-{i}", "get", "/metrics") for i in range(500)]
    assert sum(access.status == 401 for access in answers) == QUESTIONS_PER_S


async def test_questions_at_once_are_few(cluster: Cluster) -> None:
    cluster.gate = asyncio.Event()
    one = reviews(cluster)
    callers = [asyncio.create_task(one.review(f"made-up-{i}", "get", "/metrics")) for i in range(30)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(cluster.asked) == AT_ONCE
    cluster.gate.set()
    answers = await asyncio.gather(*callers)
    assert [access.status for access in answers] == [401] * AT_ONCE + [503] * (30 - AT_ONCE)


async def test_memory_is_bounded(cluster: Cluster) -> None:
    one = reviews(cluster)
    for i in range(REMEMBERED + 1):
        cluster.now += 0.05
        cluster.users[f"t{i}"] = f"user-{i}"
    await one.review("t0", "get", "/metrics")
    for i in range(1, REMEMBERED + 1):
        cluster.now += 0.1
        await one.review(f"t{i}", "get", "/metrics")
    assert len(one._users._answers) == REMEMBERED
    assert len(one._permissions._answers) == REMEMBERED


ANSWERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["status", "authenticated", "allowed", "user", "username", "uid", "groups", "extra"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(ANSWERS, ANSWERS)
def test_only_a_clear_yes_to_both_is_a_yes(identity: Any, permission: Any) -> None:
    class Garbled:
        async def post(self, path: str, *, body: Any = None) -> dict[str, Any]:
            return {"status": identity if path == IDENTITY_PATH else permission}

    async def ask() -> Access:
        return await Reviews(Garbled(), clock=lambda: 0.0).review("t", "get", "/metrics")

    access = asyncio.run(ask())
    sure = (
        isinstance(identity, dict)
        and identity.get("authenticated") is True
        and isinstance(identity.get("user"), dict)
        and bool(identity["user"].get("username"))
    )
    yes = isinstance(permission, dict) and permission.get("allowed") is True
    assert access.status == (401 if not sure else 200 if yes else 403)
