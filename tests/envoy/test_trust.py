"""Control headers: nobody outside can set them; behind a secret they count, and it stays with us."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.stack import fetch
from epp.domain.controls import (
    FAIRNESS_HEADERS,
    OBJECTIVE_HEADERS,
    SELECTION_HEADER,
    TPOT_HEADERS,
    TTFT_HEADERS,
    TTL_HEADER,
)

from .rig import SERVED, Rig, chat, rig

CONTROLS = (
    *OBJECTIVE_HEADERS, *FAIRNESS_HEADERS, *TTFT_HEADERS, *TPOT_HEADERS, TTL_HEADER, SELECTION_HEADER,
)  # fmt: skip
SENT = {
    "x-llm-d-inference-objective": "gold",
    "x-llm-d-inference-fairness-id": "tenant-a",
    "x-llm-d-slo-ttft-ms": "200",
}
GUARDED = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
epp:
  objectives: %s
  trust:
    objective: secret
    fairnessId: secret
    secret: {header: x-gateway-secret, file: %s}
"""
GOLD = """\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: gold}
spec: {priority: 7, poolRef: {name: pool}}
"""


def page(stack: Rig) -> str:
    return fetch(f"http://127.0.0.1:{stack.epp.metrics}/metrics")


@pytest.mark.parametrize("config", ["standalone.yaml", "buffered.yaml", "sidecar.yaml"])
async def test_nobody_outside_can_set_them(tmp_path: Path, config: str) -> None:
    async with rig(tmp_path, config, engines=1) as stack:
        headers = dict.fromkeys(CONTROLS, "1")
        async with stack.client.post("/v1/chat/completions", json=chat(), headers=headers) as answer:
            assert answer.status == 200
        (seen,) = stack.engines[0].seen
        assert not set(CONTROLS) & set(seen.headers)
        await stack.idle()
        assert 'fairness_id="1"' not in page(stack)


async def test_behind_a_secret_they_count(tmp_path: Path) -> None:
    """As where a gateway of one's own leaves the headers alone and proves itself to the picker."""
    secret, objectives, config = tmp_path / "secret", tmp_path / "objectives.yaml", tmp_path / "epp.yaml"
    secret.write_text("hush\n")
    objectives.write_text(GOLD)
    config.write_text(GUARDED % (objectives, secret))
    flags = ["--config-file", str(config)]
    through = {"control_header": "x-nothing"}
    async with rig(tmp_path, "standalone.yaml", engines=1, flags=flags, values=through) as stack:
        proven = SENT | {"x-gateway-secret": "hush"}
        for more, left in ((SENT, set[str]()), (proven, {*SENT} - {"x-llm-d-slo-ttft-ms"})):
            async with stack.client.post("/v1/chat/completions", json=chat(), headers=more) as answer:
                assert answer.status == 200
                assert SERVED in answer.headers
            seen = stack.engines[0].seen[-1]
            assert {*SENT, "x-gateway-secret"} & set(seen.headers) == left
        await stack.idle()
        metrics = page(stack)
        assert 'fairness_id="tenant-a",priority="7"' in metrics
        assert 'fairness_id="default-flow",priority="0"' in metrics
        assert "hush" not in metrics
        assert "hush" not in stack.epp.child.output()
