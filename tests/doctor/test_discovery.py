"""An Envoy that gets everything by discovery, as gateways configure theirs: its dump is read as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.stack import DEPLOY, answers, envoy, fetch, free_port
from epp.doctor.envoy import check_dump
from epp.doctor.envoydump import Dump, read_dump
from epp.doctor.finding import Level

from .test_envoy import connections, ext_proc, route

pytestmark = pytest.mark.envoy
TYPES = "type.googleapis.com/envoy.config"
EXT_PROC = "envoy.filters.http.ext_proc"


def source(path: Path) -> dict[str, Any]:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def write(path: Path, kind: str, resources: list[dict[str, Any]]) -> Path:
    found = [{"@type": f"{TYPES}.{kind}", **resource} for resource in resources]
    path.write_text(yaml.safe_dump({"resources": found}, width=10_000))
    return path


def dumped(directory: Path, config: dict[str, Any], *, extension: bool = False) -> Dump:
    """Listeners, routes and clusters out of files of their own; with `extension` the filter too."""
    admin = free_port()
    static = config.pop("static_resources")
    manager = connections({"static_resources": static})
    routes = write(directory / "rds.yaml", "route.v3.RouteConfiguration", [manager.pop("route_config")])
    manager["rds"] = {"route_config_name": "inference", "config_source": source(routes)}
    if extension:
        found = manager["http_filters"][0]
        typed = {"name": found["name"], "typed_config": found.pop("typed_config")}
        filters = write(directory / "ecds.yaml", "core.v3.TypedExtensionConfig", [typed])
        urls = [typed["typed_config"]["@type"]]
        found["config_discovery"] = {"config_source": source(filters), "type_urls": urls}
    listener = static["listeners"][0]
    listener["address"]["socket_address"].update(address="127.0.0.1", port_value=free_port())
    listeners = write(directory / "lds.yaml", "listener.v3.Listener", static["listeners"])
    clusters = write(directory / "cds.yaml", "cluster.v3.Cluster", static["clusters"])
    config["node"] = {"id": "doctor", "cluster": "doctor"}
    config["dynamic_resources"] = {"lds_config": source(listeners), "cds_config": source(clusters)}
    config["admin"]["address"]["socket_address"]["port_value"] = admin
    path = directory / "envoy.yaml"
    path.write_text(yaml.safe_dump(config, width=10_000) + f"# port: {admin}  # @admin\n")
    page = f"http://127.0.0.1:{admin}"
    with envoy(path, {"admin": admin}, directory) as child:
        child.wait_for(
            lambda: answers(f"{page}/ready") and "HttpConnectionManager" in fetch(f"{page}/config_dump")
        )
        return read_dump(fetch(f"{page}/config_dump").encode())


def deployed() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "standalone.yaml").read_text())
    return found


@pytest.mark.parametrize("extension", [False, True])
def test_what_is_right_and_what_is_wrong(tmp_path: Path, extension: bool) -> None:
    dump = dumped(tmp_path, deployed(), extension=extension)
    assert [one for one in check_dump(dump) if one.level is not Level.OK] == []
    (manager,) = dump.managers
    assert [one.cluster for one in manager.ext_procs()] == ["epp"]
    assert [one.clusters() for one in manager.routes] == [["original_destination_cluster"]]

    wrong = deployed()
    del ext_proc(wrong)["message_timeout"]
    del route(wrong)["route"]["timeout"]
    found = [
        one.found
        for one in check_dump(dumped(tmp_path, wrong, extension=extension))
        if one.level is Level.ERROR
    ]
    assert len(found) == 2
    assert found[0].startswith("message_timeout is")
    assert found[1].startswith("an answer may take 15 s")
