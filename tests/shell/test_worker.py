"""The engine's shell: what a restart repeats and what it keeps to itself, and when it stops rather than guess."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.adapters.clock import ManualClock
from services.adapters.log.codec import DECISIONS, EVENTS, partition_of
from services.adapters.log.memory import MemoryLog
from services.kernel.decision import Decision
from services.kernel.errors import Bug, TrimtabError, Unavailable, Unreadable
from services.kernel.record import Record, Stamped, Tick
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import SKEW, Worker
from tests.core.world import DAY, GUARDS, HOUR, START, World, ctr_below, pause_rule


@dataclass
class Logs:
    """Two logs in memory and the clock that stamps them."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(START))
    events: MemoryLog[Record] = field(init=False)
    decisions: MemoryLog[Decision] = field(init=False)

    def __post_init__(self) -> None:
        self.events, self.decisions = MemoryLog(EVENTS, self.clock), MemoryLog(DECISIONS, self.clock)

    async def hold(self, world: World) -> Logs:
        for stamped in world.records:
            self.clock.set(stamped.stamp)
            await self.events.append([(world.workspace, stamped.record)])
        return self

    async def run(self, clock: ManualClock | None = None) -> Worker:
        """A worker that has restored what the logs hold, followed them to their end, and stopped."""
        worker = Worker(self.events, self.decisions, clock or self.clock, GUARDS, Metrics(CollectorRegistry()))
        try:
            await worker.start()
            await worker.caught_up(len(self.events.kept[0]))
        finally:
            await worker.stop()
        return worker

    async def said(self) -> list[Decision]:
        return [s.record for s in await self.decisions.read(0, 0)]


def weak(*ads: str) -> World:
    world = World().activate(pause_rule()).at(1)
    for ad in ads:
        world.report(ad, 1000, 5, status="active")
    return world.at(2).tick()


async def test_a_restart_derives_again_what_was_said_and_says_none_of_it_again() -> None:
    logs = await Logs().hold(weak("a", "b"))
    first = await logs.run()
    said = await logs.said()
    assert [d.kind for d in said] == ["fired", "fired"]
    second = await logs.run()
    assert await logs.said() == said
    assert second.partition.digest() == first.partition.digest()
    assert second.said.place == first.said.place == {d.id: i for i, d in enumerate(said)}


async def test_a_restart_says_what_the_last_process_had_no_time_to_say() -> None:
    logs = await Logs().hold(weak("a", "b"))
    await logs.run()
    said = await logs.said()
    del logs.decisions.kept[0][1:]
    await logs.run()
    assert await logs.said() == said


async def test_two_builds_that_disagree_stop() -> None:
    logs = await Logs().hold(weak("a"))
    await logs.run()
    [derived] = await logs.said()
    del logs.decisions.kept[0][:]
    await logs.decisions.append([("acme", replace(derived, boundary=derived.boundary + 1))])
    with pytest.raises(Bug, match="where the log holds"):
        await logs.run()


@pytest.mark.parametrize("other", [{"kind": "refused", "action": ""}, {"valid_until": 1}, {"simulated": True}, {"evidence": 7}])
async def test_two_builds_that_give_one_cause_other_content_stop(other: dict[str, Any]) -> None:
    """The id is the hash of the cause alone: one that fires where the other refused would wait for an action that nobody carries out."""
    logs = await Logs().hold(weak("a"))
    await logs.run()
    [derived] = await logs.said()
    assert replace(derived, **other).id == derived.id
    del logs.decisions.kept[0][:]
    await logs.decisions.append([("acme", replace(derived, **other))])
    with pytest.raises(Bug, match="other content than this build gives it"):
        await logs.run()


async def test_a_log_of_decisions_that_this_build_does_not_come_to_stops_it() -> None:
    logs = await Logs().hold(weak("a"))
    await logs.run()
    [derived] = await logs.said()
    await logs.decisions.append([("acme", replace(derived, boundary=derived.boundary + 1))])
    with pytest.raises(Bug, match="two builds disagree"):
        await logs.run()


async def test_decisions_that_a_worker_believed_dead_repeats_are_known_by_their_ids() -> None:
    """It stood still, its successor said the same, and then it went on: the log holds them twice, and every later start must come to an end."""
    logs = await Logs().hold(weak("a", "b"))
    await logs.run()
    said = await logs.said()
    await logs.decisions.append([("acme", d) for d in said])
    await logs.hold(World().at(3).report("c", 1000, 5, status="active").at(4).tick())
    await logs.run()
    assert [d.id for d in await logs.said()][:4] == [d.id for d in said] * 2
    worker = await logs.run()
    assert list(worker.said.place.values()) == [0, 1, 4]
    assert await worker.said.decision(list(worker.said.place)[2]) == (await logs.said())[4]


class Holed(MemoryLog[Record]):
    """From the time that `hole` is set on, reads and follows as if that record were not there."""

    hole = -1

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[Record]]:
        return [s for s in await super().read(partition, offset, limit) if s.offset != self.hole]


@pytest.mark.parametrize("hole", [0, 2, 3])
async def test_nothing_is_decided_on_a_log_that_lacks_a_record(hole: int) -> None:
    logs = Logs()
    logs.events = Holed(EVENTS, logs.clock)
    await logs.hold(weak("a", "b"))
    assert hole < len(logs.events.kept[0]) - 1
    logs.events.hole = hole
    with pytest.raises(TrimtabError, match=f"the log has no record {hole}, the next that can be read is {hole + 1}"):
        await logs.run()
    assert await logs.said() == []


async def test_a_record_that_is_not_there_when_it_is_fed_stops_the_partition() -> None:
    logs = await Logs().hold(weak("a"))
    worker = Worker(logs.events, logs.decisions, logs.clock, GUARDS, Metrics(CollectorRegistry()))
    await worker.start()
    end = len(logs.events.kept[0])
    await worker.caught_up(end)
    with pytest.raises(Unreadable, match=f"the log has no record {end}, the next that can be read is {end + 1}"):
        await worker._feed([Stamped(end + 1, logs.clock.now(), Tick())])
    await worker.stop()


async def test_time_that_the_log_lags_behind_is_waited_for_and_not_filled_with_ticks() -> None:
    logs = await Logs().hold(World().activate(pause_rule(hold=HOUR)).at(1).report("a", 1000, 5, status="active"))
    ahead = ManualClock(START + 10 * HOUR)
    worker = Worker(logs.events, logs.decisions, ahead, GUARDS, Metrics(CollectorRegistry()))
    await worker.start()
    before = len(logs.events.kept[0])
    await asyncio.sleep(0.5)
    await worker.stop()
    assert 0 < len(logs.events.kept[0]) - before < 8


async def test_in_a_log_of_several_partitions_time_moves_in_its_own() -> None:
    clock = ManualClock(START)
    events, decisions = MemoryLog(EVENTS, clock, 2), MemoryLog(DECISIONS, clock, 2)
    [own] = {0, 1} - {partition_of("", 2)}  # not the one that a record of no workspace goes to by itself
    for stamped in World().activate(pause_rule(hold=HOUR)).at(1).report("a", 1000, 5, status="active").records:
        clock.set(max(stamped.stamp, clock.now()))
        await events.append([("acme", stamped.record)], own)
    before = len(events.kept[own])
    worker = Worker(events, decisions, clock, GUARDS, Metrics(CollectorRegistry()), own)
    await worker.start()
    clock.advance(2 * HOUR)
    async with asyncio.timeout(10):
        async for page in events.follow(own, before):
            if any(isinstance(s.record, Tick) for s in page):
                break
    await worker.stop()
    assert events.kept[1 - own] == []


async def test_a_record_stamped_ahead_stops_the_partition_before_it_is_fed() -> None:
    logs = await Logs().hold(weak("a"))
    with pytest.raises(Unavailable, match="ahead of this machine's clock"):
        await logs.run(ManualClock(START + 2 * HOUR - SKEW - 1))
    assert await logs.said() == []
    await logs.run(ManualClock(START + 2 * HOUR - SKEW))
    assert len(await logs.said()) == 1


async def test_a_rule_activated_while_the_worker_runs_reads_the_days_that_the_log_holds() -> None:
    logs = await Logs().hold(World().at(1).report("a", 1000, 5, status="active"))
    worker = Worker(logs.events, logs.decisions, logs.clock, GUARDS, Metrics(CollectorRegistry()))
    try:
        await worker.start()
        await worker.caught_up(1)
        await logs.hold(World().at(20).activate(pause_rule(when=ctr_below(8000, DAY))).at(21).tick())
        await worker.caught_up(len(logs.events.kept[0]))
    finally:
        await worker.stop()
    [fired] = await logs.said()
    assert (fired.readings[0].numerator, fired.readings[0].denominator) == (5_000_000, 1_000_000_000)


async def test_a_rule_activated_today_reads_the_days_that_the_log_holds() -> None:
    world = World().at(1).report("a", 1000, 5, status="active").at(20)
    logs = await Logs().hold(world.activate(pause_rule(when=ctr_below(8000, DAY))).at(21).tick())
    await logs.run()
    [fired] = await logs.said()
    assert (fired.readings[0].numerator, fired.readings[0].denominator) == (5_000_000, 1_000_000_000)
