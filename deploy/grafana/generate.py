"""Writes trimtab.json, the dashboard, beside itself: rows as an operator asks, and every alert of deploy/prometheus on the panel that shows why.

With --check it only says whether the file is stale.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
FILE = FOLDER / "trimtab.json"
ALERTS = FOLDER.parent / "prometheus" / "alerts.yaml"
WIDE, HIGH, ACROSS = 8, 8, 24  # of a panel, and of the page, in Grafana's units
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WHERE = 'instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries` are (expression, legend); `line` is where a threshold is drawn; `alerts` are those that speak of what is seen here."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    alerts: tuple[str, ...] = ()
    line: float | None = None


def per_second(metric: str, by: str, where: str = "") -> tuple[str, str]:
    return f"sum by ({by}) (rate({metric}{{{', '.join(filter(None, (WHERE, where)))}}}[$__rate_interval]))", "{{" + "}} {{".join(by.split(", ")) + "}}"


def grown(metric: str, by: str, where: str = "") -> tuple[str, str]:
    expression, legend = per_second(metric, by, where)
    return expression.replace("rate(", "increase(", 1).replace("$__rate_interval", "1h"), legend


def largest(metric: str, by: str = "instance", where: str = "") -> tuple[str, str]:
    return f"max by ({by}) ({metric}{{{', '.join(filter(None, (WHERE, where)))}}})", "{{" + "}} {{".join(by.split(", ")) + "}}"


def quantile(q: float, histogram: str, by: str = "") -> tuple[str, str]:
    labels = ", ".join(filter(None, ("le", by)))
    label = f"p{q * 100:g}" + (f" {{{{{by}}}}}" if by else "")
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket{{{WHERE}}}[$__rate_interval])))", label


def age(metric: str, scope: str) -> tuple[str, str]:
    return f'time() - max by (scope) ({metric}{{{WHERE}, scope="{scope}"}})', scope


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Overview",
        (
            Panel("Processes that answer", "none", (('up{job="trimtab", ' + WHERE + "}", "{{instance}}"),), ("TrimtabDown", "TrimtabServiceGone"), 1),
            Panel("Partitions that stopped", "none", (largest("trimtab_partition_stopped", "instance, partition"),), ("TrimtabPartitionStopped",), 1),
            Panel("Decisions", "ops", (per_second("trimtab_decisions_total", "kind, mode"),), ("TrimtabNoDecisions",)),
        ),
    ),
    (
        "Ingest",
        (
            Panel("Events", "ops", (per_second("trimtab_ingest_events_total", "source, outcome"),), ("TrimtabNoEvents",)),
            Panel("Requests", "reqps", (per_second("trimtab_ingest_requests_total", "route, status"),), ("TrimtabIngestRefuses",)),
            Panel("Quarantined", "ops", (per_second("trimtab_ingest_quarantined_total", "reason"),), ("TrimtabQuarantineGrows",)),
            Panel("Deliveries in work", "none", (largest("trimtab_ingest_deliveries_in_work"),)),
            Panel("Bytes in work", "bytes", (largest("trimtab_ingest_bytes_in_work"),)),
            Panel(
                "Connections closed and deliveries refused by a bound",
                "ops",
                (per_second("trimtab_http_shed_total", "instance, reason"), per_second("trimtab_ingest_shed_total", "instance, reason")),
                ("TrimtabConnectionsShed",),
                1,
            ),
        ),
    ),
    (
        "Log",
        (
            Panel("Events that wait to be written", "none", (largest("trimtab_log_events_waiting"),)),
            Panel(
                "Batches that Kafka did not acknowledge", "ops", (per_second("trimtab_kafka_append_failures_total", "topic, reason"),), ("TrimtabKafkaRefuses",)
            ),
            Panel("Time until a batch is acknowledged", "s", (quantile(0.5, "trimtab_kafka_append_seconds"), quantile(0.99, "trimtab_kafka_append_seconds"))),
            Panel(
                "Producers and readers made anew",
                "none",
                (grown("trimtab_kafka_producers_total", "topic, why"), grown("trimtab_kafka_readers_replaced_total", "topic")),
            ),
            Panel("Segments", "none", (grown("trimtab_log_segments_total", "step"),)),
            Panel("Runs of the log's upkeep that failed", "none", (grown("trimtab_log_upkeep_failures_total", "instance"),), ("TrimtabLogUpkeepFails",), 2),
        ),
    ),
    (
        "Engine, by partition",
        (
            Panel(
                "Behind the clock",
                "s",
                (largest("trimtab_engine_delay_seconds", "instance, partition"),),
                ("TrimtabEngineBehind", "TrimtabPartitionUnowned"),
                60,
            ),
            Panel("Records folded", "ops", (per_second("trimtab_engine_records_total", "partition"),)),
            Panel("Time of a step", "s", (quantile(0.5, "trimtab_engine_step_seconds"), quantile(0.99, "trimtab_engine_step_seconds"))),
            Panel("Partitions owned and restored", "none", (largest("trimtab_engine_partitions"), largest("trimtab_engine_partitions_restored"))),
            Panel("How far a restore is", "percentunit", (largest("trimtab_engine_restore_ratio", "instance, partition, step"),)),
            Panel("Checkpoints", "none", (grown("trimtab_checkpoints_total", "instance, outcome"),), ("TrimtabCheckpointFailed",)),
            Panel("Newest checkpoint", "none", (largest("trimtab_checkpoint_offset", "partition"),)),
            Panel(
                "Oldest record that is in no checkpoint",
                "s",
                (largest("trimtab_checkpoint_age_seconds", "instance, partition"),),
                ("TrimtabCheckpointOld",),
                2 * 3600,
            ),
            Panel(
                "Not archived in time",
                "s",
                (largest("trimtab_archive_overdue_seconds", "topic, partition"), grown("trimtab_archive_failures_total", "instance")),
                ("TrimtabArchiveBehind",),
                3600,
            ),
            Panel("Lost to the archive", "none", (largest("trimtab_archive_lost_records", "topic, partition"),), ("TrimtabArchiveLost",), 0),
            Panel("Archived", "none", (largest("trimtab_archive_offset", "topic, partition"), grown("trimtab_archive_segments_total", "topic"))),
            Panel("Refusals by guard", "ops", (per_second("trimtab_guard_refusals_total", "guard"),)),
        ),
    ),
    (
        "Actions",
        (
            Panel("Oldest action to be carried out", "s", (largest("trimtab_actions_queue_age_seconds"),), ("TrimtabActionsWait",), 300),
            Panel("Actions ended", "none", (grown("trimtab_actions_total", "status, reason"),), ("TrimtabActionsUnknown",)),
            Panel("Writes to platforms", "ops", (per_second("trimtab_platform_writes_total", "executor, answer"),)),
            Panel("Oldest write in doubt", "s", (largest("trimtab_platform_writes_in_doubt_age_seconds"),), ("TrimtabWritesInDoubt",), 900),
            Panel("Actions that are parked", "none", (largest("trimtab_actions_parked", "reason"),), ("TrimtabActionsParked",)),
            Panel("Outcomes that are not on the log", "none", (largest("trimtab_outcomes_unsent"),), ("TrimtabOutcomesUnsent",)),
            Panel("Decisions taken in", "ops", (per_second("trimtab_actions_received_total", "kind, status"),)),
            Panel("Decisions in quarantine", "none", (grown("trimtab_decisions_quarantined_total", "reason"),), ("TrimtabBuildsDisagree",), 1),
            Panel(
                "Places where the sequence of decisions broke",
                "none",
                (grown("trimtab_decision_sequence_gaps_total", "kind"),),
                ("TrimtabDecisionsMissing",),
                1,
            ),
        ),
    ),
    (
        "Escalations",
        (
            Panel("Waiting for people", "none", (largest("trimtab_escalations_waiting"),)),
            Panel("Oldest of them", "s", (largest("trimtab_escalations_age_seconds"),)),
            Panel(
                "Of its own time, the most that one has used up",
                "percentunit",
                (largest("trimtab_escalations_time_used_ratio"),),
                ("TrimtabEscalationsWait",),
                0.75,
            ),
        ),
    ),
    (
        "Ledger",
        (
            Panel(
                "Entries written and verified",
                "ops",
                (per_second("trimtab_ledger_entries_total", "instance"), per_second("trimtab_ledger_verified_entries_total", "instance")),
            ),
            Panel("Workspaces whose chain does not hold", "none", (largest("trimtab_ledger_broken"),), ("TrimtabLedgerBroken",), 1),
            Panel(
                "Since the chains were verified",
                "s",
                (age("trimtab_ledger_verified_timestamp_seconds", "new"), age("trimtab_ledger_verified_timestamp_seconds", "whole")),
                ("TrimtabLedgerUnverified",),
                3600,
            ),
            Panel("Workspaces that the witness holds", "none", (largest("trimtab_ledger_witness_disagreements"),), ("TrimtabWitnessDisagrees",), 1),
            Panel("The witness could not be asked or told", "none", (grown("trimtab_ledger_witness_failures_total", "instance"),), ("TrimtabWitnessFails",), 2),
        ),
    ),
    (
        "Database",
        (
            Panel("Faults of actions, most often of its database", "ops", (per_second("trimtab_actions_faults_total", "instance, where"),)),
            Panel("Requests to ingest that ended with 5xx", "reqps", (per_second("trimtab_ingest_requests_total", "instance, status", 'status=~"5.."'),)),
            Panel("Actions queued", "none", (largest("trimtab_actions_queued"), largest("trimtab_platform_writes_in_doubt"))),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    told = {rule["alert"]: rule["annotations"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"h": 1, "w": ACROSS, "x": 0, "y": y}}
        )
        y += 1
        for i, panel in enumerate(row):
            at = {"h": HIGH, "w": WIDE, "x": i * WIDE % ACROSS, "y": y + i * WIDE // ACROSS * HIGH}
            panels.append({"id": len(panels) + 1} | drawn(panel, told) | {"gridPos": at})
        y += -(-len(row) * WIDE // ACROSS) * HIGH
    variables = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "instance",
            "label": "Process",
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": 'label_values(up{job="trimtab"}, instance)', "refId": "instance"},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]
    return {
        "uid": "trimtab",
        "title": "Trimtab",
        "tags": ["trimtab"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables},
        "panels": panels,
    }


def drawn(panel: Panel, told: dict[str, dict[str, str]]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.line is not None:
        steps.append({"color": "red", "value": panel.line})
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": "\n\n".join(f"**{name}**: {told[name]['description']} What to do: {told[name]['runbook']}" for name in panel.alerts),
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {"fillOpacity": 10, "thresholdsStyle": {"mode": "off" if panel.line is None else "line"}},
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [{"refId": "ABCDEF"[i], "datasource": SOURCE, "expr": e, "legendFormat": legend} for i, (e, legend) in enumerate(panel.queries)],
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


def main(words: list[str]) -> int:
    if words == ["--check"]:
        is_same = FILE.exists() and FILE.read_text() == text()
        print("trimtab.json is as the code says" if is_same else "trimtab.json is stale: python deploy/grafana/generate.py")
        return int(not is_same)
    FILE.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
