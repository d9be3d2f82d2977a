"""A whole Trimtab under more than it can take: it says so before memory grows, goes on answering who behaves, and keeps all that it acknowledged."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.adapters.log.codec import EVENTS
from services.kernel.ids import event_id
from services.kernel.record import EventBatch, Outcome
from tests.parts import lacks
from tests.shell.commanded import CLEAN, Up, until, up
from tests.shell.sandboxed import Sandbox, sandbox

AD = "meta_ads/1700/6215/62150/621500"
MB = 2**20


def event(ident: str, **more: Any) -> dict[str, Any]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"id": ident, "entity": AD, "kind": "view", "occurred_at": at, "amounts": {"impressions": 1}} | more


@dataclass
class Crowd:
    """Connections of one key; what was acknowledged on them, and what else was said."""

    trimtab: Up
    key: str = ""
    acknowledged: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0

    def __post_init__(self) -> None:
        self.port = int(self.trimtab.url.rpartition(":")[2])
        self.key = self.key or self.trimtab.http.headers["authorization"].removeprefix("Bearer ")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def head(self, size: int) -> bytes:
        fields = ("POST /v1/events HTTP/1.1", "host: t", f"authorization: Bearer {self.key}", "content-type: application/json", f"content-length: {size}")
        return "\r\n".join((*fields, "", "")).encode()

    async def send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ids: list[str], **more: Any) -> int:
        body = json.dumps([event(i, **more) for i in ids]).encode()
        writer.write(self.head(len(body)) + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split()[1])
        await reader.readexactly(int(head.split("content-length: ")[1].split()[0]))
        self.statuses[status] += 1
        if status == 202:
            self.acknowledged.update(ids)
        elif "retry-after: " not in head:
            self.without_retry_after += 1
        return status

    async def press(self, connections: int, seconds: float, size: int, **more: Any) -> None:
        """Each connection sends the next as soon as it has its answer."""
        end = time.monotonic() + seconds

        async def one(number: int) -> None:
            reader, writer = await self.connect()
            turn = 0
            while turn == 0 or time.monotonic() < end:
                turn += 1
                await self.send(reader, writer, [f"{id(self)}-{number}-{turn}-{i}" for i in range(size)], **more)
            writer.close()

        await asyncio.gather(*(one(n) for n in range(connections)))


def another_key(trimtab: Up) -> str:
    return str(trimtab.http.post("/v1/keys", json={"name": "another", "role": "source"}).json()["key"])


def on_the_log(data: Path) -> set[bytes]:
    with closing(sqlite3.connect(data / "events.db")) as file:
        records = [EVENTS.decode(blob) for (blob,) in file.execute("SELECT data FROM records")]
    return {row.tobytes() for r in records if isinstance(r, EventBatch) for row in r.event_id}


def memory(trimtab: Up) -> int:
    """Bytes resident."""
    return int(Path(f"/proc/{trimtab.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def open_files(trimtab: Up) -> int:
    return len(os.listdir(f"/proc/{trimtab.process.pid}/fd"))


def metric(trimtab: Up, name: str, label: str = "") -> float:
    lines = trimtab.http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")) and label in line)


def nothing_is_lost(trimtab: Up, *crowds: Crowd, told: Iterable[str] = ()) -> None:
    """Of what the crowds were acknowledged, and of what was `told`."""
    assert "Traceback" not in trimtab.log.read_text()
    assert trimtab.stop()[0] == 0
    kept = on_the_log(trimtab.data)
    sent = [("generic", i) for crowd in crowds for i in crowd.acknowledged] + [(i.split("/")[0], i) for i in told]
    assert sent
    assert [(source, i) for source, i in sent if event_id(source, i) not in kept] == []


async def watched(trimtab: Up, work: Awaitable[Any]) -> int:
    """The most memory resident while the work is done."""
    most, task = memory(trimtab), asyncio.ensure_future(work)
    while not task.done():
        most = max(most, memory(trimtab))
        await asyncio.wait((task,), timeout=0.05)
    task.result()
    return most


@pytest.mark.parametrize(
    ("connections", "seconds"), [pytest.param(600, 0.5, id="600"), pytest.param(2_000, 10, id="2000", marks=pytest.mark.slow)]
)  # fmt: skip
async def test_a_disk_that_takes_half_a_second_a_commit_refuses_before_memory_grows(tmp_path: Path, connections: int, seconds: float) -> None:
    with up(tmp_path / "data", faultpoint="log.inserted:4:SLOW") as trimtab:
        crowd, before = Crowd(trimtab), memory(trimtab)
        most = await watched(trimtab, crowd.press(connections, seconds, 3))
        assert set(crowd.statuses) == {202, 429}  # half of the room is one sender's
        assert crowd.without_retry_after == 0
        assert most - before < 200 * MB
        assert metric(trimtab, "trimtab_ingest_shed_total", 'reason="share"') == crowd.statuses[429]
        assert metric(trimtab, "trimtab_ingest_deliveries_in_work") == metric(trimtab, "trimtab_log_events_waiting") == 0
        nothing_is_lost(trimtab, crowd)


async def test_a_flood_of_one_key_is_slowed_and_another_key_is_answered(tmp_path: Path) -> None:
    with up(tmp_path / "data", rate="20") as trimtab:
        flood, other = Crowd(trimtab), Crowd(trimtab, another_key(trimtab))
        flooding = asyncio.create_task(flood.press(30, 1, 1))
        reader, writer = await other.connect()
        for i in range(10):
            assert await other.send(reader, writer, [f"other-{i}"]) == 202
        await flooding
        writer.close()
        assert set(flood.statuses) == {202, 429}
        assert flood.without_retry_after == 0
        assert len(flood.acknowledged) <= 40 + 20 * 10  # a full bucket, and what came in while it lasted
        nothing_is_lost(trimtab, flood, other)


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.slow)])
async def test_large_bodies_at_once_are_refused_before_memory_grows(tmp_path: Path, count: int) -> None:
    """Each is read with care (its events have a label), which takes many times the room of its bytes."""
    with up(tmp_path / "data", max_body_bytes="1000000") as trimtab:
        crowd, before = Crowd(trimtab), memory(trimtab)

        async def too_large() -> None:
            reader, writer = await crowd.connect()
            writer.write(crowd.head(10**11))
            assert b" 413 " in await reader.readline()
            writer.close()

        large = crowd.press(count, 0, 4_000, attributes={"label": "x"})
        most = await watched(trimtab, asyncio.wait_for(asyncio.gather(large, *(too_large() for _ in range(5))), 100))
        assert set(crowd.statuses) <= {202, 429, 503}
        assert crowd.statuses[202] > 0
        assert crowd.without_retry_after == 0
        assert most - before < 400 * MB
        nothing_is_lost(trimtab, crowd)


@contextmanager
def many_files(wanted: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        lacks("open-files", f"this machine lets a process have {hard} open files, the test needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("connections", "most"), [pytest.param(600, 400, id="more than it may have"), pytest.param(10_000, 10_100, id="10000", marks=pytest.mark.slow)]
)  # fmt: skip
async def test_many_connections_that_say_little_keep_nobody_from_being_answered(tmp_path: Path, connections: int, most: int) -> None:
    with many_files(connections + 500), up(tmp_path / "data", connections=str(most)) as trimtab:
        crowd, files, before = Crowd(trimtab), open_files(trimtab), memory(trimtab)
        opened: list[asyncio.StreamWriter] = []

        async def open_one(number: int) -> None:
            _, writer = await crowd.connect()
            part = (b"", b"POST /v1/events HTTP/1.1\r\nho", crowd.head(1000), crowd.head(100_000) + b"[" * 100)[number % 4]
            writer.write(part)  # idle, in the head, before the body, in the body
            opened.append(writer)

        good = Crowd(trimtab, another_key(trimtab))  # one sender that is slow has half of the room at most
        for start in range(0, connections, 200):
            await asyncio.gather(*(open_one(n) for n in range(start, min(start + 200, connections))))
            if (await asyncio.wait_for(answered(good, start), 30)) != 202:
                raise AssertionError(f"the good client was refused after {start} connections: {good.statuses}")
        assert metric(trimtab, "trimtab_http_connections") <= most + 1
        assert memory(trimtab) - before < 150 * MB + connections * 16_000
        assert (metric(trimtab, "trimtab_http_shed_total", 'reason="connections"') > 0) == (connections > most)
        for one in opened:
            one.transport.abort()
        await asyncio.sleep(0.1)  # they go in the loop's next turn
        until(lambda: open_files(trimtab) <= files + 5)
        assert good.statuses == {202: len(range(0, connections, 200))}
        assert await answered(good, connections) == 202
        nothing_is_lost(trimtab, good)


async def answered(crowd: Crowd, number: int) -> int:
    """The answer to a good client that comes anew."""
    reader, writer = await crowd.connect()
    status = await crowd.send(reader, writer, [f"good-{number}"])
    writer.close()
    return status


@pytest.mark.slow
async def test_clients_of_a_byte_a_second_are_ended_by_the_clock_and_leave_nothing_behind(tmp_path: Path) -> None:
    with up(tmp_path / "data") as trimtab:
        crowd, files, before, most = Crowd(trimtab), open_files(trimtab), memory(trimtab), 0
        slow = [await crowd.connect() for _ in range(100)]

        async def drip(writer: asyncio.StreamWriter, text: bytes) -> None:
            for byte in text:
                writer.write(bytes([byte]))
                await asyncio.sleep(1)

        begun = time.monotonic()
        for i, (_, writer) in enumerate(slow):
            writer.write(b"" if i % 2 else crowd.head(1000))
        drips = [asyncio.create_task(drip(writer, crowd.head(10) if i % 2 else b"[" * 900)) for i, (_, writer) in enumerate(slow)]
        first = [asyncio.create_task(reader.readline()) for reader, _ in slow]
        while not all(task.done() for task in first):
            assert time.monotonic() - begun < 120
            assert await answered(crowd, int(time.monotonic() * 1000)) == 202
            most = max(most, memory(trimtab))
            await asyncio.sleep(0.2)
        assert most - before < 100 * MB
        assert {task.result().split()[1] for task in first} == {b"408"}
        for task in drips:
            task.cancel()
        for _, writer in slow:
            writer.close()
        await asyncio.sleep(0.1)
        until(lambda: open_files(trimtab) <= files + 5)
        nothing_is_lost(trimtab, crowd)


WIDE = """
pack: wide-{platform}
account: {{platform: {platform}, currency: EUR, time_zone: Europe/Berlin}}
rules:
  - rule: pause-weak-{platform}
    owner: jana@acme.example
    objective: stop paying for creatives that people scroll past
    scope: {{level: creative, where: status = "active"}}
    when: ctr[since change] < 0.8%
    guards:
      sample: {{impressions: 3000}}
      min_runtime: 0s
      keep_active: {{at_least: 2, per: ad_group}}
    do: pause
    risk: low
    approve: {{above: 300 EUR per day, by: media-lead, within: 4h, otherwise: leave running}}
"""
LATE = """
from services.actions.executors.sandbox import Platform as Sandbox


class Platform(Sandbox):
    name, platforms = "late_ads", frozenset({"late_ads"})
"""


@pytest.fixture
def late_ads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever `trimtab` is started knows a second executor, by the entry point of a package that is installed beside it."""
    about = tmp_path / "installed/late_ads-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: late-ads\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[trimtab.executor]\nlate_ads = late_ads:Platform\n")
    (about.parent / "late_ads.py").write_text(LATE)
    monkeypatch.setitem(CLEAN, "PYTHONPATH", str(about.parent))


def four_in_each(platform: str, groups: int) -> list[str]:
    """Creatives of so many ad groups; where all are weak two of each are paused."""
    return [f"{platform}/demo/c1/g{g}/a{g}-{i}" for g in range(groups) for i in range(4)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("groups", [pytest.param(10, id="20"), pytest.param(100, id="200", marks=pytest.mark.slow)])
async def test_a_platform_of_seconds_a_call_keeps_no_sender_no_engine_and_no_other_platform_waiting(tmp_path: Path, late_ads: None, groups: int) -> None:
    """More of its decisions than are carried out at the same time are there before the other's."""
    late, quick, told = four_in_each("late_ads", groups), four_in_each("sandbox", 10), list[str]()
    with sandbox(tmp_path) as platform:
        platform.load({path: {"status": "active"} for path in (*late, *quick)})
        late_by(platform, read=5, write=1)
        executors = json.dumps({"late_ads": {"url": platform.url, "token": "sandbox"}})
        with up(tmp_path / "data", sandbox_url=platform.url, sandbox_token="sandbox", executors=executors) as trimtab:
            for path in ("late_ads", "sandbox"):
                trimtab.apply(tmp_path, WIDE.format(platform=path))
            until(lambda: len(trimtab.get("/v1/engine")["rules"]) == 2)
            told += tell(trimtab, [*late, *quick], status="active")
            told += tell(trimtab, late, impressions=5_000, clicks=1)
            ask = asyncio.to_thread
            await ask(until, lambda: tell_more(trimtab, told, late[:1]) and ends(trimtab, "late_ads").total() == groups * 2)
            before, begun = memory(trimtab), trimtab.get("/v1/engine")["offset"]

            crowd = Crowd(trimtab)
            pressing = asyncio.create_task(watched(trimtab, crowd.press(20, 4, 3)))
            told += await ask(tell, trimtab, quick, impressions=5_000, clicks=1)
            await ask(until, lambda: tell_more(trimtab, told, quick[:1]) and ends(trimtab, "sandbox") == {"verified": 20})
            assert ends(trimtab, "late_ads")["executing"] > 0  # the other platform's came later, and are done before these
            most = await pressing
            late_by(platform, read=0.2, write=2)
            assert trimtab.get("/v1/engine")["offset"] > begun
            assert crowd.statuses[202] > 50 and set(crowd.statuses) <= {202, 429}

            most = max(most, await watched(trimtab, ask(until, lambda: ends(trimtab, "late_ads") == {"verified": groups * 2}, 200)))
            assert most - before < 150 * MB
            assert ends(trimtab, "sandbox") == {"verified": 20}
            assert Counter(e["path"] for e in platform.applied()) == fired_once(trimtab, groups * 2 + 20)
            nothing_is_lost(trimtab, crowd, told=told)
            assert outcomes_on_the_log(trimtab.data) == Counter(dict.fromkeys(decided(trimtab, "SELECT id FROM decisions WHERE kind = 'fired'"), 1))


def late_by(platform: Sandbox, read: float, write: float) -> None:
    """So many seconds a call of what is under late_ads."""
    platform.client.delete("/faults").raise_for_status()
    for method, seconds in (("GET", read), ("PATCH", write)):
        platform.fault("latency", method=method, path="late_ads/", seconds=seconds, times=10_000)


def decided(trimtab: Up, query: str) -> list[Any]:
    """The rows, or what is in them where they are of one column."""
    with closing(sqlite3.connect(trimtab.data / "trimtab.db")) as file:
        return [row[0] if len(row) == 1 else row for row in file.execute(query)]


def ends(trimtab: Up, platform: str) -> Counter[str]:
    """How many of the platform's decisions to act there are of each status."""
    return Counter(decided(trimtab, f"SELECT status FROM decisions WHERE kind = 'fired' AND path LIKE '{platform}/%'"))


def fired_once(trimtab: Up, count: int) -> Counter[str]:
    """So many objects, of each of which exactly one decision to act was made."""
    found = Counter(decided(trimtab, "SELECT path FROM decisions WHERE kind = 'fired'"))
    assert len(found) == count and set(found.values()) == {1}
    return found


def outcomes_on_the_log(data: Path) -> Counter[str]:
    """How often each decision's verified end is there."""
    with closing(sqlite3.connect(data / "events.db")) as file:
        records = [EVENTS.decode(blob) for (blob,) in file.execute("SELECT data FROM records")]
    return Counter(r.decision_id for r in records if isinstance(r, Outcome) and r.status == "verified")


@pytest.mark.parametrize("groups", [pytest.param(10, id="40"), pytest.param(2_500, id="10000", marks=pytest.mark.slow)])
def test_a_rule_that_fires_for_every_entity_at_once_leaves_each_group_its_last_two(tmp_path: Path, groups: int) -> None:
    """Four weak creatives in each ad group: two are paused, the others refused, all in one boundary, and ingest goes on. No event is lost, and no end."""
    paths, told, executes = four_in_each("sandbox", groups), list[str](), groups < 100
    with sandbox(tmp_path) as platform:
        platform.load({path: {"status": "active"} for path in paths})
        with up(tmp_path / "data", sandbox_url=platform.url, sandbox_token="sandbox", actions="execute" if executes else "hold") as trimtab:
            for start in range(0, len(paths), 1000):
                told += tell(trimtab, paths[start : start + 1000], status="active")
            trimtab.apply(tmp_path, WIDE.format(platform="sandbox"))
            until(lambda: trimtab.get("/v1/engine")["rules"])
            before = memory(trimtab)
            for start in range(0, len(paths), 5000):
                told += tell(trimtab, paths[start : start + 5000], impressions=5_000, clicks=1)
            fired = groups * 2
            name, label = ("trimtab_actions_total", 'status="verified"') if executes else ("trimtab_actions_parked", 'reason="actions_held"')
            until(lambda: tell_more(trimtab, told, paths[:1]) and metric(trimtab, name, label) >= fired, 300)
            assert metric(trimtab, name, label) == fired
            assert memory(trimtab) - before < 300 * MB
            assert len(platform.applied()) == (fired if executes else 0)
            paused = Counter(e["path"].rsplit("/", 1)[0] for e in platform.applied())
            assert set(paused.values()) <= {2}
            assert trimtab.get("/v1/audit/verify")["verified"] is True
            nothing_is_lost(trimtab, told=told)
            assert set(decided(trimtab, "SELECT path FROM decisions")) == set(paths)
            assert set(Counter(path.rsplit("/", 1)[0] for path in fired_once(trimtab, fired)).values()) == {2}
            assert ends(trimtab, "sandbox") == {"verified" if executes else "parked": fired}
            theirs = decided(trimtab, "SELECT id FROM decisions WHERE kind = 'fired'") if executes else []
            assert outcomes_on_the_log(trimtab.data) == Counter(dict.fromkeys(theirs, 1))


def tell(trimtab: Up, paths: list[str], **values: Any) -> list[str]:
    """The ids of events that were acknowledged, one of each object."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rows = []
    for path in paths:
        attributes = {"status": values["status"]} if "status" in values else {}
        amounts = {name: values[name] for name in ("impressions", "clicks") if name in values}
        kind = "view" if amounts else "state"
        made = {"id": f"{path}-{time.monotonic_ns()}", "source": path.split("/")[0], "entity": path, "kind": kind, "occurred_at": now}
        rows.append(made | {"amounts": amounts, "attributes": attributes})
    assert trimtab.http.post("/v1/events", json=rows, timeout=60).status_code == 202
    return [str(row["id"]) for row in rows]


def tell_more(trimtab: Up, told: list[str], paths: list[str]) -> bool:
    """Time moves on; what was told is noted."""
    told += tell(trimtab, paths, impressions=1)
    return True
