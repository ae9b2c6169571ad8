"""Envoy: what its configuration, as its admin page shows it, does to the picker. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from epp.doctor.envoydump import Dump
from epp.doctor.finding import Finding, error, merged
from epp.doctor.modes import check_filter
from epp.doctor.routes import check_routes
from epp.doctor.upstreams import check_clusters


def check_dump(dump: Dump, clusters: Iterable[str] = ()) -> list[Finding]:
    """`clusters`: only of ext_proc filters that call one of these; of all without."""
    wanted = frozenset(clusters)
    findings: list[Finding] = []
    for manager in dump.managers:
        variants = [one for one in manager.ext_procs() if not wanted or one.cluster in wanted]
        if variants:
            findings += [finding for one in variants for finding in check_filter(manager, one)]
            findings += check_routes(dump, manager)
    if not findings:
        return [
            error(
                "ext_proc",
                "no listener has an ext_proc filter that asks a picker",
                "add envoy.filters.http.ext_proc before the router (deploy/envoy/standalone.yaml)",
            )
        ]
    return merged([*findings, *check_clusters(dump)])
