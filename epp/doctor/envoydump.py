"""What Envoy's admin page `/config_dump` says, as far as a picker is concerned by it. Pure.

Enumerations come by their names and durations as `600s`; what has its default is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

Config = Mapping[str, Any]
_MANAGER = "HttpConnectionManager"
_EXT_PROC = ".ext_proc.v3.ExternalProcessor"
_PER_ROUTE = ".ext_proc.v3.ExtProcPerRoute"
_FILTER_CONFIG = ".route.v3.FilterConfig"
_OVERRIDABLE = (
    "processing_mode", "grpc_service", "grpc_initial_metadata", "failure_mode_allow", "metadata_options",
)  # fmt: skip


class DumpError(ValueError):
    """The page is not a dump of an Envoy's configuration; says why."""


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    raw: Config
    host: Config
    """Its virtual host."""
    table: Config
    """The whole route configuration."""

    @property
    def action(self) -> Config:
        return mapping(self.raw.get("route"))

    def clusters(self) -> list[str]:
        """Those that its requests may go to."""
        action = self.action
        one = action.get("cluster")
        weighted = items(mapping(action.get("weighted_clusters")).get("clusters"))
        return [str(name) for name in (one, *(each.get("name") for each in weighted)) if name]


@dataclass(frozen=True, slots=True)
class ExtProc:
    """One ext_proc filter as it is for some of the routes."""

    name: str
    raw: Config
    """With the overrides of these routes."""
    routes: tuple[Route, ...]

    @property
    def service(self) -> Config:
        return mapping(self.raw.get("grpc_service"))

    @property
    def cluster(self) -> str:
        return str(mapping(self.service.get("envoy_grpc")).get("cluster_name", ""))

    @property
    def mode(self) -> Config:
        return mapping(self.raw.get("processing_mode"))

    def metadata(self, which: str) -> Sequence[str]:
        """Untyped namespaces that are sent (`forwarding_namespaces`) or taken (`receiving_namespaces`)."""
        names = mapping(mapping(self.raw.get("metadata_options")).get(which)).get("untyped")
        return [str(name) for name in names] if isinstance(names, list) else ()

    @property
    def requests_only(self) -> bool:
        """It is shown nothing of answers, as a filter that only writes headers before the picker's."""
        headers, trailers = self.mode.get("response_header_mode"), self.mode.get("response_trailer_mode")
        return (
            headers == "SKIP" and trailers != "SEND" and self.mode.get("response_body_mode", "NONE") == "NONE"
        )

    @property
    def fails_open(self) -> bool:
        return self.raw.get("failure_mode_allow") is True


@dataclass(frozen=True, slots=True)
class Manager:
    """An HTTP connection manager: where requests come in."""

    listener: str
    raw: Config
    buffer_bytes: int | None
    """The listener's per_connection_buffer_limit_bytes, None for Envoy's default."""
    routes: tuple[Route, ...]
    filters: Sequence[Config]

    def ext_procs(self) -> list[ExtProc]:
        """Each variant that some of the routes get."""
        found: list[ExtProc] = []
        for each in self.filters:
            typed = mapping(each.get("typed_config"))
            if str(typed.get("@type", "")).endswith(_EXT_PROC):
                found += self._variants(str(each.get("name", "")), typed, each.get("disabled") is True)
        return found

    def unasked(self) -> list[Route]:
        """Routes that no ext_proc filter is asked about."""
        asked = {id(route) for variant in self.ext_procs() for route in variant.routes}
        return [route for route in self.routes if id(route) not in asked]

    def _variants(self, name: str, typed: Config, disabled: bool) -> list[ExtProc]:
        by_override: dict[bytes, tuple[Config, list[Route]]] = {}
        for route in self.routes:
            effective = _effective(name, typed, disabled, route)
            if effective is not None:
                by_override.setdefault(msgspec.json.encode(effective), (effective, []))[1].append(route)
        if not self.routes and not disabled and _asking(typed):  # its routes are elsewhere, or not there yet
            return [ExtProc(name, typed, ())]
        return [ExtProc(name, raw, tuple(routes)) for raw, routes in by_override.values()]


def _effective(name: str, typed: Config, disabled: bool, route: Route) -> Config | None:
    """The filter's settings on a route; None where it is off. The most specific place counts, as in Envoy."""
    for place in (route.raw, route.host, route.table):
        override = mapping(mapping(place.get("typed_per_filter_config")).get(name))
        if not override:
            continue
        if str(override.get("@type", "")).endswith(_FILTER_CONFIG):
            if override.get("disabled") is True:
                return None
            disabled = False
            override = mapping(override.get("config"))
        if not str(override.get("@type", "")).endswith(_PER_ROUTE):
            continue
        if override.get("disabled") is True:
            return None
        overrides = mapping(override.get("overrides"))
        changed = {key: overrides[key] for key in _OVERRIDABLE if key in overrides}
        return _asking({**typed, **changed})
    return None if disabled else _asking(typed)


def _asking(typed: Config) -> Config | None:
    """None for a filter that is shown nothing, as gateways have it where only some routes override that."""
    mode = mapping(typed.get("processing_mode"))
    headers = all(mode.get(f"{side}_header_mode") == "SKIP" for side in ("request", "response"))
    bodies = all(mode.get(f"{side}_body_mode", "NONE") == "NONE" for side in ("request", "response"))
    trailers = all(mode.get(f"{side}_trailer_mode") != "SEND" for side in ("request", "response"))
    return None if headers and bodies and trailers else typed


@dataclass(frozen=True, slots=True)
class Dump:
    version: str
    managers: tuple[Manager, ...]
    clusters: Mapping[str, Config] = field(default_factory=dict)


def read_dump(data: bytes) -> Dump:
    """Raises DumpError."""
    try:
        root = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise DumpError(f"no JSON: {error}") from error
    parts = items(mapping(root).get("configs"))
    if not parts:
        raise DumpError("it has no `configs`; is this the page /config_dump of an Envoy's admin port?")
    clusters: dict[str, Config] = {}
    listeners: list[Config] = []
    tables: dict[str, Config] = {}
    extensions: dict[str, Config] = {}
    version = ""
    for part in parts:
        kind = str(part.get("@type", "")).rpartition(".")[2]
        if kind == "BootstrapConfigDump":
            build = mapping(
                mapping(mapping(part.get("bootstrap")).get("node")).get("user_agent_build_version")
            )
            number = mapping(build.get("version"))
            version = (
                ".".join(str(number.get(key, 0)) for key in ("major_number", "minor_number", "patch"))
                if number
                else ""
            )
        elif kind == "ClustersConfigDump":
            for each in _several(part, "static_clusters", "dynamic_active_clusters"):
                cluster = mapping(each.get("cluster"))
                clusters[str(cluster.get("name", ""))] = cluster
        elif kind == "ListenersConfigDump":
            listeners += [mapping(each.get("listener")) for each in _several(part, "static_listeners")]
            active = (mapping(each.get("active_state")) for each in _several(part, "dynamic_listeners"))
            listeners += [mapping(each.get("listener")) for each in active]
        elif kind == "RoutesConfigDump":
            for each in _several(part, "static_route_configs", "dynamic_route_configs"):
                table = mapping(each.get("route_config"))
                tables[str(table.get("name", ""))] = table
        elif kind == "EcdsConfigDump":
            for each in _several(part, "ecds_filters"):
                extension = mapping(each.get("ecds_filter"))
                extensions[str(extension.get("name", ""))] = extension
    managers = [one for each in listeners for one in _managers(each, tables, extensions)]
    return Dump(version, tuple(managers), clusters)


def _managers(
    listener: Config, tables: Mapping[str, Config], extensions: Mapping[str, Config]
) -> Iterator[Manager]:
    chains = [*items(listener.get("filter_chains")), mapping(listener.get("default_filter_chain"))]
    limit = listener.get("per_connection_buffer_limit_bytes")
    for chain in chains:
        for each in items(chain.get("filters")):
            raw = mapping(each.get("typed_config"))
            if not str(raw.get("@type", "")).endswith(_MANAGER):
                continue
            table = mapping(raw.get("route_config"))
            if "rds" in raw:
                table = tables.get(str(mapping(raw["rds"]).get("route_config_name", "")), {})
            routes = tuple(
                Route(str(route.get("name") or f"{host.get('name', '')} {_match(route)}"), route, host, table)
                for host in items(table.get("virtual_hosts"))
                for route in items(host.get("routes"))
            )
            filters = [
                extensions.get(str(one.get("name", "")), one) if "config_discovery" in one else one
                for one in items(raw.get("http_filters"))
            ]
            name = str(listener.get("name", ""))
            yield Manager(name, raw, limit if isinstance(limit, int) else None, routes, filters)


def _match(route: Config) -> str:
    match = mapping(route.get("match"))
    return next((str(match[key]) for key in ("prefix", "path", "path_separated_prefix") if key in match), "")


def _several(part: Config, *names: str) -> Iterator[Config]:
    for name in names:
        yield from items(part.get(name))


def mapping(value: Any) -> Config:
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Config]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def seconds(value: Any) -> float | None:
    """Of a duration such as `0.200s`; None for none."""
    text = value if isinstance(value, str) else ""
    try:
        return float(text.removesuffix("s")) if text.endswith("s") else None
    except ValueError:
        return None
