"""What is counted of body-based routing: the reference's names in a table of their own, and the transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client import exposition as prometheus_text
from prometheus_client.openmetrics import exposition as openmetrics_text

from epp.bodyrouting.steps import Step
from epp.domain.errors import Refused
from epp.telemetry import table
from epp.telemetry.buckets import SCHEDULING_S
from epp.telemetry.render import EOF, View
from epp.telemetry.series import Cell, Histogram, Key
from epp.telemetry.table import Kind, Metric

REQUEST: Final = "request"
"""The only point at which plugins run."""

INFO = Metric(
    "bbr_info", Kind.GAUGE, "Always 1; its labels say which build this is.", ("commit", "build_ref")
)
SUCCESS = Metric("bbr_success_total", Kind.COUNTER, "Requests of which at least one header could be set.")
NOT_FOUND = Metric(
    "bbr_body_field_not_found_total",
    Kind.COUNTER,
    "Request bodies without this field, or with a list or an object there.",
    ("field",),
)
EMPTY = Metric(
    "bbr_body_field_empty_total", Kind.COUNTER, "Request bodies with nothing in this field.", ("field",)
)
PLUGIN = Metric(
    "bbr_plugin_duration_seconds",
    Kind.HISTOGRAM,
    "Seconds of one run of a plugin; the first has the reading of the body too.",
    ("extension_point", "plugin_type", "plugin_name"),
    SCHEDULING_S,
)
NAMES = Metric("epp_base_models", Kind.GAUGE, "Adapters and base models whose base model is known.")
BLIND = Metric(
    "epp_bodies_not_shown_total",
    Kind.COUNTER,
    "Requests whose body the gateway does not show in time (request_body_mode STREAMED or NONE).",
)
_SHARED = (
    table.TRANSPORT, table.HANDOFF, table.CONNECTIONS, table.HANDSHAKES, table.VIOLATIONS,
    table.INTERNAL_ERRORS, table.REFUSALS,
)  # fmt: skip
TABLE: Final[Mapping[str, Metric]] = {
    metric.name: metric for metric in (INFO, SUCCESS, NOT_FOUND, EMPTY, PLUGIN, NAMES, BLIND, *_SHARED)
}
"""All there are, by name."""


class BodyMetrics:
    """Written by the event loop alone. Also a StreamSink."""

    def __init__(self, steps: Sequence[Step], *, build_ref: str = "", commit: str = "") -> None:
        self._numbers: dict[str, dict[Key, float]] = {
            name: {} if metric.labels else {(): 0}
            for name, metric in TABLE.items()
            if metric.kind is not Kind.HISTOGRAM
        }
        self._numbers[INFO.name][commit, build_ref] = 1
        self._durations = [Histogram(PLUGIN.bounds) for _ in steps]
        self._plugins = [(REQUEST, step.type, step.name) for step in steps]
        for metric in (NOT_FOUND, EMPTY):
            # From the start, so that a rate of them is seen; there are as many as plugins.
            self._numbers[metric.name] = {(step.field,): 0 for step in steps}
        self._handoff = Histogram(table.HANDOFF.bounds)
        self._collect: Callable[[], None] | None = None
        self._names: Callable[[], int] | None = None
        self._views = {
            name: View(metric, name, metric.labels, metric.labels, f"[ALPHA] {metric.help}", metric.buckets)
            for name, metric in TABLE.items()
        }
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)

    def watch_transport(self, name: str, collect: Callable[[], None]) -> None:
        """Name the transport; `collect` is called before every reading."""
        self._numbers[table.TRANSPORT.name][(name,)] = 1
        self._collect = collect

    def watch_base_models(self, count: Callable[[], int]) -> None:
        self._names = count

    # -- one request -------------------------------------------------------------------------------------

    def ran(self, step: int, seconds: float) -> None:
        """By the place of the step."""
        self._durations[step].observe(seconds)

    def succeeded(self) -> None:
        self._add(SUCCESS)

    def not_found(self, field: str) -> None:
        self._add(NOT_FOUND, (field,))

    def empty(self, field: str) -> None:
        self._add(EMPTY, (field,))

    def not_shown(self) -> None:
        self._add(BLIND)

    def refused(self, refused: Refused) -> None:
        row = refused.reason.value
        self._add(table.REFUSALS, (row.code, str(row.status)))

    # -- the transport -----------------------------------------------------------------------------------

    def stream_opened(self) -> None:
        """Streams are as many as requests: not shown."""

    def stream_closed(self, code: str, seconds: float) -> None:
        """Likewise."""

    def streams(
        self, opened: int, closed: Mapping[str, int], durations: Sequence[int], total_s: float
    ) -> None:
        """Likewise."""

    def handoffs(self, counts: Sequence[int], total_s: float) -> None:
        if counts:
            self._handoff.add_counts(counts, total_s)

    def connections(self, now_open: int, failed: int) -> None:
        self._numbers[table.CONNECTIONS.name][()] = now_open
        self._add(table.HANDSHAKES, (), failed)

    def protocol_violation(self, kind: str) -> None:
        self._add(table.VIOLATIONS, (kind,))

    def internal_error(self, where: str) -> None:
        self._add(table.INTERNAL_ERRORS, (where,))

    # -- reading -----------------------------------------------------------------------------------------

    def render(self, openmetrics: bool = False) -> Iterator[str]:
        if self._collect is not None:
            self._collect()
        if self._names is not None:
            self._numbers[NAMES.name][()] = self._names()
        for name, view in self._views.items():
            cells = list(self._cells(name))
            if cells:
                yield view.header(openmetrics) + "".join(line for cell in cells for line in view.lines(*cell))
        if openmetrics:
            process = openmetrics_text.generate_latest(self._process)  # type: ignore[no-untyped-call]
            yield process.decode().removesuffix(EOF)
            yield EOF
        else:
            yield prometheus_text.generate_latest(self._process).decode()

    def _cells(self, name: str) -> Iterator[Cell]:
        if name == PLUGIN.name:
            yield from zip(self._plugins, self._durations, strict=True)
        elif name == table.HANDOFF.name:
            yield (), self._handoff
        else:
            yield from self._numbers[name].items()

    def _add(self, metric: Metric, key: Key = (), by: float = 1) -> None:
        cells = self._numbers[metric.name]
        cells[key] = cells.get(key, 0) + by
