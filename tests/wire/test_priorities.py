"""Objectives from a file, through the whole picker: what is shed, and what a change does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc.aio
import pytest

from tests.wire import gateway as gw
from tests.wire.test_serve import BODY, CHAT, PLAIN, endpoints_file, running

OBJECTIVE = """\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: %d, poolRef: {name: pool}}
"""


async def status(channel: grpc.aio.Channel, **headers: str) -> tuple[int, list[str]]:
    """Of a request with these headers (200: it was routed), and the headers to be removed from it."""
    call = gw.stream(channel)
    await call.write(gw.request_headers(CHAT | {name.replace("_", "-"): v for name, v in headers.items()}))
    await call.write(gw.request_body(BODY, end=True))
    answer = await call.read()
    call.cancel()
    if answer.WhichOneof("response") == "immediate_response":
        assert b'"type": "overloaded_error"' in answer.immediate_response.body
        return answer.immediate_response.status.code, []
    return 200, list(answer.request_headers.response.header_mutation.remove_headers)


async def test_an_objective_from_a_file_is_shed_until_the_file_says_otherwise(tmp_path: Path) -> None:
    """Nobody listens where the endpoints are said to be: without metrics they count as saturated."""
    path = tmp_path / "objectives.yaml"
    path.write_text(OBJECTIVE % -1)
    config = PLAIN + f"epp: {{objectives: {path}, outliers: {{enabled: false}}}}\n"
    async with running(tmp_path, config=config) as app, gw.channel(app.transport.port) as channel:
        assert await status(channel) == (200, [])
        assert await status(channel, x_llm_d_inference_objective="batch") == (429, [])
        path.write_text("kind: InferenceObjective")
        async with asyncio.timeout(10):
            while 'poll_errors_total{source_type="objectives"} 1' not in "".join(app.metrics.render()):
                await asyncio.sleep(0.01)
        assert await status(channel, x_llm_d_inference_objective="batch") == (429, [])
        path.write_text(OBJECTIVE % 1)
        async with asyncio.timeout(10):
            while app.pool.known.objectives.priority("batch") != 1:
                await asyncio.sleep(0.01)
        assert await status(channel, x_llm_d_inference_objective="batch") == (200, [])


async def test_what_is_not_believed_is_taken_off_the_request(tmp_path: Path) -> None:
    path, secret = tmp_path / "objectives.yaml", tmp_path / "secret"
    path.write_text(OBJECTIVE % -1)
    secret.write_text("hush")
    config = PLAIN + (
        f"epp:\n  objectives: {path}\n  outliers: {{enabled: false}}\n"
        f"  trust: {{objective: secret, secret: {{header: x-key, file: {secret}}}}}\n"
    )
    asked = {"x_llm_d_inference_objective": "batch"}
    async with running(tmp_path, config=config) as app, gw.channel(app.transport.port) as channel:
        assert await status(channel, **asked) == (200, ["x-llm-d-inference-objective"])
        assert await status(channel, **asked, x_key="hush") == (429, [])
        assert await status(channel, x_key="hush", x_slo_ttft_ms="1") == (200, ["x-key", "x-slo-ttft-ms"])
        secret.write_text("new")
        async with asyncio.timeout(10):
            while (await status(channel, **asked, x_key="new"))[0] == 200:
                await asyncio.sleep(0.02)
        assert (await status(channel, **asked, x_key="hush"))[0] == 200


async def test_a_request_waits_no_longer_than_its_header_allows(tmp_path: Path) -> None:
    config = PLAIN + "featureGates: [flowControl]\nepp: {outliers: {enabled: false}}\n"
    async with running(tmp_path, config=config) as app, gw.channel(app.transport.port) as channel:
        async with asyncio.timeout(20):  # of the default's 60 s
            assert await status(channel, x_llm_d_inference_ttl="200ms") == (429, [])


async def test_without_a_section_a_notice_says_that_everybody_is_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path):
        pass
    assert caplog.text.count("are taken from everybody") == 1
    caplog.clear()
    async with running(tmp_path, config=PLAIN + "epp: {trust: {}}\n"):
        pass
    assert "are taken from everybody" not in caplog.text


def refused_start(tmp_path: Path, *flags: str) -> str:
    """What `epp serve` says when it ends at once."""
    ports = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "--bind-address=127.0.0.1"]
    argv = [sys.executable, "-m", "epp", "serve", *ports, *flags]
    argv.append(f"--endpoints-file={endpoints_file(tmp_path, '127.0.0.1')}")
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    return ended.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            OBJECTIVE.replace("priority", "prority") % 1,
            ":4:8: spec.prority: unknown field 'prority'; did",
        ),
        (None, "objectives.yaml: No such file"),
    ],
)
def test_wrong_objectives_stop_the_start(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "objectives.yaml"
    if content is not None:
        path.write_text(content)
    assert words in refused_start(tmp_path, f"--objectives-path={path}")


def test_the_flag_wins_and_a_missing_secret_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("kind: [")
    text = PLAIN + "epp: {objectives: /nowhere}\n"
    said = refused_start(tmp_path, f"--objectives-path={path}", "--config-text", text)
    assert "wrong.yaml:1:8: not valid YAML" in said
    assert "/nowhere" not in said
    text = PLAIN + "epp: {trust: {secret: {header: k, env: EPP_TEST_UNSET}}}\n"
    said = refused_start(tmp_path, "--config-text", text)
    assert "trust.secret: environment variable EPP_TEST_UNSET holds no secret" in said
