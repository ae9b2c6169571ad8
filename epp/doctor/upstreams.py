"""Envoy's clusters: the picker's own, and those of the model servers. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from epp.doctor.envoydump import Config, Dump, items, mapping, seconds
from epp.doctor.finding import Finding, error, ok, warning
from epp.doctor.modes import DESTINATION
from epp.doctor.routes import picked_by_header, picked_by_metadata

_PROTOCOLS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_REQUESTS = 1024
"""Envoy's own limit of open requests to a cluster."""
_FEW_REQUESTS = 10_000
_ENGINE_IDLE_S = 5.0
"""After which uvicorn drops an idle connection."""


def check_clusters(dump: Dump) -> Iterator[Finding]:
    called = (one.cluster for manager in dump.managers for one in manager.ext_procs() if one.cluster)
    pickers = list(dict.fromkeys(called))
    for name in pickers:
        yield from _picker(dump, name)
    used = {
        name
        for manager in dump.managers
        if manager.ext_procs()
        for route in manager.routes
        for name in route.clusters()
    }
    for name in sorted(used):
        cluster = dump.clusters.get(name)
        if cluster is not None and name not in pickers:
            yield from _engines(name, cluster)


def speaks_tls(cluster: Config) -> bool:
    return "tls" in str(mapping(cluster.get("transport_socket")).get("name", "")).lower()


def addresses(cluster: Config) -> list[tuple[str, int]]:
    """Hosts that the configuration itself names."""
    found: list[tuple[str, int]] = []
    for locality in items(mapping(cluster.get("load_assignment")).get("endpoints")):
        for host in items(locality.get("lb_endpoints")):
            at = mapping(mapping(mapping(host.get("endpoint")).get("address")).get("socket_address"))
            port = at.get("port_value")
            if isinstance(port, int):
                found.append((str(at.get("address", "")), port))
    return found


def _picker(dump: Dump, name: str) -> Iterator[Finding]:
    subject = f"cluster {name}"
    cluster = dump.clusters.get(name)
    if cluster is None:
        yield error(subject, "the ext_proc filter calls it, but there is no such cluster", "add the cluster")
        return
    http2 = _http2(cluster)
    if http2 is None:
        yield error(
            subject,
            "it does not speak HTTP/2, which gRPC needs",
            f"set typed_extension_protocol_options {_PROTOCOLS}: explicit_http_config.http2_protocol_options",
        )
        return
    findings = [
        *_frames(subject, http2),
        *_capacity(subject, cluster),
        *_liveness(subject, cluster, http2),
    ]
    yield from findings or [ok(subject, "TLS" if speaks_tls(cluster) else "plain text")]


def _http2(cluster: Config) -> Config | None:
    if "http2_protocol_options" in cluster:
        return mapping(cluster["http2_protocol_options"])
    options = mapping(mapping(cluster.get("typed_extension_protocol_options")).get(_PROTOCOLS))
    for kind in ("explicit_http_config", "use_downstream_protocol_config", "auto_config"):
        config = mapping(options.get(kind))
        if "http2_protocol_options" in config:
            return mapping(config["http2_protocol_options"])
    return None


def _frames(subject: str, http2: Config) -> Iterator[Finding]:
    defaults = {"max_outbound_frames": 10_000, "max_outbound_control_frames": 1000}
    low = [key for key, most in defaults.items() if _number(http2.get(key), most) <= most]
    if low:
        yield warning(
            subject,
            f"{' and '.join(low)} are Envoy's defaults: when thousands of requests come or are refused at "
            f"once, it closes the connection that they share",
            "set max_outbound_frames: 1000000 and max_outbound_control_frames: 200000 (deploy/envoy)",
        )
    if _number(http2.get("max_concurrent_streams"), _REQUESTS) < _FEW_REQUESTS:
        yield warning(
            subject,
            "a connection to the picker carries few requests at once (max_concurrent_streams)",
            "set max_concurrent_streams: 100000: each request is a stream until its answer ends",
        )


def _capacity(subject: str, cluster: Config) -> Iterator[Finding]:
    thresholds = items(mapping(cluster.get("circuit_breakers")).get("thresholds"))
    told = next((one for one in thresholds if one.get("priority", "DEFAULT") == "DEFAULT"), {})
    low = [
        f"{key} {number}"
        for key in ("max_requests", "max_pending_requests", "max_connections")
        if (number := _number(told.get(key), _REQUESTS)) <= _REQUESTS
    ]
    if low:
        yield warning(
            subject,
            f"its circuit breaker opens at {', '.join(low)}: further requests fail with 503",
            "set circuit_breakers.thresholds to 100000 of each",
        )


def _liveness(subject: str, cluster: Config, http2: Config) -> Iterator[Finding]:
    if not items(cluster.get("health_checks")) and cluster.get("type") != "EDS":
        yield warning(
            subject,
            "it has no health check: a picker that stops is asked until its connections break",
            "add grpc_health_check with service_name envoy.service.ext_proc.v3.ExternalProcessor",
        )
    if "connection_keepalive" not in http2:
        yield warning(
            subject,
            "no connection_keepalive: a picker whose machine is lost goes unnoticed for minutes",
            "set http2_protocol_options.connection_keepalive: {interval: 10s, timeout: 10s}",
        )


def _engines(name: str, cluster: Config) -> Iterator[Finding]:
    subject = f"cluster {name}"
    header = picked_by_header(cluster)
    if not header and not picked_by_metadata(cluster):
        if cluster.get("type") == "ORIGINAL_DST":
            yield error(
                subject,
                "an ORIGINAL_DST cluster that does not take its host from a header",
                f"set original_dst_lb_config: {{use_http_header: true, http_header_name: {DESTINATION}}}",
            )
        return
    if header and header.lower() != DESTINATION:
        yield error(
            subject,
            f"it takes its host from the header {header}, which the picker does not set",
            f"set http_header_name: {DESTINATION}",
        )
        return
    findings = list(_capacity(subject, cluster))
    options = mapping(mapping(cluster.get("typed_extension_protocol_options")).get(_PROTOCOLS))
    idle_s = seconds(mapping(options.get("common_http_protocol_options")).get("idle_timeout"))
    if idle_s is None or idle_s == 0 or idle_s >= _ENGINE_IDLE_S:
        findings.append(
            warning(
                subject,
                "idle connections to model servers are kept for "
                + ("an hour" if idle_s is None else "ever" if not idle_s else f"{idle_s:g} s")
                + "; vLLM and SGLang drop theirs after 5 s, and the request that meets that fails",
                "set common_http_protocol_options.idle_timeout: 4s",
            )
        )
    yield from findings or [ok(subject, "takes its host from the picker")]


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) else default
