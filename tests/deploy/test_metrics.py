"""Alarms and the dashboard against promtool, the runbook and the metrics of a server: what they name exists."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml
from conftest import DEPLOY, ROOT, Server, keepbest

_PROMETHEUS = DEPLOY / "prometheus"
_RULES = _PROMETHEUS / "rules.yaml"
_DASHBOARD = DEPLOY / "grafana/keepbest.json"
_NAME = re.compile(r"\b(?:keepbest|process)_[a-z0-9_]+\b")
_SUFFIX = re.compile(r"_(?:bucket|sum|count)$")


def _promtool(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, cwd=_PROMETHEUS, input=text, capture_output=True, text=True, timeout=60, check=False)


def _alarms() -> dict[str, dict]:
    [group] = yaml.safe_load(_RULES.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def _queries() -> list[str]:
    panels = json.loads(_DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


@pytest.fixture
def told(tmp_path: Path, servers: list[Server]) -> str:
    """What a server tells that has stored a version and read it again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {"KEEPBEST_DATA_DIR": str(tmp_path / "data"), "KEEPBEST_METRICS_LISTEN": listen}
    servers.append(Server(tmp_path / "log", settings))
    model = tmp_path / "model.bin"
    model.write_bytes(bytes(100_000))
    keepbest("push", model, "team/project/model", "--server", servers[0].url)
    keepbest("pull", "team/project/model:v0", tmp_path / "pulled", "--server", servers[0].url)
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=10) as answer:
        return answer.read().decode()


def test_promtool_finds_nothing_wrong_with_the_text_of_a_server(told: str) -> None:
    checked = _promtool("check", "metrics", text=told)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    broken = _promtool("check", "metrics", text=re.sub("# HELP keepbest_commits_total .*", "", told))
    assert "keepbest_commits_total no help text" in broken.stdout + broken.stderr


def test_promtool_takes_the_alarms_and_the_example_of_a_configuration() -> None:
    for arguments in [("check", "rules", "rules.yaml"), ("check", "config", "prometheus.yaml")]:
        checked = _promtool(*arguments)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_alarm_is_raised_when_it_should_be_and_not_before() -> None:
    tested = _promtool("test", "rules", "rules.test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    cases = yaml.safe_load((_PROMETHEUS / "rules.test.yaml").read_text())["tests"]
    raised = [test["alertname"] for case in cases for test in case["alert_rule_test"] if test["exp_alerts"]]
    assert sorted(raised) == sorted(_alarms())


def test_what_alarms_and_the_dashboard_ask_for_is_told_by_a_server(told: str) -> None:
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", told, re.MULTILINE))
    known = {name for name, kind in kinds.items() if kind != "histogram"}
    known |= {
        name + suffix for name, kind in kinds.items() if kind == "histogram" for suffix in ["_bucket", "_sum", "_count"]
    }
    queries = [rule["expr"] for rule in _alarms().values()] + _queries()
    asked = {name for query in queries for name in _NAME.findall(query)}
    assert len(asked) > 40
    assert asked <= known, asked - known
    # What nobody looks at is not worth telling.
    assert {_SUFFIX.sub("", name) for name in asked} >= set(kinds), set(kinds) - {_SUFFIX.sub("", it) for it in asked}


def test_labels_that_alarms_choose_by_are_told_by_a_server(told: str) -> None:
    """A slip in a label or its value would be an alarm that is never raised."""
    for name, rule in _alarms().items():
        for metric, matchers in re.findall(r"(\w+)\{([^}]*)\}", rule["expr"]):
            for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
                if label == "job":
                    continue
                found = set(re.findall(rf'^{metric}\{{.*\b{label}="([^"]*)"', told, re.MULTILINE))
                wanted = value.split("|") if operator.endswith("~") else [value]
                assert found >= set(wanted), f"{name}: {metric} has {label} {found}, not {wanted}"


def test_the_runbook_says_of_each_alarm_what_to_do() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    _, _, rest = text.partition("## Metrics and alarms\n")
    rows = re.findall(r"^\| `(Keepbest\w+)` \| (.+) \| (.+) \| (.+) \|$", rest.partition("\n## ")[0], re.MULTILINE)
    assert sorted(name for name, *_ in rows) == sorted(_alarms())


def test_the_dashboard_has_its_own_numbers_and_places() -> None:
    panels = json.loads(_DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def test_prometheus_understands_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    variables = {"$__rate_interval": "5m", "$job": "keepbest", "$instance": ".*"}
    rules = []
    for number, query in enumerate(_queries()):
        for name, value in variables.items():
            query = query.replace(name, value)
        rules.append({"record": f"dashboard:query_{number}", "expr": query})
    file = tmp_path / "dashboard.yaml"
    for broken in [False, True]:
        rules[0]["expr"] += ")" if broken else ""
        file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        checked = _promtool("check", "rules", file)
        assert (checked.returncode != 0) == broken, checked.stdout + checked.stderr
