"""The compiled transport alone: every request gets one endpoint, and no Python runs for it.

What is left of a picker's cost when it decides nothing, hence the limit in `bench/gateway.py`.

    python bench/canned.py --port 9002 --health-port 9003 --endpoint 127.0.0.1:8000
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence

import click
import uvloop

from epp.domain.request import RequestHead
from epp.domain.views import Call
from epp.extproc.health import Health, serve_health
from epp.extproc.native import NativeTransport


class ClosedDoor:
    """A door that nobody comes to: the transport answers by itself."""

    def open(self, head: RequestHead) -> Call:
        raise AssertionError(f"asked for {head.path}")

    def open_answer(self, authority: str = "", pool: str = "") -> Call:
        raise AssertionError("asked for an answer")


class Uncounted:
    """A sink of the transport's counts; faults go to the output."""

    def stream_opened(self) -> None: ...

    def stream_closed(self, code: str, seconds: float) -> None: ...

    def streams(
        self, opened: int, closed: Mapping[str, int], durations: Sequence[int], total_s: float
    ) -> None: ...

    def handoffs(self, counts: Sequence[int], total_s: float) -> None: ...

    def connections(self, now_open: int, failed: int) -> None: ...

    def protocol_violation(self, kind: str) -> None:
        print(f"violation: {kind}", flush=True)

    def internal_error(self, where: str) -> None:
        print(f"internal error: {where}", flush=True)


async def _serve(port: int, health_port: int, endpoint: str) -> None:
    transport = NativeTransport(
        ClosedDoor(), address=f"127.0.0.1:{port}", sink=Uncounted(), new_id=str, fixed=endpoint
    )
    await transport.start()
    health, _ = await serve_health(Health(lambda: True), f"127.0.0.1:{health_port}")
    print("ready", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await asyncio.gather(transport.stop(0), health.stop(0))


@click.command(help=__doc__)
@click.option("--port", default=9002, show_default=True, help="ext_proc listener on loopback.")
@click.option("--health-port", default=9003, show_default=True, help="gRPC health listener on loopback.")
@click.option("--endpoint", default="127.0.0.1:8000", show_default=True, help="The endpoint always chosen.")
def main(port: int, health_port: int, endpoint: str) -> None:
    uvloop.run(_serve(port, health_port, endpoint))


if __name__ == "__main__":
    main()
