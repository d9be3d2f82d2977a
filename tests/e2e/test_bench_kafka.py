"""What is measured on Kafka is right before it is fast: every event is counted, and the engine decides alike wherever the log lies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from benchmarks import kafka as bench
from benchmarks.engine import Case, at_boundaries, prepared
from benchmarks.figure import Figure
from deploy.kafka.broker import Brokers
from services.adapters.clock import ManualClock
from services.adapters.codec.record import encode
from services.adapters.log.codec import EVENTS
from services.adapters.log.memory import MemoryLog
from services.kernel.columns import Rows
from services.kernel.record import EventBatch, Record, Tick

SMALL = bench.Size(events=20_000, rounds=1, held=0, decisions=200)
CASE = Case(rules=bench.RULES, per_record=bench.PER_RECORD, events=SMALL.events)


def measured(part: Callable[..., Any], kafka: Brokers) -> list[Figure]:
    return list(asyncio.run(part(kafka.bootstrap, SMALL)))


def of(figures: Sequence[Figure]) -> set[tuple[str, str]]:
    """The ratios that were found: (what is compared, with what)."""
    assert all(f.value > 0 for f in figures)
    return {(f.case.partition(":")[2].strip(), f.against) for f in figures if f.ratio is not None}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_engine_is_measured_beside_a_bare_loop_and_beside_memory_and_decides_alike(kafka: Brokers) -> None:
    engine = f"engine rules={bench.RULES} per_record={bench.PER_RECORD} from Kafka"
    assert of(measured(bench.loop, kafka)) == {(engine, "bare loop"), (f"{engine}, beside memory", "from memory")}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ingest_s_way_to_the_log_is_measured_beside_a_producer_of_the_same_bytes(kafka: Brokers) -> None:
    assert of(measured(bench.producer, kafka)) == {
        (f"{parts} events, EventWriter and KafkaLog", "bare producer") for parts in ("batches of 1,000", "deliveries of 100")
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_two_workers_decide_together_what_one_decides(kafka: Brokers) -> None:
    assert of(measured(bench.workers, kafka)) == {("two, a partition each", "one with both")}


def in_memory(change: Callable[[list[tuple[int, bytes]]], None]) -> tuple[MemoryLog[Record], list[int]]:
    records = at_boundaries(CASE)
    stamps = [stamp for stamp, _ in records]
    change(records)
    log: MemoryLog[Record] = MemoryLog(EVENTS, ManualClock(stamps[0]))
    log.kept[0] = records
    return log, stamps


def test_a_record_that_is_lost_or_comes_twice_is_no_measurement() -> None:
    def lose(records: list[tuple[int, bytes]]) -> None:
        records[7] = (records[7][0], encode(Tick()))

    log, stamps = in_memory(lose)
    with pytest.raises(RuntimeError, match=r"was fed 19,900 of 20,000 events"):
        asyncio.run(bench.judged(log, prepared(CASE, None), stamps, SMALL.events))


def test_what_is_said_is_what_was_decided_in_order() -> None:
    log, stamps = in_memory(lambda records: None)
    said = []

    async def say(decided: list[Any]) -> None:
        said.extend(decided)

    decided, _ = asyncio.run(bench.judged(log, prepared(CASE, None), stamps, SMALL.events, say=say))
    assert decided == said != []


@pytest.mark.parametrize("made", [bench.whole, bench.deliveries])
async def test_parts_are_written_each_once(made: Callable[[int], Sequence[EventBatch | Rows]]) -> None:
    log: MemoryLog[Record] = MemoryLog(EVENTS, ManualClock(1))
    await bench.written(log, made(SMALL.events))
    kept = [record.record for record in await log.read(0, 0, 10_000)]
    ids = [row.tobytes() for batch in kept if isinstance(batch, EventBatch) for row in batch.event_id]
    assert (len(ids), len(set(ids))) == (SMALL.events, SMALL.events)


def test_a_machine_without_java_is_told_so_and_measures_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    assert list(bench.figures(quick=True)) == []
    assert capsys.readouterr().err.startswith("kafka: skipped, there is no Java")


def test_a_part_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["lop"]) == 2
    assert "there is no part 'lop'" in capsys.readouterr().err
