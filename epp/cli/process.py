"""What the commands that serve have in common: log, listener and transport by flags, and the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import click


def log_options(flags: dict[str, Any]) -> Any:
    from epp.telemetry.logs import LogOptions

    return LogOptions(
        v=flags["v"],
        encoder=flags["zap_encoder"] or "",
        level=flags["zap_log_level"],
        devel=flags["zap_devel"],
        stacktrace_level=flags["zap_stacktrace_level"] or "",
        time_encoding=flags["zap_time_encoding"],
    )


def web_options(flags: dict[str, Any]) -> Any:
    from epp.web.server import WebOptions

    host = flags["bind_address"].strip("[]")
    return WebOptions(
        host=None if host == "::" else host,
        port=flags["metrics_port"],
        auth=flags["metrics_endpoint_auth"],
        token_file=path_of(flags["metrics_token_file"]),
        cert_dir=path_of(flags["metrics_cert_dir"]),
        client_ca_file=path_of(flags["metrics_client_ca_file"]),
        pprof=flags["enable_pprof"],
    )


def bind_address(flags: dict[str, Any]) -> str:
    """As gRPC wants it: IPv6 in brackets."""
    host = flags["bind_address"].strip("[]")
    return f"[{host}]" if ":" in host else host


def transport_of(flags: dict[str, Any]) -> str:
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


def idle_certificates(flags: dict[str, Any]) -> list[str]:
    """Flags of certificates that another flag leaves without work."""
    said = []
    if flags["cert_path"] and not flags["secure_serving"]:
        said.append("--cert-path has no effect: --secure-serving is false")
    if flags["enable_cert_reload"] and not (flags["cert_path"] and flags["secure_serving"]):
        said.append("--enable-cert-reload has no effect: there is no certificate of --cert-path to reload")
    return said


def idle_token(flags: dict[str, Any]) -> list[str]:
    """The flag of the metrics token, where nobody is asked for one."""
    if flags["metrics_token_file"] and not flags["metrics_endpoint_auth"]:
        return ["--metrics-token-file has no effect: --metrics-endpoint-auth is false"]
    return []


def raise_file_limit() -> None:
    """As many open files as we may have: every endpoint and every gateway's connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # A container may forbid its own limit; what there is must do then.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def path_of(text: str) -> Path | None:
    return Path(text) if text else None


class Service(Protocol):
    """A process that runs until it is told to stop."""

    @property
    def drain(self) -> Any: ...

    async def run(self) -> None: ...


def run(make: Callable[[], Service], name: str) -> int:
    """Until SIGTERM or SIGINT; the exit status."""
    import uvloop

    raise_file_limit()

    async def main() -> None:
        service = make()
        service.drain.stop_on_signals()
        # What is there now stays; requests are freed by their reference counts. Looking for circles among
        # thousands of open ones every few milliseconds would take a tenth of the time, in pauses.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)
        await service.run()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except (OSError, ValueError) as error:
        click.echo(f"{name}: {error}", err=True)
        return 1
    return 0
