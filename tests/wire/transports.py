"""The transports that a door can be served by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any, Protocol

import pytest

from epp.domain.views import Door
from epp.extproc.grpcio import GrpcioTransport
from epp.extproc.transport import StreamSink, Transport
from tests.fakes.sink import CountingSink

needs_native = pytest.mark.skipif(
    find_spec("inference_epp_native") is None,
    reason="the compiled transport inference_epp_native is not installed",
)
TRANSPORTS = (pytest.param("grpcio"), pytest.param("native", marks=needs_native))


class Counted(Transport, Protocol):
    @property
    def held_bytes(self) -> int:
        """Of request bodies, all streams together."""


def build(name: str, door: Door, *, sink: StreamSink, address: str = "127.0.0.1:0", **more: Any) -> Counted:
    """Not started. What only the other transport offers is not given to it."""
    if name == "grpcio":
        return GrpcioTransport(door, address=address, sink=sink, new_id=lambda: "made", **more)
    from epp.extproc.native import NativeTransport

    made: Counted = NativeTransport(door, address=address, sink=sink, new_id=lambda: "made", **more)
    return made


@asynccontextmanager
async def serving(name: str, door: Door, **more: Any) -> AsyncIterator[tuple[Counted, CountingSink]]:
    sink = CountingSink()
    served = build(name, door, sink=sink, **more)
    await served.start()
    try:
        yield served, sink
    finally:
        await served.stop(0)
