"""The demo's parts: ports, children that never survive, the gateway's configuration."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from epp.cli.demo import gateway
from epp.cli.demo.ports import HOST, Ports, any_free, is_free
from epp.cli.demo.processes import ChildError, Children
from epp.cli.demo.stack import epp_config
from epp.config.loader import load_text

SLEEPER = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import os, signal\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = os.fork()\n"
    "if child: print(child, flush=True)\n"
    "while True: signal.pause()",
]
"""Ignores being asked to end, as does a child of its own."""


def listening() -> socket.socket:
    held = socket.socket()
    held.bind((HOST, 0))
    held.listen()
    return held


def gone(pid: int) -> bool:
    """No such process, or only its corpse is left."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


async def first_line(log: Path) -> str:
    while "\n" not in (text := log.read_text()):
        await asyncio.sleep(0.01)
    return text.splitlines()[0]


def test_a_wished_port_is_given_when_it_is_free() -> None:
    port = any_free([])
    ports = Ports()
    assert ports.one(port, "it") == port
    assert ports.moved == []


def test_a_taken_port_is_replaced_and_told() -> None:
    with listening() as held:
        taken = held.getsockname()[1]
        ports = Ports()
        port = ports.one(taken, "the gateway")
        assert port != taken
        assert is_free(port)
        assert ports.moved == [f"port {taken} is taken: the gateway is on {port}"]


def test_no_port_is_given_twice() -> None:
    ports = Ports()
    port = any_free([])
    assert ports.one(port, "a") != ports.one(port, "b")


def test_a_row_moves_as_a_whole() -> None:
    with listening() as held:
        taken = held.getsockname()[1]
        ports = Ports()
        row = ports.row(min(taken, 65_000), 8, "the engines")
        assert row == list(range(row[0], row[0] + 8))
        assert taken not in row
        assert len(ports.moved) == 1


async def test_children_end_when_asked(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        child = await children.start("sleeper", SLEEPER)
        assert await first_line(child.log) == "up"
        assert os.getpgid(child.process.pid) == child.process.pid
    assert child.process.returncode == -signal.SIGTERM


async def test_a_second_interrupt_kills_whole_groups_at_once(tmp_path: Path) -> None:
    children = Children(tmp_path)
    child = await children.start("stubborn", STUBBORN)
    grandchild = int(await first_line(child.log))
    stopping = asyncio.create_task(children.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    (outcome,) = await asyncio.gather(stopping, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)
    assert child.process.returncode == -signal.SIGKILL
    while not gone(grandchild):
        await asyncio.sleep(0.01)


async def test_a_death_is_told_with_the_last_lines(tmp_path: Path) -> None:
    dying = [sys.executable, "-c", "print('no such port'); raise SystemExit(3)"]
    async with Children(tmp_path) as children:
        await children.start("sleeper", SLEEPER)
        await children.start("engines", dying)
        error = await children.first_death()
    assert str(error) == "engines ended with status 3\n  engines: no such port"


async def test_what_cannot_start_is_told(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        with pytest.raises(ChildError, match="envoy could not be started"):
            await children.start("envoy", [str(tmp_path / "missing")])


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_children_die_with_a_demo_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys, pathlib\n"
        "from epp.cli.demo.processes import Children\n"
        "async def main():\n"
        "    async with Children(pathlib.Path(sys.argv[1])) as children:\n"
        "        child = await children.start('sleeper', ['sleep', '600'])\n"
        "        print(child.process.pid, flush=True)\n"
        "        await child.process.wait()\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.kill()
    parent.wait()
    while not gone(pid):
        os.sched_yield()


PORTS = gateway.Ports(picked=18081, round_robin=18082, admin=18083, epp=18084, epp_health=18085)


def test_the_two_gateways_differ_in_who_chooses() -> None:
    document = yaml.safe_load(gateway.configuration(PORTS, [8100, 8101]))
    resources = document["static_resources"]
    picked, plain = resources["listeners"]
    assert picked["address"]["socket_address"] == {"address": HOST, "port_value": 18081}
    assert plain["address"]["socket_address"] == {"address": HOST, "port_value": 18082}
    filters = [
        [one["name"] for one in listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]]
        for listener in (picked, plain)
    ]
    assert set(filters[0]) - set(filters[1]) == {"envoy.filters.http.ext_proc"}
    clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
    hosts = clusters["round-robin"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    ports = [host["endpoint"]["address"]["socket_address"]["port_value"] for host in hosts]
    assert (clusters["round-robin"]["lb_policy"], ports) == ("ROUND_ROBIN", [8100, 8101])


def test_envoy_is_found_beside_python_then_on_the_path(tmp_path: Path) -> None:
    beside, on_path = tmp_path / "bin" / "envoy", tmp_path / "elsewhere" / "envoy"
    for file in (beside, on_path):
        file.parent.mkdir()
        file.touch(0o755)
    python = beside.with_name("python")
    assert gateway.find_envoy(python, str(on_path.parent)) == beside
    beside.unlink()
    assert gateway.find_envoy(python, str(on_path.parent)) == on_path
    on_path.unlink()
    with pytest.raises(gateway.GatewayMissingError, match="put `envoy` on PATH"):
        gateway.find_envoy(python, str(on_path.parent))


@pytest.mark.envoy
def test_a_real_envoy_accepts_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(gateway.configuration(PORTS, range(8100, 8108)))
    envoy = str(gateway.find_envoy())
    checked = subprocess.run(
        [envoy, "--mode", "validate", "-c", str(file)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_epp_reads_the_demo_configuration(tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.yaml"
    loaded = load_text(epp_config(endpoints), source="demo")
    assert str(endpoints) in repr(loaded.data)
