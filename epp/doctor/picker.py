"""The picker itself: its name, its ports, TLS or not, and what gRPC health says."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from epp.doctor.endpoints import refused
from epp.doctor.finding import Finding, error, ok, skipped, warning
from epp.doctor.web import unchecked

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`host:port`, IPv6 in brackets. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no address; write it like 127.0.0.1:9002")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


async def check_picker(
    at: Address, *, gateway_tls: bool | None = None, outside: bool = False
) -> list[Finding]:
    """`gateway_tls`: what the gateway speaks to it, where that is known. `outside` of the cluster its names
    need not be known."""
    subject = f"picker {at}"
    try:
        await asyncio.get_running_loop().getaddrinfo(at.host, at.port, type=socket.SOCK_STREAM)
    except OSError as problem:
        found = f"its name is not known: {problem}"
        if outside:
            mend = "run this in the cluster, or forward the port and name it with --picker"
            return [skipped(subject, found, mend)]
        return [error(subject, found, "correct the name, or create the Service")]
    why = await refused(at.host, at.port)
    if why:
        mend = "start the picker; correct the port, the Service's targetPort or the NetworkPolicy"
        return [error(subject, f"its port cannot be reached: {why}", mend)]
    secure = await speaks_tls(at)
    spoken = "TLS" if secure else "plain text"
    if gateway_tls is not None and gateway_tls != secure:
        theirs = "TLS" if gateway_tls else "plain text"
        mend = (
            "serve plain text with --secure-serving=false, or give the cluster a TLS transport_socket"
            if secure
            else "serve TLS (--secure-serving), or remove the cluster's transport_socket"
        )
        return [error(subject, f"it speaks {spoken}, and the gateway {theirs}: every request gets 503", mend)]
    return [ok(subject, f"its port is open and speaks {spoken}")]


async def check_health(at: Address) -> list[Finding]:
    subject = f"picker's health {at}"
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    async with grpc.aio.insecure_channel(str(at), options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as problem:
            mend = "correct the port (--grpc-health-port, 9003) and let gateways and probes reach it"
            return [error(subject, f"no answer: {problem.details()}", mend)]
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return [ok(subject, "SERVING")]
    mend = "its page /readyz and its log say what is missing; of several replicas with a leader one serves"
    return [warning(subject, "NOT_SERVING", mend)]


async def speaks_tls(at: Address) -> bool:
    """Whether a TLS handshake is answered; certificates are not looked at."""
    context = unchecked()
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(at.host, at.port, ssl=context)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True
