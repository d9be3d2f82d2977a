"""What those who run the engine watch: its metrics, and how far a restore is."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

STEPS = LOOKED, FOLDED = "looked through", "folded"  # of a restore, one after the other, the same records


@dataclass(frozen=True, slots=True)
class Way:
    """How far a step of a restore is: `done` of the `whole` records that it has to pass; `whole` is 0 while nobody knows how many those are."""

    step: str
    done: int
    whole: int

    @property
    def ratio(self) -> float:
        return self.done / self.whole if self.whole else 0

    def __str__(self) -> str:
        if not self.whole:
            return f"{self.done} records {self.step}"
        return f"{self.done} of {self.whole} records {self.step}, {100 * self.done // self.whole}%"


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = Counter("trimtab_decisions_total", "Decisions by rule and kind", ["rule", "kind", "mode"], registry=registry)
        self.refusals = Counter("trimtab_guard_refusals_total", "Refusals told, by guard", ["rule", "guard"], registry=registry)
        self.records = Counter("trimtab_engine_records_total", "Records folded", ["partition"], registry=registry)
        self.time = Gauge("trimtab_engine_time_seconds", "Engine time of the partition", ["partition"], registry=registry)
        self.delay = Gauge("trimtab_engine_delay_seconds", "How long what is due has waited to be fed or judged", ["partition"], registry=registry)
        buckets = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10)
        self.step = Histogram("trimtab_engine_step_seconds", "Time to fold and judge the records fed at once", buckets=buckets, registry=registry)
        self.stopped = Gauge("trimtab_partition_stopped", "1 when the partition stopped and wants a person", ["partition"], registry=registry)
        self.checkpoints = Counter("trimtab_checkpoints_total", "Checkpoints written, failed, or passed over at a start", ["outcome"], registry=registry)
        self.saved = Gauge("trimtab_checkpoint_offset", "The next record that the newest checkpoint has not folded", ["partition"], registry=registry)
        self.unsaved = Gauge("trimtab_checkpoint_age_seconds", "How long ago the oldest record came that no checkpoint has", ["partition"], registry=registry)
        self.way = Gauge(
            "trimtab_engine_restore_ratio",
            "How much of the log a restore has looked through, and then folded, of all that it has to; both 1 once it is done",
            ["partition", "step"],
            registry=registry,
        )

    def forget(self, partition: int) -> None:
        """It is another process's now, which tells of it."""
        for gauge in (self.time, self.delay, self.stopped, self.saved, self.unsaved):
            with suppress(KeyError):
                gauge.remove(str(partition))
        for step in STEPS:
            with suppress(KeyError):
                self.way.remove(str(partition), step)
