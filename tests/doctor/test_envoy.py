"""Real configuration dumps: of every file in deploy/envoy, and of each with something wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.stack import DEPLOY, ROOT, envoy, fetch, free_port
from epp.doctor.envoy import check_dump
from epp.doctor.envoydump import Dump, DumpError, read_dump
from epp.doctor.finding import Finding, Level
from epp.doctor.identity import check_identity
from epp.doctor.upstreams import addresses, speaks_tls
from epp.domain.pool import PoolSpec
from epp.extproc.certificates import self_signed

pytestmark = pytest.mark.envoy
MANIFESTS = [
    *(ROOT / "deploy" / "gateways").glob("*/*.yaml"),
    *(ROOT / "deploy" / "kustomize").glob("*/*.yaml"),
]
EMBEDDED = [path for path in sorted(MANIFESTS) if "  envoy.yaml: |" in path.read_text()]
CONFIGS = sorted(path.name for path in DEPLOY.glob("*.yaml"))
Edit = Callable[[dict[str, Any]], None]


def dumped(directory: Path, name: str, edit: Edit | None = None) -> Dump:
    """What a real Envoy shows of a file in deploy/envoy."""
    return shown(directory, (DEPLOY / name).read_text(), edit)


def shown(directory: Path, text: str, edit: Edit | None = None) -> Dump:
    """What it shows of a configuration."""
    admin = free_port()
    (directory / "ca.crt").write_bytes(self_signed().certificate)
    config = yaml.safe_load(text.replace("/etc/epp/tls/ca.crt", str(directory / "ca.crt")))
    config["admin"]["address"]["socket_address"]["port_value"] = admin
    config["static_resources"]["listeners"][0]["address"]["socket_address"].update(
        address="127.0.0.1", port_value=free_port()
    )
    if edit is not None:
        edit(config)
    path = directory / "envoy.yaml"
    path.write_text(yaml.safe_dump(config, width=10_000) + f"# port: {admin}  # @admin\n")
    with envoy(path, {"admin": admin}, directory):
        return read_dump(fetch(f"http://127.0.0.1:{admin}/config_dump").encode())


@pytest.mark.parametrize("name", CONFIGS)
def test_our_own_are_free_of_errors(tmp_path: Path, name: str) -> None:
    dump = dumped(tmp_path, name)
    assert dump.version == "1.40.0"
    findings = check_dump(dump)
    assert not [one for one in findings if one.level is Level.ERROR]
    warned = [one.found for one in findings if one.level is Level.WARNING]
    if name == "streamed.yaml":
        assert len(warned) == 1
        assert warned[0].startswith("request_body_mode is STREAMED")
    else:
        assert warned == []
    called = {one.cluster for manager in dump.managers for one in manager.ext_procs()}
    assert called == (
        {"epp"} if name != "route-by-model.yaml" else {"route_by_model", "epp_llama", "epp_mistral"}
    )
    if "epp" in called:
        assert addresses(dump.clusters["epp"]) == [("127.0.0.1", 9002)]
        assert speaks_tls(dump.clusters["epp"]) == (name == "standalone-tls.yaml")


@pytest.mark.parametrize("path", EMBEDDED, ids=[str(path.relative_to(ROOT / "deploy")) for path in EMBEDDED])
def test_those_in_our_manifests_are_free_of_errors(tmp_path: Path, path: Path) -> None:
    documents = [one for one in yaml.safe_load_all(path.read_text()) if one]
    texts = [one["data"]["envoy.yaml"] for one in documents if "envoy.yaml" in (one.get("data") or {})]
    assert texts
    for text in texts:
        findings = check_dump(shown(tmp_path, text))
        assert [one for one in findings if one.level is not Level.OK] == []


def test_some_manifests_have_an_envoy() -> None:
    assert len(EMBEDDED) >= 2


def connections(config: dict[str, Any]) -> dict[str, Any]:
    """The HTTP connection manager."""
    listener = config["static_resources"]["listeners"][0]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def ext_proc(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = connections(config)["http_filters"][0]["typed_config"]
    return found


def route(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = connections(config)["route_config"]["virtual_hosts"][0]["routes"][0]
    return found


def cluster(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in config["static_resources"]["clusters"] if one["name"] == name)
    return found


def http2(config: dict[str, Any]) -> dict[str, Any]:
    (options,) = cluster(config, "epp")["typed_extension_protocol_options"].values()
    found: dict[str, Any] = options["explicit_http_config"]["http2_protocol_options"]
    return found


def mode(**modes: str) -> Edit:
    return lambda config: ext_proc(config)["processing_mode"].update(modes)


def setting(name: str, value: object) -> Edit:
    return lambda config: ext_proc(config).update({name: value})


def without(name: str) -> Edit:
    return lambda config: ext_proc(config).pop(name)


def unstripped(config: dict[str, Any]) -> None:
    del connections(config)["early_header_mutation_extensions"]


def unstripped_and_open(config: dict[str, Any]) -> None:
    unstripped(config)
    ext_proc(config)["failure_mode_allow"] = True


def unasked(config: dict[str, Any]) -> None:
    """One route without ext_proc, to servers that a header chooses."""
    unstripped(config)
    per_route = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
    off = {"envoy.filters.http.ext_proc": {"@type": per_route, "disabled": True}}
    routes = connections(config)["route_config"]["virtual_hosts"][0]["routes"]
    routes.insert(0, {**route(config), "match": {"prefix": "/raw"}, "typed_per_filter_config": off})


def overridden(config: dict[str, Any]) -> None:
    """One route whose override routes at the headers."""
    per_route = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
    changed = {"processing_mode": {"request_header_mode": "SKIP"}}
    override = {"envoy.filters.http.ext_proc": {"@type": per_route, "overrides": changed}}
    routes = connections(config)["route_config"]["virtual_hosts"][0]["routes"]
    other = {**route(config), "name": "odd", "match": {"prefix": "/odd"}, "typed_per_filter_config": override}
    routes.insert(0, other)


def http1(config: dict[str, Any]) -> None:
    del cluster(config, "epp")["health_checks"]  # Envoy itself refuses these without HTTP/2
    (options,) = cluster(config, "epp")["typed_extension_protocol_options"].values()
    options["explicit_http_config"] = {"http_protocol_options": {}}


def other_header(config: dict[str, Any]) -> None:
    lookup = cluster(config, "original_destination_cluster")["original_dst_lb_config"]
    del lookup["http_header_name"]


def small_buffer(config: dict[str, Any]) -> None:
    del config["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"]


def idle_engines(config: dict[str, Any]) -> None:
    (options,) = cluster(config, "original_destination_cluster")["typed_extension_protocol_options"].values()
    del options["common_http_protocol_options"]


def cluster_without(name: str) -> Edit:
    return lambda config: cluster(config, "epp").pop(name)


def http2_without(name: str) -> Edit:
    return lambda config: http2(config).pop(name)


def deadline(timeout: str) -> Edit:
    return lambda config: ext_proc(config)["grpc_service"].update(timeout=timeout)


def impatient(config: dict[str, Any]) -> None:
    del route(config)["route"]["timeout"]


def silent(config: dict[str, Any]) -> None:
    del route(config)["response_headers_to_add"]


def unfiltered(config: dict[str, Any]) -> None:
    del connections(config)["http_filters"][0]


def override_host(source: dict[str, Any]) -> Edit:
    """Servers that Envoy knows by itself, of which the picker chooses one."""

    def edit(config: dict[str, Any]) -> None:
        servers = cluster(config, "original_destination_cluster")
        for name in ("original_dst_lb_config", "lb_policy"):
            del servers[name]
        address = {"socket_address": {"address": "127.0.0.1", "port_value": 8000}}
        hosts = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
        policies = "type.googleapis.com/envoy.extensions.load_balancing_policies"
        first = {"name": "rr", "typed_config": {"@type": f"{policies}.round_robin.v3.RoundRobin"}}
        chosen = {
            "@type": f"{policies}.override_host.v3.OverrideHost",
            "override_host_sources": [source],
            "fallback_policy": {"policies": [{"typed_extension_config": first}]},
        }
        policy = {"name": "override_host", "typed_config": chosen}
        servers.update(
            type="STATIC",
            load_assignment={"cluster_name": "original_destination_cluster", "endpoints": hosts},
            load_balancing_policy={"policies": [{"typed_extension_config": policy}]},
        )

    return edit


BY_HEADER = override_host({"header": "x-gateway-destination-endpoint"})
BY_METADATA = override_host(
    {"metadata": {"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint"}]}}
)


def unreceived(config: dict[str, Any]) -> None:
    BY_METADATA(config)
    del ext_proc(config)["metadata_options"]["receiving_namespaces"]


def overridable(config: dict[str, Any]) -> None:
    BY_HEADER(config)
    unstripped_and_open(config)


E, W = Level.ERROR, Level.WARNING
WRONG: list[tuple[str, str, Edit, Level, str]] = [
    ("headers skipped", "standalone.yaml", mode(request_header_mode="SKIP"), E, "headers go before"),
    ("routed at headers", "buffered.yaml", mode(request_body_mode="NONE"), W, "request_body_mode is NONE"),
    ("answer gathered", "buffered.yaml", mode(response_body_mode="BUFFERED"), E, "no answer is streamed"),
    ("answer headers", "buffered.yaml", mode(response_header_mode="SKIP"), W, "response_header_mode is SKIP"),
    ("ends unseen", "ends.yaml", mode(response_trailer_mode="SKIP"), W, "answers end for the picker"),
    ("default patience", "standalone.yaml", without("message_timeout"), E, "Envoy's default of 200 ms"),
    ("no patience", "standalone.yaml", setting("message_timeout", "0s"), E, "message_timeout is 0 s"),
    ("little patience", "standalone.yaml", setting("message_timeout", "0.5s"), E, "message_timeout is 0.5 s"),
    ("some patience", "standalone.yaml", setting("message_timeout", "30s"), W, "message_timeout is 30 s"),
    ("impatient stream", "standalone.yaml", setting("message_timeout", "3600s"), W, "which ends waiting"),
    ("deadline", "standalone.yaml", deadline("30s"), E, "grpc_service.timeout is 30 s"),
    ("late deadline", "standalone.yaml", deadline("7200s"), W, "timeout is 7200 s"),
    ("open to nothing", "standalone.yaml", setting("failure_mode_allow", True), E, "no host for a request"),
    ("not obeyed", "buffered.yaml", setting("disable_immediate_response", True), E, "disable_immediate"),
    ("mute", "standalone.yaml", setting("mutation_rules", {"disallow_all": True}), E, "disallow_all"),
    ("forged", "standalone.yaml", unstripped, W, "is not removed from requests"),
    ("forged, open", "standalone.yaml", unstripped_and_open, E, "is not removed from requests"),
    ("forged, unasked", "standalone.yaml", unasked, E, "is not removed from requests"),
    ("unreceived", "standalone.yaml", unreceived, E, "receiving_namespaces lacks envoy.lb"),
    ("forged, with hosts", "standalone.yaml", overridable, E, "is not removed from requests"),
    ("override", "standalone.yaml", overridden, E, "request_header_mode is SKIP"),
    ("small buffer", "buffered.yaml", small_buffer, W, "the listener buffers 1 MiB"),
    ("HTTP/1", "standalone.yaml", http1, E, "does not speak HTTP/2"),
    ("frames", "standalone.yaml", http2_without("max_outbound_frames"), W, "max_outbound"),
    ("streams", "standalone.yaml", http2_without("max_concurrent_streams"), W, "few requests"),
    ("keepalive", "standalone.yaml", http2_without("connection_keepalive"), W, "is lost"),
    ("health", "standalone.yaml", cluster_without("health_checks"), W, "health check"),
    ("breaker", "standalone.yaml", cluster_without("circuit_breakers"), W, "breaker"),
    ("other header", "standalone.yaml", other_header, E, "which the picker does not set"),
    ("idle", "standalone.yaml", idle_engines, W, "an hour"),
    ("default route", "standalone.yaml", impatient, E, "may take 15 s"),
    ("served", "standalone.yaml", silent, W, "really answered"),
    ("no filter", "standalone.yaml", unfiltered, E, "no listener has an ext_proc filter"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "edit", "level", "words"), [row[1:] for row in WRONG], ids=[w[0] for w in WRONG]
)
def test_what_is_wrong_is_found(tmp_path: Path, name: str, edit: Edit, level: Level, words: str) -> None:
    findings = check_dump(dumped(tmp_path, name, edit))
    found = [one for one in findings if words in one.found]
    assert [one.level for one in found] == [level], findings
    assert found[0].mend


@pytest.mark.parametrize("edit", [BY_HEADER, BY_METADATA])
def test_servers_that_envoy_knows_by_itself(tmp_path: Path, edit: Edit) -> None:
    findings = check_dump(dumped(tmp_path, "standalone.yaml", edit))
    assert {one.level for one in findings} == {Level.OK}
    assert "takes its host from the picker" in [one.found for one in findings]

    def opened(config: dict[str, Any]) -> None:
        edit(config)
        ext_proc(config)["failure_mode_allow"] = True

    assert Level.ERROR not in {one.level for one in check_dump(dumped(tmp_path, "standalone.yaml", opened))}


def pools() -> list[PoolSpec]:
    made = [PoolSpec("a", "one", "app=one", (8000,)), PoolSpec("b", "two", "app=two", (8000,))]
    made.append(PoolSpec("b", "one", "app=one", (8000,), picker_service="one-picker"))
    return made


def saying(**override: Any) -> Edit:
    """The route's own settings."""
    per_route = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"

    def edit(config: dict[str, Any]) -> None:
        filters = {"envoy.filters.http.ext_proc": {"@type": per_route, "overrides": override}}
        route(config)["typed_per_filter_config"] = filters

    return edit


def naming(pool: str) -> Edit:
    return saying(grpc_initial_metadata=[{"key": "x-gateway-inference-pool", "value": pool}])


def calling(authority: str) -> Edit:
    return saying(grpc_service={"envoy_grpc": {"cluster_name": "epp", "authority": authority}})


def forwarding(config: dict[str, Any]) -> None:
    ext_proc(config)["metadata_options"]["forwarding_namespaces"]["untyped"].append("envoy.lb")


@pytest.mark.parametrize(
    ("edit", "level", "words"),
    [
        (naming("a/one"), Level.OK, "is for pool a/one"),
        (naming("two"), Level.OK, "is for pool two"),
        (naming("one"), E, "2 pools are called one"),
        (naming("c/three"), E, "which is not there"),
        (calling("One-Picker.b.svc.cluster.local:9002"), Level.OK, "is for pool b/one"),
        (calling("other.b.svc:9002"), E, "does not say which of 3 pools"),
        (None, E, "does not say which of 3 pools"),
        (forwarding, Level.SKIPPED, "a filter before it may say"),
    ],
)
def test_which_pool_a_route_is_for(tmp_path: Path, edit: Edit | None, level: Level, words: str) -> None:
    dump = dumped(tmp_path, "standalone.yaml", edit)
    (finding,) = check_identity(dump, pools())
    assert (finding.level, words in finding.found) == (level, True), finding
    assert not list(check_identity(dump, pools()[:1]))


def test_a_filter_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    dump = dumped(tmp_path, "standalone.yaml", mode(request_header_mode="SKIP"))
    assert [one.found for one in check_dump(dump, ["another"])] == [
        "no listener has an ext_proc filter that asks a picker"
    ]
    assert Level.ERROR in {one.level for one in check_dump(dump, ["epp"])}


def test_a_filter_that_only_some_routes_put_to_work(tmp_path: Path) -> None:
    """As gateways do: the base asks nobody, and routes with models override it."""

    def edit(config: dict[str, Any]) -> None:
        base = ext_proc(config)
        overrides = {"processing_mode": base["processing_mode"], "grpc_service": base["grpc_service"]}
        saying(**overrides)(config)
        skip = {f"{side}_header_mode": "SKIP" for side in ("request", "response")}
        base.update(processing_mode=skip, grpc_service={"envoy_grpc": {"cluster_name": "nobody"}})
        routes = connections(config)["route_config"]["virtual_hosts"][0]["routes"]
        routes.insert(0, {"match": {"path": "/ready"}, "direct_response": {"status": 200}})
        config["static_resources"]["clusters"].append({"name": "nobody", "connect_timeout": "1s"})

    dump = dumped(tmp_path, "standalone.yaml", edit)
    assert {one.level for one in check_dump(dump)} == {Level.OK}
    assert [(one.cluster, len(one.routes)) for one in dump.managers[0].ext_procs()] == [("epp", 1)]


def test_a_route_with_settings_of_its_own_is_named(tmp_path: Path) -> None:
    findings: list[Finding] = check_dump(dumped(tmp_path, "standalone.yaml", overridden))
    (wrong,) = [one for one in findings if one.level is Level.ERROR]
    assert wrong.subject == "inference: ext_proc to epp (route odd)"


@pytest.mark.parametrize("page", [b"", b"<html>", b"[]", b"{}", b'{"configs": 7}', b'{"configs": []}'])
def test_another_page_is_no_dump(page: bytes) -> None:
    with pytest.raises(DumpError):
        read_dump(page)
