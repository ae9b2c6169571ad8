"""The dashboard and the alerts ask for metrics and labels that there are; every alert has its page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp.telemetry.table import STREAM_METRICS, TABLE, Kind

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/epp.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
RUNBOOKS = ROOT / "docs/runbooks"
CI = ROOT / "deploy/helm/inference-epp/templates/scaling.yaml"

OF_THE_TARGET = {"namespace", "pod", "job", "instance", "service", "le"}
"""Labels that Prometheus adds, or that belong to every histogram."""
_WORDS = {"and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring"}
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"\{([^{}]*)\}")
_LABEL = re.compile(r"([A-Za-z_]\w*)\s*(?:=~|!~|!=|=)")
_NAME = re.compile(r"(?<![\w$])([A-Za-z_:][\w:]*)(?!\w)(?!\s*\()")


def _exposed() -> dict[str, set[str]]:
    """Names as Prometheus has them, with their labels."""
    exposed: dict[str, set[str]] = {}
    for metric in TABLE.values():
        names = [(metric.name, set(metric.labels))]
        for twin in metric.twins:
            renamed = dict(twin.renamed)
            names.append((twin.name, {renamed.get(label, label) for label in twin.labels}))
        suffixes = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        exposed |= {name + suffix: labels for name, labels in names for suffix in suffixes}
    return exposed


EXPOSED = _exposed()


def _faults(expression: str) -> list[str]:
    """What an expression asks for that there is not."""
    strings = [text for text in re.findall(r'"([^"]*)"', expression) if text.isidentifier()]
    made = set(strings) if "count_values" in expression else set()
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", '""', expression)
    grouped = {label.strip() for inner in _GROUPING.findall(bare) for label in inner.split(",")}
    selected = {label for inner in _SELECTOR.findall(bare) for label in _LABEL.findall(inner)}
    rest = re.sub(r"\[[^\]]*\]", "", _SELECTOR.sub("", _GROUPING.sub("", bare)))
    names = set(_NAME.findall(rest)) - _WORDS
    faults = [f"no metric {name}" for name in names - set(EXPOSED)]
    faults += [f"{name} is only there with a flag" for name in names & STREAM_METRICS]
    labels = OF_THE_TARGET.union(made, *(EXPOSED.get(name, set()) for name in names))
    faults += [f"no label {label}" for label in (grouped | selected) - labels - {""}]
    return faults if names else [*faults, "no metric at all"]


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("sum(rate(llm_d_epp_requests_total[5m]))", "no metric llm_d_epp_requests_total"),
        ("llm_d_epp_request_ttft_seconds", "no metric llm_d_epp_request_ttft_seconds"),
        ('epp_endpoints{pool="a"}', "no label pool"),
        ("sum by (nam) (epp_endpoints)", "no label nam"),
        (
            "llm_d_epp_extproc_streams_inflight",
            "llm_d_epp_extproc_streams_inflight is only there with a flag",
        ),
        ("vector(0)", "no metric at all"),
    ],
)
def test_what_there_is_not_is_found(expression: str, fault: str) -> None:
    assert _faults(expression) == [fault]


def test_what_there_is_passes() -> None:
    assert (
        _faults("avg(inference_pool_average_queue_size{name='p'}) or 0 * max(llm_d_epp_ready_endpoints)")
        == []
    )


def _expressions(thing: Any) -> Iterator[str]:
    """Every `expr` below."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            if key == "expr":
                yield value
            else:
                yield from _expressions(value)
    elif isinstance(thing, list):
        for item in thing:
            yield from _expressions(item)


def test_the_dashboard_uses_metrics_that_exist() -> None:
    expressions = list(_expressions(DASHBOARD))
    assert len(expressions) > 50
    assert {text: faults for text in expressions if (faults := _faults(text))} == {}


def test_the_dashboard_asks_for_labels_that_exist() -> None:
    """Variables: label_values(selector, label)."""
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert match is not None
            assert _faults(f"sum by ({match[2]}) ({match[1]})") == []


def test_legends_show_labels_that_the_expression_keeps() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            kept = {
                label.strip() for inner in _GROUPING.findall(target["expr"]) for label in inner.split(",")
            }
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= kept, f"{panel['title']}: {shown - kept}"


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= own


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_can_fire_and_says_where_its_page_is(rule: dict[str, Any]) -> None:
    assert _faults(rule["expr"]) == []
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    page = ROOT / rule["annotations"]["runbook"]
    assert page == RUNBOOKS / f"{rule['alert']}.md"
    text = page.read_text()
    assert text.startswith(f"# {rule['alert']}\n")
    for part in ("## What it means", "## What to look at", "## How to mend it"):
        assert part in text


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_the_text_of_an_alert_shows_labels_that_it_has(rule: dict[str, Any]) -> None:
    text = " ".join(rule["annotations"].values())
    grouped = {label.strip() for inner in _GROUPING.findall(rule["expr"]) for label in inner.split(",")}
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= grouped


def test_no_page_is_left_of_an_alert_that_went() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {rule["alert"] for rule in RULES} | {"README"}


def test_runbooks_name_metrics_and_pages_that_exist() -> None:
    served = "".join(path.read_text() for path in (ROOT / "epp/web").glob("*.py"))
    for page in RUNBOOKS.glob("*.md"):
        text = page.read_text()
        for name in re.findall(r"`((?:llm_d_epp|epp|inference_pool)_\w+)`", text):
            assert name in EXPOSED or name in TABLE, f"{page.name}: {name}"
        for path in re.findall(r"9090(/debug/[a-z/]+)", text):
            assert f'"{path.rstrip("/")}' in served, f"{page.name}: {path}"


def test_autoscaling_asks_for_metrics_that_exist() -> None:
    text = re.sub(r"\{\{[^}]*\}\}", "x", CI.read_text())
    queries = re.findall(r"^ +query: (.*)$", text, re.MULTILINE)
    assert len(queries) == 3
    for query in queries:
        assert _faults(query) == []
    for name in re.findall(r"^ +name: ((?:llm_d|inference)_\w+)$", text, re.MULTILINE):
        assert name in EXPOSED
