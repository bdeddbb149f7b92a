"""Prometheus and Grafana: every metric and label that is asked for exists, rules do what they say, the
dashboard holds together.

Prometheus' own `promtool` checks configuration, rules, their unit tests and the dashboard's queries where it
is installed; without it these tests are skipped with that reason, and the others still see misspelt metrics
and unbalanced brackets.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.protocol import errors
from marina.core import paths, spec

FOLDER = paths.SOURCE / "deploy"
PROMETHEUS = FOLDER / "prometheus"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads(
    (FOLDER / "grafana" / "dashboards" / "marina.json").read_text(encoding="utf-8")
)
SERVICES = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
EXPRESSIONS = [*QUERIES, *(rule["expr"] for rule in RULES)]
KEYWORDS = {"by", "on", "group_left", "unless", "and", "or"}
OF_PROMETHEUS = {"up": {"job", "instance"}}


def known_metrics() -> dict[str, set[str]]:
    """Every metric that can be asked for -> its labels: of metrics.yaml, recorded by our rules, and
    Prometheus' own.
    """
    declared = yaml.safe_load(paths.METRICS.read_text(encoding="utf-8"))
    known = {**OF_PROMETHEUS, **{rule["record"]: {"model_name"} for rule in RULES if "record" in rule}}
    for kinds in declared.values():
        for kind, entries in kinds.items():
            for entry in entries:
                labels = {*entry["dimensions"], "instance"}
                names = (
                    [f"{entry['name']}_{part}" for part in ("bucket", "sum", "count")]
                    if kind == "histogram"
                    else [entry["name"]]
                )
                known |= {name: labels | ({"le"} if name.endswith("_bucket") else set()) for name in names}
    return known


def taken_apart(expression: str) -> tuple[set[str], set[str]]:
    """(metrics, labels) that an expression of PromQL names."""
    text = re.sub(r'"[^"]*"', '""', expression)
    labels = {
        name
        for matchers in re.findall(r"\{([^}]*)\}", text)
        for name in re.findall(r"(\w+)\s*[=!]~?", matchers)
    }
    lists = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", text)
    labels |= {name for names in lists for name in re.findall(r"\w+", names)}
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on)\s*\([^)]*\)", " ", text)
    words = re.findall(r"(?<![\w.:])([a-zA-Z_:][\w:]*)\s*(\(?)", text)
    return {word for word, bracket in words if not bracket and word not in KEYWORDS}, labels


def promtool(*arguments: str | Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([program, *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_that_is_asked_for_exists(expression: str) -> None:
    known = known_metrics()
    metrics, labels = taken_apart(expression)

    assert metrics or expression.startswith("vector(")
    assert metrics <= known.keys()
    assert labels <= set().union(*(known[name] for name in metrics))
    for opening, closing in ("()", "[]", "{}"):
        assert expression.count(opening) == expression.count(closing)


@pytest.mark.parametrize(
    ("expression", "metrics", "labels"),
    [
        (
            'sum by (a) (rate(x_total{b="y(", c=~"z"}[5m])) / on (a) group_left w > 1e-3',
            {"x_total", "w"},
            {"a", "b", "c"},
        ),
        (
            "m:r:p95 unless up == 0 and histogram_quantile(0.95, x_bucket)",
            {"m:r:p95", "up", "x_bucket"},
            set(),
        ),
    ],
)
def test_an_expression_is_taken_apart_rightly(expression: str, metrics: set[str], labels: set[str]) -> None:
    assert taken_apart(expression) == (metrics, labels)


def test_every_spec_has_its_service_level_in_the_rules() -> None:
    levels = {
        rule["labels"]["model_name"]: rule["expr"]
        for rule in RULES
        if rule.get("record") == "marina:service_level:p95_seconds"
    }

    assert levels == {
        name: f"vector({spec.load(name).service_level.p95_ms / 1000:g})" for name in spec.names()
    }


def test_every_alert_says_what_to_do_in_a_chapter_that_is_there() -> None:
    alerts = [rule for rule in RULES if "alert" in rule]
    chapters = re.findall(
        r"^#+ (.+)$",
        (paths.SOURCE / "docs" / "guide" / "operations.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )

    assert len(alerts) >= 8
    for rule in alerts:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert re.search(r"docs/guide/operations\.md, '(.+?)'", rule["annotations"]["action"])[1] in chapters


def test_every_alert_is_tested_to_fire_and_to_stay_quiet() -> None:
    quiet, loud = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    alerts = {rule["alert"] for rule in RULES if "alert" in rule}
    fired = {
        re.search(r'alertname="(\w+)"', sample["labels"])[1]
        for sample in loud["promql_expr_test"][0]["exp_samples"]
    }  # type: ignore[index]

    assert {case["alertname"] for case in quiet["alert_rule_test"]} == fired == alerts


def test_prometheus_scrapes_the_compose_service_and_loads_the_rules() -> None:
    """Prometheus scrapes the metrics port of the compose service and loads the rules."""
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    port = re.search(r"^metrics_address=.*:(\d+)$", paths.CONFIG.read_text(encoding="utf-8"), re.MULTILINE)[1]
    (job,) = configuration["scrape_configs"]

    assert job["static_configs"] == [{"targets": [f"marina:{port}"]}]
    assert job["job_name"] == "marina"  # MarinaDown asks for it
    assert all((PROMETHEUS / name).is_file() for name in configuration["rule_files"])
    assert "marina" in SERVICES
    assert set(SERVICES["prometheus"]["networks"]) >= set(SERVICES["marina"]["networks"])
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]


def test_the_error_types_that_alerts_count_are_those_of_the_handlers() -> None:
    texts = [(PROMETHEUS / name).read_text(encoding="utf-8") for name in ("rules.yml", "rules_test.yml")]
    named = {name for text in texts for name in re.findall(r'refusals_total\{.*?\btype="(\w+)"', text)}

    assert len(named) >= 2
    assert all(hasattr(errors, name) for name in named), named


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    cells = [cell for panel in DASHBOARD["panels"] for cell in _cells(panel["gridPos"])]

    assert len(ids) == len(set(ids))
    assert len(cells) == len(set(cells))
    assert all(0 <= x < 24 for x, _ in cells)
    assert all(panel["title"] for panel in DASHBOARD["panels"])


def test_every_query_has_a_letter_of_its_own_and_uses_declared_variables() -> None:
    for panel in PANELS:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters))
        assert panel["datasource"]["uid"] == "${datasource}"
    used = {name for query in QUERIES for name in re.findall(r"\$(\w+)", query)} - {"__rate_interval"}
    assert used | {"datasource"} == VARIABLES.keys()


def test_the_dashboard_shows_what_it_is_for() -> None:
    shown = "\n".join(QUERIES)

    stages = ("decode", "preprocess", "inference", "postprocess")
    quantiles = [
        f"histogram_quantile({share}, sum by (model_name, le) (rate(marina_{stage}_"
        for stage in stages
        for share in (0.5, 0.95)
    ]
    assert all(quantile in shown for quantile in quantiles)
    wanted = (
        "marina_refusals_total",
        "marina_batch_size_sum",
        "ts_queue_latency_microseconds",
        "Requests5XX",
        "WorkerLoadTime",
        "MemoryUsed",
    )
    assert all(metric in shown for metric in wanted)
    assert "by (model_name, model_version, le)" in shown  # releases side by side


def test_grafana_finds_what_compose_mounts() -> None:
    """Grafana finds its data source and its dashboards where compose mounts them."""
    provisioning = FOLDER / "grafana" / "provisioning"
    (source,) = yaml.safe_load(
        (provisioning / "datasources" / "prometheus.yaml").read_text(encoding="utf-8")
    )["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "marina.yaml").read_text(encoding="utf-8"))[
        "providers"
    ]
    mounted = {mount["target"]: mount["source"] for mount in SERVICES["grafana"]["volumes"]}

    assert source["url"] == "http://prometheus:9090"
    assert source["uid"] == VARIABLES["datasource"]["current"]["value"]
    assert mounted[provider["options"]["path"]] == "./grafana/dashboards"
    assert mounted["/etc/grafana/provisioning"] == "./grafana/provisioning"
    assert set(SERVICES["grafana"]["networks"]) & set(SERVICES["prometheus"]["networks"])


def test_promtool_accepts_the_configuration_and_the_rules_pass() -> None:
    """The configuration and the rules pass promtool, and the rules pass their tests."""
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("test", "rules", PROMETHEUS / "rules_test.yml")


def test_promtool_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    filled = [
        re.sub(r"\$(?:instance|model|version)\b", ".*", query.replace("$__rate_interval", "5m"))
        for query in QUERIES
    ]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(filled)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    promtool("check", "rules", tmp_path / "queries.yml")


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    return (
        (x, y)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
