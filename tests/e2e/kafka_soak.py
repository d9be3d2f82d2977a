"""Kills and stops engines and brokers while events come in, as a seed draws it; in the end what was decided is what one engine decides of the same log, and
nothing that was acknowledged is missing. `python -m tests.e2e.kafka_soak --seeds 0:10 --rounds 12 --brokers 3`; a seed that fails is told.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from deploy.kafka.broker import Brokers
from services.adapters.clock import SystemClock
from services.adapters.log.cluster import Cluster, Topic
from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.log.kafka import KafkaLog
from services.kernel.decision import Decision
from services.kernel.record import EventBatch, Record
from tests.brokers import restarted
from tests.shell.sharing import PARTITIONS, activate, derived, patiently, said, settled, started, tell

SOON = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "400"}
MENU = ("kill an engine", "kill an engine", "stop an engine", "kill a broker", "stop a broker", "engine leaves", "nothing")


class Soak:
    """Three engines on a log of four partitions."""

    def __init__(self, seed: int, brokers: Brokers, folder: Path) -> None:
        self.chance, self.brokers, self.folder = random.Random(seed), brokers, folder
        prefix = f"s{seed}-{time.time_ns()}"
        self.topics = tuple(Topic(f"{prefix}.{name}", PARTITIONS, brokers.number) for name in ("events", "decisions"))
        self.engines: list[subprocess.Popen[str]] = []
        self.acknowledged: dict[tuple[int, int], bytes] = {}
        self.befell: Counter[str] = Counter()

    def start_engine(self) -> None:
        self.engines.append(started(self.brokers.bootstrap, (self.topics[0], self.topics[1]), self.folder))

    async def run(self, rounds: int) -> None:
        cluster, clock = Cluster(self.brokers.bootstrap), SystemClock()
        events: KafkaLog[Record] = KafkaLog(cluster, EVENTS, clock, self.topics[0])
        decisions: KafkaLog[Decision] = KafkaLog(cluster, DECISIONS, clock, self.topics[1])
        await events.start()
        await decisions.start()
        try:
            for _ in range(3):
                self.start_engine()
            await activate(events)
            for number in range(rounds):
                self.replace_ended()
                telling = asyncio.create_task(tell(events, f"a{number}"))
                await self.befall(self.chance.choice(MENU))
                self.acknowledged |= await telling
            try:
                await settled(events, decisions, rounds, patience=60)
            except TimeoutError:
                raise AssertionError(f"said {[len(p) for p in await said(decisions)]}, derivable {[len(p) for p in await derived(events)]}") from None
            await self.nothing_is_missing(events)
        finally:
            for engine in self.engines:
                engine.kill()
                engine.wait()
            await events.close()
            await decisions.close()

    def replace_ended(self) -> None:
        """One that was started while no broker answered has ended, with a line that says so; whoever supervises it starts it again."""
        ended = [e for e in self.engines if e.poll() is not None]
        self.befell["an engine found no broker"] += len(ended)
        for engine in ended:
            self.engines.remove(engine)
            self.start_engine()

    async def befall(self, what: str) -> None:
        self.befell[what] += 1
        await asyncio.sleep(self.chance.uniform(0, 0.5))
        engine, number = self.chance.choice(self.engines), self.chance.randint(1, self.brokers.number)
        match what:
            case "kill an engine" | "engine leaves":
                engine.send_signal(signal.SIGKILL if what == "kill an engine" else signal.SIGTERM)
                await asyncio.to_thread(engine.wait)
                self.engines.remove(engine)
                await asyncio.sleep(self.chance.uniform(0, 3))
                self.start_engine()
            case "stop an engine":
                engine.send_signal(signal.SIGSTOP)
                await asyncio.sleep(self.chance.uniform(0.5, 4))
                engine.send_signal(signal.SIGCONT)
            case "kill a broker":
                await asyncio.to_thread(self.brokers.kill, number)
                await asyncio.sleep(self.chance.uniform(0, 3))
                await restarted(self.brokers, number)
            case "stop a broker":
                self.brokers.every[number - 1].signal(signal.SIGSTOP)
                await asyncio.sleep(self.chance.uniform(0.5, 5))
                self.brokers.every[number - 1].signal(signal.SIGCONT)

    async def nothing_is_missing(self, events: KafkaLog[Record]) -> None:
        there = {}
        for partition in range(PARTITIONS):
            for s in await patiently(lambda p=partition: events.read(p, 0, 100_000)):  # type: ignore[misc]
                if isinstance(s.record, EventBatch):
                    there[partition, s.offset] = s.record.event_id.tobytes()
        missing = {place for place, ids in self.acknowledged.items() if there.get(place) != ids}
        assert not missing, f"acknowledged and not there: {sorted(missing)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0:10")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    wanted = parser.parse_args()
    first, _, last = wanted.seeds.partition(":")
    failed, befell, begun = [], Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        brokers = Brokers(Path(folder) / "brokers", wanted.brokers, SOON).start()
        try:
            for seed in range(int(first), int(last or int(first) + 1)):
                soak = Soak(seed, brokers, Path(folder) / str(seed))
                try:
                    asyncio.run(soak.run(wanted.rounds))
                except Exception:
                    traceback.print_exc()
                    failed.append(seed)
                befell += soak.befell
                print(f"seed {seed}: {'FAILED' if failed and failed[-1] == seed else 'holds'}, {len(soak.acknowledged)} acknowledged", flush=True)
        finally:
            brokers.stop(patience=0)
    told = ", ".join(f"{many} × {what}" for what, many in sorted(befell.items()))
    print(f"{time.monotonic() - begun:.0f} s, {wanted.brokers} brokers: {told}; failed: {failed or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
