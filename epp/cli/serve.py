"""`epp serve`: the picker."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from epp.cli.flags import add_flags, notices, pool_name
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
from epp.datalayer.pace import MIN_INTERVAL_S
from epp.domain.pool import POOL_GROUPS


@click.command(context_settings={"max_content_width": 110})
@add_flags
def serve(**flags: Any) -> None:
    """Answer Envoy's ext_proc streams: pick an endpoint for every request.

    Takes the reference picker's flags. Without a configuration the policy is `expected-work`.
    """
    from epp.telemetry.logs import configure

    try:
        configure(log_options(flags))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    configs = _configs(flags)
    options = _options(flags, configs.default.data.discovery is not None)
    from epp.app import App

    raise SystemExit(run(lambda: App(options, configs), "epp serve"))


def _configs(flags: dict[str, Any]) -> Any:
    """Where configurations come from, read; a wrong one ends the process with every mistake on stderr."""
    from epp.config.problems import ConfigError
    from epp.config.sources import PoolConfigs, fixed, preset

    given = [name for name in ("config_file", "config_text", "preset") if flags[name]]
    if len(given) > 1:
        names = " and ".join("--" + name.replace("_", "-") for name in given)
        raise click.UsageError(f"{names} exclude each other")
    try:
        if flags["config_file"]:
            default: Any = Path(flags["config_file"])
        elif flags["config_text"]:
            default = fixed(flags["config_text"], "--config-text")
        else:
            default = preset(flags["preset"])
        return PoolConfigs(
            default,
            path_of(flags["pool_config_dir"]),
            allow_experimental=flags["allow_experimental_plugins"],
        )
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise SystemExit(1) from error


def _options(flags: dict[str, Any], discovered: bool) -> Any:
    from epp.options import Options

    if flags["tls_min_version"] not in ("", "VersionTLS12"):
        raise click.UsageError(
            "--tls-min-version: only VersionTLS12, where this transport begins, can be set"
        )
    kube = _kube(flags, discovered)
    return Options(
        pool_name=pool_name(flags["pool_name"]),
        bind_address=bind_address(flags),
        transport=transport_of(flags),
        grpc_port=flags["grpc_port"],
        grpc_health_port=flags["grpc_health_port"],
        health_checking=flags["health_checking"],
        grpc_reflection=flags["grpc_reflection"],
        grpc_max_recv_bytes=flags["grpc_max_recv_msg_size"],
        grpc_max_send_bytes=flags["grpc_max_send_msg_size"] or -1,
        stream_metrics=flags["enable_grpc_stream_metrics"],
        secure_serving=flags["secure_serving"],
        cert_path=path_of(flags["cert_path"]),
        cert_reload=flags["enable_cert_reload"],
        web=web_options(flags),
        drain_timeout_s=flags["drain_timeout"],
        endpoints_file=path_of(flags["endpoints_file"]),
        objectives_path=path_of(flags["objectives_path"]),
        # Where the pool has no name, nobody can have meant another by naming one.
        objectives_pool=pool_name(flags["pool_name"], fallback=""),
        kube=kube,
        models_port=flags["models_port"],
        scrape_interval_s=flags["refresh_metrics_interval"],
        staleness_s=flags["metrics_staleness_threshold"],
        subset_filter=not flags["disable_endpoint_subset_filter"],
        emit_scores=flags["emit_endpoint_scores"],
        tracing=flags["tracing"],
        notices=(*notices(sys.argv[1:]), *_idle(flags), *_alone(kube)),
    )


def _kube(flags: dict[str, Any], discovered: bool) -> Any:
    """Where in a cluster the endpoints are; None where files tell them. Raises UsageError for flags that do
    not go together."""
    from epp.options import KubeOptions

    many = flags["all_pools"] or bool(flags["pool_selector"])
    selected = bool(flags["endpoint_selector"])
    in_cluster = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    at_home = (Path.home() / ".kube" / "config").is_file()
    credentials = bool(flags["kubeconfig"] or os.environ.get("KUBECONFIG")) or in_cluster or at_home
    asked = [
        name
        for name, given in (
            ("--all-pools", flags["all_pools"]),
            ("--pool-selector", flags["pool_selector"]),
            ("--endpoint-selector", selected),
            ("--endpoint-source", flags["endpoint_source"] != "pods"),
            ("--kubeconfig", flags["kubeconfig"]),
            ("--ha-enable-leader-election", flags["ha_enable_leader_election"]),
        )
        if given
    ]
    for flag in ("all_namespaces", "pool_config_dir", "trust_pool_header"):
        if flags[flag] and not many:
            name = "--" + flag.replace("_", "-")
            raise click.UsageError(f"{name} goes with --all-pools or --pool-selector")
    if flags["endpoint_target_ports"] and (many or not selected):
        raise click.UsageError("--endpoint-target-ports goes with --endpoint-selector; a pool has its own")
    if flags["endpoints_file"] or discovered:
        if asked:
            raise click.UsageError(
                f"{asked[0]} is for endpoints in a cluster, but they come from a file: leave out "
                "--endpoints-file and file-discovery, or the flag"
            )
        return None
    if not asked and not (flags["pool_name"] and credentials):
        return None
    if flags["all_pools"] and flags["pool_selector"]:
        raise click.UsageError("--all-pools and --pool-selector exclude each other")
    if many and flags["pool_name"]:
        raise click.UsageError(f"--pool-name means one pool, {asked[0]} many: give one of them")
    if many and flags["endpoint_source"] != "pods":
        raise click.UsageError("--endpoint-source endpointslices is for one pool: many share Services' pods")
    if not many and not selected and not flags["pool_name"]:
        raise click.UsageError("--pool-name is required: which InferencePool is to be served?")
    if selected and not many and not flags["endpoint_target_ports"]:
        raise click.UsageError("--endpoint-selector needs --endpoint-target-ports, like 8000")
    if flags["all_namespaces"] and flags["pool_namespace"]:
        raise click.UsageError("--all-namespaces and --pool-namespace exclude each other")
    if flags["pool_group"] not in POOL_GROUPS:
        raise click.UsageError(f"--pool-group is one of {', '.join(POOL_GROUPS)}")
    return KubeOptions(
        kubeconfig=path_of(flags["kubeconfig"]),
        namespace=flags["pool_namespace"] or os.environ.get("NAMESPACE", ""),
        all_namespaces=flags["all_namespaces"],
        pool_group=flags["pool_group"],
        endpoint_selector=flags["endpoint_selector"],
        target_ports=flags["endpoint_target_ports"],
        source=flags["endpoint_source"],
        many=many,
        pool_selector=flags["pool_selector"],
        trust_pool_header=flags["trust_pool_header"],
        elect=flags["ha_enable_leader_election"],
    )


def _idle(flags: dict[str, Any]) -> list[str]:
    """Flags that another flag leaves without work."""
    said = [*idle_certificates(flags), *idle_token(flags)]
    if transport_of(flags) == "native" and flags["grpc_max_send_msg_size"] not in (0, -1):
        said.append("--grpc-max-send-msg-size has no effect: the native transport's messages are short")
    interval_s = flags["refresh_metrics_interval"]
    if interval_s is not None and interval_s < MIN_INTERVAL_S:
        said.append(f"--refresh-metrics-interval is raised to {MIN_INTERVAL_S * 1e3:g}ms, the shortest")
    return said


def _alone(kube: Any) -> list[str]:
    """Flags of a cluster that were given without one."""
    if kube is not None:
        return []
    given = {argument.partition("=")[0] for argument in sys.argv[1:]}
    return [
        f"{flag} has no effect: endpoints come from a file, not from a cluster"
        for flag in ("--pool-namespace", "--pool-group")
        if flag in given
    ]
