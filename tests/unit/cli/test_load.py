"""`epp load` as a person types it, against a server on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from epp.cli.load import load
from epp.cli.loadoptions import header, spread_goodput
from epp.load.report import read
from tests.unit.load.engine import CLOSE, Engine, Script, Seen, plain, serving, streamed

MODELS = b'{"data":[{"id":"base"}]}'


async def healthy(seen: Seen) -> AsyncIterator[bytes]:
    """Every third request comes from another pod; plain where it was asked for plainly."""
    if seen.path == "/v1/models":
        yield plain(200, MODELS)
    elif seen.json.get("stream"):
        yield streamed("one ", "two ", prompt=20, cached=10, pod=f"pod-{len(seen.body) % 3}")
    else:
        counts = {"prompt_tokens": 20, "completion_tokens": 2}
        yield plain(200, json.dumps({"choices": [{"text": "hi"}], "usage": counts}).encode())


async def failing(seen: Seen) -> AsyncIterator[bytes]:
    if seen.path == "/v1/models":
        yield plain(200, MODELS)
    elif int(seen.headers["x-request-id"].rpartition("-")[2]) % 2:
        yield plain(429, b'{"error":{"message":"full"}}', retry_after="1")
    else:
        yield CLOSE


async def run(*arguments: str, script: Script = healthy) -> tuple[Result, Engine]:
    """The command runs in a thread with a loop of its own; the server answers from this one."""
    async with serving(script) as engine:
        command = [word.replace("URL", engine.target.url) for word in arguments]
        result = await asyncio.to_thread(CliRunner().invoke, load, command)
        return result, engine


FAST = ("URL", "--no-progress", "--arrivals", "constant:500")


async def test_a_run_prints_what_benchmarks_print(tmp_path: Path) -> None:
    output, plot = tmp_path / "a.json", tmp_path / "a.svg"
    result, engine = await run(
        *FAST, "--requests", "20", "--goodput", "ttft:60000", "tpot:60000",
        "--output", str(output), "--plot", str(plot),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for words in ("Successful requests", "Request goodput", "TTFT", "TPOT", "ITL", "E2EL", "P99", "pod-"):
        assert words in result.output
    document = json.loads(output.read_text())
    assert (document["completed"], document["failed"]) == (20, 0)
    assert document["cached_token_share"] == 0.5
    assert document["request_goodput"] == document["request_throughput"]
    assert document["total_output_tokens"] == 40
    assert {len(column) for column in document["requests"].values()} == {20}
    assert plot.read_text().startswith("<svg")
    assert len(engine.requests) == 21


async def test_conversations_trace_and_prefixes_play(tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    entry = '{"timestamp": 0, "input_length": 700, "output_length": 3, "hash_ids": [1, 2]}\n'
    trace.write_text(entry * 5)
    result, engine = await run("URL", "--no-progress", "--trace", str(trace), "--model", "base=1,lora=1")
    assert result.exit_code == 0, result.output
    assert {len(seen.json["messages"][0]["content"]) for seen in engine.requests} == {2800}
    chats = (
        "--workload",
        "conversation",
        "--min-turns",
        "3",
        "--length-scale",
        ".01",
        "--pause-scale",
        "1e-6",
    )
    result, engine = await run(*FAST, "--requests", "9", *chats)
    assert result.exit_code == 0, result.output
    turns = [len(seen.json["messages"]) for seen in engine.requests[1:]]
    assert len(turns) == 9
    assert max(turns) >= 4
    groups = ("--workload", "shared-prefix", "--groups", "2", "--endpoint", "completions", "--no-stream")
    result, engine = await run(*FAST, "--requests", "6", *groups)
    assert result.exit_code == 0, result.output
    assert len({seen.json["prompt"][:8192] for seen in engine.requests[1:]}) == 2


async def test_errors_show_and_fail_when_asked() -> None:
    result, _ = await run(*FAST, "--requests", "6", script=failing)
    assert result.exit_code == 0
    assert "http-429" in result.output
    assert "reset" in result.output
    assert "Answers with Retry-After" in result.output
    result, _ = await run(*FAST, "--requests", "6", "--fail-on-error", script=failing)
    assert result.exit_code == 1


async def test_headers_keys_and_mixes_are_sent() -> None:
    _, engine = await run(
        *FAST, "--requests", "3", "-H", "X-Team: blue", "--api-key", "secret", "--objective", "gold",
        "--extra-body", '{"temperature": 0}',
    )  # fmt: skip
    seen = engine.requests[-1]
    assert seen.headers["x-team"] == "blue"
    assert seen.headers["authorization"] == "Bearer secret"
    assert seen.headers["x-llm-d-inference-objective"] == "gold"
    assert seen.json["temperature"] == 0


async def test_results_are_compared(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("before.json", "after.json")]
    for file in files:
        result, _ = await run(*FAST, "--requests", "5", "--output", file)
        assert result.exit_code == 0
        assert read(Path(file)).summary["completed"] == 5
    plot = tmp_path / "both.html"
    result = CliRunner().invoke(load, ["--compare", *files, "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    rows = {line.split("  ")[0].strip(): line.split() for line in result.output.splitlines()}
    assert rows["Successful requests"][-3:] == ["5", "5", "1.00"]
    assert "before" in result.output
    assert plot.read_text().count("<polyline") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument"),
        (["ftp://h"], "http or https"),
        (["h:1", "--arrivals", "often"], "none of"),
        (["h:1", "--model", "m", "--workload", "trace"], "needs --trace"),
        (["h:1", "--min-turns", "5", "--max-turns", "4"], "below --min-turns"),
        (["h:1", "--input-tokens", "0"], "must be from 1"),
        (["h:1", "--goodput", "speed:3"], "METRIC:MILLISECONDS"),
        (["h:1", "--goodput", "ttft:3", "--no-stream"], "without streaming"),
        (["h:1", "--header", "nocolon"], "NAME:VALUE"),
        (["h:1", "--extra-body", "[]"], "JSON object"),
        (["h:1", "--plot", "a.png"], ".svg or .html"),
        (["http://127.0.0.1:1", "--no-progress"], "127.0.0.1:1"),
    ],
)
def test_mistakes_are_answered_in_words(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(load, arguments)
    assert result.exit_code != 0
    assert words in result.output
    assert "Traceback" not in result.output


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for text in ("{", "{}", "[]"):
        file.write_text(text)
        result = CliRunner().invoke(load, ["--compare", str(file), str(file)])
        assert result.exit_code == 1
        assert "x.json" in result.output


def test_the_help_names_every_group() -> None:
    result = CliRunner().invoke(load, ["--help"])
    assert result.exit_code == 0
    for words in ("What is asked:", "When:", "Reports:", "--goodput", "--trace"):
        assert words in result.output


def test_goodput_takes_several_words() -> None:
    assert spread_goodput(["--goodput", "ttft:1", "tpot:2", "--seed", "3"]) == [
        "--goodput", "ttft:1", "--goodput", "tpot:2", "--seed", "3",
    ]  # fmt: skip
    assert spread_goodput(["--goodput", "ttft:1", "http://h"]) == ["--goodput", "ttft:1", "http://h"]


@pytest.mark.parametrize("text", ["", ":v", "a b:v", "é:v", "a:v\nx: y"])
def test_broken_headers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME:VALUE|line breaks"):
        header(text)
