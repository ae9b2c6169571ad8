"""What a real Envoy says, route by route, about the pool that a stream is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import rig
from .doors import ask, gateway
from .routes import POOL, by_authority, configuration, in_dynamic_metadata, in_the_call, in_the_service


@pytest.mark.parametrize("name", ["standalone.yaml", "buffered.yaml"])
@pytest.mark.parametrize("way", [in_the_call, in_the_service, in_dynamic_metadata])
async def test_each_route_names_its_pool(tmp_path: Path, name: str, way: Any) -> None:
    """And no client can."""
    routes = {"/one/": way("models/one"), "/two/": way("models/two")}
    async with gateway(configuration(name, tmp_path, routes), tmp_path) as (door, client, _):
        for prefix in ("/one", "/two", "/one", ""):
            await ask(client, prefix, **{POOL: "models/forged"})
        assert [call.origin[1] for call in door.calls] == ["models/one", "models/two", "models/one", ""]


async def test_each_route_calls_its_pools_service(tmp_path: Path) -> None:
    routes = {"/one/": by_authority("One.models.svc:9002"), "/two/": by_authority("two.models.svc:9002")}
    async with gateway(configuration("standalone.yaml", tmp_path, routes), tmp_path) as (door, client, _):
        for prefix in ("/one", "/two", "/one", ""):
            await ask(client, prefix)
        # grpc.aio does not show it.
        names = ["one.models.svc:9002", "two.models.svc:9002", "one.models.svc:9002", "epp"]
        assert [call.origin[0] for call in door.calls] == (names if rig.transport == "native" else [""] * 4)
