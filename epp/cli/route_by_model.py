"""`epp route-by-model`: headers that say what a request's body says, for gateways to route by."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import click

from epp.cli.flags import BOOL, FLAGS, Flag, _option
from epp.cli.serve import _log_options, _path, _transport, raise_file_limit

_SHARED: Final = (
    "--transport", "--grpc-port", "--grpc-health-port", "--metrics-port", "--bind-address", "--drain-timeout",
    "--secure-serving", "--cert-path", "--enable-cert-reload", "--metrics-endpoint-auth",
    "--metrics-token-file", "--metrics-client-ca-file", "--metrics-cert-dir", "--enable-pprof", "--tracing",
    "-v", "--zap-encoder", "--zap-log-level", "--zap-devel", "--zap-stacktrace-level", "--zap-time-encoding",
)  # fmt: skip
"""They mean what they mean to `epp serve`."""
_DEFAULTS: Final[Mapping[str, Any]] = {"--grpc-port": 9004, "--grpc-health-port": 9005}
_OWN: Final = (
    Flag(
        ("--base-models-file",), click.Path(), "",
        "base models with their adapters, watched; instead of ConfigMaps",
    ),
    Flag(("--kubeconfig",), click.Path(), "", "cluster whose ConfigMaps name base models; in a pod its own"),
    Flag(("--streaming",), BOOL, None, "accepted; the body mode is what the gateway says it is"),
)  # fmt: skip
_STREAMING: Final = (
    "--streaming has no effect: bodies are taken as the gateway's request_body_mode says, full duplex or "
    "buffered, with it and without"
)


def _flags(command: Callable[..., Any]) -> Callable[..., Any]:
    rows = [
        replace(flag, default=_DEFAULTS.get(flag.names[0], flag.default))
        for flag in FLAGS
        if flag.names[0] in _SHARED
    ]
    for flag in reversed((*_OWN, *rows)):
        command = _option(flag)(command)
    return command


@click.command(context_settings={"max_content_width": 110})
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="TYPE:NAME[:JSON]",
    help='what to set, repeatable: body-field-to-header:NAME:{"fieldName": ..., "headerName": ...} or '
    "base-model-to-header:NAME; by default the model and its base model",
)
@_flags
def route_by_model(plugins: tuple[str, ...], **flags: Any) -> None:
    """Tell the gateway the model that a request's body names, in headers, before it chooses a route.

    Sets X-Gateway-Model-Name and X-Gateway-Base-Model-Name. Base models come from ConfigMaps of the namespace
    in NAMESPACE (of all without it), or from a file.
    """
    from epp.bodyrouting.steps import read_steps
    from epp.telemetry.logs import configure

    try:
        configure(_log_options(flags))
        steps = read_steps(plugins)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    raise SystemExit(_run(_options(flags, steps)))


def _options(flags: dict[str, Any], steps: Any) -> Any:
    from epp.bodyrouting.service import Options
    from epp.web.server import WebOptions

    host = flags["bind_address"].strip("[]")
    return Options(
        steps=steps,
        bind_address=f"[{host}]" if ":" in host else host,
        transport=_transport({**flags, "grpc_reflection": False}),
        grpc_port=flags["grpc_port"],
        grpc_health_port=flags["grpc_health_port"],
        secure_serving=flags["secure_serving"],
        cert_path=_path(flags["cert_path"]),
        cert_reload=flags["enable_cert_reload"],
        web=WebOptions(
            host=None if host == "::" else host,
            port=flags["metrics_port"],
            auth=flags["metrics_endpoint_auth"],
            token_file=_path(flags["metrics_token_file"]),
            cert_dir=_path(flags["metrics_cert_dir"]),
            client_ca_file=_path(flags["metrics_client_ca_file"]),
            pprof=flags["enable_pprof"],
        ),
        drain_timeout_s=flags["drain_timeout"],
        base_models_file=_path(flags["base_models_file"]),
        kubeconfig=_path(flags["kubeconfig"]),
        namespace=os.environ.get("NAMESPACE") or None,
        tracing=flags["tracing"],
        notices=tuple(_idle(flags)),
    )


def _idle(flags: dict[str, Any]) -> list[str]:
    """Flags that have nothing to do, or that another flag leaves without work."""
    said = []
    if flags["streaming"] is not None:
        said.append(_STREAMING)
    if flags["cert_path"] and not flags["secure_serving"]:
        said.append("--cert-path has no effect: --secure-serving is false")
    if flags["enable_cert_reload"] and not (flags["cert_path"] and flags["secure_serving"]):
        said.append("--enable-cert-reload has no effect: there is no certificate of --cert-path to reload")
    if flags["kubeconfig"] and flags["base_models_file"]:
        said.append("--kubeconfig has no effect: base models come from --base-models-file")
    return said


def _run(options: Any) -> int:
    import uvloop

    from epp.bodyrouting.service import BodyRouting

    raise_file_limit()

    async def main() -> None:
        service = BodyRouting(options)
        service.stop_on_signals()
        # Requests are freed by their reference counts; what is there now stays.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)
        await service.run()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except (OSError, ValueError) as error:
        click.echo(f"epp route-by-model: {error}", err=True)
        return 1
    return 0
