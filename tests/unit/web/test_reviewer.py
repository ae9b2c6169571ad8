"""Pages that a cluster says who may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from epp.domain.access import ALLOWED, Access
from epp.web.server import WebOptions, WebServer
from tests.unit.web.test_server import Picker, serving, status


class Cluster:
    """A Reviewer that knows one token and what it may."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.away = False

    async def review(self, token: str, verb: str, path: str) -> Access:
        self.asked.append((token, verb, path))
        if self.away:
            return Access(503, "the cluster cannot be asked")
        if token != "good":
            return Access(401, "not known")
        return ALLOWED if path == "/metrics" else Access(403, f"prometheus may not {verb} {path}")


async def test_the_clusters_word_counts_for_every_page_but_health() -> None:
    cluster = Cluster()
    async with serving(Picker(), reviewer=cluster) as client:
        assert await status(client, "/metrics", "good") == 200
        assert await status(client, "/debug/decisions", "good") == 403
        assert await status(client, "/nowhere", "good") == 403
        assert await status(client, "/metrics", "bad") == 401
        assert await status(client, "/metrics") == 401
        assert await status(client, "/healthz") == 200
        assert await status(client, "/readyz") == 200
        cluster.away = True
        assert await status(client, "/metrics", "good") == 503
        assert await status(client, "/healthz") == 200
    assert cluster.asked == [
        ("good", "get", "/metrics"),
        ("good", "get", "/debug/decisions"),
        ("good", "get", "/nowhere"),
        ("bad", "get", "/metrics"),
        ("", "get", "/metrics"),
        ("good", "get", "/metrics"),
    ]


async def test_the_words_of_a_refusal() -> None:
    async with serving(Picker(), reviewer=Cluster()) as client:
        async with client.get("/metrics?x=1", headers={"Authorization": "Basic good"}) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="metrics"'
            assert (await answer.json())["error"] == {"code": 401, "message": "not known"}
        head = {"Authorization": "bearer  good "}
        async with client.post("/debug/decisions?q=good", headers=head) as answer:
            assert answer.status == 403
            assert "WWW-Authenticate" not in answer.headers
            assert (await answer.json())["error"]["message"] == "prometheus may not post /debug/decisions"


async def test_a_token_file_is_asked_instead(tmp_path: Path) -> None:
    secret, cluster = tmp_path / "token", Cluster()
    secret.write_text("mine")
    async with serving(Picker(), reviewer=cluster, token_file=secret) as client:
        assert await status(client, "/metrics", "mine") == 200
        assert await status(client, "/metrics", "good") == 401
    assert not cluster.asked


async def test_switched_off_auth_asks_nobody() -> None:
    cluster = Cluster()
    async with serving(Picker(), reviewer=cluster, auth=False) as client:
        assert await status(client, "/debug/decisions") == 200
    assert not cluster.asked


@pytest.mark.parametrize("asked", [True, False])
async def test_pages_are_not_open_where_a_cluster_is_asked(asked: bool) -> None:
    picker = Picker()
    server = WebServer(
        WebOptions(), metrics=picker.metrics, ready=picker.ready, decisions=picker.decisions,
        refusals=picker.refusals, pools=picker.pools, reviewer=Cluster() if asked else None,
    )  # fmt: skip
    assert bool(server.notices) is not asked
