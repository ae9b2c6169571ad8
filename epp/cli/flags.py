"""The flags of `epp serve`: every one of the reference picker's is honoured, mapped, or refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from epp.domain.pool import MAX_TARGET_PORTS, POOL_GROUP
from epp.domain.units import duration_s


class GoBool(click.ParamType[bool]):
    """Go's booleans: `--flag`, `--flag=false`."""

    name = "bool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if isinstance(value, bool):
            return value
        text = str(value).lower()
        if text in ("true", "t", "1"):
            return True
        if text in ("false", "f", "0"):
            return False
        raise click.BadParameter(f"{value!r} is not a boolean; write true or false", ctx, param)


class GoDuration(click.ParamType[float]):
    """Go's durations, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            seconds = duration_s(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds < 0:
            self.fail(f"{value!r} is negative", param, ctx)
        return seconds


class ByteSize(click.ParamType[int]):
    """`10MiB`, `25MB` or a number of bytes."""

    name = "size"
    _form = re.compile(r"(\d+)\s*([kKMG]?)(i?)B?")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value == "":  # the reference picker's default
            return 0
        match = self._form.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is not a size; write it like 10MiB or 25MB", param, ctx)
        power = " kMG".index(match[2].replace("K", "k") or " ")
        unit: int = (1024 if match[3] else 1000) ** power
        return int(match[1]) * unit


class LogLevel(click.ParamType[int]):
    """`-v 2`, `-v=2`."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).removeprefix("=")
        if not text.isdigit():
            self.fail(f"{value!r} is not a log level; write a number from 0 (least) to 5", param, ctx)
        return int(text)


class Ports(click.ParamType[tuple[int, ...]]):
    """`8000,8001`: 1 to 8 ports; of repeated ones the first counts."""

    name = "ports"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        ports: dict[int, None] = {}
        for word in filter(None, (word.strip() for word in str(value).split(","))):
            if not (word.isascii() and word.isdigit() and 1 <= int(word) <= 65535):
                self.fail(f"{word!r} is not a port from 1 to 65535; write them like 8000,8001", param, ctx)
            ports[int(word)] = None
        if len(ports) > MAX_TARGET_PORTS:
            self.fail(f"{len(ports)} ports; a pool has at most {MAX_TARGET_PORTS}", param, ctx)
        return tuple(ports)


PORTS = Ports()
BOOL, DURATION, SIZE, PORT = GoBool(), GoDuration(), ByteSize(), click.IntRange(0, 65535)


@dataclass(frozen=True, slots=True)
class Flag:
    """One row. A flag with `refused` is known and turned down with that reason."""

    names: tuple[str, ...]
    type: click.ParamType[Any] | type = str
    default: Any = None
    help: str = ""
    refused: str = ""
    no_effect: str = ""
    """Accepted with this notice at start, because there is nothing for it to do here."""


_METRIC_NAMES = (
    "metric names are set in the configuration: core-metrics-extractor, engineConfigs (the flag is gone "
    "from the reference picker too)"
)

FLAGS: tuple[Flag, ...] = (
    Flag(("--config-file",), click.Path(), "", "EndpointPickerConfig file"),
    Flag(("--config-text",), str, "", "EndpointPickerConfig as text, instead of a file"),
    Flag(("--endpoints-file",), click.Path(), "", "endpoints file, watched; instead of a file-discovery plugin"),
    Flag(("--objectives-path",), click.Path(), "", "file or folder of InferenceObjective and InferenceModelRewrite documents, watched"),
    Flag(("--preset",), str, "", "built-in policy, when no configuration is given; see epp plugins --presets"),
    Flag(("--allow-experimental-plugins",), BOOL, False, "accept plugins of level alpha"),
    Flag(("--pool-name",), str, "", "InferencePool to serve; without a cluster the pool's name in metrics"),
    Flag(("--pool-namespace",), str, "", "namespace of pools and pods; else the variable NAMESPACE, else that of the credentials"),
    Flag(("--pool-group",), str, POOL_GROUP, "API group of the InferencePool; inference.networking.x-k8s.io is v1alpha2"),
    Flag(("--endpoint-selector",), str, "", "pods by labels, without an InferencePool: needs --endpoint-target-ports; with many pools, labels that all their pods have"),
    Flag(("--endpoint-source",), click.Choice(["pods", "endpointslices"]), "pods", "what tells endpoints; endpointslices needs no right to pods, but knows no labels and annotations of them"),
    Flag(("--endpoint-target-ports",), PORTS, (), "1 to 8 ports of each such pod, as 8000,8001; each is an endpoint"),
    Flag(("--all-pools",), BOOL, False, "serve every InferencePool of the namespace"),
    Flag(("--pool-selector",), str, "", "serve every InferencePool with these labels"),
    Flag(("--all-namespaces",), BOOL, False, "with --all-pools or --pool-selector: of every namespace"),
    Flag(("--pool-config-dir",), click.Path(), "", "with many pools: folder with <namespace>.<pool>.yaml for those with a configuration of their own"),
    Flag(("--trust-pool-header",), BOOL, False, "take the pool from the request header x-gateway-inference-pool; only where clients cannot set it"),
    Flag(("--kubeconfig",), click.Path(), "", "credentials for the cluster; else KUBECONFIG, the pod's service account, or ~/.kube/config"),
    Flag(("--ha-enable-leader-election",), BOOL, False, "only the replica that holds the Lease is ready"),
    Flag(("--transport",), click.Choice(["auto", "native", "grpcio"]), "auto", "what serves ext_proc; auto: native where it is installed"),
    Flag(("--grpc-port",), PORT, 9002, "ext_proc port"),
    Flag(("--grpc-health-port",), PORT, 9003, "gRPC health port, plain text"),
    Flag(("--metrics-port",), PORT, 9090, "port of /metrics, /healthz, /readyz and /debug"),
    Flag(("--models-port",), click.IntRange(0, 65535), None, "port of GET /v1/models over all pools; open to all who reach it"),
    Flag(("--bind-address",), str, "[::]", "address of all listeners; 127.0.0.1 for loopback only"),
    Flag(("--health-checking",), BOOL, False, "serve gRPC health on the ext_proc port too"),
    Flag(("--grpc-reflection",), BOOL, False, "serve gRPC reflection on the ext_proc port"),
    Flag(("--drain-timeout",), DURATION, 30.0, "time for open requests after SIGTERM"),
    Flag(("--grpc-max-recv-msg-size",), SIZE, 0, "largest gRPC message received; 0: the body limit and 1 MiB"),
    Flag(("--grpc-max-send-msg-size",), SIZE, -1, "largest gRPC message sent; -1: no limit"),
    Flag(("--enable-grpc-stream-metrics",), BOOL, False, "count ext_proc streams and their durations"),
    Flag(("--secure-serving",), BOOL, True, "TLS on the ext_proc port; self-signed without --cert-path"),
    Flag(("--cert-path",), click.Path(), "", "directory with tls.crt and tls.key"),
    Flag(("--enable-cert-reload",), BOOL, False, "take changed certificate files at the next handshake"),
    Flag(("--tls-min-version",), str, "", "VersionTLS12 only: the version that this transport begins at"),
    Flag(
        ("--tls-cipher-suites",),
        refused="the native transport's ciphers are fixed; with --transport grpcio set the environment variable GRPC_SSL_CIPHER_SUITES (OpenSSL names) before the start",
    ),
    Flag(("--metrics-endpoint-auth",), BOOL, True, "ask for a bearer token on the metrics port: in a cluster one that may GET its paths, else that of --metrics-token-file"),
    Flag(("--metrics-token-file",), click.Path(), "", "file with the token to ask for; outside a cluster there is no check without it"),
    Flag(("--metrics-client-ca-file",), click.Path(), "", "CA whose client certificates /metrics asks for"),
    Flag(("--metrics-cert-dir",), click.Path(), "", "directory with tls.crt and tls.key of the metrics port"),
    Flag(("--enable-pprof",), BOOL, True, "serve /debug/pprof on the metrics port"),
    Flag(("--disable-endpoint-subset-filter",), BOOL, False, "do not obey the gateway's subset hint"),
    Flag(("--emit-endpoint-scores",), BOOL, False, "send all scores as dynamic metadata"),
    Flag(("--refresh-metrics-interval",), DURATION, None, "time between scrapes of an endpoint, from 50ms on"),
    Flag(("--refresh-prometheus-metrics-interval",), DURATION, 5.0, no_effect="gauges are computed when scraped"),
    Flag(("--metrics-staleness-threshold",), DURATION, 2.0, "older metrics are left out of pool averages"),
    Flag(("--tracing",), BOOL, True, "OpenTelemetry traces, as the OTEL_* variables say"),
    Flag(("-v", "--v"), LogLevel(), 2, "log level: information up to 3, 4 debug (a line a request), from 5 everything; for less --zap-log-level"),
    Flag(("--zap-encoder",), click.Choice(["json", "console"]), None, "log format; by default as the output is"),
    Flag(("--zap-log-level",), str, "", "debug, info, warn, error or a number; wins over -v"),
    Flag(("--zap-devel",), BOOL, False, "console format and level debug"),
    Flag(("--zap-stacktrace-level",), click.Choice(["info", "error", "panic"]), None, "log tracebacks from here"),
    Flag(("--zap-time-encoding",), str, "", "epoch, millis, nanos, iso8601, rfc3339 or rfc3339nano"),
    Flag(("--total-queued-requests-metric",), refused=_METRIC_NAMES),
    Flag(("--total-running-requests-metric",), refused=_METRIC_NAMES),
    Flag(("--kv-cache-usage-percentage-metric",), refused=_METRIC_NAMES),
    Flag(("--lora-info-metric",), refused=_METRIC_NAMES),
    Flag(("--cache-info-metric",), refused=_METRIC_NAMES),
    Flag(("--model-server-metrics-scheme",), refused="set `scheme` of metrics-data-source in the configuration"),
    Flag(("--model-server-metrics-path",), refused="set `path` of metrics-data-source in the configuration"),
    Flag(("--model-server-metrics-port",), refused="set `port` of metrics-data-source in the configuration"),
    Flag(
        ("--model-server-metrics-https-insecure-skip-verify",),
        refused="set `insecureSkipVerify` of metrics-data-source in the configuration",
    ),
)  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])


def add_flags(command: F) -> F:
    """Decorates a click command with every row; values arrive by the flag's name in snake case."""
    for flag in reversed(FLAGS):
        command = option(flag)(command)
    return command


def option(flag: Flag) -> Callable[[F], F]:
    more: dict[str, Any] = {}
    if flag.type is BOOL:
        more = {"is_flag": False, "flag_value": "true"}
    if flag.refused:
        return click.option(
            *flag.names,
            is_flag=False,
            flag_value="true",
            default=None,
            expose_value=False,
            hidden=True,
            callback=_refuse(flag),
        )
    return click.option(
        *flag.names, type=flag.type, default=flag.default, show_default=_shown(flag),
        help=flag.help or f"accepted; no effect here: {flag.no_effect}", **more,
    )  # fmt: skip


def _shown(flag: Flag) -> bool | str:
    if flag.default in (None, "") or flag.no_effect:
        return False
    return f"{flag.default:g}s" if flag.type is DURATION else True


def _refuse(flag: Flag) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        # `--flag=false` asks for what is the case anyway.
        if value is not None and not (flag.type is BOOL and str(value).lower() in ("false", "f", "0")):
            raise click.UsageError(f"{flag.names[0]}: {flag.refused}", ctx)

    return callback


def notices(argv: Sequence[str]) -> list[str]:
    """Lines for the log about flags that were given and have nothing to do here."""
    given = {argument.partition("=")[0] for argument in argv}
    return [
        f"{flag.names[0]} has no effect: {flag.no_effect}"
        for flag in FLAGS
        if flag.no_effect and given.intersection(flag.names)
    ]


def pool_name(value: str, *, fallback: str = "default") -> str:
    """The pool's name in metrics: the flag, else the environment's POD_NAME without its two suffixes."""
    if value:
        return value
    match = re.fullmatch(r"(.+)-[a-z0-9]+-[a-z0-9]+", os.environ.get("POD_NAME", ""))
    return match[1] if match else fallback
