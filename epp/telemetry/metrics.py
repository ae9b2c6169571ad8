"""The picker's metrics: one object that every room writes to and the metrics page reads from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client import exposition as prometheus_text
from prometheus_client.openmetrics import exposition as openmetrics_text

from epp.domain.endpoint import Endpoint
from epp.domain.errors import Refused
from epp.domain.views import Clock, Ending, InflightView, SnapshotSource
from epp.telemetry import table
from epp.telemetry.configs import ConfigMetrics
from epp.telemetry.flow import FlowMetrics, QueuesView, Saturation, SaturationView
from epp.telemetry.pool import Pool
from epp.telemetry.pools import AnswersSource, Pools, Sheet
from epp.telemetry.render import EOF, render
from epp.telemetry.series import OTHER, Cell, Histogram, Key, Names, RequestMeter
from epp.telemetry.table import TABLE, Kind, Metric

FORGET_EVERY = 1000
"""Once in so many label sets too many, those of endpoints that are gone are looked for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far labels that others make up may grow."""

    names: int = 1000
    """Distinct model names; the reference's limit."""
    flows: int = 1000
    """Distinct fairness ids."""
    meters: int = 2000
    """Label sets of requests; from there on the fairness id is left out, from twice that on everything is."""
    queues: int = 10_000
    """Label sets of queues, of all pools together; of one pool no more than `meters`."""
    cells: int = 10_000
    """Label sets of any other metric."""


_REQUEST_CELLS: dict[str, Callable[[RequestMeter], Iterable[Cell]]] = {
    table.REQUESTS.name: lambda m: ((m.key, m.requests),) if m.requests else (),
    table.ERRORS.name: lambda m: [((*m.key, code), count) for code, count in m.errors.items()],
    table.DURATION.name: lambda m: ((m.key, m.duration),),
    table.REQUEST_SIZE.name: lambda m: ((m.key, m.request_size),),
    table.ANSWER_SIZE.name: lambda m: ((m.key, m.answer_size),),
    table.INPUT_TOKENS.name: lambda m: ((m.key, m.input_tokens),),
    table.OUTPUT_TOKENS.name: lambda m: ((m.key, m.output_tokens),),
    table.CACHED_TOKENS.name: lambda m: ((m.key, m.cached_tokens),),
    table.RUNNING.name: lambda m: ((m.key, m.running),) if m.requests else (),
    table.NTPOT.name: lambda m: ((m.key, m.ntpot),),
    table.TTFT.name: lambda m: (((*m.key, "true"), m.ttft_streaming), ((*m.key, "false"), m.ttft)),
    table.TPOT.name: lambda m: ((m.key, m.tpot),),
    table.ITL.name: lambda m: ((m.key, m.itl),),
}

_ENDINGS: dict[Ending, Key] = {ending: (ending.value,) for ending in Ending}


class Metrics:
    """Written by the event loop alone. `stream_metrics`: --enable-grpc-stream-metrics."""

    def __init__(
        self,
        *,
        commit: str = "",
        build_ref: str = "",
        stream_metrics: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._models = Names(self._limits.names)
        self._flows = Names(self._limits.flows)
        self._meters: dict[tuple[str, str, str, int | None], RequestMeter] = {}
        self._numbers: dict[str, dict[Key, float]] = {}
        self._histograms: dict[str, dict[Key, Histogram]] = {}
        for metric in TABLE.values():
            if metric.name in _REQUEST_CELLS or metric is table.DISPATCH_CYCLE:
                continue  # counted elsewhere
            if metric.kind is Kind.HISTOGRAM:
                cells: dict[Key, Histogram] = {}
                if not metric.labels:
                    cells[()] = Histogram(metric.bounds)
                self._histograms[metric.name] = cells
            else:
                self._numbers[metric.name] = {}
                if metric.kind is Kind.COUNTER and not metric.labels:
                    self._numbers[metric.name][()] = 0
        self._numbers[table.INFO.name][(commit, build_ref)] = 1
        self._plugins = self._histograms[table.PLUGIN.name]
        self._attempts = self._numbers[table.ATTEMPTS.name]
        self._scheduling = self._histograms[table.SCHEDULING.name][()]
        self.request_processing = self._histograms[table.REQUEST_PROCESSING.name][()]
        """`.observe(seconds)`: from the request's headers until it went on to its endpoint."""
        self.answer_processing = self._histograms[table.ANSWER_PROCESSING.name][()]
        """`.observe(seconds)`: our own time on one answer, summed over its chunks."""
        self.configs = ConfigMetrics()
        """Told of configurations that are loaded and refused."""
        self._prefixes: dict[Key, tuple[Histogram, Histogram]] = {}
        """Ratios and bytes by plugin."""
        self._endings = self._numbers[table.ENDINGS.name]
        self._stream_duration = self._histograms[table.STREAM_DURATION.name][()]
        self._streams = 0
        self._overflows = 0
        self._pools = Pools(
            self._models, self._flows, most=self._limits.queues, most_of_a_pool=self._limits.meters
        )
        self._hidden = frozenset() if stream_metrics else table.STREAM_METRICS
        self._collect: Callable[[], None] | None = None
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)

    # -- pools, by the name that their series carry ----------------------------------------------------

    def pin_models(self, names: Iterable[str], pool: str = "") -> None:
        """Model names that are shown whatever clients make up: the pool's, in place of those it had."""
        self._models.pin(names, pool)

    def pin_flows(self, fairness_ids: Iterable[str], pool: str = "") -> None:
        """The same for fairness ids: those of the configuration, added to those it had."""
        self._flows.pin(self._flows.pinned(pool).union(fairness_ids), pool)

    def watch_pool(
        self,
        name: str,
        source: SnapshotSource,
        inflight: InflightView,
        clock: Clock,
        fresh_s: float = 2.0,
    ) -> None:
        """Show this pool's gauges. `fresh_s`: --metrics-staleness-threshold."""
        self._pools.pools[name] = Pool(name, source, inflight, clock, fresh_s)

    def unwatch_pool(self, name: str) -> None:
        """Nothing of this pool is shown any more, but its share of counts that all pools have together."""
        self._pools.remove(name)
        self._models.pin((), name)
        self._flows.pin((), name)
        self.configs.config_gone(name)
        self._count_notices()

    def watch_prefix_index(
        self, plugin_name: str, plugin_type: str, size: Callable[[], float], pool: str = ""
    ) -> None:
        """Show the blocks that a prefix index holds; `size` is asked at every scrape."""
        self._pools.watch_index(pool, (plugin_name, plugin_type), size)

    def unwatch_prefix_indexes(self, pool: str = "") -> None:
        self._pools.without_indexes(pool)

    def watch_transport(self, name: str, collect: Callable[[], None]) -> None:
        """Name the transport; `collect` is called before every reading."""
        self._numbers[table.TRANSPORT.name][(name,)] = 1
        self._collect = collect

    def watch_saturation(self, pool: str, detector: str, source: SaturationView) -> None:
        """Show how full the pool is, as this detector sees it."""
        self._pools.saturations[pool] = Saturation(pool, detector, source)

    def flow_control(self, pool: str, view: QueuesView, clock: Clock) -> FlowMetrics:
        """Show the pool's queues; whoever runs them counts in what this returns. Asked again, the counts go
        on, and the queues are those of the new view."""
        flow = self._pools.flow(pool, lambda: FlowMetrics(pool, view, clock, self._pools.totals))
        flow.view = view
        return flow

    def unwatch_flow_control(self, pool: str) -> None:
        """The pool has no queues any more."""
        self._pools.without_flow(pool)

    def watch_answers(self, source: AnswersSource, pool: str = "") -> None:
        """Show which answers are looked at."""
        self._pools.watch_answers(pool, source)

    def cluster(self, unfollowed: int, leading: bool | None) -> None:
        """Lists that are not followed right now; `leading` None without leader election."""
        self._numbers[table.UNFOLLOWED.name][()] = unfollowed
        if leading is not None:
            self._numbers[table.LEADING.name][()] = int(leading)

    def config_notices(self, count: int, pool: str = "") -> None:
        self._pools.notices[pool] = count
        self._count_notices()

    def _count_notices(self) -> None:
        self._numbers[table.CONFIG_NOTICES.name][()] = sum(self._pools.notices.values())

    # -- one request -------------------------------------------------------------------------------------

    def request(self, model: str, target_model: str, fairness_id: str, priority: int | None) -> RequestMeter:
        """The meter of these labels. Answer-only streams have ("", "", "", None)."""
        meter = self._meters.get((model, target_model, fairness_id, priority))
        return meter or self._admit(model, target_model, fairness_id, priority)

    def _admit(self, model: str, target: str, flow: str, priority: int | None) -> RequestMeter:
        model, target, flow = self._models(model), self._models(target), self._flows(flow)
        if len(self._meters) >= self._limits.meters:
            flow = OTHER
        key = (model, target, flow, priority)
        if len(self._meters) >= 2 * self._limits.meters and key not in self._meters:
            key = (OTHER, OTHER, OTHER, None)
        meter = self._meters.get(key)
        if meter is None:
            labels = (*key[:3], "" if key[3] is None else str(key[3]))
            meter = self._meters[key] = RequestMeter(labels)
        return meter

    def refused(self, refused: Refused) -> None:
        """A request that we answered ourselves; `meter.error` counts it by its labels."""
        row = refused.reason.value
        self._add(table.REFUSALS, (row.code, str(row.status)))

    def ended(self, ending: Ending) -> None:
        key = _ENDINGS[ending]
        self._endings[key] = self._endings.get(key, 0) + 1

    def internal_error(self, where: str) -> None:
        """A bug of ours; the caller logs the traceback."""
        self._add(table.INTERNAL_ERRORS, (where,))

    # -- scheduling --------------------------------------------------------------------------------------

    def scheduled(self, seconds: float, target_model: str, endpoint: Endpoint | None) -> None:
        """One scheduling decision; None when it ended without an endpoint."""
        self._scheduling.observe(seconds)
        model = self._models(target_model)
        if endpoint is None:
            key: Key = ("failure", model, "", "", "")
        else:
            key = ("success", model, endpoint.name, endpoint.namespace, str(endpoint.port))
        count = self._attempts.get(key)
        if count is None:
            if len(self._attempts) >= self._limits.cells:
                self._forget_gone()
            self._add(table.ATTEMPTS, key)
        else:
            self._attempts[key] = count + 1

    def _forget_gone(self) -> None:
        """Makes room by dropping the counts of endpoints that are in no pool any more."""
        self._overflows += 1
        if self._overflows % FORGET_EVERY != 1:
            return
        here = {(endpoint.name, endpoint.namespace) for endpoint in self._pools.endpoints()}
        gone = [key for key in self._attempts if key[0] == "success" and (key[2], key[3]) not in here]
        for key in gone:
            del self._attempts[key]

    def plugin_seconds(
        self, extension_point: str, plugin_type: str, plugin_name: str, seconds: float
    ) -> None:
        histogram = self._plugins.get((extension_point, plugin_type, plugin_name))
        if histogram is None:
            histogram = self._histogram(table.PLUGIN, (extension_point, plugin_type, plugin_name))
        histogram.observe(seconds)

    def plugin_fault(self, plugin_name: str) -> None:
        self._add(table.PLUGIN_FAULTS, (plugin_name,))

    def prefix_lookup(self, plugin_name: str, plugin_type: str, ratio: float, hit_bytes: float) -> None:
        """One look-up: the share of the prompt believed cached at the chosen endpoint, and its bytes."""
        key = (plugin_name, plugin_type)
        pair = self._prefixes.get(key)
        if pair is None:
            pair = self._histogram(table.PREFIX_RATIO, key), self._histogram(table.PREFIX_BYTES, key)
            self._prefixes[key] = pair
        pair[0].observe(ratio)
        pair[1].observe(hit_bytes)

    def rewritten(self, rule: str, model: str, target_model: str) -> None:
        self._add(table.REWRITES, (rule, self._models(model), self._models(target_model)))

    # -- data layer, door, start -------------------------------------------------------------------------

    def poll_error(self, source_type: str) -> None:
        self._add(table.POLL_ERRORS, (source_type,))

    def extract_error(self, source_type: str, extractor_type: str) -> None:
        self._add(table.EXTRACT_ERRORS, (source_type, extractor_type))

    def scrape_interval(self, seconds: float) -> None:
        self._numbers[table.SCRAPE_INTERVAL.name][()] = seconds

    def ejected(self) -> None:
        """An endpoint is avoided from now on because real requests to it failed."""
        self._add(table.EJECTIONS, ())

    def stream_opened(self) -> None:
        self._streams += 1

    def stream_closed(self, code: str, seconds: float) -> None:
        """`code`: gRPC status name such as `OK`."""
        self._streams -= 1
        self._stream_duration.observe(seconds)
        self._add(table.STREAMS_ENDED, (code,))

    def streams(
        self, opened: int, closed: Mapping[str, int], durations: Sequence[int], total_s: float
    ) -> None:
        """Many at once, as a transport that counts by itself tells them."""
        self._streams += opened - sum(closed.values())
        for code, count in closed.items():
            self._add(table.STREAMS_ENDED, (code,), count)
        if durations:
            self._stream_duration.add_counts(durations, total_s)

    def handoffs(self, counts: Sequence[int], total_s: float) -> None:
        if counts:
            self._histograms[table.HANDOFF.name][()].add_counts(counts, total_s)

    def connections(self, now_open: int, failed: int) -> None:
        self._numbers[table.CONNECTIONS.name][()] = now_open
        if failed:
            self._add(table.HANDSHAKES, (), failed)

    def protocol_violation(self, kind: str) -> None:
        self._add(table.VIOLATIONS, (kind,))

    # -- reading -----------------------------------------------------------------------------------------

    def render(self, openmetrics: bool = False) -> Iterator[str]:
        """The whole page in pieces; between two pieces the event loop may do other work."""
        if self._collect is not None:
            self._collect()
        sheet = Sheet()
        for _ in self._pools.read(sheet):
            yield ""
        yield from render(self._families(sheet), openmetrics)
        if openmetrics:
            process = openmetrics_text.generate_latest(self._process)  # type: ignore[no-untyped-call]
            yield process.decode().removesuffix(EOF)
            yield EOF
        else:
            yield prometheus_text.generate_latest(self._process).decode()

    def _families(self, sheet: Sheet) -> Iterator[tuple[str, Callable[[], Iterable[Cell | None]]]]:
        for name, of_meter in _REQUEST_CELLS.items():
            yield name, lambda of=of_meter: self._of_meters(of)  # type: ignore[misc]
        yield from self._pools.families(sheet)
        yield from self.configs.families()
        if table.STREAMS.name not in self._hidden:
            yield table.STREAMS.name, lambda: [((), self._streams)]
        for name, numbers in self._numbers.items():
            if numbers and name not in self._hidden:
                yield name, lambda now=numbers: tuple(now.items())  # type: ignore[misc]
        for name, histograms in self._histograms.items():
            if histograms and name not in self._hidden:
                yield name, lambda now=histograms: tuple(now.items())  # type: ignore[misc]

    def _of_meters(self, of: Callable[[RequestMeter], Iterable[Cell]]) -> Iterator[Cell]:
        for meter in tuple(self._meters.values()):
            for key, value in of(meter):
                if not isinstance(value, Histogram) or value.count:
                    yield key, value

    # -- counting ----------------------------------------------------------------------------------------

    def _add(self, metric: Metric, key: Key, by: float = 1) -> None:
        cells = self._numbers[metric.name]
        if key not in cells and len(cells) >= self._limits.cells:
            key = (OTHER,) * len(key)
        cells[key] = cells.get(key, 0) + by

    def _histogram(self, metric: Metric, key: Key) -> Histogram:
        cells = self._histograms[metric.name]
        histogram = cells.get(key)
        if histogram is None:
            if len(cells) >= self._limits.cells:
                key = (OTHER,) * len(key)
            histogram = cells.setdefault(key, Histogram(metric.bounds))
        return histogram
