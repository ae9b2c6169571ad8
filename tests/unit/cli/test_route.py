"""`epp route`: one decision from the shell."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from epp.cli.route import route

ENDPOINTS = """\
endpoints:
- {name: a, address: 10.0.0.1, port: "8000", labels: {llm-d.ai/role: decode}}
- {name: b, address: 10.0.0.2, port: "8000"}
- {name: c, address: "fd00::3", port: "8000", labels: {llm-d.ai/role: prefill}}
"""
LOADS = """\
a: {waiting: 9, running: 9, kvUsed: 0.9, ourRequests: 2, ourPrefillTokens: 900}
default/b: {waiting: 0, running: 1, kvUsed: 0.1}
"[fd00::3]:8000": {waiting: 4, running: 4, kvUsed: 0.5, models: [other]}
"""
NAMELESS = b'{"messages": [{"role": "user", "content": "hi"}]}'
BODY = {"model": "m", "messages": [{"role": "user", "content": "word " * 200}]}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "endpoints.yaml").write_text(ENDPOINTS)
    (tmp_path / "loads.yaml").write_text(LOADS)
    (tmp_path / "body.json").write_text(json.dumps(BODY))
    return tmp_path


def run(files: Path, *arguments: str, stdin: bytes = b"") -> Result:
    given = ["--endpoints", str(files / "endpoints.yaml"), *arguments]
    if "--body" not in arguments:
        given += ["--body", str(files / "body.json")]
    return CliRunner().invoke(route, given, input=stdin)


def with_loads(files: Path, *arguments: str, stdin: bytes = b"") -> Result:
    return run(files, "--loads", str(files / "loads.yaml"), *arguments, stdin=stdin)


def test_the_reasons_are_a_table(files: Path) -> None:
    result = with_loads(files, "--preset", "reference", "--seed", "7")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "chosen    10.0.0.2:8000 (default/b)" in lines
    header = next(line for line in lines if "queue-scorer x2" in line)
    assert "prefix-cache-scorer x3" in header
    chosen = next(line for line in lines if line.startswith("  *"))
    assert chosen.split()[:3] == ["*", "default/b", "3.8"]
    assert "seed 7" in result.stdout
    assert result.stderr == ""


def test_json_for_machines(files: Path) -> None:
    answer = json.loads(with_loads(files, "--json").stdout)
    assert answer["destination"] == "10.0.0.2:8000"
    assert answer["set_headers"] == {"x-request-id": "request-1"}
    (profile,) = answer["decision"]["profiles"]
    scores = {one["endpoint"]: one["scores"]["expected-work-scorer"] for one in profile["scored"]}
    assert scores["default/b"] == 1.0
    assert 0 < scores["default/a"] < 1
    assert "default/c" not in scores  # it is known not to serve the model


def test_filters_name_what_they_dropped(files: Path) -> None:
    config = files / "c.yaml"
    config.write_text(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
        "plugins: [{type: decode-filter}, {type: queue-scorer}]\n"
    )
    result = run(files, "--config-file", str(config), "--no-scrape")
    assert "decode-filter dropped 1: default/c" in result.stdout


def test_bodies_are_decided_after_each_other(files: Path) -> None:
    body = str(files / "body.json")
    answers = json.loads(with_loads(files, "--body", body, "--body", body, "--json").stdout)
    assert [answer["decision"]["cached_tokens"] > 0 for answer in answers] == [False, True]
    assert answers[0]["destination"] == answers[1]["destination"]


def test_seeds_repeat_decisions(files: Path) -> None:
    def choices(seed: str) -> list[str]:
        body = str(files / "body.json")
        bodies = ["--body", body] * 5
        answers = json.loads(run(files, *bodies, "--no-scrape", "--json", "--seed", seed).stdout)
        return [answer["destination"] for answer in answers]

    assert choices("3") == choices("3")
    assert len({tuple(choices(str(seed))) for seed in range(5)}) > 1


def test_headers_steer_as_they_do_when_serving(files: Path) -> None:
    renamed = with_loads(files, "--header", "x-llm-d-model-name-rewrite=other", "--json")
    assert json.loads(renamed.stdout)["decision"]["target_model"] == "other"
    assert run(files, "--header", "nonsense").exit_code == 2


def test_rewrites_decide_the_model_as_they_do_when_serving(files: Path) -> None:
    rules = files / "rewrites.yaml"
    rules.write_text(
        "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\nmetadata: {name: ours}\n"
        "spec: {poolRef: {name: pool}, rules: [{targets: [{modelRewrite: a}, {modelRewrite: b}]}]}\n"
    )
    flags = ["--objectives-path", str(rules), "--body", str(files / "body.json"), "--seed"]
    assert " by the rewrite ours\n" in with_loads(files, *flags, "1").stdout

    def targets() -> list[str]:
        answers = [json.loads(with_loads(files, *flags, str(seed), "--json").stdout) for seed in range(8)]
        return [answer["decision"]["target_model"] for answer in answers]

    assert set(targets()) == {"a", "b"}
    assert targets() == targets()


def test_a_refusal_is_status_1_with_its_reason(files: Path) -> None:
    result = run(files, "--no-scrape", "--body", "-", stdin=b"{")
    assert result.exit_code == 1
    assert result.stdout.startswith("refused   400 invalid_request: ")
    refused = json.loads(run(files, "--no-scrape", "--body", "-", "--json", stdin=NAMELESS).stdout)["refused"]
    assert refused["status"] == 400
    assert refused["param"] == "model"
    (files / "endpoints.yaml").write_text("endpoints: []\n")
    assert "refused   503" in run(files, "--no-scrape").stdout


def test_other_paths_have_other_parsers(files: Path) -> None:
    result = run(files, "--no-scrape", "--path", "/v1/completions?x=1", "--json")
    assert json.loads(result.stdout)["refused"]["param"] == "prompt"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "endpoints.yaml",
            "endpoints: [{name: a}]\n",
            "endpoints.yaml:1: entry 1 (a), field address: missing",
        ),
        ("loads.yaml", "aa: {}\n", "loads.yaml:1:1: aa: no endpoint 'aa'"),
        ("loads.yaml", "a: {wating: 1}\n", "a.wating: unknown field 'wating'; did you mean 'waiting'?"),
        ("loads.yaml", "a: {kvUsed: 2}\n", "loads.yaml:1:13: a.kvUsed: expected `float` <= 1.0, got 2"),
    ],
)
def test_mistakes_in_files_are_placed(files: Path, name: str, text: str, expected: str) -> None:
    (files / name).write_text(text)
    result = with_loads(files)
    assert result.exit_code == 1
    assert expected in result.stderr


def test_host_names_without_an_address_are_told(files: Path) -> None:
    (files / "endpoints.yaml").write_text(
        ENDPOINTS + "- {name: gone, address: no-such-host.invalid, port: 8000}\n"
    )
    result = run(files, "--no-scrape")
    assert result.exit_code == 0
    assert "notice: no-such-host.invalid of entry gone has no address" in result.stderr


def test_files_that_are_not_there(files: Path) -> None:
    for option in ("--loads", "--config-file"):
        result = run(files, option, str(files / "none"))
        assert result.exit_code == 1
        assert "No such file" in result.stderr
    assert run(files, "--body", str(files / "none"), "--no-scrape").exit_code == 1
    (files / "endpoints.yaml").unlink()
    assert "No such file" in run(files).stderr


@pytest.fixture
def engine_port() -> Iterator[int]:
    """A model server's metrics, on loopback, in a thread with its own loop."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(
            text="vllm:num_requests_waiting 4\nvllm:num_requests_running 2\nvllm:kv_cache_usage_perc 0.25\n"
        )

    ports: list[int] = []
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/metrics", metrics)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ports.append(runner.addresses[0][1])
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(10)
    yield ports[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


def test_loads_are_scraped_once(files: Path, engine_port: int) -> None:
    (files / "endpoints.yaml").write_text(
        f"endpoints:\n- {{name: a, address: 127.0.0.1, port: {engine_port}}}\n"
        "- {name: b, address: 127.0.0.1, port: 1}\n"
    )
    result = run(files, "--json")
    (profile,) = json.loads(result.stdout)["decision"]["profiles"]
    seen = {one["endpoint"]: one for one in profile["scored"]}
    assert (seen["default/a"]["waiting"], seen["default/a"]["kv_used"]) == (4, 0.25)
    assert seen["default/b"]["metrics_age_s"] is None
    assert "notice: default/b (127.0.0.1:1) gave no metrics" in result.stderr
