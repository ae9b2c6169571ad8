"""One HTTP request, with limits; what it tells of the other side's clock comes with it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

MAX_BYTES = 64 << 20
"""The configuration of an Envoy with thousands of routes has some 20 MB."""
TIMEOUT_S = 10.0


class FetchError(Exception):
    """No answer; says why."""


@dataclass(frozen=True, slots=True)
class Fetched:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    skew_s: float | None
    """How much the peer's clock is ahead of ours, to about a second; None where it does not tell."""


async def fetch(
    client: aiohttp.ClientSession,
    url: str,
    *,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    tls: ssl.SSLContext | None = None,
) -> Fetched:
    """GET, or POST with a JSON body. Raises FetchError."""
    asked_at = time.time()
    try:
        async with client.request(
            "GET" if body is None else "POST",
            url,
            json=body,
            headers=headers,
            allow_redirects=False,
            ssl=True if tls is None else tls,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as answer:
            told = {name.lower(): value for name, value in answer.headers.items()}
            skew_s = skew(told.get("date", ""), asked_at, time.time())
            content = bytearray()
            async for chunk in answer.content.iter_any():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise FetchError(f"an answer of more than {MAX_BYTES >> 20} MiB")
            return Fetched(answer.status, told, bytes(content), skew_s)
    except TimeoutError as error:
        raise FetchError(f"no answer in {timeout_s:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchError(str(error) or type(error).__name__) from error


def unchecked() -> ssl.SSLContext:
    """TLS with whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def skew(date: str, asked_at: float, answered_at: float) -> float | None:
    """Seconds, by an HTTP date, which leaves out fractions; None where it is none."""
    try:
        told = parsedate_to_datetime(date).timestamp() + 0.5
    except (TypeError, ValueError, OverflowError):
        return None
    return told - (asked_at + answered_at) / 2
