"""What is in work is bounded, for all and for each sender: past it a delivery is refused with a moment to come back after, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.adapters.http.front import Bounds
from services.ingest.room import NOBODY, Place, Room
from services.kernel.errors import Unavailable
from services.kernel.ids import event_id
from tests.shell.ingesting import event, told
from tests.shell.test_front import answer, site


class Hand:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def refused(room: Room, sender: str, size: int = 0) -> tuple[int, str, float]:
    with pytest.raises(Unavailable) as raised:
        room.enter(sender, size)
    return raised.value.status, raised.value.reason, raised.value.retry_after


def test_one_sender_has_half_of_the_room_and_others_the_rest() -> None:
    room = Room(CollectorRegistry(), most=8)
    places = [room.enter("a") for _ in range(4)]
    assert refused(room, "a") == (429, "share", 1)
    places += [room.enter(f"b{i}") for i in range(4)]
    assert refused(room, "c") == (503, "busy", 1)
    places[0].leave()
    room.enter("c")


def test_bodies_have_half_of_the_bytes_for_one_sender() -> None:
    room = Room(CollectorRegistry(), most_bytes=1000)
    room.enter("a", 500)
    assert refused(room, "a", 1) == (429, "share", 1)
    slow = room.enter(NOBODY)
    slow.hold(300)
    assert refused(room, "b", 201) == (503, "busy", 1)
    slow.leave()
    room.enter("b", 500)


def test_a_sender_s_rate_is_a_bucket_of_two_seconds_and_says_when_to_come_back() -> None:
    clock = Hand()
    room = Room(CollectorRegistry(), rate=10, clock=clock)
    for _ in range(20):
        room.enter("a").leave()
    status, reason, after = refused(room, "a")
    assert (status, reason, round(after, 6)) == (429, "rate", 0.1)
    room.enter("b").leave()  # another's bucket is another
    clock.now = 0.5
    for _ in range(5):
        room.enter("a").leave()
    assert refused(room, "a")[:2] == (429, "rate")
    clock.now = 1000
    for _ in range(20):
        room.enter("a").leave()
    assert refused(room, "a")[:2] == (429, "rate")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 400), st.booleans()), max_size=60))
def test_whoever_comes_and_goes_the_room_is_never_overfull_and_empty_in_the_end(steps: list[tuple[str, int, bool]]) -> None:
    room = Room(CollectorRegistry(), most=6, most_bytes=1000)
    inside: list[tuple[Place, str]] = []
    for sender, size, leaves in steps:
        if leaves and inside:
            inside.pop(0)[0].leave()
        with contextlib.suppress(Unavailable):
            inside.append((room.enter(sender, size), sender))
        assert (room.inside, room.bytes) == (len(inside), sum(p.size for p, _ in inside))
        assert room.inside <= 6 and room.bytes <= 1000
        for one in "abc":
            assert sum(s == one for _, s in inside) <= 3 and sum(p.size for p, s in inside if s == one) <= 500
    for place, _ in inside:
        place.leave()
        place.leave()
    assert (room.inside, room.bytes, room._by) == (0, 0, {})


@pytest.mark.parametrize("short", [True, False], ids=["the short way", "the whole way"])
async def test_a_flood_of_one_sender_is_a_429_and_another_is_answered(tmp_path: Path, short: bool) -> None:
    """The log is halted: what comes in stays in work."""
    room = Room(CollectorRegistry(), most=8)
    halted = asyncio.Event()

    async with site(tmp_path, Bounds(), room=room) as s:
        append = s.world.intake.append

        async def waits(batch: Any) -> None:
            await halted.wait()
            await append(batch)

        await s.send(event(id="known"))
        flooding = [await s.connect() for _ in range(12)]
        s.world.intake.append = waits
        for i, (_, writer) in enumerate(flooding):
            writer.write(s.request(event(id=f"f-{i}", **({} if short else {"attributes": {"label": "x"}}))))
        refusals = await asyncio.gather(*(asyncio.wait_for(asyncio.shield(answer(reader)), 5) for reader, _ in flooding[4:]), return_exceptions=True)
        turned = [r for r in refusals if isinstance(r, tuple)]
        assert {(r[0], r[1]["retry-after"]) for r in turned} == {(429, "1")}
        headers = {"authorization": f"Bearer {s.world.keys['editor']}", "content-type": "application/json"}
        other = asyncio.create_task(s.http.post("/v1/events", json=event(id="other"), headers=headers))
        while room.inside < 5:  # noqa: ASYNC110  turn by turn, until it is in
            await asyncio.sleep(0.01)
        halted.set()
        assert (await other).status_code == 202
        assert (await s.send(event(id="after"))).status_code == 202
        kept = set(await s.world.ids())
        assert {event_id("generic", name) for name in ("known", "other", "after")} <= kept
        assert room.inside == 0


async def test_past_its_rate_a_sender_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with site(tmp_path, Bounds(), room=Room(CollectorRegistry(), rate=2, clock=Hand())) as s:
        answers = [await s.send(event(id=f"o-{i}")) for i in range(6)]
        assert [a.status_code for a in answers] == [202] * 4 + [429] * 2
        assert told(answers[-1]) == (429, "rate")
        assert answers[-1].headers["retry-after"] == "1"
        assert await s.world.ids() == [event_id("generic", f"o-{i}") for i in range(4)]
