"""A whole run over sockets, broken off runs, and what a generator says of itself; TLS."""

from __future__ import annotations

import asyncio
import datetime
import resource
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from epp.load.arrivals import bounded, constant
from epp.load.calls import Manner, Mix, Workload
from epp.load.client import Client
from epp.load.conversations import Conversations, Shape, scaled
from epp.load.lengths import Fixed
from epp.load.player import Limits
from epp.load.records import Live
from epp.load.run import Health, play, raise_open_files
from epp.load.transport import Pool, Target
from epp.load.workload import RandomPrompts, arrive
from tests.unit.load.engine import Seen, chunk, head, serving, streamed, token

MANNER = Manner(Mix(("m",), (1.0,)))
PROMPTS = RandomPrompts(MANNER, 0, Fixed(8), Fixed(2))


def prompts(count: int) -> Workload:
    return arrive(bounded(constant(1000), count=count), 0, PROMPTS.make)


async def answering(seen: Seen) -> AsyncIterator[bytes]:
    yield streamed("one ", "two ")


async def test_a_run_has_a_record_for_every_request_and_a_live_count() -> None:
    lives: list[Live] = []

    def started(live: Live, clock: Callable[[], float]) -> None:
        assert clock() >= 0
        lives.append(live)

    async with serving(answering) as engine:
        pool = Pool(engine.target)
        run = await play(pool, prompts(30), Limits(), on_start=started)
        await pool.close()
    assert len(run.records) == lives[0].done == lives[0].sent == 30
    assert all(record.ok and record.sent_at >= record.intended_at for record in run.records)
    assert run.duration_s == max(record.ended_at for record in run.records)
    assert run.most_open == lives[0].most_open >= 1
    assert not run.interrupted


async def test_chats_send_back_what_was_answered() -> None:
    shape = scaled(Shape(min_turns=3, max_turns=3), 0.01, 1e-6)
    async with serving(answering) as engine:
        pool = Pool(engine.target)
        chats = arrive(bounded(constant(1000), count=4), 1, Conversations(MANNER, 1, shape).make)
        run = await play(pool, chats, Limits())
        await pool.close()
    assert sorted(record.turn for record in run.records) == [1] * 4 + [2] * 4 + [3] * 4
    last = [seen.json["messages"] for seen in engine.requests if len(seen.json["messages"]) == 6]
    assert len(last) == 4
    assert all(
        [m["content"] for m in messages if m["role"] == "assistant"] == ["one two "] * 2 for messages in last
    )


async def test_a_run_that_is_broken_off_keeps_what_it_has() -> None:
    asked = asyncio.Event()

    async def script(seen: Seen) -> AsyncIterator[bytes]:
        if seen.headers["x-request-id"].endswith("-1"):
            yield streamed("a")
            return
        asked.set()
        yield head() + chunk(token("a"))
        await asyncio.Event().wait()

    async with serving(script) as engine:
        pool = Pool(engine.target)
        lives: list[Live] = []
        started = play(pool, prompts(2), Limits(), on_start=lambda live, clock: lives.append(live))
        playing = asyncio.create_task(started)
        await asked.wait()
        while lives[0].done < 1:
            await asyncio.sleep(0)
        playing.cancel()
        run = await playing
        await pool.close()
    assert run.interrupted
    assert [record.error for record in run.records] == [""]


@pytest.mark.parametrize(
    ("health", "count"),
    [(Health(0.2, 0.001, 0.001), 0), (Health(0.99, 0.001, 0.001), 1), (Health(0.99, 0.5, 0.5), 3)],
)
def test_a_generator_in_trouble_says_so(health: Health, count: int) -> None:
    assert len(health.warnings()) == count


def test_waiting_in_a_closed_loop_is_no_trouble() -> None:
    assert Health(0.1, 0.001, 9.0).warnings(closed_loop=True) == []


def test_the_limit_of_open_files_is_never_lowered() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    after = raise_open_files(before)
    assert after == before == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def certificate(directory: Path) -> ssl.SSLContext:
    """A server's context with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = directory / "server.pem"
    encoding = serialization.Encoding.PEM
    unencrypted = serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, unencrypted)
    file.write_bytes(private + cert.public_bytes(encoding))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_tls_verifies_unless_told_not_to(tmp_path: Path) -> None:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(streamed("a"))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, ssl=certificate(tmp_path))
    target = Target("127.0.0.1", server.sockets[0].getsockname()[1], tls=True, prefix="")
    call = MANNER.client(Random(0)).call([], 1)
    errors = []
    for verify in (True, False):
        pool = Pool(target, verify=verify)
        record, _ = await Client(pool, lambda: 0.0).ask(call, "s", 1, 0.0)
        errors.append(record.error)
        await pool.close()
    server.close()
    await server.wait_closed()
    assert errors == ["tls", ""]
