"""A configuration that changes while requests come, as clients and operators see it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from epp.telemetry.configs import config_hash

from .rig import SERVED, Rig, chat, rig, until

HEADER = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
SESSIONS = (
    HEADER
    + """\
plugins:
- type: session-affinity-filter
  parameters: {strategy: session_id, sessionIdConfig: {sources: [{header: x-session-id}]}}
- {type: %s}
schedulingProfiles:
- name: default
  plugins: [{pluginRef: session-affinity-filter}, {pluginRef: %s}]
"""
)
QUEUES = (
    HEADER
    + """\
featureGates: [flowControl]
plugins:
- {type: concurrency-detector, parameters: {maxConcurrency: 1}}
- {type: %s}
flowControl:
  saturationDetector: {pluginRef: concurrency-detector}
  maxRequests: %d
"""
)


class Config:
    """A file as an operator writes it: whole, by a rename."""

    def __init__(self, directory: Path, text: str) -> None:
        self._path = directory / "config.yaml"
        self.write(text)
        self.flags = ["--config-file", str(self._path), "--allow-experimental-plugins"]

    def write(self, text: str) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_text(text)
        os.replace(beside, self._path)


async def generation(stack: Rig, wanted: int) -> None:
    await until(
        lambda: stack.epp.metric("epp_config_generation") == wanted,
        f"generation {wanted} of the configuration",
    )


async def successful(stack: Rig, wanted: bool) -> None:
    await until(
        lambda: stack.epp.metric("epp_config_last_reload_successful") == wanted,
        "the last configuration taken" if wanted else "a configuration refused",
    )


async def ask(stack: Rig, session: str = "", act: str = "json", prompt: str = "hello") -> str:
    """The endpoint that served it, once it is over."""
    headers = {"x-act": act, **({"x-session-id": session} if session else {})}
    async with stack.client.post("/v1/chat/completions", json=chat(prompt), headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
        return answer.headers[SERVED]


async def test_state_stays_and_a_stream_goes_on(tmp_path: Path) -> None:
    config = Config(tmp_path, SESSIONS % ("queue-scorer", "queue-scorer"))
    async with rig(tmp_path, "standalone.yaml", engines=4, flags=config.flags) as stack:
        sessions = [f"s{i}" for i in range(20)]
        home = {session: await ask(stack, session) for session in sessions}
        assert len(set(home.values())) > 1
        for engine in stack.engines:
            engine.reset()
        streamed = asyncio.create_task(ask(stack, act="stream"))
        await stack.serving()
        config.write(SESSIONS % ("running-requests-size-scorer", "running-requests-size-scorer"))
        await generation(stack, 2)
        assert {session: await ask(stack, session) for session in sessions} == home
        assert not streamed.done()
        for engine in stack.engines:
            engine.go.set()
        assert await streamed in stack.by_port()
        await stack.idle()


async def test_a_wrong_one_changes_nothing_until_it_is_right(tmp_path: Path) -> None:
    config = Config(tmp_path, SESSIONS % ("queue-scorer", "queue-scorer"))
    async with rig(tmp_path, "standalone.yaml", engines=2, flags=config.flags) as stack:
        home = await ask(stack, "s")
        config.write(SESSIONS % ("quee-scorer", "quee-scorer"))
        await successful(stack, False)
        assert stack.epp.metric("epp_config_generation") == 1
        assert await ask(stack, "s") == home
        config.write(SESSIONS % ("queue-scorer", "queue-scorer") + "# mended\n")
        await generation(stack, 2)
        await successful(stack, True)
        assert await ask(stack, "s") == home
        await stack.idle()


async def test_a_storm_of_changes_costs_no_request(tmp_path: Path) -> None:
    scorers = ("queue-scorer", "running-requests-size-scorer", "kv-cache-utilization-scorer")
    config = Config(tmp_path, SESSIONS % (scorers[0], scorers[0]))
    async with rig(tmp_path, "standalone.yaml", engines=4, flags=config.flags) as stack:
        over = asyncio.Event()

        async def client() -> int:
            asked = 0
            while not over.is_set():
                await ask(stack)
                asked += 1
            return asked

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for i in range(300):
            name = scorers[i % 3]
            config.write(HEADER + "nonsense\n" if i % 5 == 4 else SESSIONS % (name, name) + f"# {i}\n")
            await asyncio.sleep(0)
        last = SESSIONS % (scorers[1], scorers[1]) + "# last\n"
        config.write(last)
        await until(lambda: stack.epp.metric("epp_config_hash") == config_hash(last), "the last change taken")
        assert stack.epp.metric("epp_config_last_reload_successful") == 1
        over.set()
        assert sum(await asyncio.gather(*clients)) > 0
        assert stack.epp.metric("epp_config_generation") < 50
        assert stack.epp.metric("epp_refusals_total") == 0
        assert stack.epp.metric("epp_internal_errors_total") == 0
        await stack.idle()


async def test_who_waits_is_served_whether_the_queues_stay_or_are_replaced(tmp_path: Path) -> None:
    config = Config(tmp_path, QUEUES % ("queue-scorer", 5))
    async with rig(tmp_path, "standalone.yaml", engines=1, flags=config.flags) as stack:
        (engine,) = stack.engines
        running = asyncio.create_task(ask(stack, act="hold"))
        await stack.serving()
        waiting = [asyncio.create_task(ask(stack, prompt=f"waits {i}")) for i in range(3)]
        await until(lambda: stack.epp.metric("llm_d_epp_flow_control_queue_size") == 3, "three waiting")
        config.write(QUEUES % ("running-requests-size-scorer", 5))
        await generation(stack, 2)
        assert stack.epp.metric("llm_d_epp_flow_control_queue_size") == 3, "the queues are those of before"
        config.write(QUEUES % ("running-requests-size-scorer", 50))
        await generation(stack, 3)
        assert not any(task.done() for task in waiting)
        engine.go.set()
        assert await asyncio.gather(running, *waiting) == [engine.address] * 4
        await stack.idle()
