"""Which pool Envoy says a route is for, where one picker serves several. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from epp.doctor.envoydump import Dump, ExtProc, Manager, items, mapping
from epp.doctor.finding import Finding, error, listed, ok, skipped
from epp.doctor.modes import LB_NAMESPACE, place
from epp.domain.pool import PoolSpec, service_of

POOL_HEADER = "x-gateway-inference-pool"


def check_identity(dump: Dump, pools: Sequence[PoolSpec]) -> Iterator[Finding]:
    """Nothing where there is one pool, which needs no name."""
    if len(pools) < 2:
        return
    for manager in dump.managers:
        for variant in manager.ext_procs():
            if not variant.requests_only:
                yield _variant(manager, variant, pools)


def _variant(manager: Manager, variant: ExtProc, pools: Sequence[PoolSpec]) -> Finding:
    subject = place(manager, variant)
    named = _named(variant)
    if named:
        called = [pool.key for pool in pools if named in (pool.key, pool.name)]
        if named in called or len(called) == 1:
            return ok(subject, f"is for pool {named}")
        if called:
            mend = f"write it with its namespace, such as {called[0]}"
            return error(subject, f"{len(called)} pools are called {named}: 503", mend)
        return error(
            subject, f"is for pool {named}, which is not there: 503", f"name one of {listed(_keys(pools))}"
        )
    authority = _authority(variant)
    service = service_of(authority)
    called = [pool.key for pool in pools if service == f"{pool.picker_service}.{pool.namespace}"]
    if len(called) == 1:
        return ok(
            subject, f"is for pool {called[0]}, whose picker's Service it calls; needs the native transport"
        )
    if LB_NAMESPACE in variant.metadata("forwarding_namespaces"):
        return skipped(subject, "a filter before it may say which pool it is for; that is not seen here")
    return error(
        subject,
        f"it does not say which of {len(pools)} pools it is for, and calls {authority or 'the picker'}, the "
        f"Service of {'none' if not called else 'several'} of them: 503",
        f"name the pool in the route: ExtProcPerRoute overrides.grpc_initial_metadata {POOL_HEADER} "
        f"(docs/many-pools.md)",
    )


def _keys(pools: Sequence[PoolSpec]) -> list[str]:
    return sorted(pool.key for pool in pools)


def _named(variant: ExtProc) -> str:
    """Of repeated ones the last counts; those of the route come behind those of the service."""
    told = [*items(variant.service.get("initial_metadata")), *items(variant.raw.get("grpc_initial_metadata"))]
    named = [str(each.get("value", "")) for each in told if str(each.get("key", "")).lower() == POOL_HEADER]
    return named[-1] if named else ""


def _authority(variant: ExtProc) -> str:
    return str(mapping(variant.service.get("envoy_grpc")).get("authority") or variant.cluster)
