"""An HTTP listener that is started once and stopped once."""

from __future__ import annotations

import ssl

from aiohttp import web


class Site:
    """`host` None: every interface; `port` 0: a free one."""

    def __init__(self, host: str | None, port: int) -> None:
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self, app: web.Application, context: ssl.SSLContext | None) -> None:
        """Raises OSError when the port is taken."""
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, ssl_context=context).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner

    @property
    def listening(self) -> bool:
        return self._runner is not None

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        assert self._runner is not None, "not started"
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
