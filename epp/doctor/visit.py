"""All checks that what is given allows, in an order in which the first error is the one to mend first."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from epp.doctor.access import check_access, needs
from epp.doctor.attached import check_attached
from epp.doctor.clocks import check_clocks, check_token
from epp.doctor.endpoints import Reading, check_endpoints, refused
from epp.doctor.envoy import check_dump
from epp.doctor.envoydump import Dump, DumpError, read_dump
from epp.doctor.files import check_config, read_endpoints
from epp.doctor.finding import Finding, Level, error, merged, skipped
from epp.doctor.identity import check_identity
from epp.doctor.kinds import check_kinds
from epp.doctor.picker import Address, check_health, check_picker
from epp.doctor.pools import Pools, check_pods_alone, check_pool, check_pools
from epp.doctor.request import check_request
from epp.doctor.upstreams import speaks_tls
from epp.doctor.web import FetchError, fetch, unchecked
from epp.domain.endpoint import EndpointSpec
from epp.domain.pool import POOL_GROUP, POOL_GROUPS, PoolSpec
from epp.kube.api import Kube
from epp.kube.credentials import ACCOUNT, Credentials, KubeConfigError

HEALTH_PORT = 9003
NEARBY_ENVOY = Address("127.0.0.1", 19000)
"""Where the files of deploy/envoy have its admin page."""
NEARBY_PICKER = Address("127.0.0.1", 9002)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where to look in a cluster."""

    kubeconfig: Path | None = None
    pool: str = ""
    """Empty for every pool."""
    namespace: str = ""
    """Empty for that of the credentials."""
    group: str = POOL_GROUP
    pool_selector: str = ""
    all_namespaces: bool = False
    account: str = ""
    """Whose rights are looked at: `namespace/name`, or a name; empty for whoever asks."""
    leader: bool = False
    slices: bool = False
    """Endpoints come from EndpointSlices."""
    pods: str = ""
    """Label selector of pods that are served without an InferencePool."""
    ports: tuple[int, ...] = ()
    """Of each such pod."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What there is to look at; empty for what is not given."""

    config: Path | None = None
    endpoints: Path | None = None
    envoy_admin: str = ""
    ext_proc_clusters: Sequence[str] = ()
    gateway: str = ""
    model: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of test requests."""
    insecure: bool = False
    """The gateway's certificate is not checked."""
    picker: Address | None = None
    health: Address | None = None
    cluster: Cluster | None = None


async def nearby(
    environ: Mapping[str, str],
    *,
    envoy: Address = NEARBY_ENVOY,
    picker: Address = NEARBY_PICKER,
    health_port: int = HEALTH_PORT,
) -> tuple[Patient, list[Finding]]:
    """What is there without being named: the cluster of the credentials, and the Envoy and the picker of this
    machine or pod. With findings for what is not."""
    absent: list[Finding] = []
    cluster = None
    try:
        Credentials(None, environ)
        cluster = Cluster()
    except KubeConfigError as problem:
        absent.append(skipped("cluster", str(problem), "name a file with --kubeconfig"))
    admin = f"http://{envoy}"
    if why := await refused(envoy.host, envoy.port):
        admin = ""
        absent.append(skipped("Envoy", f"no admin page at {envoy}: {why}", "name it with --envoy-admin"))
    found: Address | None = picker
    if why := await refused(picker.host, picker.port):
        found = None
        absent.append(skipped("picker", f"none at {picker}: {why}", "name it with --picker"))
    health = None if found is None else Address(found.host, health_port)
    return Patient(cluster=cluster, envoy_admin=admin, picker=found, health=health), absent


class Visit:
    """`findings` after `run`."""

    def __init__(self, patient: Patient, environ: Mapping[str, str] | None = None) -> None:
        self._patient = patient
        self._environ = os.environ if environ is None else environ
        self._skews: dict[str, float] = {}
        self._specs: list[EndpointSpec] = []
        self._pools: list[PoolSpec] = []
        self._reading = Reading()
        self._dump: Dump | None = None
        self.findings: list[Finding] = []

    async def run(self) -> None:
        patient = self._patient
        async with aiohttp.ClientSession() as client:
            self._files()
            if patient.cluster is not None:
                await self._cluster(client, patient.cluster)
            looked = await check_endpoints(client, self._specs, self._reading)
            self.findings += looked.findings
            self._skews |= looked.skews
            if patient.envoy_admin:
                await self._envoy(client, patient.envoy_admin)
            await self._picker()
            self.findings += check_clocks(self._skews)
            if patient.gateway:
                known = frozenset(looked.authorities)
                tls = unchecked() if patient.insecure else None
                gateway = patient.gateway.rstrip("/")
                self.findings += await check_request(
                    client, gateway, patient.model, known, patient.headers, tls
                )

    def _files(self) -> None:
        if self._patient.config is not None:
            findings, reading = check_config(self._patient.config)
            self.findings += findings
            self._reading = reading
        if self._patient.endpoints is not None:
            findings, specs = read_endpoints(self._patient.endpoints)
            self.findings += findings
            self._specs += specs

    async def _cluster(self, client: aiohttp.ClientSession, where: Cluster) -> None:
        try:
            kube = await Kube.open(where.kubeconfig, self._environ)
        except KubeConfigError as problem:
            self.findings.append(error("cluster", str(problem), "name a file with --kubeconfig"))
            return
        try:
            namespace = where.namespace or kube.namespace
            kinds = await check_kinds(kube, "" if where.pods else where.group)
            self.findings += kinds
            if len(kinds) == 1 and kinds[0].level is Level.ERROR:
                return  # nobody is there to ask
            skew_s = await server_skew(client, kube.server)
            if skew_s is not None:
                self._skews["the API server"] = skew_s
            token = ACCOUNT / "token"
            if where.kubeconfig is None and token.is_file():
                self.findings += check_token(token.read_bytes(), time.time())
            await self._rights(kube, where, namespace)
            pools = await self._found(kube, where, namespace)
            self.findings += pools.findings
            if not where.pods:
                self.findings += await check_attached(kube, None if where.all_namespaces else namespace)
            self._specs += pools.specs
            self._pools += pools.pools
        finally:
            await kube.close()

    async def _rights(self, kube: Kube, where: Cluster, namespace: str) -> None:
        account = where.account
        if account and "/" not in account:
            account = f"{namespace}/{account}"
        groups = () if where.pods else (where.group,) if where.pool else POOL_GROUPS
        wanted = needs(groups, everywhere=where.all_namespaces, leader=where.leader, slices=where.slices)
        self.findings += await check_access(kube, wanted, namespace, account)

    async def _found(self, kube: Kube, where: Cluster, namespace: str) -> Pools:
        if where.pods:
            return await check_pods_alone(kube, namespace, where.pods, where.ports)
        if where.pool:
            return await check_pool(kube, namespace, where.pool, where.group)
        return await check_pools(kube, None if where.all_namespaces else namespace, where.pool_selector)

    async def _envoy(self, client: aiohttp.ClientSession, admin: str) -> None:
        subject = f"Envoy's admin page {admin}"
        try:
            answer = await fetch(client, f"{admin.rstrip('/')}/config_dump")
            if answer.status != 200:
                raise FetchError(f"/config_dump answers {answer.status}")
            self._dump = read_dump(answer.body)
        except (FetchError, DumpError) as problem:
            mend = "name the admin port of the Envoy (`admin` in its configuration; in a pod: port-forward)"
            self.findings.append(error(subject, str(problem), mend))
            return
        if answer.skew_s is not None:
            self._skews["Envoy"] = answer.skew_s
        self.findings += check_dump(self._dump, self._patient.ext_proc_clusters)
        self.findings += merged(check_identity(self._dump, self._pools))

    async def _picker(self) -> None:
        inside = "KUBERNETES_SERVICE_HOST" in self._environ
        named = self._patient.picker
        pickers = [named] if named is not None else []
        healths = [self._patient.health] if self._patient.health is not None else []
        if named is not None and not healths:
            healths = [Address(named.host, HEALTH_PORT)]
        if not pickers:
            names = {
                (one.picker_service, one.namespace, one.picker_port) for one in self._pools if one.picker_port
            }
            pickers = [
                Address(f"{service}.{space}.svc", port) for service, space, port in sorted(names) if service
            ]
        for at in pickers:
            self.findings += await check_picker(at, gateway_tls=self._gateway_tls(), outside=not inside)
        for at in healths:
            self.findings += await check_health(at)

    def _gateway_tls(self) -> bool | None:
        """What Envoy speaks to the picker, where that is plain to see."""
        if self._dump is None:
            return None
        names = {one.cluster for manager in self._dump.managers for one in manager.ext_procs()}
        if self._patient.ext_proc_clusters:
            names &= set(self._patient.ext_proc_clusters)
        spoken = {speaks_tls(self._dump.clusters[name]) for name in names if name in self._dump.clusters}
        return spoken.pop() if len(spoken) == 1 else None


async def server_skew(client: aiohttp.ClientSession, server: str) -> float | None:
    """Of the API server's clock. Its certificate is not looked at, and nothing is told to it."""
    try:
        return (await fetch(client, f"{server}/version", tls=unchecked())).skew_s
    except FetchError:
        return None
