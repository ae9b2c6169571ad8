"""Envoy's routes: where a request goes that has, or has not, got an endpoint from the picker. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from epp.doctor.envoydump import Config, Dump, Manager, Route, items, mapping, seconds
from epp.doctor.finding import Finding, error, listed, ok, warning
from epp.doctor.modes import DESTINATION, LB_NAMESPACE, place

SERVED = "x-gateway-destination-endpoint-served"
_ROUTE_TIMEOUT_S = 15.0
"""Envoy's own."""
_SHORT_S = 300.0
_OVERRIDE_HOST = ".override_host.v3.OverrideHost"
_EARLY = ".early_header_mutation.header_mutation.v3.HeaderMutation"
_MUTATION = ".header_mutation.v3.HeaderMutation"


def picked_by_header(cluster: Config) -> str:
    """The header by which a cluster lets requests choose their host; empty for none."""
    original = mapping(cluster.get("original_dst_lb_config"))
    if cluster.get("type") == "ORIGINAL_DST" and original.get("use_http_header") is True:
        return str(original.get("http_header_name") or "x-envoy-original-dst-host")
    return next((str(each["header"]) for each in _override_sources(cluster) if "header" in each), "")


def picked_by_metadata(cluster: Config) -> bool:
    return any("metadata" in each for each in _override_sources(cluster))


def has_fallback(cluster: Config) -> bool:
    """Hosts of its own for a request without an endpoint."""
    return cluster.get("type") != "ORIGINAL_DST"


def _override_sources(cluster: Config) -> Iterator[Config]:
    for policy in items(mapping(cluster.get("load_balancing_policy")).get("policies")):
        typed = mapping(mapping(policy.get("typed_extension_config")).get("typed_config"))
        if str(typed.get("@type", "")).endswith(_OVERRIDE_HOST):
            yield from items(typed.get("override_host_sources"))


def check_routes(dump: Dump, manager: Manager) -> Iterator[Finding]:
    """Of a connection manager with ext_proc."""
    subject = manager.listener or "listener"
    chosen = [route for route in manager.routes if _picked(dump, route)]
    if not chosen:
        if manager.routes:
            yield warning(
                subject,
                "no route leads to a cluster whose host a picker can choose, as far as this Envoy shows",
                f"route models to an ORIGINAL_DST cluster with http_header_name: {DESTINATION}, or to one "
                f"with the policy override_host",
            )
        return
    findings = [
        *_times(subject, chosen),
        *_served(manager, chosen),
        *_open(dump, manager),
        *_forged(dump, manager, chosen),
        *_received(dump, manager, chosen),
    ]
    yield from findings or [ok(subject, f"routes to endpoints that a picker chooses: {len(chosen)}")]


def _picked(dump: Dump, route: Route) -> bool:
    clusters = [dump.clusters.get(name, {}) for name in route.clusters()]
    return any(picked_by_header(one) or picked_by_metadata(one) for one in clusters)


def _times(subject: str, routes: Sequence[Route]) -> Iterator[Finding]:
    short: dict[float, list[str]] = {}
    for route in routes:
        told = seconds(route.action.get("timeout"))
        limit_s = _ROUTE_TIMEOUT_S if told is None else told
        if 0 < limit_s < _SHORT_S:
            short.setdefault(limit_s, []).append(route.name)
    for limit_s, names in sorted(short.items()):
        yield (error if limit_s <= _ROUTE_TIMEOUT_S else warning)(
            subject,
            f"an answer may take {limit_s:g} s on route {listed(names)}; models take minutes",
            "set the route's timeout: 0s; stream_idle_timeout bounds answers that stand still",
        )


def _served(manager: Manager, routes: Sequence[Route]) -> Iterator[Finding]:
    forwarded = any(
        LB_NAMESPACE in variant.metadata("forwarding_namespaces") for variant in manager.ext_procs()
    )
    silent = [route.name for route in routes if not _tells_served(route)]
    if silent and not forwarded:
        yield warning(
            manager.listener,
            f"nothing tells the picker which endpoint really answered on route {listed(silent)}: it takes "
            f"it to be the chosen one",
            f"add to the route response_headers_to_add: {SERVED} with the value %UPSTREAM_REMOTE_ADDRESS%",
        )


def _tells_served(route: Route) -> bool:
    places = (route.raw, route.host, route.table)
    added = (each for one in places for each in items(one.get("response_headers_to_add")))
    return any(str(mapping(each.get("header")).get("key", "")).lower() == SERVED for each in added)


def _open(dump: Dump, manager: Manager) -> Iterator[Finding]:
    """Fail open, where there is nothing to fall back on."""
    for variant in manager.ext_procs():
        if not variant.fails_open:
            continue
        stuck = [
            route.name
            for route in variant.routes
            if not _wants_destination(route)
            and any(not has_fallback(dump.clusters.get(name, {"type": "?"})) for name in route.clusters())
        ]
        if stuck:
            yield error(
                place(manager, variant),
                f"failure_mode_allow, but without a picker route {listed(stuck)} leads to an ORIGINAL_DST "
                f"cluster, which has no host for a request without {DESTINATION}: 503 all the same",
                f"let that route match on the presence of {DESTINATION} and put one to a cluster of the "
                f"servers behind it (deploy/envoy/standalone-fail-open.yaml), or fail closed",
            )


def _wants_destination(route: Route) -> bool:
    conditions = items(mapping(route.raw.get("match")).get("headers"))
    return any(str(each.get("name", "")).lower() == DESTINATION for each in conditions)


def _forged(dump: Dump, manager: Manager, routes: Sequence[Route]) -> Iterator[Finding]:
    """A client that names its endpoint."""
    clusters = {name for route in routes for name in route.clusters()}
    headers = {picked_by_header(dump.clusters.get(name, {})).lower() for name in clusters} - {""}
    missing = sorted(headers - _stripped(manager))
    if not missing:
        return
    unasked = {id(route) for route in manager.unasked()}
    bypassed = any(id(route) in unasked for route in routes)
    bypassed = bypassed or any(variant.fails_open for variant in manager.ext_procs())
    how = "clients choose their endpoint where the picker is not asked"
    yield (error if bypassed else warning)(
        manager.listener,
        f"{listed(missing)} is not removed from requests that come in: {how}",
        "remove it before all filters: early_header_mutation_extensions of the connection manager "
        "(deploy/envoy/standalone.yaml)",
    )


def _stripped(manager: Manager) -> set[str]:
    """Headers that are removed before ext_proc sees a request."""
    gone: set[str] = set()
    for each in items(manager.raw.get("early_header_mutation_extensions")):
        typed = mapping(each.get("typed_config"))
        if str(typed.get("@type", "")).endswith(_EARLY):
            gone |= {str(one["remove"]).lower() for one in items(typed.get("mutations")) if "remove" in one}
    for each in manager.filters:
        typed = mapping(each.get("typed_config"))
        kind = str(typed.get("@type", ""))
        if kind.endswith(".ExternalProcessor"):
            break
        if kind.endswith(_MUTATION):
            mutations = items(mapping(typed.get("mutations")).get("request_mutations"))
            gone |= {str(one["remove"]).lower() for one in mutations if "remove" in one}
    return gone


def _received(dump: Dump, manager: Manager, routes: Sequence[Route]) -> Iterator[Finding]:
    """Where the choice travels as metadata, Envoy must take it."""
    clusters = {name for route in routes for name in route.clusters()}
    if not any(picked_by_metadata(dump.clusters.get(name, {})) for name in clusters):
        return
    deaf = [one for one in manager.ext_procs() if LB_NAMESPACE not in one.metadata("receiving_namespaces")]
    by_header = all(picked_by_header(dump.clusters.get(name, {})) for name in clusters)
    for variant in deaf:
        yield (warning if by_header else error)(
            place(manager, variant),
            f"the cluster takes its host from metadata, which Envoy does not take from the picker: "
            f"metadata_options.receiving_namespaces lacks {LB_NAMESPACE}",
            f"set metadata_options.receiving_namespaces.untyped: [{LB_NAMESPACE}]",
        )
