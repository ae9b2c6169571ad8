"""The files of a picker outside of a cluster: its configuration and its endpoints."""

from __future__ import annotations

from pathlib import Path

from epp.config.loader import load_file
from epp.config.problems import ConfigError
from epp.datalayer.endpoints_file import EndpointsFileError, parse_endpoints
from epp.doctor.endpoints import Reading
from epp.doctor.finding import Finding, error, ok, warning
from epp.domain.endpoint import EndpointSpec

_CHECK = "`epp check` says more; docs/plugins.md and docs/migrate.md have every setting"


def check_config(path: Path) -> tuple[list[Finding], Reading]:
    """And how it says that metrics are read."""
    subject = f"configuration {path}"
    try:
        loaded = load_file(path)
    except ConfigError as problem:
        return [error(subject, str(each), _CHECK) for each in problem.problems], Reading()
    except OSError as problem:
        return [error(subject, str(problem), "correct --config-file")], Reading()
    notices = [warning(subject, str(notice), _CHECK) for notice in loaded.notices]
    reading, data = Reading(), loaded.data
    reading = Reading(
        reading.source if data.scrape is None else data.scrape.source, data.engines or reading.choice
    )
    return [*notices, ok(subject, f"{len(loaded.instances)} plugins")], reading


def read_endpoints(path: Path) -> tuple[list[Finding], tuple[EndpointSpec, ...]]:
    subject = f"endpoints {path}"
    try:
        specs = parse_endpoints(path.read_bytes(), str(path))
    except EndpointsFileError as problem:
        return [error(subject, str(problem), "correct the file; it is used whole or not at all")], ()
    except OSError as problem:
        return [error(subject, str(problem), "correct --endpoints-file")], ()
    if not specs:
        return [error(subject, "it names no endpoint: every request gets 503", "add the model servers")], ()
    return [ok(subject, f"{len(specs)} endpoints")], specs
