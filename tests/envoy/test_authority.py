"""A real Envoy whose calls have authorities that no URI could have.

Gateways name their clusters so, and a cluster's name is the authority where nothing else is configured: of
calls, and of health checks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from bench.stack import envoy, free_port
from epp.domain.views import Route
from epp.extproc.certificates import self_signed
from epp.extproc.health import Health
from tests.fakes.door import FakeDoor
from tests.wire.transports import serving

from . import rig, routes
from .doors import ask, counted
from .engines import start_engines

ISTIO = "outbound|9002||Picker.models.svc.cluster.local"
ENVOY_GATEWAY = "envoyextensionpolicy/default/epp/extproc/0"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


def told(*names: str) -> set[str]:
    """grpc.aio does not show it."""
    return {name.lower() for name in names} if rig.transport == "native" else {""}


def configuration(path: Path, cluster: str, *, tls: bool) -> None:
    """The picker's cluster has this name and nothing says another authority. Its health is asked there."""
    text = path.read_text()
    socket = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": TLS, "common_tls_context": {"alpn_protocols": ["h2"]}},
    }
    named = f'  - name: "{cluster}"\n    alt_stat_name: epp\n'
    if tls:
        named += f"    transport_socket: {yaml.safe_dump(socket, default_flow_style=True, width=1000)}"
    for before, after in (
        ("{cluster_name: epp, authority: epp}", f'{{cluster_name: "{cluster}"}}'),
        ("  - name: epp\n", named),
        ("      cluster_name: epp\n", f'      cluster_name: "{cluster}"\n'),
        ("            health_check_config: {port_value: 9003}  # @epp_health\n", ""),
    ):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path.write_text(text)


@contextlib.asynccontextmanager
async def gateway(
    directory: Path, cluster: str, *, tls: bool, ways: dict[str, routes.Filters] | None = None
) -> AsyncIterator[tuple[FakeDoor, aiohttp.ClientSession, str]]:
    (engine,) = await start_engines(1)
    door = FakeDoor(verdict=lambda call: Route(engine.address))
    more: dict[str, Any] = {"tls": self_signed} if tls else {}
    if rig.transport == "native":
        more["ready"] = lambda: True
    else:
        more["servicers"] = [Health(lambda: True).register]
    config = routes.configuration("standalone.yaml", directory, ways or {})
    configuration(config, cluster, tls=tls)
    async with contextlib.AsyncExitStack() as live:
        live.push_async_callback(engine.stop)
        transport, _ = await live.enter_async_context(serving(rig.transport, door, **more))
        port, admin = free_port(), free_port()
        filled: dict[str, int | str] = {
            "admin": admin, "listener": port, "listener_address": "127.0.0.1", "epp": transport.port,
        }  # fmt: skip
        child = await asyncio.to_thread(envoy, config, filled, directory)
        live.callback(child.stop)
        client = aiohttp.ClientSession(f"http://127.0.0.1:{port}")
        await live.enter_async_context(client)
        url = f"http://127.0.0.1:{admin}"
        await rig.until(
            lambda: counted(url, "cluster.epp.membership_healthy") == 1, "picker healthy for Envoy"
        )
        yield door, client, url


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("cluster", [ISTIO, ENVOY_GATEWAY])
async def test_a_cluster_whose_name_is_no_authority(tmp_path: Path, cluster: str, tls: bool) -> None:
    async with gateway(tmp_path, cluster, tls=tls) as (door, client, url):
        for _ in range(20):
            await asyncio.gather(*(ask(client) for _ in range(8)))
        assert len(door.calls) == 160
        assert {call.origin[0] for call in door.calls} == told(cluster)
        assert counted(url, "cluster.epp.health_check.success") > 0
        assert counted(url, "cluster.epp.health_check.failure") == 0
        assert counted(url, "cluster.epp.upstream_rq_rx_reset") == 0


async def test_calls_of_one_gateway_with_many_authorities(tmp_path: Path) -> None:
    names = ["one|two", "models/one", "epp", "one.models.svc:9002", "~0", "a" * 300 + "|"]
    ways = {
        f"/{number}/": routes.overriding(
            grpc_service={"envoy_grpc": {"cluster_name": ISTIO, "authority": name}}
        )
        for number, name in enumerate(names)
    }
    async with gateway(tmp_path, ISTIO, tls=False, ways=ways) as (door, client, _):
        for _ in range(5):
            for number, name in enumerate(names):
                await ask(client, f"/{number}")
                assert {door.calls[-1].origin[0]} == told(name)
            await ask(client)
            assert {door.calls[-1].origin[0]} == told(ISTIO)
