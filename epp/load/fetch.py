"""Small requests beside the load: which model there is, whether a server is up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from epp.load.transport import Pool

MAX_BYTES = 1 << 20


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class _Whole:
    """Keeps a small body."""

    def __init__(self) -> None:
        self.status = 0
        self.content = bytearray()

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status

    def body(self, data: bytes) -> None:
        self.content += data[: MAX_BYTES - len(self.content)]


async def request(
    pool: Pool,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 10.0,
) -> tuple[int, bytes]:
    """Status and the body's first MiB. Raises TransportError, TimeoutError."""
    target = pool.target
    lines = [f"{method} {target.prefix}{path} HTTP/1.1", f"host: {target.authority}"]
    if method == "POST":
        lines.append("content-length: 0")
    lines.extend(f"{name}: {value}" for name, value in (headers or {}).items())
    whole = _Whole()
    async with asyncio.timeout(timeout_s):
        await pool.exchange("\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n", whole)
    return whole.status, bytes(whole.content)


async def first_model(pool: Pool, headers: Mapping[str, str]) -> str:
    """The first model that the target lists. Raises TransportError, TimeoutError, ValueError."""
    status, body = await request(pool, "GET", "/v1/models", headers)
    if status != 200:
        raise ValueError(f"/v1/models answered {status}; name a --model")
    try:
        models = msgspec.json.decode(body, type=_Models).data
    except msgspec.DecodeError as error:
        raise ValueError(f"/v1/models: {error}; name a --model") from error
    if not models:
        raise ValueError("/v1/models lists no model; name one with --model")
    return models[0].id
