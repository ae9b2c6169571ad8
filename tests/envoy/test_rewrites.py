"""Rewrites of models' names from a watched file, through Envoy: canary, aliases, a default, and answers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bench.stack import DEPLOY, ROOT, fetch, free_port

from .rig import SERVED, Rig, chat, rig, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = """\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata:
  name: canary
  annotations: {llm-d.ai/rewrite-hash-header: x-user-id}
spec:
  poolRef: {name: pool}
  rules:
  - matches: [{model: {value: assistant}}]
    targets: [{modelRewrite: base, weight: 80}, {modelRewrite: another-model, weight: 20}]
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModelRewrite
metadata: {name: names}
spec:
  poolRef: {name: pool}
  rules:
  - matches: [{model: {value: base}}]
    targets: [{modelRewrite: base}]
  - matches: [{model: {value: alias}}]
    targets: [{modelRewrite: another-model}]
"""
DEFAULT = """\
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: default}
spec:
  poolRef: {name: pool}
  rules:
  - targets: [{modelRewrite: another-model}]
"""
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rules")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["standalone.yaml", "buffered.yaml"])
async def shared(
    rules: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, transport: str
) -> AsyncIterator[Rig]:
    (rules / "rewrites.yaml").write_text(CANARY)
    flags = ("--objectives-path", str(rules))
    async with rig(tmp_path_factory.mktemp("rewrites"), request.param, engines=2, flags=flags) as running:
        yield running


@pytest.fixture
def stack(shared: Rig) -> Iterator[Rig]:
    yield from shared.fresh()


async def ask(stack: Rig, body: dict[str, object], **headers: str) -> tuple[str, str]:
    """The model that the engine was asked for, and the one that the client is told of."""
    data = BytesIO(json.dumps(body).encode())
    async with stack.client.post(CHAT, data=data, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        said = (await answer.json())["model"]
        seen: dict[str, Any] = json.loads(stack.engine(answer.headers[SERVED]).seen[-1].body)
    assert {**body, "model": seen["model"]} == seen, "nothing else of the body has changed"
    return seen["model"], said


async def test_a_canary_by_user(stack: Rig) -> None:
    chosen: dict[str, str] = {}
    for number in range(200):
        user = f"user-{number % 100}"
        target, said = await ask(stack, chat("hi", model="assistant"), **{"x-user-id": user})
        assert said == "assistant"
        assert chosen.setdefault(user, target) == target, "who had it once has it again"
    shares = Counter(chosen.values())
    assert set(shares) == {"base", "another-model"}
    assert 4 <= shares["another-model"] <= 36  # 4 standard deviations around 20
    counted = 'llm_d_epp_model_rewrite_decisions_total{model_rewrite_name="canary",model_name="assistant"'
    assert counted in page(stack)
    await stack.idle()


async def test_without_the_header_chance_decides(stack: Rig) -> None:
    targets = Counter([(await ask(stack, chat("hi", model="assistant")))[0] for _ in range(80)])
    assert set(targets) == {"base", "another-model"}


@pytest.mark.parametrize("repeats", [1, 2_000, 20_000])
async def test_a_body_of_any_length(stack: Rig, repeats: int) -> None:
    """Long ones are hashed as they come; the name stands before the prompt, and behind it."""
    prompt = 'a prompt with \\"model\\":\\"alias\\" in it ' * repeats
    before = chat(prompt, model="alias")
    behind = {"messages": before["messages"], "model": "alias"}
    for body in (before, behind):
        assert await ask(stack, body) == ("another-model", "alias")
    await stack.idle()


async def test_a_streamed_answer_names_the_clients_model(stack: Rig) -> None:
    body = chat(model="alias", stream=True)
    async with stack.client.post(CHAT, json=body, headers={"x-act": "named"}) as answer:
        text = await answer.text()
    assert text.count('"model":"alias"') == 2
    assert "another-model" not in text
    assert text.endswith("data: [DONE]\n\n")
    seen = stack.engine(answer.headers[SERVED]).seen[-1]
    assert seen.headers["x-llm-d-model-name-rewrite"] == "another-model"


async def test_a_default_comes_and_goes_with_its_file(stack: Rig, rules: Path) -> None:
    """A generic rule takes requests without a model, and every name that has no rule of its own."""
    nameless: dict[str, object] = {"messages": [{"role": "user", "content": "hi"}]}

    async def status() -> int:
        async with stack.client.post(CHAT, json=nameless) as answer:
            return answer.status

    assert await status() == 400
    (rules / "next").write_text(CANARY + DEFAULT)
    (rules / "next").rename(rules / "rewrites.yaml")
    await until(lambda: "and 3 rewrites" in stack.epp.child.output(), "the rule is read")
    assert await ask(stack, nameless) == ("another-model", "another-model")
    assert await ask(stack, chat(model="anything")) == ("another-model", "anything")
    assert await ask(stack, chat(model="base")) == ("base", "base")
    (rules / "next").write_text(CANARY)
    (rules / "next").rename(rules / "rewrites.yaml")
    await until(lambda: "and 2 rewrites" in stack.epp.child.output(), "the rule is gone")
    assert await status() == 400
    await stack.idle()


async def test_what_is_decided_at_the_headers_goes_on_as_it_came(tmp_path: Path, transport: str) -> None:
    (tmp_path / "rewrites.yaml").write_text(CANARY + DEFAULT)
    flags = ("--objectives-path", str(tmp_path / "rewrites.yaml"))
    async with rig(tmp_path, "streamed.yaml", engines=1, flags=flags) as stack:
        assert await ask(stack, chat(model="alias")) == ("alias", "alias")
        assert "llm_d_epp_model_rewrite_decisions_total{" not in page(stack)


async def test_the_list_of_models_is_routed_as_the_docs_say(tmp_path: Path, transport: str) -> None:
    port = free_port()
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)
    route, cluster = (block.replace("9095", str(port)) for block in blocks[-2:])
    config = (DEPLOY / "standalone.yaml").read_text()
    for place, more in (("              - match: {prefix: /}\n", route), ("  - name: epp\n", cluster)):
        assert config.count(place) == 1
        config = config.replace(place, more + place)
    (tmp_path / "standalone.yaml").write_text(config)
    (tmp_path / "rewrites.yaml").write_text(CANARY)
    flags = ("--objectives-path", str(tmp_path / "rewrites.yaml"), "--models-port", str(port))
    async with rig(tmp_path, str(tmp_path / "standalone.yaml"), engines=2, flags=flags) as stack:
        listed = f"http://127.0.0.1:{port}/v1/models"
        await until(lambda: '"id":"another-model"' in fetch(listed), "what the engines serve is known")
        async with stack.client.get("/v1/models/alias") as answer:
            assert answer.status == 200
            model = await answer.json()
        assert model["root"] == "another-model"
        assert model["pools"][0]["targets"] == {"another-model": 1}
        async with stack.client.get("/v1/models") as answer:
            said = await answer.json()
        assert [one["id"] for one in said["data"]] == ["alias", "another-model", "assistant", "base"]
        async with stack.client.get("/v1/models/gone") as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "model_not_found"
        assert sum(stack.by_port().values()) == 0, "no engine was asked"
        assert await ask(stack, chat(model="alias")) == ("another-model", "alias")


def page(stack: Rig) -> str:
    return fetch(f"http://127.0.0.1:{stack.epp.metrics}/metrics")
