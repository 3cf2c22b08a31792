"""All metrics. Labels contain no personal data, only app names, endpoints, outcomes and the like."""

from bisect import bisect_left
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from service.telemetry.logs import lost_log_lines

_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0)
# Of requests: fewer, because each is a series for each route. 1.5 s is the objective of opens.
_REQUEST_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 10.0)
_OPENS = ("/v1/opens", "/track/open")


class FastCounter:
    """A counter without locks, for one event loop: a lock per request would cost more than the counting."""

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self._family = (f"firstopen_{name}", meaning, labels)
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str) -> None:
        """Add one to the counter of these label values."""
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def totals(self, by: str, **only: str) -> dict[str, int]:
        """Return the counts by one label, of those with these values of others."""
        names = self._family[2]
        wanted = {names.index(name): value for name, value in only.items()}
        found: dict[str, int] = {}
        for values, count in self._counts.items():
            if all(values[at] == value for at, value in wanted.items()):
                value = values[names.index(by)]
                found[value] = found.get(value, 0) + count
        return found

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the samples for Prometheus."""
        name, meaning, labels = self._family
        family = CounterMetricFamily(name, meaning, labels=labels)
        for values, count in self._counts.items():
            family.add_metric(values, count)
        yield family


class FastHistogram:
    """A histogram of seconds without locks, for one event loop."""

    def __init__(self, name: str, meaning: str, *labels: str, bounds: tuple[float, ...] = _SECONDS) -> None:
        self._family = (f"firstopen_{name}", meaning, labels)
        self._bounds = bounds
        self._children: dict[tuple[str, ...], FastHistogramChild] = {}

    def labels(self, *values: str) -> "FastHistogramChild":
        """Return the histogram of these label values."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = FastHistogramChild(self._bounds)
        return child

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the samples for Prometheus."""
        name, meaning, labels = self._family
        family = HistogramMetricFamily(name, meaning, labels=labels)
        for values, child in self._children.items():
            family.add_metric(values, child.buckets(), child.total_s)
        yield family


class OpenSeconds:
    """Reports ``firstopen_open_seconds`` of 0.2.0, from the histogram of requests, until the next release."""

    def __init__(self, requests: FastHistogram) -> None:
        self._answered = [requests.labels(path, "POST", "2xx") for path in _OPENS]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the sum over both ways to report an open for Prometheus."""
        meaning = (
            "Deprecated: read firstopen_request_seconds. Time from an open's request head to its answer."
        )
        family = HistogramMetricFamily("firstopen_open_seconds", meaning)
        each = zip(*(child.buckets() for child in self._answered), strict=True)
        buckets = [(parts[0][0], sum(count for _, count in parts)) for parts in each]
        family.add_metric((), buckets, sum(child.total_s for child in self._answered))
        yield family


class FastHistogramChild:
    """The histogram of one combination of label values."""

    __slots__ = ("_bounds", "_counts", "total_s")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Record one duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound."""
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, (float(count) for count in accumulate(self._counts)), strict=True))


class LostLogLines:
    """Reports the number of dropped log lines."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the sample for Prometheus."""
        meaning = "Log lines dropped because the reader of stdout has stopped or the disk is full."
        yield CounterMetricFamily("firstopen_log_lines_lost", meaning, value=lost_log_lines())


class Metrics:
    """The metrics of one process. Each label has few values, none of them personal."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each metric
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._gauge("build_info", "1; the label is the version that runs.", "version").labels(
            version("firstopen")
        ).set(1)
        self.opens = FastCounter("opens", "Opens answered.", "app", "match", "source", "outcome")
        self.dub_seconds = FastHistogram("dub_seconds", "Duration of calls to Dub.", "endpoint")
        self.cache = FastCounter("cache", "Lookups of answers, by tier and result.", "tier", "result")
        self.matching_refused = FastCounter(
            "matching_refused", "Opens without a link for which no click matched, by reason.", "app", "reason"
        )
        self.events_unreadable = FastCounter(
            "events_unreadable", "Dub's events that could not be decoded, by fault; repeats count.", "fault"
        )
        self.rate_limited = FastCounter("rate_limited", "Requests refused by our rate limits (429).", "by")
        self.requests = FastCounter("requests", "Responses, by route template and status.", "route", "status")
        self.request_seconds = FastHistogram(
            "request_seconds",
            "Time from a request's head to its response, by route template, method and class of status.",
            *("route", "method", "status_class"),
            bounds=_REQUEST_SECONDS,
        )
        self.requests_unread = partial(self.requests.add, "unrouted", "400")
        self.ignored_fields = FastCounter(
            "ignored_fields", "Fields of opens that could not be used.", "field"
        )
        self.webhooks = FastCounter(
            "webhooks",
            "Attempts to send webhooks, by outcome: delivered, retried, dead.",
            "app",
            "event",
            "outcome",
        )
        self.match_confidence = Histogram(
            "firstopen_match_confidence",
            "Confidence of the matches by touch and IP address that were answered, once for each install.",
            ("app", "match"),
            buckets=_CONFIDENCES,
            registry=self.registry,
        )
        self.shadow_matches = FastCounter(
            "shadow_matches",
            "First opens with certain evidence, by what matching makes of them"
            " (agreed, other_click, refused, none).",
            "app",
            "outcome",
        )
        self.shadow_confidence = Histogram(
            "firstopen_shadow_confidence",
            "Confidence in the likeliest click of a shadow match, also if it was refused.",
            ("app", "outcome"),
            buckets=_CONFIDENCES,
            registry=self.registry,
        )
        self.learned_rate = Gauge(
            "firstopen_learned_rate",
            "What matching assumes of an app's installs, learned from its first opens; delay_s in seconds.",
            ("app", "rate"),
            registry=self.registry,
        )
        self.rate_observations = Gauge(
            "firstopen_rate_observations",
            "First opens of the last 90 days that a learned rate rests on.",
            ("app", "rate"),
            registry=self.registry,
        )
        for each in (
            self.shadow_matches,
            self.webhooks,
            self.requests,
            self.ignored_fields,
            self.opens,
            self.request_seconds,
            OpenSeconds(self.request_seconds),
            self.dub_seconds,
            self.cache,
            self.matching_refused,
            self.events_unreadable,
            self.rate_limited,
            LostLogLines(),
        ):
            self.registry.register(each)
        self.breaker_open = self._gauge(
            "breaker_open", "1 while the circuit breaker of Dub's endpoint is open.", "endpoint"
        )
        self.in_flight = self._gauge("in_flight", "Opens being answered.")
        self.dub_in_flight = self._gauge("dub_in_flight", "Calls to Dub in flight.", "endpoint")
        self.shed = self._counter("shed", "Opens answered without Dub because too many came.")
        self.outbox_entries = self._gauge(
            "outbox_entries", "Queued entries, not accepted by Dub (webhooks: by the backend) yet.", "kind"
        )
        self.outbox_dead_entries = self._gauge("outbox_dead_entries", "Dead letters kept.", "kind")
        self.outbox_oldest_seconds = self._gauge(
            "outbox_oldest_seconds", "Age of the oldest queued entry that waits for no open.", "kind"
        )
        self.outbox_delivered = self._counter(
            "outbox_delivered", "Entries that Dub (webhooks: the backend) accepted.", "app", "kind"
        )
        self.outbox_undecryptable = self._counter(
            "outbox_undecryptable", "Attempts at entries under a FIRSTOPEN_SECRET that is not listed."
        )
        self.outbox_dead = self._counter(
            "outbox_dead", "Entries that were refused for good, and became dead letters.", "app", "kind"
        )
        self.claims_refused = self._counter(
            "claims_refused", "Opens whose click another install had claimed.", "app"
        )
        self.background_failures = self._counter(
            "background_failures", "Unexpected exceptions in background tasks.", "task"
        )
        self.config_reloads = self._counter(
            "config_reloads", "Times that the configuration was read again: applied or rejected.", "outcome"
        )
        self.config_rejected = self._gauge(
            "config_rejected", "1 while the configuration file is invalid: the one before is in force."
        )
        self.database_failing = self._gauge("database_failing", "1 while the database cannot be used.")
        self.live_watchers = self._gauge("live_watchers", "Connections that follow live opens.")
        self.live_skipped = self._counter(
            "live_skipped", "Opens not shown live: too many came, or a watcher reads too slowly."
        )
        self.store_commits = self._counter("store_commits", "Durable commits.")

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"firstopen_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"firstopen_{name}", meaning, labels, registry=self.registry)
