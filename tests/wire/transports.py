"""The transports that a door can be served by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from epp.domain.views import Door
from epp.extproc.grpcio import GrpcioTransport
from epp.extproc.native import NativeTransport, is_built
from epp.extproc.transport import StreamSink, Transport
from tests.fakes.sink import CountingSink

needs_native = pytest.mark.skipif(
    not is_built(),
    reason="the compiled transport inference_epp_native is not installed",
)
TRANSPORTS = (pytest.param("grpcio"), pytest.param("native", marks=needs_native))


def build(
    kind: str, door: Door, *, sink: StreamSink, address: str = "127.0.0.1:0", early: bool = False, **more: Any
) -> Transport:
    """Not started. `early`: the door may refuse at the headers; grpcio always asks it."""
    if kind == "grpcio":
        return GrpcioTransport(door, address=address, sink=sink, new_id=lambda: "made", **more)
    return NativeTransport(door, address=address, sink=sink, new_id=lambda: "made", early=early, **more)


@asynccontextmanager
async def serving(kind: str, door: Door, **more: Any) -> AsyncIterator[tuple[Transport, CountingSink]]:
    sink = CountingSink()
    served = build(kind, door, sink=sink, **more)
    await served.start()
    try:
        yield served, sink
    finally:
        await served.stop(0)
