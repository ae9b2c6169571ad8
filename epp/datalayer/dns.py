"""Questions to the domain name system: addresses of a host, servers of a service."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import aiodns
from pycares import SRVRecordData

TIMEOUT_S = 2.0
TRIES = 2


class NameGone(Exception):  # noqa: N818 - an answer, though an unwelcome one
    """The server knows that there is no such name, or no such record of it."""


class LookupFailed(Exception):  # noqa: N818
    """No answer, or none of use: nothing is known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Where to go: (ip, port) with port 0 where the record has none, sorted; how long it holds."""

    servers: tuple[tuple[str, int], ...]
    ttl_s: float


class Lookup(Protocol):
    """Both raise NameGone or LookupFailed."""

    async def host(self, name: str) -> Answer:
        """A, or AAAA where there is no A: a server with both families must not count twice."""

    async def service(self, name: str) -> Answer:
        """SRV records of the lowest priority value, with their hosts' addresses."""


class AresLookup:
    """Asks the system's name servers, or those given; /etc/hosts and search domains count for hosts."""

    def __init__(self, nameservers: Sequence[str] | None = None, *, udp_port: int | None = None) -> None:
        """Must be made inside a running event loop."""
        self._resolver = aiodns.DNSResolver(nameservers, timeout=TIMEOUT_S, tries=TRIES, udp_port=udp_port)

    async def host(self, name: str) -> Answer:
        try:
            found = await self._resolver.getaddrinfo(name, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            raise _why(error) from error
        plain = [node for node in found.nodes if node.family == socket.AF_INET]
        nodes = plain or [node for node in found.nodes if node.family == socket.AF_INET6]
        if not nodes:
            raise NameGone(f"{name} has no address")
        servers = {(str(ipaddress.ip_address(node.addr[0].decode("ascii"))), 0) for node in nodes}
        return Answer(tuple(sorted(servers)), float(min(node.ttl for node in nodes)))

    async def service(self, name: str) -> Answer:
        try:
            found = await self._resolver.query_dns(name, "SRV")
        except aiodns.error.DNSError as error:
            raise _why(error) from error
        records = [
            (data, record.ttl) for record in found.answer if isinstance(data := record.data, SRVRecordData)
        ]
        if not records:
            raise NameGone(f"{name} has no SRV record")
        first = min(data.priority for data, _ in records)
        ttl_s = float(min(ttl for _, ttl in records))
        servers: set[tuple[str, int]] = set()
        gone = 0
        chosen = [data for data, _ in records if data.priority == first]
        for data in chosen:
            try:
                host = await self.host(data.target.rstrip("."))
            except NameGone:  # one server of several has left between the two questions
                gone += 1
                continue
            ttl_s = min(ttl_s, host.ttl_s)
            servers.update((ip, data.port) for ip, _ in host.servers)
        if gone == len(chosen):
            raise NameGone(f"no host of {name} has an address")
        return Answer(tuple(sorted(servers)), ttl_s)

    async def close(self) -> None:
        await self._resolver.close()


def _why(error: aiodns.error.DNSError) -> Exception:
    code, words = (*error.args, "", "")[:2]
    if code in (aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENODATA):
        return NameGone(str(words))
    return LookupFailed(str(words or error))
