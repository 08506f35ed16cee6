"""Dashboard, alerts, runbooks and the table of metrics say only what the processes tell."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from promql_parser import AggregateExpr, Call, VectorSelector, parse, walk

from peelbound.service.controller import metrics
from tests.unit.api.harness import Api

ROOT = Path(__file__).parents[3]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "peelbound.json").read_text(encoding="utf-8"))

SCRAPED = {"job", "instance", "namespace"}
"""Labels that Prometheus adds, also to `up`; the last one on Kubernetes only."""
_ROW = re.compile(r"^\| `((?:peelbound|process)_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def series_of(family: Metric, labels: set[str]) -> Iterator[tuple[str, set[str]]]:
    match family.type:
        case "counter":
            yield f"{family.name}_total", labels
        case "histogram":
            yield f"{family.name}_bucket", labels | {"le"}
            yield f"{family.name}_sum", labels
            yield f"{family.name}_count", labels
        case _:
            yield family.name, labels


def families(api: Api) -> Iterator[tuple[Metric, set[str]]]:
    """All families of metrics of both processes, with the labels that their series have."""
    api.controller.leases.beat("test")
    api.submit()
    for family in [*api.client.app.state.registry.collect(), *metrics.REGISTRY.collect()]:
        yield family, {name for sample in family.samples for name in sample.labels} - {"le"}
    for metric in vars(metrics).values():  # those that have counted nothing yet have no samples
        if isinstance(metric, MetricWrapperBase):
            for family in metric.describe():
                yield family, set(metric._labelnames)


@pytest.fixture
def told(api: Api) -> dict[str, set[str]]:
    """The names of all series that can be told, with their labels."""
    found: dict[str, set[str]] = {}
    for family, labels in families(api):
        for name, own in series_of(family, labels):
            found[name] = found.get(name, set()) | own | SCRAPED
    return found | {"up": SCRAPED}


def nodes(query: str) -> list[Any]:
    """All nodes of the query's syntax tree; a query with a mistake raises."""
    return _below(parse(query.replace("$__rate_interval", "5m")))


def selectors(query: str) -> list[VectorSelector]:
    return [node for node in nodes(query) if isinstance(node, VectorSelector)]


def unknown(query: str, told: dict[str, set[str]]) -> set[str]:
    """What the query names and no process tells: series, and labels of those that are there."""
    wrong: set[str] = set()
    for selector in selectors(query):
        if selector.name not in told:
            wrong.add(selector.name)
        else:
            wrong |= {matcher.name for matcher in selector.matchers.matchers} - told[selector.name]
    for node in nodes(query):
        if isinstance(node, AggregateExpr) and node.modifier is not None:
            for below in _below(node):
                if isinstance(below, VectorSelector):
                    wrong |= set(node.modifier.labels) - told.get(below.name, set())
    return wrong


def test_queries_name_series_and_labels_that_exist(told: dict[str, set[str]]) -> None:
    queries = [rule["expr"] for rule in RULES] + dashboard_queries()
    assert all(selectors(query) for query in queries)
    assert {query: wrong for query in queries if (wrong := unknown(query, told))} == {}


def _below(node: Any) -> list[Any]:
    found: list[Any] = []
    walk(node, found.append)
    return found


def test_a_query_that_would_never_find_anything_is_seen(told: dict[str, set[str]]) -> None:
    assert unknown("sum(rate(peelbound_requests_total[5m]))", told) == {"peelbound_requests_total"}
    assert unknown('sum by (code) (peelbound_audits{status="queued"})', told) == {"code", "status"}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    headings = set(re.findall(r"^### (Peelbound\w+)$", OPERATIONS, re.MULTILINE))
    assert headings == {rule["alert"] for rule in RULES}
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]


def test_alerts_tell_installations_apart() -> None:
    for rule in RULES:
        for node in nodes(rule["expr"]):
            if isinstance(node, AggregateExpr):
                assert node.modifier is not None, rule["alert"]
                assert "namespace" in node.modifier.labels, rule["alert"]


def test_replicas_that_are_all_gone_are_missed() -> None:
    (down,) = (rule for rule in RULES if rule["alert"] == "PeelboundApiDown")
    called = [node for node in nodes(down["expr"]) if isinstance(node, Call)]
    assert [(call.func.name, str(call.args[0])) for call in called] == [("absent", 'up{job="peelbound-api"}')]


def test_the_documented_table_is_the_metrics(api: Api) -> None:
    documented = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in _ROW.findall(OPERATIONS)}
    ours: dict[str, tuple[str, set[str]]] = {}
    for family, labels in families(api):
        if family.name.startswith("peelbound_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            ours[name] = (family.type, ours.get(name, ("", set()))[1] | labels)
    assert documented == ours


def test_every_panel_is_a_place_of_its_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    squares = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for box in [panel["gridPos"]]
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    assert len(set(squares)) == len(squares)
    assert max(x for x, _ in squares) < 24
