"""The dashboard: it is what its code says, of metrics that there are, and each alert has the panel that shows why it speaks."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.architecture.test_alerts import ALERTS, METRICS, ROOT
from tests.parts import lacks

FOLDER = ROOT / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "trimtab.json").read_text())
PANELS = [p for p in DASHBOARD["panels"] if p["type"] != "row"]
EXPRESSIONS = [t["expr"] for p in PANELS for t in p["targets"]]
NAME = re.compile(r"\b(?:trimtab_\w+|up)\b(?=\{|\[|\)|\s)")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_dashboard", FOLDER / "generate.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


def asked(expression: str) -> set[str]:
    """The metrics that it reads; of a histogram's series the histogram."""
    return {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in NAME.findall(expression.replace('job="trimtab"', ""))}


def test_the_file_is_what_the_code_says(generator: ModuleType) -> None:
    assert (FOLDER / "trimtab.json").read_text() == generator.text(), "python deploy/grafana/generate.py"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_panel_asks_for_metrics_that_there_are(expression: str) -> None:
    assert asked(expression) and asked(expression) <= METRICS | {"up"}


def test_every_alert_has_a_panel_that_shows_a_metric_of_it(generator: ModuleType) -> None:
    shown = {name: panel for _, row in generator.ROWS for panel in row for name in panel.alerts}
    assert shown.keys() == {a["alert"] for a in ALERTS}
    related = {"TrimtabQuarantineGrows"}  # shown by reason, which says more
    for alert in ALERTS:
        seen = set().union(*(asked(e) for e, _ in shown[alert["alert"]].queries))
        assert seen & asked(alert["expr"]) or alert["alert"] in related, alert["alert"]


def test_panels_have_units_ids_of_their_own_and_lie_beside_one_another() -> None:
    assert all(p["fieldConfig"]["defaults"]["unit"] and p["title"] for p in PANELS)
    assert len({p["id"] for p in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [
        (x, y) for at in (p["gridPos"] for p in DASHBOARD["panels"]) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24


def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        lacks("promtool", "promtool is not installed: apt-get install prometheus")
    rules = [{"record": f"a:b{i}", "expr": e.replace("$__rate_interval", "5m")} for i, e in enumerate(EXPRESSIONS)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([str(promtool), "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
