"""Many simulated model servers in one process: their listeners, their deaths, the endpoints file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine, Sequence
from pathlib import Path

import msgspec
import yaml

from epp.sim.faults import Faults, changed
from epp.sim.httpd import JSON_TYPE, Connection, Exchange, Incoming
from epp.sim.server import ModelServer, Settings

BACKLOG = 1024
_log = logging.getLogger(__name__)


class Listener:
    """One server with its port and connections."""

    def __init__(self, fleet: Fleet, server: ModelServer, host: str) -> None:
        self.server = server
        self._fleet = fleet
        self._host = host
        self._listening: asyncio.Server | None = None
        self._closing: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._revival: asyncio.TimerHandle | None = None
        self._reviving = False

    @property
    def alive(self) -> bool:
        return self._listening is not None

    async def open(self) -> None:
        """Listens; a port of 0 becomes a free one."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(
            lambda: Connection(self, self._connections), self._host, self.server.port, backlog=BACKLOG
        )
        self.server.bound(self._listening.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Ends the listener and every connection at once."""
        if self._revival is not None:
            self._revival.cancel()
            self._revival = None
        if self._listening is not None:
            self._listening.close()
            self._closing, self._listening = self._listening, None
        for connection in list(self._connections):
            connection.abort()
        self.server.clock.close()

    async def wait_closed(self) -> None:
        """After `close`: until the sockets are closed too."""
        if self._closing is not None:
            await self._closing.wait_closed()

    def handle(self, incoming: Incoming, exchange: Exchange) -> None:
        if incoming.path.startswith("/sim/"):
            self._fleet.admin(incoming, exchange, self)
        else:
            self.server.handle(incoming, exchange)

    def set_faults(self, faults: Faults) -> None:
        self.server.set_faults(faults)
        loop = asyncio.get_running_loop()
        if faults.dead and self.alive:
            # The answer to the one who asked, who may be on one of our own connections, goes out first.
            loop.call_later(0.01, self._die)
        elif not faults.dead and not self.alive:
            self._fleet.spawn(self.revive())

    def _die(self) -> None:
        if not (self.alive and self.server.faults.dead):
            return
        self.close()
        if self.server.faults.dead_for_s > 0:
            loop = asyncio.get_running_loop()
            self._revival = loop.call_later(
                self.server.faults.dead_for_s, lambda: self._fleet.spawn(self.revive())
            )

    async def revive(self) -> None:
        """Listens on the same port again, as a fresh process would."""
        if self.alive or self._reviving:
            return
        self._reviving = True
        try:
            self.server.reset()
            await self.open()
            self.server.set_faults(changed(self.server.faults, {"dead": False}))
        except OSError as error:
            self.server.set_faults(changed(self.server.faults, {"dead": True}))
            _log.warning("%s stays dead: %s", self.server.name, error)
        finally:
            self._reviving = False


class Fleet:
    """All servers of the process. `ports`: one a server, 0 for a free one."""

    def __init__(self, settings: Settings, ports: Sequence[int], *, host: str, prefix: str = "sim") -> None:
        self.settings = settings
        self.host = host
        loop = asyncio.get_running_loop()
        self.listeners = [
            Listener(self, ModelServer(settings, i, f"{prefix}-{i}", port, loop), host)
            for i, port in enumerate(ports)
        ]
        self._tasks: set[asyncio.Task[None]] = set()
        self._admin: asyncio.Server | None = None
        self._admin_connections: set[Connection] = set()

    async def open(self) -> None:
        """All ports, or none: raises OSError when one is taken."""
        try:
            for listener in self.listeners:
                await listener.open()
        except OSError:
            self.close()
            raise

    async def open_admin(self, port: int) -> int:
        """A listener for /sim/ alone, which outlives every fault; returns its port."""
        loop = asyncio.get_running_loop()
        self._admin = await loop.create_server(
            lambda: Connection(_AdminSite(self), self._admin_connections), self.host, port
        )
        bound: int = self._admin.sockets[0].getsockname()[1]
        return bound

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()
        if self._admin is not None:
            self._admin.close()
            for connection in list(self._admin_connections):
                connection.abort()
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        """After `close`: until all sockets are closed too."""
        for listener in self.listeners:
            await listener.wait_closed()
        if self._admin is not None:
            await self._admin.wait_closed()

    def spawn(self, revival: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(revival)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def admin(self, incoming: Incoming, exchange: Exchange, own: Listener | None) -> None:
        """`/sim/faults` (GET, POST) and `/sim/engines` (GET)."""
        try:
            self._answer_admin(incoming, exchange, own)
        except ValueError as error:
            exchange.reply(400, msgspec.json.encode({"error": str(error)}))

    def _answer_admin(self, incoming: Incoming, exchange: Exchange, own: Listener | None) -> None:
        if incoming.path == "/sim/faults" and incoming.method in ("POST", "PUT"):
            try:
                update = msgspec.json.decode(incoming.body, type=dict[str, object])
            except msgspec.DecodeError as error:
                raise ValueError(str(error)) from None
            chosen = self._chosen(update.pop("engine", None), own)
            new = [changed(listener.server.faults, update) for listener in chosen]
            for listener, faults in zip(chosen, new, strict=True):
                listener.set_faults(faults)
        elif incoming.method != "GET" or incoming.path not in ("/sim/faults", "/sim/engines"):
            exchange.reply(404, b'{"error":"no such path"}')
            return
        state = {
            x.server.name: {
                "port": x.server.port,
                "alive": x.alive,
                "running": x.server.engine.running,
                "waiting": x.server.engine.waiting,
                "kv_used_blocks": x.server.engine.kv.used,
                "kv_cached_blocks": x.server.engine.kv.cached,
                "faults": x.server.faults,
            }
            for x in self.listeners
        }
        exchange.reply(200, msgspec.json.encode(state), JSON_TYPE)

    def _chosen(self, name: object, own: Listener | None) -> list[Listener]:
        if name == "*":
            return list(self.listeners)
        if name is None and own is not None:
            return [own]
        found = [x for x in self.listeners if x.server.name == name]
        if not found:
            raise ValueError(f"engine must be '*' or one of {[x.server.name for x in self.listeners]}")
        return found

    def write_endpoints(self, path: Path) -> None:
        """The endpoints file for file discovery, replaced in one move."""
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        endpoints = [
            {
                "name": x.server.name,
                "namespace": self.settings.namespace,
                "address": address,
                "port": str(x.server.port),
                "labels": {"llm-d.ai/engine-type": "vllm"},
            }
            for x in self.listeners
        ]
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            partial.write_text(yaml.safe_dump({"endpoints": endpoints}, sort_keys=False))
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


class _AdminSite:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def handle(self, incoming: Incoming, exchange: Exchange) -> None:
        self._fleet.admin(incoming, exchange, None)
