"""A tiny real name server over UDP: answers A, AAAA and SRV from a table, or an error code."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SERVFAIL, NXDOMAIN = 2, 3
A, AAAA, SRV = 1, 28, 33

Srv = tuple[int, int, str]
"""Priority, port, host."""


class NameServer(asyncio.DatagramProtocol):
    """`hosts` holds addresses, `services` SRV data, `codes` what to fail with, by name."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[str]] = {}
        self.services: dict[str, list[Srv]] = {}
        self.codes: dict[str, int] = {}
        self.ttl_s = 0
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        at, labels = 12, []
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode().lower())
            at += 1 + data[at]
        name, question = ".".join(labels), data[12 : at + 5]
        (kind,) = struct.unpack_from(">H", data, at + 1)
        code = self.codes.get(name, 0)
        records: list[bytes] = []
        if name in self.hosts:
            for text in self.hosts[name]:
                address = ipaddress.ip_address(text)
                if kind == (A if address.version == 4 else AAAA):
                    records.append(address.packed)
        elif name in self.services:
            if kind == SRV:
                for priority, port, host in self.services[name]:
                    records.append(struct.pack(">HHH", priority, 1, port) + _name(host))
        elif not code:
            code = NXDOMAIN
        if code:
            records = []
        head = data[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(records), 0, 0)
        body = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, self.ttl_s, len(record)) + record
            for record in records
        )
        assert self._transport is not None
        self._transport.sendto(head + question + body, addr)


def _name(host: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in host.split(".")) + b"\0"


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
