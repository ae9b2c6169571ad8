"""Names become endpoints: against a fake lookup with a jumping clock, and against a real name server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random

import pytest

from epp.datalayer.dns import Answer, AresLookup, LookupFailed, NameGone
from epp.datalayer.resolve import GONE_AFTER, MAX_REFRESH_S, Resolver
from epp.domain.endpoint import EndpointSpec
from tests.unit.datalayer.engines_up import running
from tests.unit.datalayer.name_server import NXDOMAIN, SERVFAIL, name_server


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


class Book:
    """A lookup whose answers are set by hand; every question is told to `asked`."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Exception] = {}
        self.asked: asyncio.Queue[str] = asyncio.Queue()

    async def host(self, name: str) -> Answer:
        self.asked.put_nowait(name)
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def service(self, name: str) -> Answer:
        return await self.host(name)


class Scene:
    """A resolver over a book, with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.book = Book()
        self.told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self.resolver = Resolver(self._tell, lookup=lambda: self.book, clock=lambda: self.now, rng=Random(1))

    def _tell(self, specs: Sequence[EndpointSpec]) -> None:
        self.told.put_nowait({spec.name: f"{spec.address} {spec.port}" for spec in specs})

    async def later(self, *specs: EndpointSpec) -> None:
        """All names are due again; returns when one was asked for."""
        while not self.book.asked.empty():
            self.book.asked.get_nowait()
        self.now += 2 * MAX_REFRESH_S
        self.resolver.set_specs(specs)
        await self.book.asked.get()


def hosts(*addresses: str, ttl_s: float = 5.0) -> Answer:
    return Answer(tuple((address, 0) for address in addresses), ttl_s)


VLLM = EndpointSpec("v", "vllm.svc", 8000)
FIXED = EndpointSpec("f", "10.0.0.9", 8000)


def test_literals_are_passed_on_at_once() -> None:
    told: list[Sequence[EndpointSpec]] = []
    resolver = Resolver(told.append)
    resolver.set_specs([FIXED])
    resolver.set_specs([FIXED])
    assert told == [(FIXED,)]
    resolver.set_specs([])
    assert told[1:] == [()]


async def test_several_addresses_are_several_endpoints_that_keep_their_names() -> None:
    scene = Scene()
    scene.book.answers["vllm.svc"] = hosts("10.0.0.1", "2001:db8::2")
    scene.resolver.set_specs([VLLM, FIXED])
    assert scene.told.empty()
    async with running(scene.resolver.run):
        assert await scene.told.get() == {
            "v-10-0-0-1": "10.0.0.1 8000",
            "v-2001-db8--2": "2001:db8::2 8000",
            "f": "10.0.0.9 8000",
        }
        scene.book.answers["vllm.svc"] = hosts("2001:db8::2", "10.0.0.3")
        await scene.later(VLLM, FIXED)
        assert list(await scene.told.get()) == ["v-2001-db8--2", "v-10-0-0-3", "f"]
        scene.resolver.set_specs([FIXED])
        assert list(await scene.told.get()) == ["f"]


async def test_a_failure_keeps_the_last_answer() -> None:
    scene = Scene()
    scene.book.answers["vllm.svc"] = hosts("10.0.0.1")
    scene.resolver.set_specs([VLLM])
    async with running(scene.resolver.run):
        assert list(await scene.told.get()) == ["v-10-0-0-1"]
        scene.book.answers["vllm.svc"] = LookupFailed("no answer")
        for _ in range(GONE_AFTER + 2):
            await scene.later(VLLM)
        scene.book.answers["vllm.svc"] = hosts("10.0.0.2")
        await scene.later(VLLM)
        assert list(await scene.told.get()) == ["v-10-0-0-2"]


async def test_a_name_that_is_gone_is_believed_the_third_time() -> None:
    scene = Scene()
    scene.book.answers["vllm.svc"] = hosts("10.0.0.1")
    scene.resolver.set_specs([VLLM])
    async with running(scene.resolver.run):
        assert list(await scene.told.get()) == ["v-10-0-0-1"]
        scene.book.answers["vllm.svc"] = NameGone("no such name")
        for _ in range(GONE_AFTER):
            assert scene.told.empty()
            await scene.later(VLLM)
        assert await scene.told.get() == {}
        scene.book.answers["vllm.svc"] = hosts("10.0.0.1")
        await scene.later(VLLM)
        assert list(await scene.told.get()) == ["v-10-0-0-1"]


@pytest.mark.parametrize("failure", [LookupFailed("x"), NameGone("x")])
async def test_a_name_that_does_not_answer_does_not_hold_up_the_others(failure: Exception) -> None:
    scene = Scene()
    scene.book.answers = {"vllm.svc": hosts("10.0.0.1"), "other.svc": failure}
    scene.resolver.set_specs([VLLM, EndpointSpec("o", "other.svc", 1)])
    async with running(scene.resolver.run):
        assert list(await scene.told.get()) == ["v-10-0-0-1"]


async def test_real_questions() -> None:
    async with name_server() as server:
        lookup = AresLookup(["127.0.0.1"], udp_port=server.port)
        try:
            server.hosts = {
                "two.test": ["10.0.0.2", "10.0.0.1"],
                "six.test": ["2001:db8::1"],
                "both.test": ["10.0.0.5", "2001:db8::5"],
                "none.test": [],
            }
            server.services["_http._tcp.vllm.test"] = [
                (10, 8001, "two.test"),
                (10, 8002, "six.test"),
                (10, 8003, "missing.test"),
                (20, 9000, "both.test"),
            ]
            server.services["_http._tcp.gone.test"] = [(1, 1, "missing.test")]
            server.codes = {"sick.test": SERVFAIL, "missing.test": NXDOMAIN}
            assert (await lookup.host("two.test")).servers == (("10.0.0.1", 0), ("10.0.0.2", 0))
            assert (await lookup.host("six.test")).servers == (("2001:db8::1", 0),)
            assert (await lookup.host("both.test")).servers == (("10.0.0.5", 0),)
            assert (await lookup.service("_http._tcp.vllm.test")).servers == (
                ("10.0.0.1", 8001),
                ("10.0.0.2", 8001),
                ("2001:db8::1", 8002),
            )
            for name in ("missing.test", "none.test"):
                with pytest.raises(NameGone):
                    await lookup.host(name)
            for name in ("_http._tcp.gone.test", "_http._tcp.no.test"):
                with pytest.raises(NameGone):
                    await lookup.service(name)
            with pytest.raises(LookupFailed):
                await lookup.host("sick.test")
        finally:
            await lookup.close()


async def test_services_become_endpoints_on_the_ports_of_their_records() -> None:
    told: asyncio.Queue[list[tuple[str, int]]] = asyncio.Queue()
    async with name_server() as server:
        server.hosts["a.test"] = ["10.0.0.1"]
        server.services["_http._tcp.vllm.test"] = [(1, 8001, "a.test"), (1, 8002, "a.test")]
        resolver = Resolver(
            lambda specs: told.put_nowait([(spec.name, spec.port) for spec in specs]),
            lookup=lambda: AresLookup(["127.0.0.1"], udp_port=server.port),
        )
        resolver.set_specs([EndpointSpec("v", "srv:_http._tcp.vllm.test", 0)])
        async with running(resolver.run):
            assert await told.get() == [("v-10-0-0-1-8001", 8001), ("v-10-0-0-1-8002", 8002)]


async def test_the_hosts_file_counts() -> None:
    lookup = AresLookup()
    try:
        assert (await lookup.host("localhost")).servers == (("127.0.0.1", 0),)
    finally:
        await lookup.close()
