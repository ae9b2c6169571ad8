"""What one room reports, put into another's words: plugin costs, scrape errors, reachability."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Protocol, runtime_checkable

from epp.datalayer.outliers import Fault, Outliers
from epp.domain.endpoint import Endpoint
from epp.telemetry.metrics import Metrics

log = logging.getLogger("epp.app")


class PluginCounts:
    """PluginSink into the metrics; a broken plugin is also named in the log, once."""

    def __init__(self, metrics: Metrics) -> None:
        self.timed = metrics.plugin_seconds
        self._metrics = metrics
        self._named: set[str] = set()

    def fault(self, extension_point: str, type_name: str, name: str, what: str) -> None:
        self._metrics.plugin_fault(name)
        if name not in self._named:
            self._named.add(name)
            log.error("plugin %s (%s) failed and was left out: %s", name, extension_point, what)


@runtime_checkable
class SizedIndex(Protocol):
    """A plugin that keeps a prefix index."""

    @property
    def entries(self) -> int: ...


def entries_of(index: SizedIndex) -> float:
    return float(index.entries)


class ScrapeCounts:
    """ScrapeErrors into the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self.poll_errors = metrics.poll_error
        self.extract_errors = metrics.extract_error


class Reach:
    """Reachability into the outliers: an engine that is not there is avoided before a request finds out."""

    def __init__(self, outliers: Outliers, metrics: Metrics) -> None:
        self._outliers = outliers
        self._metrics = metrics

    def refused(self, endpoint: Endpoint) -> None:
        if self._outliers.failure(endpoint.slot, monotonic(), Fault.CONNECT):
            self._metrics.ejected()
            if self._outliers.rounds(endpoint.slot) == 1:  # not again and again for one that stays away
                words = "avoiding %s at %s until it answers: it refuses connections"
                log.warning(words, endpoint.key, endpoint.authority)

    def listens(self, endpoint: Endpoint) -> None:
        self._outliers.success(endpoint.slot)
