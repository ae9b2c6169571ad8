"""`epp sim` as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from epp.cli.sim import sim


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_says_where_and_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "endpoints.yaml"
    args = [
        "sim",
        "--port",
        "0",
        "--count",
        "3",
        "--admin-port",
        "0",
        "--name",
        "e",
        "--endpoints-out",
        str(out),
    ]
    args += ["--fault", "slow=2", "--fault", "e-1:error_rate=1,lies.kv=nan"]
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "epp", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline().split() for _ in range(5)]
        assert [line[0] for line in lines] == ["admin", "e-0", "e-1", "e-2", "endpoints"]
        with urllib.request.urlopen(lines[1][1] + "/health") as answer:
            assert answer.status == 200
            assert answer.headers["x-inference-pod"] == "e-0"
        with urllib.request.urlopen(lines[0][1]) as answer:
            state = answer.read().decode()
        assert state.count('"slow":2.0') == 3
        assert state.count('"error_rate":1.0') == 1
        listed = yaml.safe_load(out.read_text())["endpoints"]
        assert [f"http://127.0.0.1:{e['port']}" for e in listed] == [line[1] for line in lines[1:4]]
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--profile", "abacus"], "llama-3.1-8b-h100"),
        (["--port", "65535", "--count", "2"], "65535"),
        (["--name", "a\r\nb"], "letters"),
        (["--fault", "slow=0"], "slow"),
        (["--fault", "sim-7:slow=2"], "sim-7"),
        (["--fault", "speed=2"], "speed"),
        (["--port", "0", "--kv-blocks", "10", "--max-model-len", "161"], "smaller"),
        (["--port", "0", "--host", "no such host"], ""),
        (["--port", "0", "--endpoints-out", "/no/such/folder/file"], "/no/such/folder"),
    ],
)
def test_what_cannot_start_says_why(args: list[str], words: str) -> None:
    result = CliRunner().invoke(sim, args)
    assert result.exit_code != 0
    assert words in result.output
    assert "Traceback" not in result.output
