"""A start goes on from the newest checkpoint that can be trusted, and refuses where nothing can say what the state was."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.adapters.clock import ManualClock
from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.log.memory import MemoryLog
from services.adapters.log.sqlite import SqliteLog
from services.kernel.decision import Decision
from services.kernel.errors import Bug, Conflict, Misconfigured, Unavailable, Unreadable
from services.kernel.ports import Log
from services.kernel.record import Activation, Ready, Record, Skip, Stamped
from services.rules_engine.checkpoint import Checkpoint, Checkpoints, Header, Kept, Unusable, read, verify
from services.rules_engine.core import state
from services.rules_engine.core.partition import Partition
from services.rules_engine.replay import Replayer
from services.rules_engine.unsaved import Often
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker
from tests.brokers import until
from tests.core.test_determinism import history
from tests.core.world import DAY, GUARDS, HOUR, MINUTE, START, World, batch, ctr_below, pause_rule
from tests.shell.ending import ending, faultpoint

NEVER = Often(10**9, 10**9)
WIDER = pause_rule(rule="wider", when=ctr_below(8000, 2 * DAY), panes=((2 * DAY, 5 * MINUTE),))


class Watched(MemoryLog[Record]):
    """Remembers from where it was read."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(EVENTS, clock)
        self.reads: list[tuple[int, int]] = []

    async def read(self, partition: int, offset: int, limit: int = 1000) -> list[Stamped[Record]]:
        self.reads.append((offset, limit))
        return list(await super().read(partition, offset, limit))


class Stuck(Checkpoints):
    """Stands still in the midst of writing, until it may go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked, self.may = threading.Event(), threading.Event()

    def write(self, header: Header, plain: dict[str, Any], pieces: Any) -> Path:
        self.asked.set()
        self.may.wait(30)
        return super().write(header, plain, pieces)


@dataclass
class House:
    """Two logs in memory, a folder of checkpoints, and workers that come and go."""

    folder: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(START))
    often: Often = NEVER

    def __post_init__(self) -> None:
        self.events, self.decisions = Watched(self.clock), MemoryLog(DECISIONS, self.clock)
        self.registry = CollectorRegistry()

    async def hold(self, records: list[Stamped[Record]]) -> None:
        for stamped in records:
            self.clock.set(max(self.clock.now(), stamped.stamp))
            await self.events.append([("acme", stamped.record)])

    def worker(self, events: Log[Record] | None = None) -> Worker:
        self.registry = CollectorRegistry()
        checkpoints, metrics = Checkpoints(self.folder), Metrics(self.registry)
        return Worker(events or self.events, self.decisions, self.clock, GUARDS, metrics, checkpoints=checkpoints, often=self.often)

    async def run(self, events: Log[Record] | None = None) -> Worker:
        """A worker that has followed the log to its end, and stopped."""
        worker = self.worker(events)
        try:
            await worker.start()
            if worker.restored:
                await worker.caught_up(worker.partition.offset)
        finally:
            await worker.stop()
        return worker

    async def said(self) -> list[Decision]:
        return [s.record for s in await self.decisions.read(0, 0, 10**6)]

    def counted(self, outcome: str) -> float:
        return self.registry.get_sample_value("trimtab_checkpoints_total", {"outcome": outcome}) or 0

    @property
    def folded(self) -> float:
        return self.registry.get_sample_value("trimtab_engine_records_total", {"partition": "0"}) or 0

    def files(self) -> list[Path]:
        return [k.path for k in Checkpoints(self.folder).every(0)]


def weak(*ads: str, hours: float = 1) -> World:
    world = World().activate(pause_rule()).at(hours)
    for ad in ads:
        world.report(ad, 1000, 5, status="active")
    return world.at(hours + 1).tick()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "checkpoints")


@pytest.fixture
async def settled(house: House) -> House:
    """Six records folded, two decisions said, one of which has ended; one checkpoint, left by the stop."""
    await house.hold(weak("a", "b").records)
    await house.run()
    first, _ = await house.said()
    await house.hold(World().at(3).outcome(first.id, "failed").records)
    await house.run()
    return house


# -- a start --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_the_restarts_the_same_is_decided_once(tmp_path: Path, seed: int) -> None:
    records, rng = history(seed), random.Random(seed)
    whole = House(tmp_path / "whole")
    await whole.hold(records)
    at_once = await whole.run()
    house, rest = House(tmp_path / "parts"), list(records)
    while rest:
        cut = rng.choice([1, 3, 10, 30])
        await house.hold(rest[:cut])
        rest = rest[cut:]
        worker = await house.run()
    assert house.files()
    assert await house.said() == await whole.said()
    assert worker.said.place == at_once.said.place
    assert worker.endings == at_once.endings
    assert worker.partition.digest() == at_once.partition.digest()


async def test_a_start_folds_what_the_checkpoint_has_not_and_reads_the_logs_from_there(settled: House) -> None:
    before = len(settled.events.kept[0])
    await settled.hold(World().at(4).report("c", 1000, 5, status="active").at(5).tick().records)
    settled.events.reads.clear()
    worker = await settled.run()
    assert settled.folded == 2
    assert [r for r in settled.events.reads if r[1] > 1 and r[0] < before] == []
    assert [d.path[-1] for d in await settled.said()] == ["a", "b", "c"]
    assert len(worker.said.place) == 3
    assert [e.status for e in worker.endings.values()] == ["failed"]


class Emptied(MemoryLog[Record]):
    """Retention has deleted everything before `begin`, as Kafka says it where nothing is left."""

    begin = 0

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[Record]]:
        rows = [s for s in await super().read(partition, offset, limit) if s.offset >= self.begin]
        if not rows and offset < self.begin:
            raise Unreadable(f"records {offset} to {self.begin - 1} are deleted, the next is record {self.begin}", self.begin)
        return rows


@pytest.mark.parametrize("unfolded", [0, 1])
async def test_a_log_whose_records_are_all_deleted_is_gone_on_from_where_the_checkpoint_covers_them(settled: House, unfolded: int) -> None:
    emptied, folded = Emptied(EVENTS, settled.clock), len(settled.events.kept[0])
    emptied.kept[0] = list(settled.events.kept[0])
    settled.events = emptied  # type: ignore[assignment]
    before = await settled.said()
    await settled.hold(World().at(4).tick().records[:unfolded])
    emptied.begin = folded + unfolded
    if unfolded:
        with pytest.raises(Misconfigured, match="no valid checkpoint covers what came before"):
            await settled.run()
        return
    await settled.run()
    await settled.hold(World().at(4).report("c", 1000, 5, status="active").at(5).tick().records)
    await settled.run()
    assert [d.path[-1] for d in (await settled.said())[len(before) :]] == ["c"]


async def test_a_start_with_nothing_new_writes_no_other_checkpoint(settled: House) -> None:
    written = settled.files()
    await settled.run()
    assert (settled.folded, settled.files(), settled.counted("written")) == (0, written, 0)


async def test_a_rule_that_asks_for_more_than_the_checkpoint_keeps_reads_the_log_again(settled: House) -> None:
    wider = World().at(4).activate(WIDER).at(5).tick()
    await settled.hold(wider.records)
    worker = await settled.run()
    fired = [d for d in await settled.said() if d.rule_id == "wider"]
    assert {d.readings[0].denominator for d in fired} == {1_000_000_000}
    again = await settled.run()
    assert again.partition.digest() == worker.partition.digest()
    assert settled.folded == 0


async def test_a_wider_demand_compares_what_was_said_with_what_is_derived_again(settled: House) -> None:
    """All of the log is folded anew then, also what the checkpoint had covered."""
    await settled.hold(World().at(4).activate(WIDER).at(5).tick().records)
    first, *others = await settled.said()
    del settled.decisions.kept[0][:]
    await settled.decisions.append([("acme", d) for d in (replace(first, valid_until=1), *others)])
    with pytest.raises(Bug, match="other content"):
        await settled.run()


async def test_checkpoints_are_written_while_the_engine_works(house: House) -> None:
    house.often = Often(1, 10**9)
    worker = house.worker()
    await worker.start()
    try:
        for stamped in weak("a", "b").records:
            await house.hold([stamped])
            await worker.caught_up(len(house.events.kept[0]))
            if worker._saving is not None:
                await worker._saving
    finally:
        await worker.stop()
    kept = Checkpoints(house.folder).every(0)
    assert len(kept) == 3
    assert kept[0].header is not None
    assert (kept[0].header.offset, kept[0].header.decisions) == (len(house.events.kept[0]), 2)


async def test_the_age_of_a_checkpoint_is_that_of_the_oldest_record_that_a_start_would_have_to_fold(house: House) -> None:
    def age() -> float | None:
        return house.registry.get_sample_value("trimtab_checkpoint_age_seconds", {"partition": "0"})

    await house.hold(weak("a").records)
    worker = house.worker()
    await worker.start()
    [oldest] = [s.stamp for s in await house.events.read(0, 0, 1)]
    assert age() == (house.clock.now() - oldest) / 1e6 > 0  # it never had one
    await worker.stop()
    assert (age(), worker.checkpoint_age) == (0, 0)
    house.clock.advance(HOUR)
    assert age() == 0  # nothing has come since
    await house.hold(World().at(4).tick().at(5).tick().records)
    assert house.clock.now() == START + 5 * HOUR
    later = house.worker()
    await later.start()
    house.clock.advance(HOUR)
    assert age() == 2 * 3600
    (house.folder / "file").write_text("where the folder should be")
    later.checkpoints = Checkpoints(house.folder / "file")
    await later._save()
    assert (house.counted("failed"), age()) == (1, 2 * 3600)
    later.checkpoints = Checkpoints(house.folder)
    await house.hold(World().at(8).tick().records)
    await later.caught_up(len(house.events.kept[0]))
    assert age() == 4 * 3600
    await later.stop()
    assert age() == 0


async def test_what_came_while_a_checkpoint_was_written_is_not_in_it(house: House) -> None:
    await house.hold(weak("a").records)
    worker = house.worker()
    await worker.start()
    stuck = Stuck(house.folder)
    worker.checkpoints = stuck
    saving = asyncio.create_task(worker._save())
    await asyncio.to_thread(stuck.asked.wait, 30)
    await house.hold(World().at(4).tick().records)
    await worker.caught_up(len(house.events.kept[0]))
    house.clock.advance(HOUR)
    stuck.may.set()
    await saving
    assert worker.checkpoint_age == 3600
    await worker.stop()


async def test_what_came_last_is_in_a_checkpoint_though_nothing_comes_after_it(house: House) -> None:
    house.often = Often(10**9, 0.2)
    worker = house.worker()
    await worker.start()
    try:
        await house.hold(weak("a").records)
        await worker.caught_up(len(house.events.kept[0]))
        await until(lambda: worker.saved == worker.done)
        assert worker.checkpoint_age == 0
    finally:
        await worker.stop()


class Deaf(MemoryLog[Decision]):
    """Is asked to take decisions, and never does."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(DECISIONS, clock)
        self.asked = asyncio.Event()

    async def append(self, records: Sequence[tuple[str, Decision]], partition: int | None = None) -> Sequence[tuple[int, int]]:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_no_checkpoint_claims_decisions_that_are_not_on_their_log(house: House) -> None:
    deaf = Deaf(house.clock)
    house.decisions = deaf
    worker, records = house.worker(), weak("a", "b").records
    await house.hold(records[:3])
    await worker.start()
    await house.hold(records[3:])
    async with asyncio.timeout(20):
        await deaf.asked.wait()
    await worker.stop()
    house.decisions = MemoryLog(DECISIONS, house.clock)
    await house.run()
    assert [d.path[-1] for d in await house.said()] == ["a", "b"]


@pytest.mark.parametrize("point", [p for p in faultpoint.POINTS if p.startswith("checkpoint.") and p not in ("checkpoint.dumped", "checkpoint.tidied")])
async def test_a_process_that_ends_while_it_writes_a_checkpoint_leaves_a_whole_one_or_none(settled: House, point: str) -> None:
    before = settled.files()
    await settled.hold(World().at(4).report("c", 1000, 5, status="active").at(5).tick().records)
    with ending(point):
        await settled.run()
    usable = [k for k in Checkpoints(settled.folder).valid(0) if isinstance(k, Checkpoint)]
    assert len(usable) == len(settled.files()) == len(before) + (point in ("checkpoint.renamed", "checkpoint.kept"))
    await settled.run()
    assert [d.path[-1] for d in await settled.said()] == ["a", "b", "c"]
    assert list(settled.folder.glob("*.begun")) == []


@pytest.mark.parametrize("point", ["engine.loaded", "engine.fetched", "engine.restored"])
async def test_a_restore_that_fails_is_not_gone_on_from(settled: House, point: str) -> None:
    await settled.hold(World().at(4).report("c", 1000, 5, status="active").at(5).tick().records)
    before = await settled.said()
    faultpoint.arm_from({faultpoint.VARIABLE: f"{point}:1:RAISE"})
    try:
        with pytest.raises(faultpoint.Planted):
            await settled.run()
    finally:
        faultpoint.disarm()
    assert await settled.said() == before or point == "engine.restored"
    await settled.run()
    assert [d.path[-1] for d in await settled.said()] == ["a", "b", "c"]


async def test_a_process_that_ends_before_it_says_that_a_rule_is_ready_leaves_it_to_the_next(house: House) -> None:
    await house.hold(World().activate(pause_rule()).records[:1])
    await house.run()
    assert [s.record for s in await house.events.read(0, 0) if isinstance(s.record, Ready)] == [Ready("acme", pause_rule().version)]


# -- what is passed over --------------------------------------------------------------------------------------------------


async def two_checkpoints(settled: House) -> tuple[Path, Path]:
    await settled.hold(World().at(4).report("c", 1000, 5, status="active").at(5).tick().records)
    await settled.run()
    newest, older, *_ = settled.files()
    return newest, older


@pytest.mark.parametrize("place", [0, 25, 40, 300, 0.3, 0.6, 0.9, -1])
async def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(settled: House, place: float) -> None:
    newest, older = await two_checkpoints(settled)
    data = bytearray(newest.read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 0x40
    newest.write_bytes(data)
    worker = await settled.run()
    assert settled.counted("passed_over") == 1
    assert settled.folded == read(newest).header.offset - read(older).header.offset
    assert len(worker.said.place) == 3


@pytest.mark.parametrize("length", [0, 10, 50, 2000, -1])
async def test_a_torn_checkpoint_is_passed_over_for_an_older_one(settled: House, length: int) -> None:
    newest, _ = await two_checkpoints(settled)
    newest.write_bytes(newest.read_bytes()[:length])
    with pytest.raises(Unusable):
        verify(newest)
    await settled.run()
    assert settled.counted("passed_over") == 1
    assert len(await settled.said()) == 3


async def test_without_any_checkpoint_that_is_valid_the_state_is_rebuilt_from_the_log(settled: House) -> None:
    first = await settled.run()
    for path in settled.files():
        path.write_bytes(b"")
    worker = await settled.run()
    assert settled.folded == len(settled.events.kept[0])
    assert worker.partition.digest() == first.partition.digest()
    assert len(await settled.said()) == 2


async def test_a_state_of_another_form_is_rebuilt_from_the_log(settled: House, tmp_path: Path) -> None:
    [newest, *_] = settled.files()
    found = read(newest)
    for path in settled.files():
        path.unlink()
    other = replace(found.header, state=state.STATE + 1)
    Checkpoints(settled.folder).write(other, {"nobody": "knows"}, {n: [a] for n, a in found.arrays.items()})
    assert verify(newest) == other
    await settled.run()
    assert settled.counted("passed_over") == 1
    assert settled.folded == len(settled.events.kept[0])


async def test_a_file_of_another_partition_or_none_of_ours_is_not_looked_at(settled: House) -> None:
    (settled.folder / "1-00000000000000000001.checkpoint").write_bytes(b"x")
    (settled.folder / "notes.txt").write_bytes(b"x")
    (settled.folder / "0-00000000000000000099.begun").write_bytes(b"half")
    await settled.run()
    assert settled.counted("passed_over") == 0
    await settled.hold(World().at(6).tick().records)
    await settled.run()
    assert not list(settled.folder.glob("0-*.begun"))


async def test_a_checkpoint_of_more_decisions_than_the_log_holds_is_passed_over_and_they_are_said_again(settled: House) -> None:
    said = await settled.said()
    del settled.decisions.kept[0][1:]
    for path in settled.files()[1:]:
        path.unlink()
    await settled.run()
    assert settled.counted("passed_over") == 1
    assert await settled.said() == said


async def test_a_checkpoint_that_cannot_be_written_stops_nothing(house: House) -> None:
    house.folder.parent.mkdir(exist_ok=True)
    house.folder.write_text("a file where the folder should be")
    await house.hold(weak("a").records)
    await house.run()
    assert len(await house.said()) == 1
    assert house.counted("failed") == 1


def test_the_newest_three_stay_and_one_of_each_of_seven_days(tmp_path: Path) -> None:
    checkpoints, partition = Checkpoints(tmp_path), Partition(GUARDS)
    plain, pieces = state.dump(partition)
    hours = range(0, 24 * 12, 6)
    for offset, hour in enumerate(hours):
        checkpoints.write(Header(0, offset, 0, 0, "", "", START + hour * HOUR), plain, pieces)
    days = [(k.header.at - START) // DAY for k in checkpoints.every(0) if k.header]
    assert days == [11, 11, 11, 10, 9, 8, 7, 6, 5]
    newest = checkpoints.every(0)[3].header
    assert newest is not None
    assert newest.at == START + 10 * DAY + 18 * HOUR


# -- what is refused ------------------------------------------------------------------------------------------------------


async def test_a_log_that_was_recreated_is_refused(settled: House) -> None:
    settled.events.kept[0][:] = [(stamp + 1, data) for stamp, data in settled.events.kept[0]]
    with pytest.raises(Misconfigured, match="recreated or replaced"):
        await settled.run()


async def test_a_log_with_other_events_at_the_same_instants_is_refused(settled: House) -> None:
    """A simulated clock stamps every run alike."""
    await settled.hold(World().at(4).report("c", 1000, 5).records)
    await settled.run()
    stamp, _ = settled.events.kept[0][-1]
    other = batch({"id": "other", "path": "meta_ads/act", "at": stamp, "amounts": {}})
    settled.events.kept[0][-1] = (stamp, EVENTS.encode(other))
    with pytest.raises(Misconfigured, match="recreated or replaced"):
        await settled.run()


async def test_a_log_that_has_lost_records_which_a_checkpoint_has_folded_is_refused(settled: House) -> None:
    del settled.events.kept[0][-1:]
    with pytest.raises(Misconfigured, match="records are missing"):
        await settled.run()


def on_disk(house: House, folder: Path) -> SqliteLog[Record]:
    folder.mkdir(exist_ok=True)
    log = SqliteLog(folder / "events.db", EVENTS, house.clock)
    for stamp, data in house.events.kept[0]:
        log._writer.execute("INSERT INTO records VALUES (0, ?, ?, ?, NULL)", (log._next[0], stamp, data))
        log._next[0] += 1
    return log


def cut(folder: Path, offset: int) -> None:
    with sqlite3.connect(folder / "events.db") as file:
        file.execute("DELETE FROM records WHERE number < ?", (offset,))
    file.close()


async def test_a_log_without_its_beginning_is_refused_where_no_checkpoint_covers_the_gap(settled: House, tmp_path: Path) -> None:
    log = on_disk(settled, tmp_path / "log")
    offset = read(settled.files()[0]).header.offset
    cut(tmp_path / "log", offset - 1)
    await settled.run(log)
    assert settled.folded == 0
    for path in settled.files():
        path.unlink()
    with pytest.raises(Misconfigured, match=f"begins at record {offset - 1}, and no valid checkpoint covers"):
        await settled.run(log)
    await log.close()


async def test_a_checkpoint_from_before_the_gap_is_none(settled: House, tmp_path: Path) -> None:
    await settled.hold(World().at(4).tick().tick().records)
    log = on_disk(settled, tmp_path / "log")
    cut(tmp_path / "log", read(settled.files()[0]).header.offset + 1)
    with pytest.raises(Misconfigured, match="no valid checkpoint covers"):
        await settled.run(log)
    await log.close()


async def test_on_a_log_without_its_beginning_a_rule_that_reads_what_was_not_kept_stops_it_until_it_is_skipped(settled: House, tmp_path: Path) -> None:
    await settled.hold(World().at(4).activate(WIDER).records)
    log = on_disk(settled, tmp_path / "log")
    offset = read(settled.files()[0]).header.offset
    cut(tmp_path / "log", offset - 1)
    worker = await settled.run(log)
    assert f"record {offset} cannot be folded: it reads what was not kept" in worker.stopped
    with pytest.raises(Unavailable):
        await Replayer(log, GUARDS).replay((await settled.said())[0])
    await log.close()


# -- a poisoned record ----------------------------------------------------------------------------------------------------

DEEP = "meta_ads/act/cmp/grp/ad/below"


def poisons(house: House) -> dict[str, bytes]:
    """Records that cannot be read, and such as the core raises on."""
    deep = batch({"id": "deep", "path": DEEP, "at": START, "amounts": {"clicks": 1}})
    return {
        "nothing of ours": b"\xff\xff\xff",
        "empty": b"",
        "a batch cut short": EVENTS.encode(weak("a").records[2].record)[:-3],
        "a rule that is none": EVENTS.encode(Activation("acme", "r", "v", "active", "{not json")),
        "an object deeper than there are levels": EVENTS.encode(deep),
    }


@pytest.mark.parametrize("kind", list(poisons(House(Path()))))
@pytest.mark.parametrize("checkpointed", [False, True], ids=["from nothing", "from a checkpoint"])
async def test_a_poisoned_record_stops_the_partition_until_it_is_skipped_and_stays_skipped(house: House, kind: str, checkpointed: bool) -> None:
    world = weak("a", "b")
    await house.hold(world.records[:3])
    if checkpointed:
        await house.run()
    offset = len(house.events.kept[0])
    house.events.kept[0].append((house.clock.now(), poisons(house)[kind]))
    await house.hold(world.records[3:])

    worker = house.worker()
    await worker.start()
    assert f"record {offset} cannot be folded" in worker.stopped
    assert f"trimtab partition skip {offset}" in worker.stopped
    assert await house.said() == []
    with pytest.raises(Unavailable, match="cannot be folded"):
        await worker.caught_up(offset + 1)
    with pytest.raises(Conflict, match=f"stopped at record {offset}, not at {offset + 1}"):
        await worker.skip(offset + 1, "a guess", "jana")

    await worker.skip(offset, "a broken sender", "jana")
    assert (worker.stopped, worker.poisoned) == ("", None)
    await worker.caught_up(len(house.events.kept[0]))
    await worker.stop()
    said = await house.said()
    assert [d.path[-1] for d in said] == ["a", "b"]
    assert (await house.events.read(0, len(house.events.kept[0]) - 1))[0].record in (Skip(offset, "a broken sender", "jana"),)

    with_checkpoint = await house.run()
    for path in house.files():
        path.unlink()
    from_nothing = await house.run()
    assert with_checkpoint.partition.digest() == from_nothing.partition.digest()
    assert await house.said() == said
    past = Replayer(house.events, GUARDS, skipped=from_nothing.partition.skipped)  # said after what it is about was decided
    assert (await past.replay(said[0])).identical
    assert (await past.state_at(said[0].now)).offset > offset


async def test_a_start_that_fails_after_a_skip_says_so_and_does_not_look_like_one_under_way(house: House) -> None:
    await house.hold(weak("a").records)
    house.events.kept[0].append((house.clock.now(), b"\xff"))
    worker = house.worker()
    await worker.start()
    worker.clock = ManualClock(START)  # set back meanwhile: the records are now stamped ahead of it
    with pytest.raises(Unavailable, match="check both clocks"):
        await worker.skip(worker.poisoned or 0, "a broken sender", "jana")
    assert "check both clocks" in worker.stopped
    assert house.registry.get_sample_value("trimtab_partition_stopped", {"partition": "0"}) == 1


async def test_repeated_decisions_keep_their_places_and_ends_in_a_checkpoint(settled: House) -> None:
    said = await settled.said()
    await settled.decisions.append([("acme", d) for d in said])
    await settled.hold(World().at(3).report("c", 1000, 5, status="active").at(4).tick().records)
    first = await settled.run()
    second = await settled.run()
    assert second.said.place == first.said.place == {said[0].id: 0, said[1].id: 1, (await settled.said())[4].id: 4}
    assert second.endings == first.endings and first.endings


async def test_a_record_that_comes_and_is_poisoned_stops_a_running_partition(house: House) -> None:
    await house.hold(weak("a").records)
    worker = house.worker()
    await worker.start()
    offset = len(house.events.kept[0])
    await house.hold(World().at(3).put(batch({"id": "x", "path": DEEP, "at": START, "amounts": {"clicks": 1}})).report("b", 1, 1).records)
    with pytest.raises(Unavailable, match=f"record {offset} cannot be folded"):
        await worker.caught_up(offset + 1)
    assert house.registry.get_sample_value("trimtab_partition_stopped", {"partition": "0"}) == 1
    await worker.stop()
    assert house.files() == []  # a state that a fault may have left half done is not kept
    again = await house.run()
    assert f"record {offset} cannot be folded" in again.stopped


async def test_a_record_in_good_order_cannot_be_skipped(settled: House) -> None:
    worker = await settled.run()
    with pytest.raises(Conflict, match="only the record that it cannot fold"):
        await worker.skip(0, "I want it gone", "jana")
    assert not any(isinstance(s.record, Skip) for s in await settled.events.read(0, 0))


# -- the file -------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_what_it_was_given(tmp_path: Path) -> None:
    columns = {"a": [np.arange(5), np.arange(3)], "b": [np.zeros((0, 2), np.int32)], "c": [np.array([[1, 2]], np.uint8), np.array([[3, 4]], np.uint8)]}
    header = Header(0, 7, 3, 11, "x", "y", 13)
    path = Checkpoints(tmp_path).write(header, {"state": "é"}, columns)
    found = read(path)
    assert (found.header, found.plain) == (header, {"state": "é"})
    for name, many in columns.items():
        assert found.arrays[name].dtype == many[0].dtype
        assert np.array_equal(found.arrays[name], np.concatenate(many))
        assert found.arrays[name].flags.writeable


def test_any_bit_that_turned_is_noticed(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).write(Header(0, 7, 3, 11, "x", "y", 13), {"state": 1}, {"a": [np.arange(5)]})
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 128):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            with pytest.raises(Unusable):
                read(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(Unusable):
        read(path)


def test_what_cannot_be_used_is_named_in_its_place(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    good = checkpoints.write(Header(0, 7, 3, 11, "x", "y", 13), {"state": 1}, {"a": [np.arange(5)]})
    bad = checkpoints.write(Header(0, 8, 3, 11, "x", "y", 13), {"state": 1}, {"a": [np.arange(5)]})
    os.truncate(bad, 30)
    first, second = checkpoints.valid(0)
    assert isinstance(first, Kept) and first.path == bad and first.why
    assert isinstance(second, Checkpoint) and json.dumps(second.plain) == '{"state": 1}'
    assert good.exists()
