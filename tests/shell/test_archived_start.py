"""A start, a replay and a rule that reads back, on a log whose beginning lies in the archive alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.adapters.log.archive import begins
from services.adapters.log.codec import EVENTS
from services.adapters.log.keeper import Keeper, Policy
from services.adapters.log.sqlite import SqliteLog
from services.backup import reading
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.record import Record
from services.rules_engine.checkpoint import Checkpoints, read
from services.rules_engine.core import state
from services.rules_engine.replay import replay, state_at
from tests.core.test_determinism import history
from tests.core.world import DAY, GUARDS, World
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


async def longer(house: Pruned) -> None:
    for hour, ad in enumerate(("c", "d", "e"), 3):
        await house.hold(World().at(hour).report(ad, 1000, 5, status="active").at(hour + 0.5).tick().records)
        await house.log.close()
        await house.move()
        await house.run(house.log)


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
        assert (await replay(house.log, GUARDS, decision)).identical
    await house.log.close()


async def test_the_past_is_told_from_the_archive(house: Pruned) -> None:
    first, _ = await house.said()
    asked = await state_at(house.log, GUARDS, first.now)
    await longer(house)
    assert house.prune() > 0
    assert (await state_at(house.log, GUARDS, first.now)).digest() == asked.digest()
    assert (await replay(house.log, GUARDS, first)).derived == first


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
