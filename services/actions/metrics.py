"""What the actions service counts; every label comes from a closed set, the reasons are those of policy and progress."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.received = Counter(
            "trimtab_actions_received_total", "Decisions taken in, by kind and what policy said", ["kind", "status", "reason"], registry=registry
        )
        self.actions = Counter("trimtab_actions_total", "Actions ended, by status and reason", ["status", "reason"], registry=registry)
        self.calls = Counter("trimtab_platform_writes_total", "Writes sent to platforms, by answer", ["executor", "answer"], registry=registry)
        self.parked = Counter("trimtab_decisions_parked_total", "Decisions nobody may act on before a person has looked", ["reason"], registry=registry)
        self.entries = Counter("trimtab_ledger_entries_total", "Ledger entries written", registry=registry)
        self.waiting = Gauge("trimtab_escalations_waiting", "Escalations that wait for people", registry=registry)
        self.unsent = Gauge("trimtab_outcomes_unsent", "Outcomes not yet on the events log", registry=registry)
        self.faults = Counter("trimtab_actions_faults_total", "Errors at the edge of the actions worker", ["where"], registry=registry)
