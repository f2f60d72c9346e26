"""The alerts: each fires on its own failure only, uses registered metrics and has a runbook page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from gateway import metrics as _gateway_metrics  # noqa: F401 - the import registers the metrics
from gateway.streams.metrics import REGISTRY
from tests.core_coverage import ROOT
from workers import metrics as _worker_metrics  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RULES: Final = ROOT / "deploy" / "prometheus" / "alerts.yaml"
RUNBOOKS: Final = ROOT / "deploy" / "runbooks"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "tokenwire.json"
CHART: Final = ROOT / "deploy" / "helm" / "tokenwire"

ALERTS: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
NAMES: Final = [alert["alert"] for alert in ALERTS]

# Functions and keywords of PromQL.
FUNCTIONS: Final = {
    *("absent", "and", "avg", "by", "clamp_min", "count", "histogram_quantile", "group_left", "ignoring", "increase"),
    *("label_replace", "max", "min", "on", "or", "rate", "sum", "time", "topk", "unless", "without"),
}

# Series of a healthy deployment: two gateways and a worker, a question every few seconds.
HEALTHY: Final = {
    'up{job="tokenwire-gateway", instance="g1"}': "1",
    'up{job="tokenwire-gateway", instance="g2"}': "1",
    'up{job="tokenwire-worker", instance="w1"}': "1",
    'tokenwire_connections{instance="g1", kind="websocket"}': "100",
    'tokenwire_fleet_processes{instance="g1", kind="worker"}': "1",
    'tokenwire_store_errors_total{instance="g1", kind="unavailable"}': "0",
    'tokenwire_store_errors_total{instance="g1", kind="full"}': "0",
    'tokenwire_queue_lag_seconds{instance="g1"}': "0.4",
    'tokenwire_worker_responses{instance="w1"}': "40",
    'tokenwire_worker_concurrency{instance="w1"}': "300",
    'tokenwire_time_to_first_token_seconds_bucket{instance="g1", le="1.0"}': "0+9",
    'tokenwire_time_to_first_token_seconds_bucket{instance="g1", le="20.0"}': "0+9",
    'tokenwire_time_to_first_token_seconds_bucket{instance="g1", le="+Inf"}': "0+9",
    'tokenwire_added_delay_seconds_bucket{instance="g1", le="0.01"}': "0+1000",
    'tokenwire_added_delay_seconds_bucket{instance="g1", le="0.5"}': "0+1000",
    'tokenwire_added_delay_seconds_bucket{instance="g1", le="+Inf"}': "0+1000",
    'tokenwire_store_round_trip_seconds_bucket{instance="g1", le="0.01"}': "0+1000",
    'tokenwire_store_round_trip_seconds_bucket{instance="g1", le="0.5"}': "0+1000",
    'tokenwire_store_round_trip_seconds_bucket{instance="g1", le="+Inf"}': "0+1000",
    'tokenwire_viewers{instance="g1"}': "100",
    'tokenwire_viewers_behind{instance="g1"}': "1",
    'tokenwire_responses_ended_total{instance="w1", reason="complete"}': "0+100",
    'tokenwire_responses_ended_total{instance="w1", reason="failed"}': "0+1",
    'tokenwire_provider_waits_total{instance="w1", error_type="provider_rate_limited"}': "0+1",
    'tokenwire_refused_total{instance="g1", code="1013"}': "0",
    'tokenwire_refused_total{instance="g1", code="4401"}': "0+100",
    'process_open_fds{job="tokenwire-gateway", instance="g1"}': "400",
    'process_max_fds{job="tokenwire-gateway", instance="g1"}': "65536",
    'process_open_fds{job="other", instance="o1"}': "1000",
    'process_max_fds{job="other", instance="o1"}': "1024",
    'tokenwire_build_info{job="tokenwire-gateway", instance="g1", version="0.1.0"}': "1",
    'tokenwire_build_info{job="tokenwire-gateway", instance="g2", version="0.1.0"}': "1",
    'tokenwire_attempts_total{instance="w1", kind="first"}': "0+100",
    'tokenwire_attempts_total{instance="w1", kind="take_over"}': "0",
    'tokenwire_repairs_total{instance="g1"}': "0",
    'tokenwire_gaps_total{instance="g1"}': "0+1",
    'tokenwire_watches_total{instance="g1", outcome="resumed"}': "0+100",
    'tokenwire_watches_total{instance="g1", outcome="lost"}': "0",
}

# Changes to HEALTHY by the alert that they trigger. None removes the series.
FAILURES: Final[dict[str, dict[str, str | None]]] = {
    "TokenwireNoGateway": {'tokenwire_connections{instance="g1", kind="websocket"}': None},
    "TokenwireNoWorker": {'tokenwire_fleet_processes{instance="g1", kind="worker"}': "0"},
    "TokenwireStoreUnavailable": {'tokenwire_store_errors_total{instance="g1", kind="unavailable"}': "0+2"},
    "TokenwireStoreFull": {'tokenwire_store_errors_total{instance="g1", kind="full"}': "0+2"},
    "TokenwireQueueLag": {'tokenwire_queue_lag_seconds{instance="g1"}': "0+30"},
    "TokenwireWorkersSaturated": {'tokenwire_worker_responses{instance="w1"}': "298"},
    "TokenwireFirstTokenSlow": {'tokenwire_time_to_first_token_seconds_bucket{instance="g1", le="1.0"}': "0+1"},
    "TokenwireAddedDelay": {'tokenwire_added_delay_seconds_bucket{instance="g1", le="0.01"}': "0+700"},
    "TokenwireStoreSlow": {'tokenwire_store_round_trip_seconds_bucket{instance="g1", le="0.01"}': "0+700"},
    "TokenwireViewersLagging": {'tokenwire_viewers_behind{instance="g1"}': "30"},
    "TokenwireAnswersFail": {'tokenwire_responses_ended_total{instance="w1", reason="failed"}': "0+20"},
    "TokenwireProviderErrors": {
        'tokenwire_provider_waits_total{instance="w1", error_type="provider_rate_limited"}': "0+15"
    },
    "TokenwireConnectionsRejected": {'tokenwire_refused_total{instance="g1", code="1013"}': "0+100"},
    "TokenwireFileDescriptorsLow": {'process_open_fds{job="tokenwire-gateway", instance="g1"}': "60000"},
    "TokenwireProcessDown": {'up{job="tokenwire-gateway", instance="g2"}': "0"},
    "TokenwireTakeOvers": {'tokenwire_attempts_total{instance="w1", kind="take_over"}': "0+1"},
    "TokenwirePublishesLost": {'tokenwire_repairs_total{instance="g1"}': "0+50"},
    "TokenwireCursorsLost": {'tokenwire_watches_total{instance="g1", outcome="lost"}': "0+3"},
    "TokenwireVersionsDiffer": {
        'tokenwire_build_info{job="tokenwire-gateway", instance="g2", version="0.1.0"}': None,
        'tokenwire_build_info{job="tokenwire-gateway", instance="g2", version="0.2.0"}': "1",
    },
}


def case(name: str, change: dict[str, str | None], firing: list[str]) -> dict[str, Any]:
    """Return a promtool test: which alerts fire 110 minutes into the series of `HEALTHY` with `change` applied."""
    series = {name: values for name, values in {**HEALTHY, **change}.items() if values is not None}
    return {
        "name": name,
        "interval": "30s",
        "input_series": [
            {"series": name, "values": f"{values if '+' in values else f'{values}+0'}x240"}
            for name, values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                "eval_time": "110m",
                "exp_samples": [{"labels": "{}", "value": 1}] if alert in firing else [],
            }
            for alert in NAMES
        ],
    }


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: install Debian's package prometheus")
    return found


def test_each_alert_fires_on_its_failure_only(promtool: str, tmp_path: Path) -> None:
    assert set(FAILURES) == set(NAMES)
    tests = [case("healthy", {}, []), *(case(name, change, [name]) for name, change in FAILURES.items())]
    file = tmp_path / "alerts_test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_expression_is_valid_promql(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"dashboard:panel_{number}", "expr": text} for number, (_, text) in enumerate(panels())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(RULES), str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def panels() -> Iterator[tuple[str, str]]:
    """Yield the title and each expression of each dashboard panel."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")
            yield panel["title"], text


def metrics_of(expression: str) -> set[str]:
    """Return the metrics that an expression uses."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(by|on|without|ignoring|group_left) *\([^)]*\)', " ", expression)
    return set(re.findall(r"[a-z_][a-z0-9_:]*", bare)) - FUNCTIONS


def labels_of(expression: str) -> set[tuple[str, str]]:
    """Return each metric of an expression with each label that selects it."""
    found = set()
    for name, picked in re.findall(r"([a-z_][a-z0-9_:]*)\{([^}]*)\}", expression):
        found |= {(name, label) for label in re.findall(r"([a-z_]+) *(?:=~|!~|!=|=)", picked)}
    return found


def registered() -> dict[str, tuple[str, ...]]:
    """Return every series that gateways and workers export, with its labels."""
    found = {}
    for family in REGISTRY.collect():
        kinds = {
            "counter": ("_total",),
            "histogram": ("_bucket", "_sum", "_count"),
        }
        labels = next((tuple(sample.labels) for sample in family.samples), None)
        for suffix in kinds.get(family.type, ("",)):
            collector = REGISTRY._names_to_collectors.get(family.name)
            found[family.name + suffix] = labels or tuple(getattr(collector, "_labelnames", ()))
    return found


SCRAPE_LABELS: Final = {"job", "instance", "namespace", "pod", "service", "le"}
"""Labels added by the scrape and by histograms."""


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each expression of alerts, dashboard and chart with its source."""
    for alert in ALERTS:
        yield alert["alert"], alert["expr"]
    yield from panels()
    templates = (CHART / "templates" / "autoscaling.yaml").read_text()
    for name, labels in re.findall(r'"(?:sum|max)\((tokenwire_\w+)\{((?:[^{}])*)\}\)"', templates):
        yield "autoscaling", f"{name}{{{labels.replace('%s', '')}}}"
    for name in re.findall(r'"name" "(tokenwire_\w+)"', templates):
        yield "autoscaling", name


def test_every_metric_in_expressions_is_registered() -> None:
    have = {**registered(), "up": ()}
    sources = list(expressions())
    assert len([source for source, _ in sources if source == "autoscaling"]) == 6
    for source, expression in sources:
        assert metrics_of(expression), (source, expression)
        assert metrics_of(expression) <= set(have), (source, metrics_of(expression) - set(have))
        for name, label in labels_of(expression):
            assert label in SCRAPE_LABELS or label in have.get(name, ()), (source, name, label)


def test_unregistered_metric_is_detected() -> None:
    expression = 'sum by (code) (rate(tokenwire_unknown_total{code="1"}[5m])) / max(up)'
    assert metrics_of(expression) == {"tokenwire_unknown_total", "up"}
    assert labels_of('sum(rate(tokenwire_refused_total{nothing=~"1"}[5m]))') == {("tokenwire_refused_total", "nothing")}


def test_every_alert_has_a_runbook_page() -> None:
    assert sorted(NAMES) == sorted(page.stem for page in RUNBOOKS.glob("*.md") if page.stem != "README")
    for alert in ALERTS:
        assert alert["annotations"]["runbook"] == f"deploy/runbooks/{alert['alert']}.md"
        assert alert["labels"]["severity"] in ("critical", "warning")
        page = (RUNBOOKS / f"{alert['alert']}.md").read_text()
        assert page.startswith(f"# {alert['alert']}\n")
        assert re.findall(r"^## (.+)$", page, re.MULTILINE) == [
            "What it means",
            "What users see",
            "How to look",
            "What to do",
        ]
        # A runbook must be short enough to read during an incident.
        assert len(page.splitlines()) <= 50


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_runbook_metrics_are_registered(page: Path) -> None:
    text = page.read_text()
    names = set(re.findall(r"\b(?:tokenwire|gen_ai|process)_[a-z0-9_]+", text))
    assert names <= set(registered()) | {name.removesuffix("_bucket") for name in registered()}


def test_dashboard_panels_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    identities = [panel["id"] for panel in dashboard["panels"]]
    assert len(identities) == len(set(identities))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells), panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_metrics_of_operations_page_are_registered() -> None:
    page = (ROOT / "gateway" / "OPERATIONS.md").read_text()
    known = registered()
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
    codes = [code for code in re.findall(r"`([^`\n]+)`", page) if re.search(r"\b(tokenwire|gen_ai)_[a-z]", code)]
    named = {name for code in codes for name in metrics_of(code) if not code.endswith("*")}
    assert named
    assert named - {*known, *families} == set()
    assert [(name, label) for code in codes for name, label in labels_of(code) if label not in known[name]] == []
