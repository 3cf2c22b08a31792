"""Alerts and the dashboard ask for metrics that exist, and each alert says what to do."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

from service.telemetry import FastCounter, FastHistogram, Metrics
from tests.k8s import check, kustomize, metrics
from tests.k8s.documents import Object, read


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return kustomize.render(check.K8S / "overlays" / "production")


@pytest.fixture(scope="module")
def dashboard(objects: list[Object]) -> Any:
    texts = [
        text
        for thing in objects
        if thing["kind"] == "ConfigMap" and "grafana_dashboard" in thing["metadata"]["labels"]
        for text in thing["data"].values()
    ]
    assert len(texts) == 1
    return json.loads(texts[0])


def alerts(objects: list[Object]) -> list[Object]:
    return [
        rule
        for thing in objects
        if thing["kind"] == "PrometheusRule"
        for group in thing["spec"]["groups"]
        for rule in group["rules"]
    ]


def series_in(text: str) -> set[str]:
    """Return every series name in a text, whatever stands around it, as its metric's name."""
    return set(metrics_in(text))


def metrics_in(text: str) -> list[str]:
    """Return the metric of each series in a text, in order, as often as it is named."""
    names = re.findall(r"\bfirstopen_[a-z_]+\b", text)
    return [name if name in metrics.METRICS else re.sub(r"_(bucket|count|sum)$", "", name) for name in names]


def test_alerts_and_panels_name_only_our_metrics(objects: list[Object], dashboard: Any) -> None:
    """No alert, panel or variable names a metric or label that is not in the list."""
    assert metrics.complaints(objects) == []
    assert len(alerts(objects)) >= 10
    assert series_in(json.dumps([alerts(objects), dashboard])) <= metrics.METRICS.keys()


def test_the_list_is_what_the_service_has() -> None:
    """Each metric of the list is one of the service's, of the kind and with the labels that the list says."""
    served = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name: (metric.type, labels)
        for metric, labels in _described(Metrics())
    }
    assert {name: served.get(name) for name in metrics.METRICS} == metrics.METRICS


def _described(served: Metrics) -> Iterator[tuple[Metric, frozenset[str]]]:
    for part in served.registry._collector_to_names:
        if isinstance(part, MetricWrapperBase):
            yield next(iter(part.describe())), frozenset(part._labelnames)
        elif isinstance(part, FastCounter | FastHistogram):
            yield next(iter(part.collect())), frozenset(part._family[2])


def test_the_dashboard_shows_every_metric(dashboard: Any) -> None:
    """A metric that nobody looks at is not worth its cost."""
    assert series_in(json.dumps(dashboard["panels"])) == metrics.METRICS.keys()


def test_the_dashboard_has_a_row_for_each_subject(dashboard: Any) -> None:
    """Leads, webhooks, matching and errors are found by their names; no row is empty."""
    rows: dict[str, list[str]] = {}
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            rows[panel["title"]] = []
        else:
            rows[next(reversed(rows))] += [target["expr"] for target in panel["targets"]]
    assert {*rows} >= {"Opens", "Matching", "Leads", "Webhooks", "Requests and errors", "Dub", "Outbox"}
    assert all(rows.values())
    shown = {title: series_in(" ".join(expressions)) for title, expressions in rows.items()}
    assert shown["Matching"] >= {"firstopen_match_confidence", "firstopen_shadow_matches_total"}
    assert all('kind=~"lead|sale"' in each for each in rows["Leads"] if "outbox" in each)
    assert all('kind="webhook"' in each for each in rows["Webhooks"] if "outbox" in each)
    assert any('status=~"5.."' in each and "by (route" in each for each in rows["Requests and errors"])


def test_routes_that_are_named_exist(objects: list[Object], dashboard: Any) -> None:
    """Alerts and panels about some routes name templates of the OpenAPI document, in full."""
    paths = json.loads((check.ROOT / "docs" / "openapi.json").read_text())["paths"]
    expressions = [rule["expr"] for rule in alerts(objects)]
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    named = {
        route
        for expression in expressions
        for routes in re.findall(r'route=~?"([^"]+)"', expression)
        for route in routes.split("|")
    }
    assert "/v1/leads" in named
    assert named <= paths.keys()


def test_runbooks_name_panels_that_exist(dashboard: Any) -> None:
    """What a runbook says the dashboard shows, in italics, is the title of a panel or row."""
    titles = {panel["title"] for panel in dashboard["panels"]}
    lines = [
        line
        for page in (check.ROOT / "docs" / "runbooks").glob("*.md")
        for line in page.read_text().splitlines()
        if "dashboard shows" in line
    ]
    named = {title for line in lines for title in re.findall(r"\*([^*]+)\*", line)}
    assert named
    assert named <= titles


def test_runbooks_state_the_severity_of_their_alerts(objects: list[Object]) -> None:
    """On its page and in the list. ``tests/docs/test_runbooks.py`` checks the rest of the pages."""
    folder = check.ROOT / "docs" / "runbooks"
    for rule in alerts(objects):
        page = f"{rule['alert']}.md"
        text = (folder / page).read_text()
        assert text.startswith(f"# {rule['alert']}\n")
        assert f"({rule['labels']['severity']})" in text
        assert re.search(
            rf"^\| \[{rule['alert']}\]\(\S+\) \| {rule['labels']['severity']} \|",
            (folder / "README.md").read_text(),
            re.MULTILINE,
        )


def test_templates_in_alerts_use_labels_that_are_there(objects: list[Object]) -> None:
    """A summary names no label that its expression has aggregated away."""
    for rule in alerts(objects):
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        kept = {label for by in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in by.split(", ")}
        assert used <= kept, rule["alert"]


def test_the_autoscalers_metric_is_served_by_the_adapter(objects: list[Object]) -> None:
    """The adapter's rule asks for the pods' metric that the autoscaler names, in PromQL that is right."""
    (values,) = read(check.K8S / "components" / "monitoring" / "prometheus-adapter-values.yaml")
    (rule,) = values["rules"]["custom"]
    wanted = {
        metric["pods"]["metric"]["name"]
        for thing in objects
        if thing["kind"] == "HorizontalPodAutoscaler"
        for metric in thing["spec"]["metrics"]
        if metric["type"] == "Pods"
    }
    assert wanted == {rule["name"]["as"]}
    query = rule["metricsQuery"].replace("<<.Series>>", rule["name"]["as"])
    query = query.replace("<<.LabelMatchers>>", 'namespace="x",pod=~"a|b"').replace("<<.GroupBy>>", "pod")
    assert list(metrics.expression_problems(query)) == []


def test_the_dashboard_is_laid_out(dashboard: Any) -> None:
    """Panels have ids of their own and do not overlap, and all read from the chosen data source."""
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
            references = [target["refId"] for target in panel["targets"]]
            assert len(references) == len(set(references))
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y


def test_the_dashboard_shows_one_namespace_at_a_time(dashboard: Any) -> None:
    """Every query is confined to the chosen namespace: two environments never add up."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            selectors = len(re.findall(r"\bfirstopen_[a-z_]+", target["expr"]))
            assert target["expr"].count('namespace=~"$namespace"') == selectors, panel["title"]


def test_the_dashboard_shows_chosen_apps(dashboard: Any) -> None:
    """Every series with the label ``app`` is confined to the chosen apps."""
    assert "app" in [variable["name"] for variable in dashboard["templating"]["list"]]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            named = metrics_in(target["expr"])
            by_app = [name for name in named if "app" in metrics.METRICS[name][1]]
            assert target["expr"].count('app=~"$app"') == len(by_app), panel["title"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sum(rate(firstopen_shed_total[5m]))", None),
        ("max by (kind) (firstopen_outbox_entries)", None),
        ("histogram_quantile(0.9, sum by (le) (rate(firstopen_request_seconds_bucket[5m])))", None),
        ("increase(firstopen_dub_seconds_sum[5m]) / increase(firstopen_dub_seconds_count[5m])", None),
        ("avg_over_time(firstopen_in_flight[5m])", None),
        ("sum by (le) (rate(firstopen_shed_total[5m]))", "has no label le"),
        ("firstopen_request_seconds_bucket", "only ever grows"),
        ("rate(firstopen_request_seconds[5m])", "no metric firstopen_request_seconds"),
        ("rate(firstopen_shed_total_bucket[5m])", "no metric firstopen_shed_total_bucket"),
        ("absent(firstopen_up)", "no metric firstopen_up"),
        ('{job="firstopen"}', "no metric without a name"),
        ("sum(rate(firstopen_shed_total[5m])", "not PromQL"),
    ],
)
def test_promql_is_read(text: str, problem: str | None) -> None:
    """An expression is right, or it is said what is wrong with it."""
    found = list(metrics.expression_problems(text))
    if problem is None:
        assert found == []
    else:
        assert any(problem in one for one in found), found
