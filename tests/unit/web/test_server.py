"""The listener, asked over real connections."""

from __future__ import annotations

import asyncio
import os
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from epp.domain.errors import Reason, Refused
from epp.domain.snapshot import NEVER
from epp.telemetry.metrics import Metrics
from epp.telemetry.reasons import DecisionLog
from epp.telemetry.refusals import RefusalLog
from epp.web.auth import Reviewer
from epp.web.flow import FlowPage
from epp.web.pools import Configured
from epp.web.server import Listener, WebOptions, WebServer
from tests.builders import snapshot
from tests.unit.telemetry.decisions import decision
from tests.unit.telemetry.pages import Page
from tests.unit.telemetry.test_pool import Inflight, Source
from tests.unit.web.certificates import write_pair


class Load:
    """A pool that is nearly full."""

    def by_stage(self) -> Mapping[str, float]:
        return {"prefill": 0.5, "decode": 0.97}

    def stale(self) -> int | None:
        return 2


class ShownPool:
    """A PoolPage of three endpoints."""

    def __init__(self, state: Callable[[], Mapping[str, Any]], *, missing: Sequence[str] = ()) -> None:
        self.snapshot = snapshot(3, waiting=[1, 2, 3], scraped_at=[99.9, 98.0, NEVER])
        self.flow = FlowPage(Load(), "utilization-detector", lambda: 100.0)
        self.config = Configured("epp.yaml", 2)
        self.plugins_state = state
        self._missing = missing

    def missing(self) -> Sequence[str]:
        return self._missing


class Shown:
    """PoolPages."""

    def __init__(self, pools: Mapping[str, ShownPool], *, many: bool) -> None:
        self._pools = pools
        self.many = many

    def by_label(self) -> Mapping[str, ShownPool]:
        return self._pools


class Picker:
    """What the server is shown of the rest."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.missing: list[str] = []
        self.state: Any = {"prefix": {"blocks": 3}}
        self.decisions = DecisionLog()
        self.refusals = RefusalLog()
        self.pools = Shown({"pool": ShownPool(self.plugins_state)}, many=False)

    def ready(self) -> Sequence[str]:
        return self.missing

    def plugins_state(self) -> Mapping[str, Any]:
        if isinstance(self.state, Exception):
            raise self.state
        return dict(self.state)


@asynccontextmanager
async def serving(
    picker: Picker,
    *,
    trust: ssl.SSLContext | None = None,
    reviewer: Reviewer | None = None,
    **options: Any,
) -> AsyncIterator[aiohttp.ClientSession]:
    server = WebServer(
        WebOptions(host="127.0.0.1", port=0, **options),
        metrics=picker.metrics,
        ready=picker.ready,
        decisions=picker.decisions,
        refusals=picker.refusals,
        pools=picker.pools,
        reviewer=reviewer,
    )
    await server.start()
    scheme = "https" if options.get("cert_dir") else "http"
    connector = aiohttp.TCPConnector(ssl=trust or False, force_close=True)
    try:
        async with aiohttp.ClientSession(
            f"{scheme}://127.0.0.1:{server.port}", connector=connector, auto_decompress=False
        ) as client:
            yield client
    finally:
        await server.stop()


async def status(client: aiohttp.ClientSession, path: str, token: str | None = None) -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with client.get(path, headers=headers) as answer:
        return answer.status


async def json_of(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as answer:
        assert answer.content_type == "application/json"
        return await answer.json()


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("encoding", ["identity", "gzip", "gzip;q=0", "deflate, gzip;q=0.5"])
async def test_metrics_in_both_formats_zipped_or_not(openmetrics: bool, encoding: str) -> None:
    picker = Picker()
    picker.metrics.watch_pool("p", Source(snapshot(400)), Inflight(), lambda: 100.0)
    picker.metrics.request("m", "m", "f", 0).started(10)
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5" if openmetrics else "*/*"
    async with (
        serving(picker) as client,
        client.get("/metrics", headers={"Accept": accept, "Accept-Encoding": encoding}) as answer,
    ):
        body = await answer.read()
        zipped = answer.headers.get("Content-Encoding") == "gzip"
        assert answer.content_type == ("application/openmetrics-text" if openmetrics else "text/plain")
    assert zipped is (encoding in ("gzip", "deflate, gzip;q=0.5"))
    text = (zlib.decompress(body, 31) if zipped else body).decode()
    assert text.endswith("# EOF\n") is openmetrics
    read = Page(text, openmetrics=openmetrics)
    assert read.value("llm_d_epp_request_total", model_name="m") == 1
    assert len(read.values("llm_d_epp_per_endpoint_queue_size")) == 400


async def test_health_and_readiness() -> None:
    picker = Picker()
    async with serving(picker) as client:
        assert await json_of(client, "/healthz") == {"status": "ok"}
        assert await json_of(client, "/readyz") == {"status": "ready", "missing": []}
        picker.missing = ["the pool has not been read yet"]
        assert await status(client, "/readyz") == 503
        assert (await json_of(client, "/readyz"))["missing"] == picker.missing
        assert await status(client, "/healthz") == 200


async def test_decisions_as_json_and_as_text() -> None:
    picker = Picker()
    for i in range(3):
        picker.decisions.record(decision(30, request_id=f"chat/{i}"))
    async with serving(picker) as client:
        recent = await json_of(client, "/debug/decisions?n=2")
        assert [one["request_id"] for one in recent["decisions"]] == ["chat/2", "chat/1"]
        assert recent["held"] == 3
        said = await json_of(client, "/debug/decisions/chat/1?top=4")
        assert said["request_id"] == "chat/1"
        assert len(said["profiles"][0]["scored"]) == 4
        for ask in ({"params": {"format": "text"}}, {"headers": {"Accept": "text/plain"}}):
            async with client.get("/debug/decisions/chat/1", **ask) as answer:  # type: ignore[arg-type]
                assert answer.content_type == "text/plain"
                assert "queue-scorer x2" in await answer.text()
        async with client.get("/debug/decisions", headers={"Accept": "text/plain"}) as answer:
            assert (await answer.text()).startswith("chat/2 endpoint=default/pod-29 ")
        assert (await json_of(client, "/debug/decisions/unknown"))["error"]["code"] == 404
        assert await status(client, "/debug/decisions?n=0") == 200
        for bad in ("n=-1", "n=x", "n=99999999999999999999", "n=1001", "n=0000000001001", "n=" + "9" * 5000):
            assert await status(client, f"/debug/decisions?{bad}") == 400


async def test_refusals_are_found_by_request_id() -> None:
    picker = Picker()
    picker.decisions.record(decision(3, request_id="evicted"))
    picker.refusals.record(Refused(Reason.SHED, "no room"), "shed/1", priority=-1)
    picker.refusals.record(Refused(Reason.EVICTED, "gone"), "evicted", priority=-1, waited_s=0.5)
    async with serving(picker) as client:
        both = await json_of(client, "/debug/decisions/evicted")
        assert both["destination"]
        assert (both["refused"]["reason"], both["refused"]["waited_s"]) == ("evicted", 0.5)
        alone = await json_of(client, "/debug/decisions/shed/1")
        assert alone.keys() == {"request_id", "refused"}
        assert alone["refused"]["dropped_reason"] == "rejected-saturated"
        async with client.get("/debug/decisions/evicted?format=text") as answer:
            lines = (await answer.text()).splitlines()
        assert lines[0].startswith("refused: 429 evicted: gone (priority -1, waited 0.500 s")
        assert lines[1].startswith("request ")
        listed = await json_of(client, "/debug/refusals?n=1")
        assert (listed["held"], [one["request_id"] for one in listed["refusals"]]) == (2, ["evicted"])
        async with client.get("/debug/refusals?format=text") as answer:
            assert (await answer.text()).splitlines()[1].startswith("shed/1 429 overloaded: no room")
        assert "refused" not in await json_of(client, "/debug/decisions")
        assert await status(client, "/debug/decisions/unknown") == 404


async def test_without_queues_their_page_shows_how_full_the_pool_is() -> None:
    picker = Picker()
    picker.refusals.record(Refused(Reason.SHED, "no room"), "shed", priority=-1)
    async with serving(picker) as client:
        said = await json_of(client, "/debug/flowcontrol")
        assert said.pop("last_refusals")[0]["request_id"] == "shed"
        assert said == {
            "enabled": False,
            "saturation": {"prefill": 0.5, "decode": 0.97, "effective": 0.97},
            "detector": "utilization-detector",
            "stale_endpoints": 2,
        }
        async with client.get("/debug/flowcontrol?format=text") as answer:
            assert answer.content_type == "text/plain"
            text = await answer.text()
        assert text.startswith(
            "saturation  prefill 0.5, decode 0.97, effective 0.97 (utilization-detector, 2"
        )
        assert "flowControl is closed" in text
        assert "  shed 429 overloaded" in text


async def test_plugin_state_and_a_plugin_that_fails() -> None:
    picker = Picker()
    async with serving(picker) as client:
        assert await json_of(client, "/debug/plugins/state") == {"prefix": {"blocks": 3}}
        picker.state = RuntimeError("broken plugin")
        assert await status(client, "/debug/plugins/state") == 500
        async with client.get("/metrics", headers={"Accept-Encoding": "identity"}) as answer:
            assert Page(await answer.text()).value("epp_internal_errors_total", where="web") == 1


async def test_unknown_pages_and_methods_are_answered_in_json() -> None:
    async with serving(Picker()) as client:
        assert (await json_of(client, "/nowhere"))["error"]["code"] == 404
        async with client.post("/metrics") as answer:
            assert answer.status == 405
            assert "GET" in answer.headers["Allow"]
            assert (await answer.json())["error"]["code"] == 405


async def test_the_token_is_asked_for_everywhere_but_at_the_health_pages(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("first\n")
    debug = ("decisions", "plugins/state", "refusals", "flowcontrol", "pprof/")
    paths = ("/metrics", *(f"/debug/{page}" for page in debug), "/nowhere")
    async with serving(Picker(), token_file=secret) as client:
        for path in paths:
            assert await status(client, path) == 401
            assert await status(client, path, "wrong") == 401
            assert await status(client, path, "") == 401
            assert await status(client, path, "first") in (200, 404)
        assert await status(client, "/healthz") == 200
        assert await status(client, "/readyz") == 200
        async with client.get("/metrics", headers={"Authorization": "Basic first"}) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_new_token_counts_at_once_and_a_lost_one_lets_nobody_in(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("first")
    async with serving(Picker(), token_file=secret) as client:
        assert await status(client, "/metrics", "first") == 200
        replacement = tmp_path / "new"
        replacement.write_text("second")
        os.replace(replacement, secret)
        assert await status(client, "/metrics", "first") == 401
        assert await status(client, "/metrics", "second") == 200
        secret.write_text("")
        assert await status(client, "/metrics", "second") == 401
        assert await status(client, "/metrics", "") == 401
        secret.unlink()
        assert await status(client, "/metrics", "second") == 401
        secret.write_text("third token")
        assert await status(client, "/metrics", "third token") == 200


async def test_a_token_file_that_is_not_there_lets_nobody_in(tmp_path: Path) -> None:
    async with serving(Picker(), token_file=tmp_path / "missing") as client:
        assert await status(client, "/metrics", "") == 401
        assert await status(client, "/healthz") == 200


@pytest.mark.parametrize(
    ("options", "notices"),
    [
        (WebOptions(), 1),
        (WebOptions(auth=False), 0),
        (WebOptions(token_file=Path("token")), 0),
        (WebOptions(auth=False, token_file=Path("token")), 0),
    ],
)
async def test_open_pages_are_noticed_when_auth_was_wanted(options: WebOptions, notices: int) -> None:
    picker = Picker()
    server = WebServer(
        options, metrics=picker.metrics, ready=picker.ready,
        decisions=picker.decisions, refusals=picker.refusals, pools=picker.pools,
    )  # fmt: skip
    assert len(server.notices) == notices


async def test_switched_off_auth_ignores_the_token_file(tmp_path: Path) -> None:
    async with serving(Picker(), auth=False, token_file=tmp_path / "missing") as client:
        assert await status(client, "/metrics") == 200


async def test_a_client_ca_without_a_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="--metrics-cert-dir"):
        async with serving(Picker(), client_ca_file=Path("ca.crt")):
            pass


async def served_certificate(client: aiohttp.ClientSession) -> bytes:
    assert client._base_url is not None
    address = ("127.0.0.1", client._base_url.port or 0)
    pem = await asyncio.to_thread(ssl.get_server_certificate, address)
    return ssl.PEM_cert_to_DER_cert(pem)


async def test_tls_takes_up_a_new_certificate_and_keeps_the_old_over_a_broken_one(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    first = write_pair(certs, "first")
    async with serving(Picker(), cert_dir=certs) as client:
        assert await served_certificate(client) == first
        second = write_pair(certs, "second")
        assert await served_certificate(client) == second
        (certs / "tls.crt").write_text("not a certificate")
        assert await served_certificate(client) == second
        third = write_pair(certs, "third")
        assert await served_certificate(client) == third


async def test_client_certificates(tmp_path: Path) -> None:
    write_pair(tmp_path / "server", "server")
    write_pair(tmp_path / "client", "client")
    write_pair(tmp_path / "stranger", "stranger")

    def trusting(folder: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=tmp_path / "server" / "tls.crt")
        if folder:
            context.load_cert_chain(tmp_path / folder / "tls.crt", tmp_path / folder / "tls.key")
        return context

    options = {"cert_dir": tmp_path / "server", "client_ca_file": tmp_path / "client" / "tls.crt"}
    async with serving(Picker(), trust=trusting("client"), **options) as client:
        assert await status(client, "/metrics") == 200
    async with serving(Picker(), trust=trusting(None), **options) as client:
        assert await status(client, "/metrics") == 403
        assert await status(client, "/healthz") == 200
    async with serving(Picker(), trust=trusting("stranger"), **options) as client:
        with pytest.raises(aiohttp.ClientError):
            await status(client, "/healthz")


async def test_the_profile_shows_where_the_time_goes() -> None:
    async with serving(Picker()) as client:
        async with client.get("/debug/pprof/profile?seconds=0.05") as answer:
            text = await answer.text()
        assert "MainThread;" in text
        stack, _, count = text.splitlines()[0].rpartition(" ")
        assert stack
        assert int(count) >= 1
        for bad in ("0", "-1", "61", "x", "nan"):
            assert await status(client, f"/debug/pprof/profile?seconds={bad}") == 400
        async with client.get("/debug/pprof/threads") as answer:
            assert "thread MainThread" in await answer.text()
        async with client.get("/debug/pprof/tasks") as answer:
            assert int((await answer.text()).split()[0]) >= 1


async def test_one_profile_at_a_time() -> None:
    async with serving(Picker()) as client:
        first = asyncio.create_task(status(client, "/debug/pprof/profile?seconds=0.5"))
        others = set()
        while not first.done():
            others.add(await status(client, "/debug/pprof/profile?seconds=0.001"))
        # Whichever came first was served, and the other was not.
        assert others | {await first} == {200, 409}


async def test_without_pprof_there_are_no_such_pages() -> None:
    async with serving(Picker(), pprof=False) as client:
        for page in ("", "profile", "threads", "tasks"):
            assert await status(client, f"/debug/pprof/{page}") == 404


async def test_a_taken_port_is_an_error_at_the_start() -> None:
    picker = Picker()

    def server(port: int) -> WebServer:
        return WebServer(
            WebOptions(host="127.0.0.1", port=port, auth=False), metrics=picker.metrics, ready=picker.ready,
            decisions=picker.decisions, refusals=picker.refusals,
            pools=picker.pools,
        )  # fmt: skip

    first = server(0)
    await first.start()
    try:
        with pytest.raises(OSError, match="address already in use"):
            await server(first.port).start()
    finally:
        await first.stop()


async def test_readers_that_leave_do_no_harm() -> None:
    picker = Picker()
    for i in range(300):
        picker.metrics.request("m", "m", f"f{i}", 0).started(1)
    async with serving(picker) as client:
        port = client._base_url.port  # type: ignore[union-attr]
        for _ in range(8):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.read(100)
            writer.close()
            await writer.wait_closed()
        async with client.get("/metrics", headers={"Accept-Encoding": "identity"}) as answer:
            read = Page(await answer.text())
        assert read.values("epp_internal_errors_total") == []


class LongPage:
    """A MetricsPage in so many pieces that no buffer holds them."""

    def __init__(self) -> None:
        self.errors = 0

    def render(self, openmetrics: bool = False) -> Iterator[str]:
        for _ in range(2000):
            yield "x" * 10_000

    def internal_error(self, where: str) -> None:
        self.errors += 1


async def test_a_reader_that_leaves_in_the_middle_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    page = LongPage()
    listener = Listener(WebOptions(host="127.0.0.1", port=0, auth=False), metrics=page, ready=lambda: ())
    await listener.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1000)
        writer.transport.abort()
        async with aiohttp.ClientSession() as client:
            url = f"http://127.0.0.1:{listener.port}/healthz"
            for _ in range(200):
                async with client.get(url) as answer:
                    assert answer.status == 200
    finally:
        await listener.stop()
    assert page.errors == 0
    assert [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")] == []
