"""The connection to a Kubernetes API: raw JSON over the official client's asyncio flavour, no typed models.

Every exchange has a time limit and a limit on the size of its answer. Credentials are read again when they
are old, and at once after a 401.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec

from epp.kube.credentials import ACCOUNT, Credentials, KubeConfigError, files_of

MAX_ANSWER_BYTES = 64 << 20
"""Of one answer: a page of 500 pods has 5 MB, and etcd takes no object beyond 1.5 MB."""
MAX_LINE_BYTES = 8 << 20
"""Of one event of a watch."""
MAX_ERROR_BYTES = 64 << 10
CONNECT_S = 10.0
EXCHANGE_S = 30.0
SILENT = "Silent"
"""The reason where a stream was open and nothing came for long."""
PROBES = ((socket.SO_KEEPALIVE, 1), ("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""On a watch: a peer that is gone without a word is noticed within 50 s, where the system can probe."""

Params = Mapping[str, str | int]
_JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


class KubeError(Exception):
    """No success. `status` is 0 where there was no answer at all, then `reason` is the kind of failure."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


class _Details(msgspec.Struct):
    retryAfterSeconds: float = 0  # noqa: N815 as the API spells it


class _Status(msgspec.Struct):
    """The API's own kind for an error."""

    message: str = ""
    reason: str = ""
    details: _Details | None = None


_status = msgspec.json.Decoder(_Status)


class Kube:
    """`await Kube.open(...)`, then `close` at the end."""

    def __init__(self, credentials: Credentials, clock: Callable[[], float]) -> None:
        self._credentials = credentials
        self._clock = clock
        self._files: tuple[bytes, ...] = ()
        self._client: Any = None
        self._read_at = 0.0
        self._generation = 0
        """Counts the times that credentials were read, so that many refused calls read them once."""
        self._reading = asyncio.Lock()
        self.namespace = credentials.namespace()

    @classmethod
    async def open(
        cls,
        kubeconfig: Path | None,
        environ: Mapping[str, str],
        *,
        account: Path = ACCOUNT,
        clock: Callable[[], float] = time.monotonic,
    ) -> Kube:
        """Nothing is asked of the API yet. Raises KubeConfigError."""
        kube = cls(Credentials(kubeconfig, environ, account), clock)
        await kube._read_credentials()
        return kube

    async def close(self) -> None:
        await self._client.close()

    @property
    def server(self) -> str:
        """The API's address."""
        return str(self._client.configuration.host)

    async def get(self, path: str, *, params: Params | None = None) -> dict[str, Any]:
        return _object(await self.fetch("GET", path, params=params))

    async def post(self, path: str, *, params: Params | None = None, body: Any = None) -> dict[str, Any]:
        return _object(await self.fetch("POST", path, params=params, body=body))

    async def put(self, path: str, *, params: Params | None = None, body: Any = None) -> dict[str, Any]:
        return _object(await self.fetch("PUT", path, params=params, body=body))

    async def patch(
        self, path: str, *, params: Params | None = None, body: Any = None, content: str = MERGE_PATCH
    ) -> dict[str, Any]:
        return _object(await self.fetch("PATCH", path, params=params, body=body, content=content))

    async def delete(self, path: str, *, params: Params | None = None, body: Any = None) -> dict[str, Any]:
        return _object(await self.fetch("DELETE", path, params=params, body=body))

    async def fetch(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Any = None,
        content: str = _JSON,
        timeout_s: float = EXCHANGE_S,
    ) -> bytes:
        """The bytes of a successful answer. Raises KubeError."""
        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        with _failures():
            response = await self._send(method, path, params, body, content, limits)
            try:
                return await _read(response, MAX_ANSWER_BYTES)
            finally:
                response.release()

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, params: Params, *, timeout_s: float, silence_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A watch: its lines as they come, complete ones only. Raises KubeError, also out of the iteration.

        A server that ends the answer ends the iteration. It fails after `timeout_s`, however much comes, and
        where nothing comes for `silence_s`, then with the reason SILENT.
        """
        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S, sock_read=silence_s)
        with _failures():
            try:
                async with asyncio.timeout(EXCHANGE_S):  # until the headers are there
                    response = await self._send("GET", path, params, None, _JSON, limits)
            except TimeoutError as error:
                raise KubeError(0, "Timeout", f"no answer in {EXCHANGE_S:g} s") from error
        try:
            _probe(response)
            yield _lines(response)
        finally:
            response.close()

    async def _send(
        self,
        method: str,
        path: str,
        params: Params | None,
        body: Any,
        content: str,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        if self._clock() - self._read_at >= self._credentials.age_s:
            # A file that is just being replaced is no reason to stop: the old ones go on until refused.
            with contextlib.suppress(KubeConfigError):
                await self._read_credentials(self._generation)
        generation = self._generation
        response = await self._once(method, path, params, body, content, limits)
        if response.status == 401:
            response.close()
            try:
                await self._read_credentials(generation)
            except KubeConfigError as error:
                raise KubeError(401, "Unauthorized", str(error)) from error
            response = await self._once(method, path, params, body, content, limits)
        if response.status >= 400:
            try:
                raise _error(response, await _read(response, MAX_ERROR_BYTES))
            finally:
                response.release()
        return response

    async def _once(
        self,
        method: str,
        path: str,
        params: Params | None,
        body: Any,
        content: str,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        client = self._client
        # Not compressed: the size is limited as it comes, and the API server is near.
        headers = {"Accept": _JSON, "Accept-Encoding": "identity", "User-Agent": client.user_agent}
        headers["Content-Type"] = content
        await client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = client.configuration.host + path + (f"?{urlencode(params)}" if params else "")
        answer = await client.rest_client.request(method, url, headers, body, _request_timeout=limits)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def _read_credentials(self, generation: int = 0) -> None:
        async with self._reading:
            if self._generation != generation:
                return  # someone else has just done it
            self._read_at = self._clock()
            configuration = await self._credentials.load()
            self._generation += 1
            try:
                files = files_of(configuration)
            except OSError as error:
                raise KubeConfigError(f"{error.filename}: {error.strerror}") from error
            if files == self._files:
                self._client.configuration.api_key = configuration.api_key
                return
            configuration.connection_pool_maxsize = 0  # one connection a watch; we know how many we make
            module = importlib.import_module("kubernetes.aio.client.api_client")
            try:
                client = module.ApiClient(configuration)
            except (OSError, ValueError) as error:
                raise KubeConfigError(f"TLS certificates for {configuration.host}: {error}") from error
            client.user_agent = f"epp/{importlib.metadata.version('inference-epp')}"
            before, self._client, self._files = self._client, client, files
        if before is not None:
            await before.close()  # cuts its watches, which go on from where they were


def _object(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise KubeError(0, "BadAnswer", f"not a JSON object: {error}") from error


def _error(response: aiohttp.ClientResponse, data: bytes) -> KubeError:
    try:
        told = _status.decode(data)
    except msgspec.DecodeError:  # a proxy in between does not speak the API's format
        told = _Status(message=data[:200].decode(errors="replace").strip())
    wait = told.details.retryAfterSeconds if told.details else 0.0
    with contextlib.suppress(ValueError):
        wait = float(response.headers.get("Retry-After", wait))
    reason = told.reason or response.reason or "Error"
    retry_after_s = wait if 0 < wait < float("inf") else None
    return KubeError(response.status, reason, told.message[:1000], retry_after_s=retry_after_s)


async def _read(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > limit_bytes:
            response.close()
            raise KubeError(0, "TooLarge", f"an answer of more than {limit_bytes >> 10} KiB")
    return bytes(data)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = bytearray()
    with _failures():
        async for chunk in response.content.iter_any():
            first, *more = chunk.split(b"\n")
            rest += first
            if len(rest) > MAX_LINE_BYTES:
                raise KubeError(0, "TooLarge", f"an event of more than {MAX_LINE_BYTES >> 20} MiB")
            for line in more:
                yield bytes(rest)
                rest = bytearray(line)
        if rest:
            raise KubeError(0, "Disconnected", "the answer ended within an event")


def _probe(response: aiohttp.ClientResponse) -> None:
    connection = response.connection
    transport = connection.transport if connection is not None else None
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return
    for name, value in PROBES:
        level = socket.SOL_SOCKET if isinstance(name, int) else socket.IPPROTO_TCP
        option = name if isinstance(name, int) else getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, value)


@contextlib.contextmanager
def _failures() -> Any:
    """What can go wrong below HTTP, and in the official client, as a KubeError."""
    try:
        yield
    except KubeError:
        raise
    except aiohttp.SocketTimeoutError as error:
        raise KubeError(0, SILENT, str(error)) from error
    except TimeoutError as error:
        raise KubeError(0, "Timeout", str(error) or "no answer in time") from error
    except aiohttp.ClientPayloadError as error:
        raise KubeError(0, "Disconnected", "the connection broke within an answer") from error
    except (aiohttp.ClientError, OSError) as error:
        raise KubeError(0, "Disconnected", str(error) or type(error).__name__) from error
    except Exception as error:  # a session closed for new credentials, a credential plugin that fails, ...
        raise KubeError(0, "Client", f"{type(error).__name__}: {error}") from error
