"""A start, a replay and a rule that reads back, on a log whose beginning lies in the archive alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from services.adapters.codec.decision import encode
from services.adapters.log.archive import begins
from services.adapters.log.codec import EVENTS
from services.adapters.log.keeper import Keeper, Policy
from services.adapters.log.sqlite import SqliteLog
from services.backup import reading
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.record import Record
from services.rules_engine.answers import Answers
from services.rules_engine.checkpoint import Checkpoints, read
from services.rules_engine.core import state
from services.rules_engine.replay import Beyond, Replayer
from services.rules_engine.store import RuleStore
from tests.core.test_determinism import history
from tests.core.world import DAY, GROUP, GUARDS, HOUR, START, World, batch, pause_rule
from tests.shell.test_checkpoints import WIDER, House, weak


class Pruned(House):
    """As its parent, with the events on disk; `prune` leaves in the live log what the checkpoints need, all else in the archive."""

    log: SqliteLog[Record]

    def open(self, archive: bool = True) -> SqliteLog[Record]:
        where = self.folder.parent
        self.log = SqliteLog(where / "events.db", EVENTS, self.clock, archive=where / "archive" if archive else None)
        return self.log

    async def move(self) -> None:
        """What the events hold in memory is on the disk, in the same records with the same stamps."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        log = self.open()
        for stamp, data in self.events.kept[0][log._next[0] :]:
            log._writer.execute("INSERT INTO records VALUES (0, ?, ?, ?, NULL)", (log._next[0], stamp, data))
            log._next[0] += 1

    def prune(self) -> int:
        """Returns the first live record."""
        where = self.folder.parent
        keeper = Keeper(where / "events.db", where / "archive", Policy(size=1, age=DAY, live=0))  # a segment a record
        list(keeper.run(self.clock.now() + 10 * DAY, Checkpoints(self.folder).floor))
        file = reading(where / "events.db")
        live = begins(file)
        file.close()
        return live

    def segments(self) -> list[Path]:
        return sorted((self.folder.parent / "archive").glob("*.segment"))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Pruned]:
    made = Pruned(tmp_path / "checkpoints")
    await made.hold(weak("a", "b").records)
    await made.move()
    await made.run(made.log)
    yield made
    await made.log.close()


async def go_on(house: Pruned, hour: float, world: World) -> None:
    """Its records, then half an hour, are on the log and folded, and a checkpoint is left."""
    await house.hold(world.at(hour + 0.5).tick().records)
    await house.log.close()
    await house.move()
    await house.run(house.log)


def shows(hour: float, ad: str) -> World:
    """A weak ad of its own, in an event of its own."""
    event = {"id": ad, "path": f"{GROUP}/{ad}", "at": START + round(hour * HOUR), "attributes": {"status": "active"}}
    return World().at(hour).put(batch(event | {"amounts": {"impressions": 1_000_000_000, "clicks": 5_000_000}}))


async def longer(house: Pruned) -> None:
    for hour, ad in enumerate(("c", "d", "e"), 3):
        await go_on(house, hour, shows(hour, ad))


async def test_a_start_needs_no_archive_as_long_as_a_checkpoint_holds(house: Pruned) -> None:
    await longer(house)
    oldest = min(k.offset for k in Checkpoints(house.folder).every(0))
    assert house.prune() == oldest - 1 > 0
    said = await house.said()
    for path in house.segments():
        path.rename(path.with_suffix(".away"))
    for archive in (True, False):
        await house.log.close()
        await house.run(house.open(archive))
        assert house.folded == 0
    for newest in house.files()[:-1]:
        newest.unlink()
        await house.run(house.log)
    assert await house.said() == said


async def test_without_any_checkpoint_the_state_is_rebuilt_through_the_archive(house: Pruned) -> None:
    await longer(house)
    worker = await house.run(house.log)
    digest, said = worker.partition.digest(), await house.said()
    assert house.prune() > 0
    for path in house.files():
        path.unlink()
    worker = await house.run(house.log)
    assert (worker.partition.digest(), await house.said()) == (digest, said)
    assert house.folded == house.log._next[0]
    for path in house.files():
        path.unlink()
    await house.log.close()
    with pytest.raises(Misconfigured, match="no valid checkpoint covers"):
        await house.run(house.open(archive=False))


@pytest.mark.parametrize("seed", range(4))
async def test_a_generated_log_decides_the_same_from_the_archive(tmp_path: Path, seed: int) -> None:
    house = Pruned(tmp_path / "checkpoints")
    records = history(seed)
    await house.hold(records[: len(records) // 2])
    await house.run()
    await house.hold(records[len(records) // 2 :])
    whole = await house.run()
    said = await house.said()
    await house.move()
    assert house.prune() > 0
    for path in house.files():
        path.unlink()
    house.decisions.kept[0].clear()
    worker = await house.run(house.log)
    assert worker.partition.digest() == whole.partition.digest()
    assert await house.said() == said
    for decision in said[:: max(1, len(said) // 5)]:
        assert (await Replayer(house.log, GUARDS).replay(decision)).identical
    await house.log.close()


async def test_the_past_is_told_from_the_archive(house: Pruned) -> None:
    first, _ = await house.said()
    asked = await Replayer(house.log, GUARDS).state_at(first.now)
    await longer(house)
    assert house.prune() > 0
    assert (await Replayer(house.log, GUARDS).state_at(first.now)).digest() == asked.digest()
    assert (await Replayer(house.log, GUARDS).replay(first)).derived == first


def gone(house: Pruned) -> int:
    """The archive is away, so that the log begins with its first live record, which is returned."""
    for path in house.segments():
        path.rename(path.with_suffix(".away"))
    return house.log._next[0] - len(house.log._reader.execute("SELECT 1 FROM records").fetchall())


async def test_where_the_logs_beginning_is_gone_the_past_is_recomputed_from_the_checkpoint_before_it(house: Pruned) -> None:
    await longer(house)
    oldest = min(Checkpoints(house.folder).every(0), key=lambda k: k.offset)
    said, past = await house.said(), Replayer(house.log, GUARDS, checkpoints=Checkpoints(house.folder))
    before = [await past.replay(d) for d in said]
    states = [(await past.state_at(d.now)).digest() for d in said]
    assert [r.begun for r in before] == [0] * 5
    assert house.prune() > 0 and gone(house) == oldest.offset - 1
    assert oldest.header is not None
    reached = [d.now > oldest.header.engine_time for d in said]
    assert reached == [False, False, False, True, True]
    for decision, is_reached, whole, digest in zip(said, reached, before, states, strict=True):
        if not is_reached:
            with pytest.raises(Beyond, match=f"the log begins at record {oldest.offset - 1}: .*no valid checkpoint from there on was taken before"):
                await past.replay(decision)
            with pytest.raises(Beyond):
                await past.state_at(decision.now)
            continue
        again = await past.replay(decision)
        assert again.derived is not None and encode(again.derived) == encode(decision)
        begins = {k.offset for k in Checkpoints(house.folder).every(0) if k.header is not None and k.header.engine_time < decision.now}
        assert (again.begun, again.begun + again.records) == (max(begins), whole.records)
        assert (await past.state_at(decision.now)).digest() == digest


@pytest.mark.parametrize("how", ["damaged", "of another form", "of another log", "cannot be loaded"])
async def test_a_checkpoint_that_does_not_hold_is_passed_over_by_a_replay(house: Pruned, how: str) -> None:
    await longer(house)
    last = (await house.said())[-1]
    newest, older = (k.path for k in Checkpoints(house.folder).every(0) if k.header is not None and k.header.engine_time < last.now)
    assert house.prune() > 0
    gone(house)
    past = Replayer(house.log, GUARDS, checkpoints=Checkpoints(house.folder))
    found = read(newest)
    assert (await past.replay(last)).begun == found.header.offset
    pieces = {n: [a] for n, a in found.arrays.items()}
    if how == "damaged":
        newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    else:
        other = {"of another form": {"state": state.STATE + 1}, "of another log": {"last": "another"}}.get(how, {})
        Checkpoints(house.folder).write(replace(found.header, **other), found.plain if other else {"skipped": []}, pieces)  # type: ignore[arg-type]
    again = await past.replay(last)
    assert again.identical and again.begun == read(older).header.offset
    older.unlink()
    with pytest.raises(Beyond):
        await past.replay(last)


async def test_a_replay_does_not_go_on_from_a_checkpoint_that_keeps_less_than_a_rule_reads(house: Pruned) -> None:
    """The rule was activated while all of the log was there; the checkpoints after that keep what it reads."""
    await longer(house)
    await go_on(house, 7, World().at(7).activate(WIDER))
    fired = [d for d in await house.said() if d.rule_id == "wider"]
    await go_on(house, 9, shows(9, "f"))
    assert house.prune() > 0
    gone(house)
    past = Replayer(house.log, GUARDS, checkpoints=Checkpoints(house.folder))
    with pytest.raises(Beyond, match=r"rule wider, activated at record \d+, reads more than the checkpoint at record \d+ keeps"):
        await past.replay(fired[0])
    later = [d for d in await house.said() if d.path[-1] == "f"]
    assert {d.rule_id for d in later} == {"wider", pause_rule().rule}
    assert all([(await past.replay(d)).identical for d in later])


async def test_a_chart_is_refused_rather_than_drawn_empty_where_the_checkpoint_kept_no_amounts_one_by_one(tmp_path: Path) -> None:
    house = Pruned(tmp_path / "checkpoints")
    await house.hold(World().activate(WIDER).records)  # reads a window, so that sums are kept and nothing else
    await house.move()
    await house.run(house.log)
    await go_on(house, 1, shows(1, "a"))
    await go_on(house, 3, shows(3, "b"))
    worker = await house.run(house.log)
    fired = [d for d in await house.said() if d.path[-1] == "b"][-1]
    answers = Answers(worker, house.log, cast(RuleStore, None))
    whole = await answers.series("acme", fired.id)
    assert whole["points"]
    assert house.prune() > 0
    gone(house)
    assert (await answers.replay("acme", fired.id))["begun"] > 0
    with pytest.raises(Beyond, match="keeps sums, not the amounts one by one"):
        await answers.series("acme", fired.id)


async def test_a_log_that_has_lost_every_record_is_not_taken_for_one_that_decides_otherwise(house: Pruned) -> None:
    said = await house.said()
    assert house.prune() > 0
    gone(house)
    house.log._writer.execute("DELETE FROM records")
    with pytest.raises(Beyond, match="holds nothing any more"):
        await Replayer(house.log, GUARDS, checkpoints=Checkpoints(house.folder)).replay(said[0])


async def test_a_hole_in_the_archive_is_gone_round_by_a_checkpoint_after_it(house: Pruned) -> None:
    await longer(house)
    assert house.prune() > 2
    damaged = house.segments()[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    first, *_, last = await house.said()
    past = Replayer(house.log, GUARDS, checkpoints=Checkpoints(house.folder))
    again = await past.replay(last)
    assert again.identical and again.begun > 0
    assert damaged.name in again.why and "restore that file" in again.why  # an auditor hears that it was altered
    with pytest.raises(Beyond, match=damaged.name):
        await past.replay(first)


async def test_a_rule_that_reads_more_than_was_kept_reads_it_from_the_archive(house: Pruned) -> None:
    await longer(house)
    assert house.prune() > 0
    await house.hold(World().at(7).activate(WIDER).at(8).tick().records)
    await house.log.close()
    await house.move()
    await house.run(house.log)
    fired = [d for d in await house.said() if d.rule_id == "wider"]
    assert {d.readings[0].denominator for d in fired} == {1_000_000_000}


@pytest.mark.parametrize("form", [1, state.STATE + 1, 999])
async def test_a_state_of_another_form_is_set_aside_with_one_line_and_rebuilt_through_the_archive(house: Pruned, form: int) -> None:
    await longer(house)
    digest = (await house.run(house.log)).partition.digest()
    assert house.prune() > 0
    [found, *_] = [read(p) for p in house.files()]
    for path in house.files():
        path.unlink()
    Checkpoints(house.folder).write(replace(found.header, state=form), {"nobody": "knows"}, {n: [a] for n, a in found.arrays.items()})
    with capture_logs() as logged:
        worker = await house.run(house.log)
    [line] = [x for x in logged if x["event"] == "checkpoint passed over"]
    assert line["why"] == f"it holds a state of form {form}; this build knows form {state.STATE}"
    assert worker.partition.digest() == digest
    assert house.folded == house.log._next[0]
    assert Checkpoints(house.folder).every(0)[0].header == replace(found.header, at=house.clock.now())  # the next one takes its place


async def test_a_damaged_file_stops_a_start_only_where_it_is_needed_and_is_named(house: Pruned) -> None:
    await longer(house)
    assert house.prune() > 2
    digest = (await house.run(house.log)).partition.digest()
    for damaged in house.segments()[0], house.segments()[2]:
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        await house.log.close()
        assert (await house.run(house.open())).partition.digest() == digest  # a checkpoint holds
        kept = [(p, p.read_bytes()) for p in house.files()]
        for path, _ in kept:
            path.unlink()
        await house.log.close()
        with pytest.raises((Misconfigured, Unavailable), match=damaged.name):
            await house.run(house.open())
        damaged.write_bytes(whole)
        for path, data in kept:
            path.write_bytes(data)


async def test_a_checkpoint_taken_while_the_archive_was_away_is_good_when_it_is_back(house: Pruned) -> None:
    await longer(house)
    assert house.prune() > 0
    await house.log.close()
    house.open(archive=False)
    await house.log.append([("acme", World().at(9).tick().records[0].record)])
    await house.run(house.log)
    [newest, *_] = house.files()
    assert read(newest).header.first == ""
    await house.log.close()
    await house.run(house.open())
    assert (house.folded, house.counted("passed_over")) == (0, 0)


async def test_the_floor_is_that_of_the_oldest_checkpoint_that_a_start_could_go_on_from(house: Pruned) -> None:
    await longer(house)
    checkpoints = Checkpoints(house.folder)
    newest, middle, oldest = house.files()
    offsets = [read(p).header.offset for p in (newest, middle, oldest)]
    assert checkpoints.floor() == offsets[2] - 1
    oldest.write_bytes(oldest.read_bytes()[:-1])
    assert checkpoints.floor() == offsets[1] - 1
    found = read(middle)
    checkpoints.write(replace(found.header, state=state.STATE + 1), {}, {n: [a] for n, a in found.arrays.items()})
    assert checkpoints.floor() == offsets[0] - 1
    newest.unlink()
    assert checkpoints.floor() == 0
