"""The metrics of one Bay: every counter, gauge and histogram that `/metrics` shows, in one list.

Names and units follow https://prometheus.io/docs/practices/naming/. Every label has few values, which Bay
itself chose: a route is its template, and no id, name, path or host of a caller is ever a label. A thing is
recorded where all of its kind pass already: the edge counts requests, the store times transactions.

Each Bay has a registry of its own, so that several of one process are not mixed. Rejected: the library's
global registry, and metrics declared beside the code that records them, of which there would be no list.
"""

from collections.abc import Collection, Iterator, Sequence
from http import HTTPStatus

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bay import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

NO_ROUTE = "none"
"""The route of a request that was refused before its route was looked up, and of an unknown path."""

OTHER = "other"
"""Stands for every value of a label that is none of the known ones."""

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"))
_STATUSES = frozenset(map(int, HTTPStatus))

_REQUEST_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_STORE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)
_START_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Meters:
    """Records are made by the attributes' own methods, such as `meters.errors.labels("conflict").inc()`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.labels: dict[str, tuple[str, ...]] = {}
        """The labels of each of Bay's own metrics, by its name."""
        self._http()
        self._store()
        self._process()
        self._sandboxes()
        self._pool()
        self._reconciler()
        self._execs()
        self._ports()
        self._network()
        self._images()
        self._begin()

    def _http(self) -> None:
        self.requests = self._counter(
            "bay_http_requests_total",
            "Requests that were answered, and WebSockets that were closed",
            "route",
            "method",
            "code",
        )
        self.request_seconds = self._histogram(
            "bay_http_request_duration_seconds",
            "Time from a request's head to the end of its answer",
            _REQUEST_S,
            "route",
            "method",
        )
        self.requests_in_flight = self._gauge(
            "bay_http_requests_in_flight", "Requests and WebSockets under way"
        )
        self.errors = self._counter("bay_errors_total", "Errors that answers had, by Bay's own codes", "code")
        self.audited = self._counter("bay_audited_calls_total", "Rows that the audit log has got")

    def _store(self) -> None:
        self.store_seconds = self._histogram(
            "bay_store_transaction_duration_seconds",
            "Time that a connection to the database was held",
            _STORE_S,
            "kind",
        )
        self.store_wait_seconds = self._histogram(
            "bay_store_wait_seconds", "Time that was waited for such a connection", _STORE_S, "kind"
        )
        self.store_failures = self._counter("bay_store_failures_total", "Transactions that failed", "kind")
        self.deferred_waiting = self._gauge(
            "bay_store_deferred_writes_waiting", "Writes that no caller waits for and that are not made yet"
        )
        self.deferred_lost = self._counter(
            "bay_store_deferred_writes_lost_total", "Such writes that were given up, since too many waited"
        )
        self.events = self._counter("bay_events_appended_total", "Events that were written", "type")

    def _process(self) -> None:
        self.loop_lag_seconds = self._histogram(
            "bay_event_loop_lag_seconds",
            "How late the event loop woke a task that looks all the time",
            _LAG_S,
        )
        info = self._gauge("bay_info", "The version of Bay; always 1", "version")
        info.labels(__version__).set(1)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def _sandboxes(self) -> None:
        self.sandboxes = self._gauge("bay_sandboxes", "Sandboxes that have an owner", "status", "compute")
        self.starts = self._counter(
            "bay_starts_total", "Starts that are over, by what came of them", "outcome"
        )
        self.start_failures = self._counter(
            "bay_start_failures_total", "Starts that failed, by Bay's own codes", "code"
        )
        self.start_seconds = self._histogram(
            "bay_start_duration_seconds", "Time of starts that succeeded", _START_S
        )
        self.start_phase_seconds = self._histogram(
            "bay_start_phase_duration_seconds", "Time of each phase of a start", _START_S, "phase"
        )
        self.session_ends = self._counter("bay_session_ends_total", "Sessions that are over", "reason")
        self.checkpoints = self._counter(
            "bay_checkpoints_total", "Checkpoints that were made or given up", "outcome"
        )
        self.restores = self._counter("bay_restores_total", "Restores that are over", "outcome")
        self.webhooks = self._counter(
            "bay_webhook_deliveries_total", "Attempts to send an event to a webhook", "outcome"
        )

    def _pool(self) -> None:
        self.pool_ready = self._gauge("bay_pool_ready", "Sandboxes that wait in pools", "profile")
        self.pool_wanted = self._gauge("bay_pool_wanted", "Sandboxes that pools should have", "profile")
        self.pool_claims = self._counter(
            "bay_pool_claims_total", "Creates that a pool could serve, and whether one waited", "outcome"
        )

    def _reconciler(self) -> None:
        self.queue_length = self._gauge("bay_reconciler_queue_length", "Sandboxes that wait for a step")
        self.queue_lag = self._gauge(
            "bay_reconciler_lag_seconds", "How long the first of them has waited; 0 without any"
        )
        self.queue_working = self._gauge("bay_reconciler_working", "Sandboxes that are worked on")
        self.queue_retrying = self._gauge(
            "bay_reconciler_retrying", "Sandboxes of which a step has failed and is tried again later"
        )
        self.steps = self._counter("bay_reconciler_steps_total", "Steps that are over", "step", "outcome")
        self.step_seconds = self._histogram(
            "bay_reconciler_step_duration_seconds", "Time of steps", _START_S, "step"
        )
        self.sweep_seconds = self._histogram(
            "bay_sweep_duration_seconds", "Time of the looks for time limits that have passed", _STORE_S
        )
        self.sweep_failures = self._counter("bay_sweep_failures_total", "Such looks that failed, and chores")
        self.replica_live = self._gauge("bay_replica_live", "1 while this Bay may act, else 0")
        self.replica_shards = self._gauge("bay_replica_shards", "Shards of sandboxes that this Bay acts on")
        self.replica_jobs = self._gauge("bay_replica_jobs", "1 for each job that this Bay does", "job")

    def _execs(self) -> None:
        self.execs_started = self._counter("bay_execs_started_total", "Execs that were written down")
        self.execs_ended = self._counter(
            "bay_execs_ended_total", "Execs of which the end is known", "outcome"
        )
        self.exec_output_bytes = self._counter(
            "bay_exec_output_bytes_total", "Bytes of output of execs that have ended"
        )
        self.cells = self._counter(
            "bay_cells_total", "Cells of kernels whose end a caller was told", "outcome"
        )
        self.file_bytes = self._counter(
            "bay_file_bytes_total", "Bytes of files into sandboxes and out of them", "direction"
        )

    def _ports(self) -> None:
        self.port_requests = self._counter(
            "bay_port_requests_total", "Requests and WebSockets to apps in sandboxes", "protocol"
        )
        self.port_connections = self._gauge(
            "bay_port_connections", "Open connections to ports of sandboxes", "kind"
        )
        self.port_connections_opened = self._counter(
            "bay_port_connections_opened_total", "Connections that were opened to ports of sandboxes", "kind"
        )
        self.port_bytes = self._counter(
            "bay_port_bytes_total", "Bytes of these connections", "kind", "direction"
        )

    def _network(self) -> None:
        self.names = self._counter("bay_network_names_total", "Names that sandboxes asked for", "verdict")
        self.names_refused = self._counter(
            "bay_network_names_unanswered_total", "Names that were not answered", "reason"
        )
        self.packets_refused = self._counter(
            "bay_network_packets_refused_total", "Packets of sandboxes that a policy refused", "reason"
        )
        self.broker_refusals = self._counter(
            "bay_network_broker_refusals_total", "Requests that the broker of headers refused", "reason"
        )
        self.egress_connections = self._counter(
            "bay_egress_proxy_connections_total", "Connections through the egress proxy", "verdict"
        )
        self.egress_bytes = self._counter(
            "bay_egress_proxy_bytes_total", "Bytes through the egress proxy, counted at the end", "direction"
        )

    def _images(self) -> None:
        self.images = self._gauge("bay_images", "Images of registries and archives", "state")
        self.templates = self._gauge("bay_templates", "Templates that are ready")
        self.image_layers = self._gauge("bay_image_layers", "Layers that images and templates have")
        self.image_layers_bytes = self._gauge("bay_image_layers_bytes", "Their bytes, each layer once")
        self.template_files_bytes = self._gauge(
            "bay_template_files_bytes", "Bytes of the workspaces that templates begin with"
        )
        self.images_unused = self._gauge("bay_images_unused", "Images that `bay image prune` would remove")
        self.images_unused_bytes = self._gauge(
            "bay_images_unused_bytes", "Bytes of layers that it would free"
        )
        self.build_cache_steps = self._gauge("bay_build_cache_steps", "Snapshots after steps of builds")
        self.build_cache_bytes = self._gauge(
            "bay_build_cache_bytes", "Their bytes; what snapshots share counts for each"
        )

    def _begin(self) -> None:
        """Have counters that alerts divide begin at 0: of one that begins at 1 Prometheus sees no growth."""
        for counter, outcomes in (
            (self.starts, ("ready", "failed", "left")),
            (self.pool_claims, ("hit", "miss")),
            (self.checkpoints, ("made", "failed")),
            (self.restores, ("done", "failed")),
            (self.webhooks, ("delivered", "failed")),
            (self.execs_ended, ("succeeded", "failed", "timed_out", "killed", "lost")),
            (self.errors, ("internal_error",)),
        ):
            for outcome in outcomes:
                counter.labels(outcome)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        self.labels[name] = labels
        return Counter(name, words, labels, registry=self.registry)

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        self.labels[name] = labels
        return Gauge(name, words, labels, registry=self.registry)

    def _histogram(self, name: str, words: str, buckets: Sequence[float], *labels: str) -> Histogram:
        self.labels[name] = labels
        return Histogram(name, words, labels, registry=self.registry, buckets=buckets)

    def text(self) -> bytes:
        """All of them in Prometheus' text format. Reads files of `/proc`, so call it in a thread."""
        return generate_latest(_WithoutBirths(self.registry))


class _WithoutBirths(Collector):
    """A registry without the times at which its counters were made, which would be a third of the text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._all = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._all.collect():
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            yield family


def method_label(method: str) -> str:
    """The method, or `other` for one that is no known one: a client may send any word."""
    return method if method in METHODS else OTHER


def status_label(status: int | None) -> str:
    """The status of an answer; `none` where none was begun."""
    if status is None:
        return "none"
    return str(status) if status in _STATUSES else OTHER


def known_label(value: str, known: Collection[str]) -> str:
    """The value if it is one of the `known` ones, else `other`."""
    return value if value in known else OTHER
