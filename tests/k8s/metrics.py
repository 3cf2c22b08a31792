"""The metrics that alerts, the dashboard and the autoscaler may name, and a reader of their PromQL."""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Literal

import promql_parser as promql

from tests.k8s.documents import Object, title

Kind = Literal["counter", "gauge", "histogram"]

# What they may name: type and labels. A test compares this with service/telemetry/metrics.py.
METRICS: dict[str, tuple[Kind, frozenset[str]]] = {
    "firstopen_opens_total": ("counter", frozenset({"app", "match", "source", "outcome"})),
    "firstopen_request_seconds": ("histogram", frozenset({"route", "method", "status_class"})),
    "firstopen_requests_total": ("counter", frozenset({"route", "status"})),
    "firstopen_dub_seconds": ("histogram", frozenset({"endpoint"})),
    "firstopen_cache_total": ("counter", frozenset({"tier", "result"})),
    "firstopen_breaker_open": ("gauge", frozenset({"endpoint"})),
    "firstopen_in_flight": ("gauge", frozenset()),
    "firstopen_dub_in_flight": ("gauge", frozenset({"endpoint"})),
    "firstopen_shed_total": ("counter", frozenset()),
    "firstopen_rate_limited_total": ("counter", frozenset({"by"})),
    "firstopen_outbox_entries": ("gauge", frozenset({"kind"})),
    "firstopen_outbox_dead_entries": ("gauge", frozenset({"kind"})),
    "firstopen_outbox_oldest_seconds": ("gauge", frozenset({"kind"})),
    "firstopen_outbox_delivered_total": ("counter", frozenset({"app", "kind"})),
    "firstopen_outbox_dead_total": ("counter", frozenset({"app", "kind"})),
    "firstopen_claims_refused_total": ("counter", frozenset({"app"})),
    "firstopen_matching_refused_total": ("counter", frozenset({"app", "reason"})),
    "firstopen_match_confidence": ("histogram", frozenset({"app", "match"})),
    "firstopen_shadow_matches_total": ("counter", frozenset({"app", "outcome"})),
    "firstopen_shadow_confidence": ("histogram", frozenset({"app", "outcome"})),
    "firstopen_events_unreadable_total": ("counter", frozenset({"fault"})),
    "firstopen_background_failures_total": ("counter", frozenset({"task"})),
    "firstopen_config_rejected": ("gauge", frozenset()),
    "firstopen_database_failing": ("gauge", frozenset()),
    "firstopen_webhooks_total": ("counter", frozenset({"app", "event", "outcome"})),
}
# What the Prometheus operator adds to every series of a target.
TARGET_LABELS = frozenset({"container", "endpoint", "instance", "job", "namespace", "pod", "service"})
_COUNTER_FUNCTIONS = {"increase", "irate", "rate"}
_GRAFANA = {"$__rate_interval": "5m", "$__interval": "1m"}


def complaints(objects: list[Object]) -> list[str]:
    """Return what alerts, dashboards and autoscalers ask for that no metric of ours answers."""
    found: list[str] = []
    for thing in objects:
        found += [f"{title(thing)}: {problem}" for problem in _problems(thing)]
    return found


def _problems(thing: Object) -> Iterator[str]:
    for what, text in chain(alerts_of(thing), panels_of(thing)):
        yield from (f"{what}: {problem}" for problem in expression_problems(text))
    if thing["kind"] == "HorizontalPodAutoscaler":
        for metric in thing["spec"].get("metrics", []):
            if metric["type"] == "Pods" and metric["pods"]["metric"]["name"] not in METRICS:
                yield f"there is no metric {metric['pods']['metric']['name']}"
    if thing["kind"] == "ServiceMonitor":
        ours = frozenset[str]().union(*(labels for _, labels in METRICS.values()))
        for endpoint in thing["spec"]["endpoints"]:
            if ours & TARGET_LABELS and endpoint.get("honorLabels") is not True:
                yield f"honorLabels: expected true, or {', '.join(ours & TARGET_LABELS)} of ours is renamed"


def alerts_of(thing: Object) -> Iterator[tuple[str, str]]:
    """Return the alerts of a PrometheusRule, and their expressions."""
    if thing["kind"] == "PrometheusRule":
        for group in thing["spec"]["groups"]:
            for rule in group["rules"]:
                yield rule["alert"], rule["expr"]


def panels_of(thing: Object) -> Iterator[tuple[str, str]]:
    """Return the panels of the dashboards in a ConfigMap, and their expressions."""
    if thing["kind"] != "ConfigMap" or "grafana_dashboard" not in thing["metadata"].get("labels", {}):
        return
    for text in thing["data"].values():
        for panel in json.loads(text)["panels"]:
            for target in panel.get("targets", []):
                yield panel["title"], target["expr"]


def expression_problems(text: str) -> Iterator[str]:
    """Yield what is wrong with a PromQL expression: its syntax, its metrics, their labels, their kind."""
    for variable, value in _GRAFANA.items():
        text = text.replace(variable, value)
    try:
        tree = promql.parse(text)
    except ValueError as exc:
        yield f"not PromQL: {exc}"
        return
    path: list[promql.Expr] = []
    problems: list[str] = []

    def enter(node: promql.Expr) -> None:
        if isinstance(node, promql.VectorSelector):
            problems.extend(_selector(node, path))
        path.append(node)

    def leave(_node: promql.Expr) -> None:
        path.pop()

    promql.walk(tree, enter, leave)
    yield from problems


def _selector(selector: promql.VectorSelector, path: list[promql.Expr]) -> Iterator[str]:
    series = selector.name or ""
    name, kind, labels = _metric(series)
    if name is None:
        yield f"there is no metric {series or 'without a name'}"
        return
    known = labels | TARGET_LABELS | ({"le"} if series.endswith("_bucket") else set())
    used = {matcher.name for matcher in selector.matchers.matchers}
    for node in path:
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            used |= set(node.modifier.labels)
    for label in sorted(used - known):
        yield f"{series} has no label {label}"
    calls = {node.func.name for node in path if isinstance(node, promql.Call)}
    cumulative = kind == "counter" or series != name
    if cumulative and not calls & _COUNTER_FUNCTIONS:
        yield f"{series} only ever grows: expected its rate or increase"
    if not cumulative and calls & _COUNTER_FUNCTIONS:
        yield f"{series} is a gauge: it has no rate"


def _metric(series: str) -> tuple[str | None, Kind, frozenset[str]]:
    """Return the metric that a series belongs to; a histogram is asked for by its parts only."""
    base = series
    for suffix in ("_bucket", "_count", "_sum"):
        base = base.removesuffix(suffix)
    kind, labels = METRICS.get(base, ("gauge", frozenset()))
    if base not in METRICS or (kind == "histogram") == (base == series):
        return None, kind, labels
    return base, kind, labels
