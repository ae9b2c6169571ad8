"""The command itself: what it says of flags that are wrong, or have nothing to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from epp.bodyrouting.steps import DEFAULT
from epp.cli.route_by_model import _idle, _options, route_by_model


def parsed(*arguments: str) -> dict[str, object]:
    """The values of the flags."""
    context = route_by_model.make_context("route-by-model", list(arguments))
    return {name: value for name, value in context.params.items() if name != "plugins"}


def test_the_references_flags_and_defaults() -> None:
    options = _options(parsed(), DEFAULT)
    assert (options.grpc_port, options.grpc_health_port, options.web.port) == (9004, 9005, 9090)
    assert (options.secure_serving, options.tracing, options.web.auth, options.web.pprof) == (True,) * 4
    assert options.notices == ()


def test_flags_as_a_chart_gives_them(tmp_path: Path) -> None:
    options = _options(
        parsed(
            "--grpc-port=1", "--grpc-health-port", "2", "--metrics-port=3", "--secure-serving=false",
            "--metrics-endpoint-auth=false", "--enable-pprof=false", "--tracing=false", "--streaming", "-v=4",
            "--bind-address=::1", "--drain-timeout=5s", f"--base-models-file={tmp_path}/names.yaml",
        ),
        DEFAULT,
    )  # fmt: skip
    assert (options.grpc_port, options.grpc_health_port, options.web.port) == (1, 2, 3)
    assert (options.secure_serving, options.tracing, options.web.auth, options.web.pprof) == (False,) * 4
    assert (options.bind_address, options.web.host, options.drain_timeout_s) == ("[::1]", "::1", 5.0)
    assert options.base_models_file == tmp_path / "names.yaml"
    assert [notice.partition(" has")[0] for notice in options.notices] == ["--streaming"]


def test_flags_that_have_nothing_to_do_are_named() -> None:
    given = parsed(
        "--streaming=false", "--cert-path=x", "--secure-serving=false", "--enable-cert-reload",
        "--kubeconfig=k", "--base-models-file=b", "--metrics-token-file=t", "--metrics-endpoint-auth=false",
    )  # fmt: skip
    assert [line.partition(" has")[0] for line in _idle(given)] == [
        "--streaming", "--cert-path", "--enable-cert-reload", "--metrics-token-file", "--kubeconfig",
    ]  # fmt: skip


def test_a_cluster_that_says_who_may_read_the_metrics_is_not_named_idle() -> None:
    assert _idle(parsed("--kubeconfig=k", "--base-models-file=b")) == []
    assert len(_idle(parsed("--kubeconfig=k", "--base-models-file=b", "--metrics-token-file=t"))) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--plugin", "guardrail:g"], "'guardrail' is no type of plugin here"),
        (["--zap-log-level", "loud"], "loud"),
        (["--grpc-port", "70000"], "70000"),
        (["--pool-name", "p"], "No such option"),
    ],
)
def test_wrong_flags_end_it(arguments: list[str], complaint: str) -> None:
    done = CliRunner().invoke(route_by_model, arguments)
    assert done.exit_code == 2
    assert complaint in done.output


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            ["--base-models-file", "none.yaml"],
            "--base-models-file: none.yaml: No such file",
        ),
        (["--cert-path", "none"], "--cert-path none: "),
        (["--kubeconfig", "none"], "no kubeconfig file at none"),
    ],
)
def test_what_cannot_be_used_ends_it(tmp_path: Path, flags: list[str], complaint: str) -> None:
    ports = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "--bind-address=127.0.0.1"]
    argv = [sys.executable, "-m", "epp", "route-by-model", *ports, *flags]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"epp route-by-model: {complaint}" in done.stderr
    assert "Traceback" not in done.stderr
