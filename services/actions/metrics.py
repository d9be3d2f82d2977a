"""What the actions service counts; every label comes from a closed set, the reasons are those of policy and progress."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.actions.core.policy import PARKS
from services.actions.store import Change, Queues

SECOND = 1_000_000


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.received = Counter(
            "trimtab_actions_received_total", "Decisions taken in, by kind and what policy said", ["kind", "status", "reason"], registry=registry
        )
        self.actions = Counter("trimtab_actions_total", "Actions ended, by status and reason", ["status", "reason"], registry=registry)
        self.calls = Counter("trimtab_platform_writes_total", "Writes sent to platforms, by answer", ["executor", "answer"], registry=registry)
        self.quarantined = Counter(
            "trimtab_decisions_quarantined_total", "Decisions nobody may act on before a person has looked", ["reason"], registry=registry
        )
        self.gaps = Counter(
            "trimtab_decision_sequence_gaps_total", "Places at which the decisions log skipped, or had stepped back", ["kind"], registry=registry
        )
        self.entries = Counter("trimtab_ledger_entries_total", "Ledger entries written", registry=registry)
        self.verified = Counter("trimtab_ledger_verified_entries_total", "Ledger entries verified in the background", registry=registry)
        self.verified_at = Gauge(
            "trimtab_ledger_verified_timestamp_seconds",
            "When all chains were last verified: to the head, from the first entry",
            ["scope"],
            registry=registry,
        )
        self.broken = Gauge("trimtab_ledger_broken", "Workspaces whose chain does not hold", registry=registry)
        self.disagree = Gauge("trimtab_ledger_witness_disagreements", "Workspaces whose ledger is not what its witness saw", registry=registry)
        self.unwitnessed = Counter("trimtab_ledger_witness_failures_total", "Times that the witness could not be asked or told", registry=registry)
        self.waiting = Gauge("trimtab_escalations_waiting", "Escalations that wait for people", registry=registry)
        self.waiting_age = Gauge("trimtab_escalations_age_seconds", "How long the oldest of them has waited", registry=registry)
        self.waiting_used = Gauge(
            "trimtab_escalations_time_used_ratio", "The largest share of its own time that one of them has used up; at 1 it expires", registry=registry
        )
        self.unsent = Gauge("trimtab_outcomes_unsent", "Outcomes not yet on the events log", registry=registry)
        self.queued = Gauge("trimtab_actions_queued", "Actions to be carried out that have not ended", registry=registry)
        self.queue_age = Gauge("trimtab_actions_queue_age_seconds", "How long the oldest of them has been to be carried out", registry=registry)
        self.in_doubt = Gauge("trimtab_platform_writes_in_doubt", "Writes whose effect is being read back", registry=registry)
        self.in_doubt_age = Gauge("trimtab_platform_writes_in_doubt_age_seconds", "How long the oldest of them has been in doubt", registry=registry)
        self.parked_now = Gauge("trimtab_actions_parked", "Actions that may not be carried out now, by why", ["reason"], registry=registry)
        self.faults = Counter("trimtab_actions_faults_total", "Errors at the edge of the actions worker", ["where"], registry=registry)

    def count(self, change: Change) -> None:
        """Of a transaction that has committed."""
        self.entries.inc(change.entries)
        for status, reason in change.ended:
            self.actions.labels(status, reason).inc()

    def show(self, queues: Queues, now: int) -> None:
        self.waiting.set(queues.waiting)
        self.waiting_age.set(max(0, now - queues.asked) / SECOND if queues.waiting else 0)
        self.waiting_used.set(max(0, queues.used))
        self.unsent.set(queues.unsent)
        self.queued.set(queues.queued)
        self.queue_age.set(max(0, now - queues.oldest) / SECOND if queues.queued else 0)
        self.in_doubt.set(queues.in_doubt)
        self.in_doubt_age.set(max(0, now - queues.intended) / SECOND if queues.in_doubt else 0)
        for reason in PARKS:
            self.parked_now.labels(reason).set(queues.parked.get(reason, 0))
