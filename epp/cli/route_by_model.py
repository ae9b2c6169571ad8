"""`epp route-by-model`: headers that say what a request's body says, for gateways to route by."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import click

from epp.cli.flags import BOOL, FLAGS, Flag, option
from epp.cli.process import (
    bind_address,
    idle_certificates,
    idle_token,
    log_options,
    path_of,
    run,
    transport_of,
    web_options,
)

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
    Flag(
        ("--kubeconfig",), click.Path(), "",
        "cluster whose ConfigMaps name base models, and that says who may read the metrics; in a pod its own",
    ),
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
        command = option(flag)(command)
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
        configure(log_options(flags))
        steps = read_steps(plugins)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    from epp.bodyrouting.service import BodyRouting

    options = _options(flags, steps)
    raise SystemExit(run(lambda: BodyRouting(options), "epp route-by-model"))


def _options(flags: dict[str, Any], steps: Any) -> Any:
    from epp.bodyrouting.service import Options

    return Options(
        steps=steps,
        bind_address=bind_address(flags),
        transport=transport_of({**flags, "grpc_reflection": False}),
        grpc_port=flags["grpc_port"],
        grpc_health_port=flags["grpc_health_port"],
        secure_serving=flags["secure_serving"],
        cert_path=path_of(flags["cert_path"]),
        cert_reload=flags["enable_cert_reload"],
        web=web_options(flags),
        drain_timeout_s=flags["drain_timeout"],
        base_models_file=path_of(flags["base_models_file"]),
        kubeconfig=path_of(flags["kubeconfig"]),
        namespace=os.environ.get("NAMESPACE") or None,
        tracing=flags["tracing"],
        notices=tuple(_idle(flags)),
    )


def _idle(flags: dict[str, Any]) -> list[str]:
    """Flags that have nothing to do, or that another flag leaves without work."""
    said = []
    if flags["streaming"] is not None:
        said.append(_STREAMING)
    said += [*idle_certificates(flags), *idle_token(flags)]
    # The cluster is also asked who may read the metrics.
    reviews = flags["metrics_endpoint_auth"] and not flags["metrics_token_file"]
    if flags["kubeconfig"] and flags["base_models_file"] and not reviews:
        said.append("--kubeconfig has no effect: base models come from --base-models-file")
    return said
