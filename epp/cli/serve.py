"""`epp serve`: the picker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import sys
from pathlib import Path
from typing import Any

import click

from epp.cli.flags import add_flags, notices, pool_name
from epp.datalayer.pace import MIN_INTERVAL_S


@click.command(context_settings={"max_content_width": 110})
@add_flags
def serve(**flags: Any) -> None:
    """Answer Envoy's ext_proc streams: pick an endpoint for every request.

    Takes the reference picker's flags. Without a configuration the policy is `expected-work`.
    """
    from epp.telemetry.logs import configure

    try:
        configure(_log_options(flags))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    loaded = _load(flags)
    options = _options(flags)
    raise SystemExit(_run(options, loaded))


def _log_options(flags: dict[str, Any]) -> Any:
    from epp.telemetry.logs import LogOptions

    return LogOptions(
        v=flags["v"],
        encoder=flags["zap_encoder"] or "",
        level=flags["zap_log_level"],
        devel=flags["zap_devel"],
        stacktrace_level=flags["zap_stacktrace_level"] or "",
        time_encoding=flags["zap_time_encoding"],
    )


def _load(flags: dict[str, Any]) -> Any:
    """The configuration, built; a wrong one ends the process with every mistake on stderr."""
    from epp.config.loader import load_file, load_preset, load_text
    from epp.config.problems import ConfigError

    given = [name for name in ("config_file", "config_text", "preset") if flags[name]]
    if len(given) > 1:
        names = " and ".join("--" + name.replace("_", "-") for name in given)
        raise click.UsageError(f"{names} exclude each other")
    alpha = flags["allow_experimental_plugins"]
    try:
        if flags["config_file"]:
            return load_file(flags["config_file"], allow_experimental=alpha)
        if flags["config_text"]:
            return load_text(flags["config_text"], source="--config-text", allow_experimental=alpha)
        return load_preset(flags["preset"]) if flags["preset"] else load_preset()
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise SystemExit(1) from error


def _options(flags: dict[str, Any]) -> Any:
    from epp.app import Options
    from epp.web.server import WebOptions

    if flags["tls_min_version"] not in ("", "VersionTLS12"):
        raise click.UsageError(
            "--tls-min-version: only VersionTLS12, where this transport begins, can be set"
        )
    host = flags["bind_address"].strip("[]")
    web = WebOptions(
        host=None if host == "::" else host,
        port=flags["metrics_port"],
        auth=flags["metrics_endpoint_auth"],
        token_file=_path(flags["metrics_token_file"]),
        cert_dir=_path(flags["metrics_cert_dir"]),
        client_ca_file=_path(flags["metrics_client_ca_file"]),
        pprof=flags["enable_pprof"],
    )
    return Options(
        pool_name=pool_name(flags["pool_name"]),
        bind_address=f"[{host}]" if ":" in host else host,
        transport=_transport(flags),
        grpc_port=flags["grpc_port"],
        grpc_health_port=flags["grpc_health_port"],
        health_checking=flags["health_checking"],
        grpc_reflection=flags["grpc_reflection"],
        grpc_max_recv_bytes=flags["grpc_max_recv_msg_size"],
        grpc_max_send_bytes=flags["grpc_max_send_msg_size"] or -1,
        stream_metrics=flags["enable_grpc_stream_metrics"],
        secure_serving=flags["secure_serving"],
        cert_path=_path(flags["cert_path"]),
        cert_reload=flags["enable_cert_reload"],
        web=web,
        drain_timeout_s=flags["drain_timeout"],
        endpoints_file=_path(flags["endpoints_file"]),
        objectives_path=_path(flags["objectives_path"]),
        # Where the pool has no name, nobody can have meant another by naming one.
        objectives_pool=pool_name(flags["pool_name"], fallback=""),
        scrape_interval_s=flags["refresh_metrics_interval"],
        staleness_s=flags["metrics_staleness_threshold"],
        subset_filter=not flags["disable_endpoint_subset_filter"],
        emit_scores=flags["emit_endpoint_scores"],
        tracing=flags["tracing"],
        notices=(*notices(sys.argv[1:]), *_idle(flags)),
    )


def _transport(flags: dict[str, Any]) -> str:
    """The name of the transport; one that cannot do what other flags ask for is refused."""
    from epp.extproc.native import is_built

    wanted: str = flags["transport"]
    if wanted == "native":
        if not is_built():
            raise click.UsageError(
                "--transport native: the package inference-epp-native is not installed; "
                "install inference-epp[native], or build it from native/"
            )
        if flags["grpc_reflection"]:
            raise click.UsageError("--grpc-reflection needs --transport grpcio")
    if wanted == "auto":
        return "native" if is_built() and not flags["grpc_reflection"] else "grpcio"
    return wanted


def _idle(flags: dict[str, Any]) -> list[str]:
    """Flags that another flag leaves without work."""
    said = []
    if flags["cert_path"] and not flags["secure_serving"]:
        said.append("--cert-path has no effect: --secure-serving is false")
    if flags["enable_cert_reload"] and not (flags["cert_path"] and flags["secure_serving"]):
        said.append("--enable-cert-reload has no effect: there is no certificate of --cert-path to reload")
    if _transport(flags) == "native" and flags["grpc_max_send_msg_size"] not in (0, -1):
        said.append("--grpc-max-send-msg-size has no effect: the native transport's messages are short")
    interval_s = flags["refresh_metrics_interval"]
    if interval_s is not None and interval_s < MIN_INTERVAL_S:
        said.append(f"--refresh-metrics-interval is raised to {MIN_INTERVAL_S * 1e3:g}ms, the shortest")
    return said


def raise_file_limit() -> None:
    """As many open files as we may have: every endpoint and every gateway's connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # A container may forbid its own limit; what there is must do then.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _run(options: Any, loaded: Any) -> int:
    import uvloop

    from epp.app import App
    from epp.datalayer.endpoints_file import EndpointsFileError

    raise_file_limit()

    async def main() -> None:
        app = App(options, loaded)
        app.stop_on_signals()
        # What is there now stays; requests are freed by their reference counts. Looking for circles among
        # thousands of open ones every few milliseconds would take a tenth of the time, in pauses.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)
        await app.run()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except (EndpointsFileError, OSError, ValueError) as error:
        click.echo(f"epp serve: {error}", err=True)
        return 1
    return 0
