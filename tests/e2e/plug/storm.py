"""kill -9 some ten times a second, of a process that only writes: the log and a transaction with its ledger entry, each told once it is durable.

    python -m tests.e2e.plug.storm --kills 10000      ends with 1 where what was told to be durable is not there, or anything is there that makes no sense

No loop and no thread exists in the process that forks.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import select
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Verified
from services.actions.tables import decisions  # noqa: F401  the ledger's check asks for it
from services.adapters.clock import SystemClock
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.adapters.log.codec import EVENTS
from services.adapters.log.sqlite import SqliteLog
from services.kernel.record import Record, Target

SENDERS = 4


async def write(folder: Path, told: int, life: int) -> None:
    """Until it is killed. A line a fact that is durable: `log 17 4` (number, offset), `ledger 17 9` (number, sequence)."""
    log: SqliteLog[Record] = SqliteLog(folder / "events.db", EVENTS, SystemClock())
    database = Database(f"sqlite:///{folder / 'trimtab.db'}")
    numbers = count(life * 1_000_000)

    async def append() -> None:
        while True:
            n = next(numbers)
            [(_, offset)] = await log.append([("main", Target("main", f"t{n}", "", n, "ratio"))])
            os.write(told, f"log {n} {offset}\n".encode())

    async def enter() -> None:
        while True:
            n = next(numbers)
            async with database.writing() as tx:
                head = await ledger.append(tx, "main", [ledger.Note("storm", str(n), {"n": n})], n)
            os.write(told, f"ledger {n} {head.sequence}\n".encode())

    await asyncio.gather(*(append() for _ in range(SENDERS)), enter())


def killed(folder: Path, life: int, seconds: float) -> list[tuple[str, int, int]]:
    """What a process told before it was killed, so long after its first word."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            asyncio.run(write(folder, writing, life))
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(1)
    os.close(writing)
    if not select.select([reading], [], [], 30)[0]:
        os.kill(pid, signal.SIGKILL)
        raise SystemExit(f"life {life} said nothing within 30 s")
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    said = b""
    while part := os.read(reading, 1 << 16):
        said += part
    os.close(reading)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise SystemExit(f"life {life} ended by itself")
    words = [line.split() for line in said.decode().split("\n")[:-1]]
    return [(what, int(n), int(place)) for what, n, place in words]


async def looked_at(folder: Path, told: list[tuple[str, int, int]], since: int) -> tuple[list[str], int]:
    """What is wrong, and the log's next offset. Every fact that was told is where it was told to be, and none is there twice."""
    found: list[str] = []
    log: SqliteLog[Record] = SqliteLog(folder / "events.db", EVENTS, SystemClock())
    database = Database(f"sqlite:///{folder / 'trimtab.db'}")
    try:
        at: dict[int, int] = {}
        offset = since
        while page := await log.read(0, offset):
            for stamped in page:
                number = stamped.record.amount if isinstance(stamped.record, Target) else -1
                if stamped.offset != offset or number in at:
                    found.append(f"record {stamped.offset} stands at {offset}, number {number}")
                at[number], offset = stamped.offset, offset + 1
        lost = [(n, place) for what, n, place in told if what == "log" and at.get(n) != place]
        async with database.reading() as connection:
            if not isinstance(held := await ledger.check(connection, "main"), Verified):
                found.append(f"the ledger does not hold: {held}")
            entries = {int(e.subject): e.sequence for e in await ledger.whole(connection, "main")}
        lost += [(n, place) for what, n, place in told if what == "ledger" and entries.get(n) != place]
        if lost:
            found.append(f"{len(lost)} told to be durable are not there: {lost[:5]}")
    finally:
        await log.close()
        await database.close()
    for name in ("events.db", "trimtab.db"):
        with closing(sqlite3.connect(folder / name)) as connection_:
            found += [f"{name}: {word}" for (word,) in connection_.execute("PRAGMA integrity_check") if word != "ok"]
    return found, offset


def storm(folder: Path, kills: int, seed: int) -> Iterator[str]:
    """Faults, as they are found."""
    rng, told, since = random.Random(seed), list[tuple[str, int, int]](), 0
    begun, facts = time.monotonic(), 0
    asyncio.run(prepared(folder))
    for life in range(1, kills + 1):
        told += killed(folder, life, rng.uniform(0, 0.05))
        if life % 100 == 0 or life == kills:
            faults, since = asyncio.run(looked_at(folder, told, since))
            yield from faults
            facts, told = facts + len(told), []
        if life % 1000 == 0:
            print(f"{life} of {kills} kills, {facts} facts told, {life / (time.monotonic() - begun):.1f} kills a second", flush=True)
    print(f"{kills} kills, {facts} facts told to be durable and found, {kills / (time.monotonic() - begun):.1f} kills a second")


async def prepared(folder: Path) -> None:
    database = Database(f"sqlite:///{folder / 'trimtab.db'}")
    await migrate(database)
    await database.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.plug.storm", description="Kills a writer some ten times a second.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trimtab-storm-") as folder:
        faults = list(storm(Path(folder), asked.kills, asked.seed))
    print("\n".join(faults) or "lost 0, doubled 0; every file is sound")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
