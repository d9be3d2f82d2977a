"""The alerts: each is about metrics that there are, leads to a section that there is, and has been seen to speak and to be silent."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.parts import lacks

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
ALERTS: list[dict[str, Any]] = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
TESTS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.test.yaml").read_text())["tests"]
OF_A_PROCESS = {  # a disk, a connection, a bound of its own
    "TrimtabDown", "TrimtabArchiveBehind", "TrimtabCheckpointFailed", "TrimtabWitnessFails", "TrimtabLogUpkeepFails", "TrimtabKafkaRefuses",
    "TrimtabConnectionsShed",
}  # fmt: skip
METRICS = set(re.findall(r"^\| `(trimtab_\w+)`", (ROOT / "docs" / "operations.md").read_text(), re.M))


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as they are made of their words."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda a: a["alert"])
def test_an_alert_says_what_is_wrong_and_leads_to_what_to_do(alert: dict[str, Any]) -> None:
    told = alert["annotations"]
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert told["summary"] and told["description"].endswith(".")
    page, _, anchor = told["runbook"].partition("#")
    assert anchor in anchors(ROOT / page)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda a: a["alert"])
def test_an_alert_asks_for_metrics_that_there_are(alert: dict[str, Any]) -> None:
    asked = set(re.findall(r"\b(?:trimtab_\w+|up)\b(?=\{|\[|\)|\s)", alert["expr"].replace('job="trimtab"', "")))
    assert asked and asked <= METRICS | {"up"}


def test_every_alert_is_seen_silent_and_seen_speaking() -> None:
    """A test's name is an alert, or an alert and what is so in it."""
    seen: dict[str, set[bool]] = {}
    for test in TESTS:
        name, _, _ = test["name"].partition(":")
        assert all(f'alertname="{name}"' in e["expr"] for e in test["promql_expr_test"])
        seen.setdefault(name, set()).update(bool(e["exp_samples"]) for e in test["promql_expr_test"])
    assert seen == {a["alert"]: {False, True} for a in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda a: a["alert"])
def test_an_alert_speaks_of_the_installation_except_of_what_a_process_does_by_itself(alert: dict[str, Any]) -> None:
    groupings = re.findall(r"\b(?:by|on|without) \(([^)]*)\)", alert["expr"])
    told_by_instance = any("instance" in g for g in groupings) or not groupings
    assert told_by_instance == (alert["alert"] in OF_A_PROCESS)
    assert all({"job", "namespace"} <= set(g.split(", ")) for g in groupings if "instance" not in g)


def test_prometheus_agrees() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        lacks("promtool", "promtool is not installed: apt-get install prometheus")
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]):
        done = subprocess.run([str(promtool), *command], cwd=FOLDER, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
