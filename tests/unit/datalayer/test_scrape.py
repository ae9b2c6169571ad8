"""The scraper against real servers that answer well, badly, slowly or not at all."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import ssl
import time
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from epp.datalayer.connection import HttpSource, gunzip
from epp.datalayer.engines import ENGINES
from epp.datalayer.load import Load
from epp.datalayer.scrape import EXTRACTOR, SOURCE, EngineChoice, Scraper
from epp.datalayer.store import MIN_STALE_AFTER_S
from epp.domain.endpoint import Endpoint, EndpointSpec
from epp.domain.snapshot import NEVER
from tests.unit.datalayer.engines_up import VLLM, Errors, Watched, http, running, up


def scraper(store: Watched, **more: Any) -> tuple[Scraper, Errors]:
    errors = Errors()
    shared = {name: more.pop(name) for name in ("deadline_s", "max_body_bytes") if name in more}
    made = Scraper(rng=Random(1), **shared)
    made.join(store, errors=errors, interval_s=0.05, **more)
    return made, errors


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


async def test_values_arrive_over_one_kept_connection() -> None:
    async with up(lambda n: http(VLLM % n)) as server:
        store = Watched()
        store.put(server.port)
        scrapes, errors = scraper(store)
        async with running(scrapes.run):
            for _ in range(4):
                await store.news.get()
            state = scrapes.state(asyncio.get_running_loop().time())
        snapshot = store.snapshot
        assert snapshot.waiting.tolist() == [len(store.loads) - 1]
        assert snapshot.running.tolist() == [8.0]
        assert snapshot.kv_used.tolist() == [0.25]
        assert snapshot.num_blocks.tolist() == [100]
        assert snapshot.scraped_at[0] > NEVER
        assert server.connections == 1
        assert errors.total == 0
        assert (state.endpoints, state.answering) == (1, 1)
        first = server.requests[0]
        assert first.startswith(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % server.port)
        await server.closed.wait()
        assert server.open == 0


class Reached:
    """A Reachability that remembers."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def refused(self, endpoint: Endpoint) -> None:
        self.said.put_nowait(("refused", endpoint.port))

    def listens(self, endpoint: Endpoint) -> None:
        self.said.put_nowait(("listens", endpoint.port))


async def test_a_port_without_a_listener_is_told_and_its_return_too() -> None:
    async with up(lambda n: http(VLLM % n)) as gone:
        pass
    store, reached = Watched(), Reached()
    store.put(gone.port)
    scrapes, _ = scraper(store, reachability=reached)
    async with running(scrapes.run):
        assert await reached.said.get() == ("refused", gone.port)
        async with up(lambda n: http(VLLM % n), port=gone.port):
            said = await reached.said.get()
            while said == ("refused", gone.port):
                said = await reached.said.get()
            assert said == ("listens", gone.port)


async def test_a_metrics_port_of_its_own_tells_nothing_about_requests() -> None:
    async with up(lambda n: http(VLLM % n)) as gone:
        pass
    store, reached = Watched(), Reached()
    store.put(1)
    scrapes, errors = scraper(store, reachability=reached, source=HttpSource(port=gone.port))
    async with running(scrapes.run):
        while errors.total < 2:
            await asyncio.sleep(0.01)
    assert reached.said.empty()


def chunked(body: bytes) -> bytes:
    pieces = b"".join(
        b"%x\r\n%b\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7)
    )
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        http(gzip.compress(VLLM % 5), 200, "Content-Encoding: gzip"),
        http(VLLM % 5, 200, "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        chunked(VLLM % 5),
        http(VLLM % 5, 200, "Connection: close"),
        b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n" + VLLM % 5,
    ],
    ids=["gzip", "openmetrics", "chunked", "closing", "without-length"],
)
async def test_ways_to_answer(answer: bytes) -> None:
    async with up(lambda n: answer) as server:
        store = Watched()
        store.put(server.port)
        scrapes, errors = scraper(store)
        async with running(scrapes.run):
            for _ in range(3):
                await store.news.get()
        assert store.snapshot.waiting.tolist() == [5.0]
        assert errors.total == 0


@pytest.mark.parametrize(
    "answer",
    [
        http(VLLM % 5, 500),
        http(VLLM % 5, 302, "Location: /elsewhere"),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        http(b"not gzip", 200, "Content-Encoding: gzip"),
        http(gzip.compress(VLLM % 5)[:-9], 200, "Content-Encoding: gzip"),
        http(VLLM % 5, 200, "Content-Encoding: br"),
        http(b"x" * 5000),
        http(gzip.compress(b"x" * 100_000), 200, "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"Content-Length: 5000\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nrest",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nshort",
        None,
    ],
    ids=[
        "500", "redirect", "not-http", "not-gzip", "cut-gzip", "brotli", "giant", "gzip-bomb", "headers",
        "upgrade", "cut", "closed",
    ],
)  # fmt: skip
async def test_bad_answers_are_counted_and_good_ones_wanted_again(answer: bytes | None) -> None:
    async with up(lambda n: answer if n < 2 else http(VLLM % 5)) as server:
        store = Watched()
        store.put(server.port)
        scrapes, errors = scraper(store, max_body_bytes=4096)
        async with running(scrapes.run):
            assert await errors.polls.get() == SOURCE
            assert store.snapshot.scraped_at.tolist() == [NEVER]
            await store.news.get()
        assert store.snapshot.waiting.tolist() == [5.0]
        assert errors.total == 2


async def test_an_endpoint_that_does_not_answer_is_given_up_and_others_go_on() -> None:
    never = asyncio.Event()

    async def hang(n: int) -> bytes | None:
        if n == 0:
            await never.wait()
        return http(VLLM % 7)

    async with up(hang) as slow, up(lambda n: http(VLLM % 1)) as quick:
        store = Watched()
        store.put(slow.port, quick.port)
        scrapes, errors = scraper(store, deadline_s=0.15)
        async with running(scrapes.run):
            seen = [await store.news.get()]
            while "e0" not in seen:
                seen.append(await store.news.get())
        assert seen.count("e1") >= 2
        assert errors.total >= 1
        assert slow.connections >= 2
        never.set()


class Slow(Watched):
    """Holds the whole loop up at some reports."""

    def report(self, endpoint: Endpoint, load: Load, now: float) -> None:
        super().report(endpoint, load, now)
        if len(self.loads) in (3, 23, 43):
            time.sleep(0.5)


async def test_answers_that_lay_unread_because_we_were_held_up_are_no_failures() -> None:
    async with up(lambda n: http(VLLM % 1)) as server:
        store = Slow()
        store.put(*[server.port] * 20)
        scrapes, errors = scraper(store, deadline_s=0.4)
        async with running(scrapes.run):
            for _ in range(60):
                await store.news.get()
        assert errors.total == 0


async def test_a_port_where_nobody_listens() -> None:
    async with up(lambda n: None) as gone:
        port = gone.port
    store = Watched()
    store.put(port)
    scrapes, errors = scraper(store)
    async with running(scrapes.run):
        for _ in range(3):
            await errors.polls.get()
        assert scrapes.state(0.0).answering == 0
    assert store.loads == []


async def test_lies_and_missing_metrics_are_counted_and_the_last_values_kept() -> None:
    async with up(lambda n: http(VLLM % 5 if n == 0 else b"vllm:num_requests_waiting NaN\n")) as server:
        store = Watched()
        store.put(server.port)
        scrapes, errors = scraper(store)
        async with running(scrapes.run):
            await store.news.get()
            at = store.snapshot.scraped_at[0]
            await store.news.get()
        assert store.snapshot.waiting.tolist() == [5.0]
        assert store.snapshot.scraped_at[0] == at
        assert errors.extracts[:4] == [(SOURCE, EXTRACTOR)] * 4
        assert errors.total == 0


async def test_endpoints_that_come_are_scraped_and_those_that_leave_are_not() -> None:
    async with up(lambda n: http(VLLM % 1)) as first, up(lambda n: http(VLLM % 2)) as second:
        store = Watched()
        store.put(first.port)
        scrapes, errors = scraper(store)
        async with running(scrapes.run):
            await store.news.get()
            second_spec = EndpointSpec("new", "127.0.0.1", 1, metrics_port=second.port)
            store.set_endpoints([second_spec], 1.0)
            await first.closed.wait()
            while await store.news.get() != "new":
                pass
            assert first.open == 0
        assert store.snapshot.waiting.tolist() == [2.0]
        assert errors.total == 0


async def test_the_engine_of_the_label_and_a_port_and_path_of_ones_own() -> None:
    body = b"sglang:num_queue_reqs 4\nsglang:num_running_reqs 2\nsglang:token_usage 0.5\n"
    async with up(lambda n: http(body)) as server:
        store = Watched()
        labels = {"engine": "sglang"}
        store.set_endpoints([EndpointSpec("e0", "127.0.0.1", 1, labels=labels, metrics_port=2)], 0.0)
        source = HttpSource(path="/prometheus/metrics?x=1", port=server.port)
        scrapes, _ = scraper(store, source=source, engines=EngineChoice(label="engine"))
        async with running(scrapes.run):
            await store.news.get()
        assert store.snapshot.waiting.tolist() == [4.0]
        assert server.requests[0].startswith(b"GET /prometheus/metrics?x=1 HTTP/1.1\r\n")


def test_a_default_engine_that_is_none() -> None:
    with pytest.raises(ValueError, match="default engine 'vlm' is none of"):
        EngineChoice(engines=ENGINES, default="vlm")


async def test_staleness_in_the_snapshot_follows_the_interval() -> None:
    store = Watched()
    scrapes = Scraper()
    scrapes.join(store, interval_s=0.3)
    async with up(lambda n: http(VLLM % 1)) as server:
        store.put(server.port)
        async with running(scrapes.run):
            await store.news.get()
    assert store.snapshot.stale_after_s == pytest.approx(0.9)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "tls.crt", folder / "tls.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert_file, key_file


@pytest.mark.parametrize("kind", ["unverified", "verified", "client-certificate"])
async def test_https(kind: str, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(cert, key)
    source = HttpSource(scheme="https")
    if kind == "verified":
        source = HttpSource(scheme="https", insecure_skip_verify=False, ca_cert_path=str(cert))
    elif kind == "client-certificate":
        served.verify_mode = ssl.CERT_REQUIRED
        served.load_verify_locations(cert)
        source = HttpSource(scheme="https", client_cert_path=str(cert), client_key_path=str(key))
    async with up(lambda n: http(VLLM % 5), served) as server:
        store = Watched()
        store.put(server.port)
        scrapes, errors = scraper(store, source=source)
        async with running(scrapes.run):
            await store.news.get()
            await store.news.get()
        assert store.snapshot.waiting.tolist() == [5.0]
        assert errors.total == 0


async def test_https_from_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(cert, key)
    async with up(lambda n: http(VLLM % 5), served) as server:
        store = Watched()
        store.put(server.port)
        scrapes, errors = scraper(store, source=HttpSource(scheme="https", insecure_skip_verify=False))
        async with running(scrapes.run):
            await errors.polls.get()
        assert store.loads == []


@pytest.mark.parametrize("path", ["metrics", "/a b", "/a\r\nX: y", "/é", ""])
def test_a_path_that_is_none(path: str) -> None:
    with pytest.raises(ValueError, match="must begin with /"):
        HttpSource(path=path)


def test_a_tls_file_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(OSError, match="No such file"):
        HttpSource(scheme="https", ca_cert_path="/no/such/file").tls()


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_gunzip_up_to_the_limit(size: int) -> None:
    assert gunzip(gzip.compress(b"x" * size), 1000) == b"x" * size


def test_gunzip_beyond_the_limit() -> None:
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        gunzip(gzip.compress(b"x" * 1001), 1000)
    with pytest.raises(ValueError, match="no gzip"):
        gunzip(zlib.compress(b"x"), 1000)


class Follower:
    """Wants counts until it has some."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float, float]] = []

    @property
    def wants_counts(self) -> bool:
        return len(self.told) < 2

    def first_tokens(self, slot: int, count: float, total_s: float, now: float) -> None:
        self.told.append((slot, count, total_s))


async def test_first_tokens_are_told_to_who_wants_them() -> None:
    ttft = b"vllm:time_to_first_token_seconds_count 5\nvllm:time_to_first_token_seconds_sum 2.5\n"
    async with up(lambda n: http(VLLM % n + ttft)) as server:
        store = Watched()
        store.put(server.port)
        follower = Follower()
        scrapes, _ = scraper(store, first_tokens=follower)
        async with running(scrapes.run):
            for _ in range(4):
                await store.news.get()
        assert follower.told == [(0, 5.0, 2.5)] * 2


async def test_each_pool_is_scraped_at_its_own_interval() -> None:
    async with up(lambda n: http(VLLM % 1)) as rare, up(lambda n: http(VLLM % 2)) as often:
        slow, quick = Watched(), Watched()
        slow.put(rare.port)
        quick.put(often.port)
        made = Scraper(rng=Random(1), deadline_s=0.05)
        made.join(slow, interval_s=1000.0)
        made.join(quick, interval_s=0.05)
        async with running(made.run):
            await slow.news.get()
            for _ in range(8):
                await quick.news.get()
            assert made.interval_s == 1000.0
        assert len(rare.requests) == 1  # far beyond its deadline too
        assert made.scrapes == 1 + len(quick.loads)
    assert slow.snapshot.stale_after_s == 3000.0
    assert quick.snapshot.stale_after_s == MIN_STALE_AFTER_S


async def test_pools_come_and_leave_while_others_are_scraped() -> None:
    async with up(lambda n: http(VLLM % 1)) as first, up(lambda n: http(VLLM % 2)) as second:
        stays, goes = Watched(), Watched()
        made = Scraper(rng=Random(1))
        errors, others = Errors(), Errors()
        async with running(made.run):
            joined = made.join(stays, interval_s=0.05, errors=errors)
            leaving = made.join(goes, interval_s=0.05, errors=others)
            stays.put(first.port)
            goes.put(second.port)
            await stays.news.get()
            await goes.news.get()
            assert leaving.state(made.clock()).endpoints == 1
            leaving.leave()
            leaving.leave()
            await second.closed.wait()
            seen = len(goes.loads)
            for _ in range(3):
                await stays.news.get()
            assert (second.open, len(goes.loads)) == (0, seen)
            goes.put(first.port)
            await stays.news.get()
            assert len(goes.loads) == seen
            now = made.clock()
            assert leaving.state(now).endpoints == 0
            assert joined.state(now).answering == made.state(now).answering == 1
        assert errors.total == others.total == 0


async def test_a_pool_that_fails_leaves_the_others_alone() -> None:
    async with up(lambda n: http(b"", 500)) as broken, up(lambda n: http(VLLM % 2)) as well:
        bad, good = Watched(), Watched()
        bad.put(broken.port)
        good.put(well.port)
        made = Scraper(rng=Random(1))
        errors, others = Errors(), Errors()
        made.join(bad, interval_s=0.05, errors=errors)
        made.join(good, interval_s=0.05, errors=others)
        async with running(made.run):
            await errors.polls.get()
            await good.news.get()
        assert others.total == 0
        assert bad.loads == []


async def test_a_stopped_scraper_begins_anew_when_it_runs_again() -> None:
    async with up(lambda n: http(VLLM % 1)) as server:
        store = Watched()
        store.put(server.port)
        made, _ = scraper(store)
        for _ in range(2):
            async with running(made.run):
                await store.news.get()
        assert server.connections == 2
        assert made.pace.share == 0.0
