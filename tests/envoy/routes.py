"""Routes of an Envoy that say, each in its way, which pool they are for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.stack import DEPLOY

POOL = "x-gateway-inference-pool"
EXT_PROC = "envoy.filters.http.ext_proc"
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
SET_METADATA = "envoy.filters.http.set_metadata"
SET_CONFIG = "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config"

Filters = dict[str, dict[str, Any]]


def overriding(**overrides: Any) -> Filters:
    return {EXT_PROC: {"@type": PER_ROUTE, "overrides": overrides}}


def in_the_call(pool: str) -> Filters:
    """Of one filter's calls, each route's carry its pool."""
    return overriding(grpc_initial_metadata=[{"key": POOL, "value": pool}])


def in_the_service(pool: str) -> Filters:
    """Each route has a gRPC service of its own."""
    service = {"envoy_grpc": {"cluster_name": "epp"}, "initial_metadata": [{"key": POOL, "value": pool}]}
    return overriding(grpc_service=service)


def in_dynamic_metadata(pool: str) -> Filters:
    """Written by a filter before ours."""
    told = {"metadata_namespace": "envoy.lb", "value": {POOL: pool}, "allow_overwrite": True}
    return {SET_METADATA: {"@type": SET_CONFIG, "metadata": [told]}}


def by_authority(pool: str) -> Filters:
    """The same picker, called by the name of each pool's Service."""
    return overriding(grpc_service={"envoy_grpc": {"cluster_name": "epp", "authority": pool}})


def configuration(name: str, directory: Path, routes: Mapping[str, Filters]) -> Path:
    """`deploy/envoy/<name>`, with a route for each of these prefixes before its own."""
    marks = (DEPLOY / name).read_text()
    before, sep, after = marks.partition("              routes:\n")
    added = [
        {
            "match": {"prefix": prefix},
            "route": {"cluster": "original_destination_cluster", "timeout": "0s", "prefix_rewrite": "/"},
            "typed_per_filter_config": filters,
        }
        for prefix, filters in routes.items()
    ]
    lines = "".join(f"              - {_flow(route)}\n" for route in added)
    setter = {"name": SET_METADATA, "typed_config": {"@type": SET_CONFIG}}
    before = before.replace(
        "          http_filters:\n", f"          http_filters:\n          - {_flow(setter)}\n"
    )
    seen = "forwarding_namespaces: {untyped: [envoy.lb.subset_hint"
    assert seen in before
    assert SET_METADATA in before
    path = directory / name
    path.write_text(before.replace(seen, f"{seen}, envoy.lb") + sep + lines + after)
    return path


def _flow(value: object) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, width=10_000)).strip()
