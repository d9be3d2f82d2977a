"""Many workspaces on a fleet whose processes, brokers and database are killed, halted and cut off meanwhile; then each workspace is judged.

    python -m tests.e2e.siege.siege --kind kills --seeds 0:9       ends with 1 where anything was lost, doubled or different

Each batch of a seed is one fleet and as many tales as partitions. Kinds: kills (of processes, at named points and at random), brokers (three, killed one
after the other), zombies (processes halted past their session), database (restarts as after a crash, and cut sessions), storm (a minute of members that
come and go, as often as --storms says).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.kafka.broker import Brokers, Failed
from deploy.postgres.server import Server
from services.adapters.faultpoint import POINTS, VARIABLE
from tests.e2e.plug.soak import share
from tests.e2e.plug.story import Stuck
from tests.e2e.plug.verdict import faults_of, tally
from tests.e2e.plug.zygote import Zygote
from tests.e2e.siege.fleet import Fleet, Member
from tests.e2e.siege.tale import Inside, Tale, secret_of, workspaces
from tests.shell.sandboxed import Sandbox, sandbox

SOON = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "400", "group.min.session.timeout.ms": "1000"}
SESSION = 3.0  # seconds until a member counts as dead
MANY = {"ingest": 2, "rules": 2, "actions": 2, "console": 1}
OF = {
    "ingest": tuple(p for p in POINTS if p.startswith("ingest.")),
    "rules": tuple(p for p in POINTS if p.startswith(("engine.", "checkpoint.", "rules."))),
    "actions": tuple(p for p in POINTS if p.startswith(("actions.", "ledger.", "people.")) and p not in ("actions.parked", "actions.taken_over")),
    "console": (),
}
CUT = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'trimtab' AND state <> 'idle'"  # amid a transaction
EVERYWHERE = ("kafka.sent", "kafka.acknowledged", "database.written", "database.committed")
ALL = frozenset({*EVERYWHERE, *(point for points in OF.values() for point in points)})
KINDS = ("kills", "brokers", "zombies", "database", "storm")
HELD = 6.0  # seconds that a kill at a point is waited for


@dataclass
class Came:
    """What one batch came to."""

    seed: int
    kind: str
    faults: list[str] = field(default_factory=list)  # each with its workspace
    befell: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    ready: dict[str, list[float]] = field(default_factory=dict)  # service -> seconds from a kill until that process was ready again
    tales: int = 0
    events: int = 0
    decisions: int = 0
    repeated: int = 0  # decisions that two processes said
    writes: int = 0
    seconds: float = 0.0


@dataclass
class Plan:
    """What a process will meet."""

    point: str = ""
    hit: int = 1
    after: float = float("inf")  # seconds


class Siege:
    """Watches over a fleet while the tales are told: starts again what ended, and brings about what is to befall it."""

    def __init__(self, came: Came, fleet: Fleet, brokers: Brokers, server: Server, budget: int, storms: int = 1) -> None:
        self.came, self.fleet, self.brokers, self.server, self.budget, self.storms = came, fleet, brokers, server, budget, storms
        self.chance = random.Random(came.seed)
        self.plans: dict[str, tuple[Plan, float]] = {}  # member -> what it will meet, since when
        self.waiting: dict[str, float] = {}  # member -> since when it is killed and not ready again
        self.again: dict[str, float] = {}  # member -> when it is started again
        self.spent, self.is_over = 0, threading.Event()
        self.has_befallen = threading.Event()  # all that was to
        self._points: dict[str, list[str]] = {}

    # -- processes -----------------------------------------------------------------------------------------------------

    def next_plan(self, member: Member) -> Plan:
        """Each service's points come up in turn, from where the seed says."""
        if self.came.kind != "kills" or self.is_over.is_set() or self.spent >= self.budget:
            return Plan()
        self.spent += 1
        if member.service not in self._points:
            names = sorted((*OF[member.service], *EVERYWHERE))
            random.Random(1).shuffle(names)
            at = self.came.seed * 7 % len(names)
            self._points[member.service] = names[at:] + names[:at]
        points = self._points[member.service]
        if self.chance.random() < 0.2:
            return Plan(after=self.chance.uniform(0.3, 5))
        points.append(points.pop(0))
        return Plan(points[-1], self.chance.choice((1, 1, 1, 2, 3)), HELD)

    def begin(self, member: Member) -> None:
        plan = self.next_plan(member)
        self.fleet.begin(member, **({VARIABLE: f"{plan.point}:{plan.hit}:KILL"} if plan.point else {}))
        self.plans[member.name] = plan, time.monotonic()

    def look(self) -> None:
        """Whoever ended is started again; whoever was given long enough to come to its point is killed where it is."""
        for member in self.fleet.members.values():
            process, now = member.process, time.monotonic()
            if member.name in self.again:
                if now >= self.again[member.name]:
                    del self.again[member.name]
                    self.begin(member)
                continue
            assert process is not None
            plan, since = self.plans[member.name]
            code = process.ended()
            if code is None:
                if member.name in self.waiting:
                    if not self.fleet.readiness(member):
                        self.came.ready.setdefault(member.service, []).append(now - self.waiting.pop(member.name))
                        self.plans[member.name] = plan, now  # it has its time from here on
                elif now - since > plan.after:
                    self.kill(member)
                continue
            if code != -signal.SIGKILL:
                self.came.faults.append(f"{member.name} ended by itself with {code}: {member.log.read_text()[-1500:]}")
            elif plan.point:
                self.came.hits[plan.point] += 1
                self.came.befell[f"{member.service} killed"] += 1
            self.waiting[member.name] = now
            self.again[member.name] = now + self.chance.choice((0, 0, 0.5))

    def kill(self, member: Member) -> None:
        self.fleet.kill(member)
        self.came.befell[f"{member.service} killed"] += 1
        self.waiting[member.name] = time.monotonic()
        self.again[member.name] = time.monotonic() + self.chance.choice((0, 0.5, 1.5))

    def settle(self) -> None:
        """Nothing befalls it any more, and every process is ready."""
        self.is_over.set()
        end = time.monotonic() + 60
        while (self.again or self.waiting) and time.monotonic() < end:
            self.look()
            time.sleep(0.05)

    # -- what befalls it -----------------------------------------------------------------------------------------------

    def run(self, tales: Sequence[threading.Thread]) -> None:
        begun = time.monotonic()
        act = getattr(self, f"befall_{self.came.kind}")
        acts = iter(act())
        pause = time.monotonic() + 1
        while any(t.is_alive() for t in tales):
            self.look()
            if time.monotonic() >= pause:
                wait = next(acts, None)
                pause = float("inf") if wait is None else time.monotonic() + wait
                if wait is None:
                    self.has_befallen.set()
            time.sleep(0.05)
        self.came.seconds = time.monotonic() - begun

    def befall_kills(self) -> Iterator[float]:
        """The plans do it; those that were started without one get theirs."""
        for member in list(self.fleet.members.values()):
            if self.plans[member.name][0] == Plan():
                self.plans[member.name] = Plan(after=0), time.monotonic()
                yield 0.3

    def befall_brokers(self) -> Iterator[float]:
        while self.came.befell["broker killed"] < self.budget:
            number = self.chance.randint(1, self.brokers.number)
            self.brokers.kill(number)
            self.came.befell["broker killed"] += 1
            yield self.chance.uniform(0, 2)
            self.brokers.launch(number)
            while True:
                try:
                    self.brokers.wait(number)
                    break
                except Failed:
                    yield 0.5
            yield self.chance.uniform(0.5, 2)

    def befall_zombies(self) -> Iterator[float]:
        able = [m for m in self.fleet.members.values() if m.service in ("rules", "actions", "ingest")]
        while self.came.befell["process halted"] < self.budget:
            member = self.chance.choice(able)
            if member.process is None or member.name in self.again or member.process.ended() is not None:
                yield 0.2
                continue
            member.process.send(signal.SIGSTOP)
            self.came.befell["process halted"] += 1
            yield SESSION + self.chance.uniform(0.5, 2)
            member.process.send(signal.SIGCONT)
            yield self.chance.uniform(0, 1)

    def befall_database(self) -> Iterator[float]:
        while self.came.befell["database restarted"] < self.budget:
            self.server.stop(self.chance.choice((signal.SIGQUIT, signal.SIGINT)))
            yield self.chance.uniform(0, 1.5)
            self.server.run()
            self.came.befell["database restarted"] += 1
            for _ in range(self.chance.randint(1, 3)):
                yield self.chance.uniform(0.2, 1)
                self.came.befell["sessions cut"] += int(self.server.sql(CUT))
            yield self.chance.uniform(0.5, 1.5)

    def befall_storm(self) -> Iterator[float]:
        """Members of the groups come and go, in order and not, for a minute at a time."""
        able = [m for m in self.fleet.members.values() if m.service in ("rules", "actions")]
        for _ in range(self.storms):
            end = time.monotonic() + 60
            while time.monotonic() < end:
                member = self.chance.choice(able)
                if member.process is not None and member.name not in self.again and member.process.ended() is None:
                    if self.chance.random() < 0.4:
                        self.kill(member)
                    else:
                        self.replace(member)
                        self.came.befell[f"{member.service} replaced"] += 1
                yield self.chance.uniform(0.5, 2.5)
            self.came.befell["storm of a minute"] += 1
            yield 3.0

    def replace(self, member: Member) -> None:
        """It ends in order, and is started again. One that has not begun to listen to signals ends by them."""
        code = self.fleet.end(member)
        if code not in (0, -signal.SIGTERM):
            self.came.faults.append(f"{member.name} ends with {code} on SIGTERM: {member.log.read_text()[-1500:]}")
        self.begin(member)


@dataclass
class Ground:
    """What fleets stand on."""

    folder: Path
    brokers: Brokers
    server: Server
    platforms: tuple[Sandbox, Sandbox]
    zygote: Zygote
    made: int = 0

    def batch(self, seed: int, kind: str = "kills", partitions: int = 12, budget: int = 24, storms: int = 1, patience: float = 400) -> Came:
        """One fleet, its tales, and the verdict on each."""
        came, self.made = Came(seed, kind), self.made + 1
        folder = self.folder / f"{kind}-{seed}-{self.made}"
        folder.mkdir()
        name = f"siege_{self.made}"
        self.server.sql(f"CREATE DATABASE {name}")
        names = workspaces(partitions)
        settings = {"webhook_secrets": json.dumps({w: {"sandbox": [secret_of(w)]} for w in names}), "kafka_session_seconds": SESSION}
        platform = self.platforms[seed % 2]
        prefix, address = f"siege-{self.made}-{time.time_ns()}", self.server.url(name)
        fleet = Fleet(folder, self.brokers.bootstrap, address, platform, prefix, partitions, self.brokers.number, MANY, settings, zygote=self.zygote)
        inside: Inside | None = None
        try:
            fleet.command("migrate", TRIMTAB_URL="", TRIMTAB_KEY="")
            fleet.start()
            inside = Inside(fleet)
            self._tell(came, fleet, inside, platform, names, budget, storms, patience)
        except Exception as error:  # the edge of a batch: whatever it is, it is a fault of this one, and the next is made
            came.faults.append(f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-3:])}")
        finally:
            if inside is not None:
                inside.close()
            fleet.close()
        if not came.faults:
            self.server.sql(f"DROP DATABASE {name} WITH (FORCE)")
            shutil.rmtree(folder, ignore_errors=True)
        return came

    def _tell(self, came: Came, fleet: Fleet, inside: Inside, platform: Sandbox, names: list[str], budget: int, storms: int, patience: float) -> None:
        siege = Siege(came, fleet, self.brokers, self.server, budget, storms)
        siege.plans = {member: (Plan(), time.monotonic()) for member in fleet.members}
        patience += {"kills": 0, "storm": 70 * storms}.get(came.kind, 10 * budget)  # what befalls it takes so long at most
        tales = [
            Tale(
                came.seed, fleet.folder, None, platform, fleet.http, (), random.Random(f"{came.seed} {w}"), f"s{self.made}-{w}",  # type: ignore[arg-type]
                fleet=fleet, inside=inside, workspace=w, over=siege.has_befallen, patience=patience,
            )
            for w in names
        ]  # fmt: skip
        stuck: dict[str, str] = {}

        def tell(tale: Tale) -> None:
            try:
                tale.play()
            except Exception as error:  # the edge of its thread
                where = "".join(traceback.format_tb(error.__traceback__)[-2:]) if not isinstance(error, Stuck) else ""
                stuck[tale.workspace] = f"{type(error).__name__}: {error}\n{where}"

        threads = [threading.Thread(target=tell, args=(tale,), name=tale.workspace) for tale in tales]
        for thread in threads:
            thread.start()
        siege.run(threads)
        siege.settle()
        for member in fleet.members.values():
            if (code := fleet.end(member)) != 0:
                came.faults.append(f"{member.name} ends with {code} on SIGTERM: {member.log.read_text()[-1500:]}")
            if member.errors:
                came.faults.append(f"{member.name} says: {member.errors[:500]} ... {member.errors[-1500:]}")
        for tale in tales:
            if tale.workspace in stuck:
                came.faults.append(f"{tale.workspace}: {stuck[tale.workspace]}")
                continue
            left = tale.left()
            came.faults += [f"{tale.workspace}: {fault}" for fault in faults_of(left)]
            came.tales, came.events, came.decisions = came.tales + 1, came.events + len(tale.told.rows), came.decisions + len(left.said)
            came.repeated, came.writes = came.repeated + len(left.decisions) - len(left.said), came.writes + len(left.sent)
            tale.close()


@contextmanager
def ground(folder: Path, brokers: int = 1) -> Iterator[Ground]:
    """Raises Missing where this machine lacks a part."""
    cluster, server = Brokers(folder / "brokers", brokers, SOON), Server()
    rooms = [folder / name for name in ("able", "plain")]
    for room in rooms:
        room.mkdir(exist_ok=True)
    zygote = Zygote()
    try:
        cluster.start()
        server.start()
        with sandbox(rooms[0]) as able, sandbox(rooms[1], "--plain") as plain:
            yield Ground(folder, cluster, server, (able, plain), zygote)
    finally:
        zygote.close()
        cluster.stop(patience=0)
        server.remove()


def told(batches: Sequence[Came]) -> str:
    """The figures of a set of batches."""
    faults = [f for b in batches for f in b.faults]
    befell, hits = Counter[str](), Counter[str]()
    ready: dict[str, list[float]] = {}
    for b in batches:
        befell += b.befell
        hits += b.hits
        for service, times in b.ready.items():
            ready.setdefault(service, []).extend(times)
    lines = [
        f"{len(batches)} batches, {sum(b.tales for b in batches)} runs, {sum(b.seconds for b in batches):.0f} s: "
        + ", ".join(f"{count} x {what}" for what, count in sorted(befell.items())),
        f"{hits.total()} kills at {len(hits)} of {len(ALL)} named points: "
        + ", ".join(f"{name} {hits[name]}" for name in sorted(ALL, key=lambda name: (-hits[name], name))),
        f"{sum(b.events for b in batches)} events, {sum(b.decisions for b in batches)} decisions ({sum(b.repeated for b in batches)} said twice), "
        f"{sum(b.writes for b in batches)} writes at platforms",
        tally(faults),
        "from a kill until ready again: " + "; ".join(f"{s} p50 {share(t, 0.5)}, p95 {share(t, 0.95)}" for s, t in sorted(ready.items())),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.siege.siege", description="Besieges a fleet on Kafka and PostgreSQL.")
    parser.add_argument("--seeds", default="0:1", help="first:end, or one seed")
    parser.add_argument("--kind", choices=KINDS, default="kills")
    parser.add_argument("--partitions", type=int, default=12, help="runs at the same time")
    parser.add_argument("--budget", type=int, default=24, help="how often it befalls a batch")
    parser.add_argument("--storms", type=int, default=1)
    asked = parser.parse_args()
    begin, _, end = asked.seeds.partition(":")
    folder = Path(tempfile.mkdtemp(prefix="trimtab-siege-"))
    batches: list[Came] = []
    with ground(folder, 3 if asked.kind == "brokers" else 1) as place:
        for seed in range(int(begin), int(end or int(begin) + 1)):
            batches.append(place.batch(seed, asked.kind, asked.partitions, asked.budget, asked.storms))
            came = batches[-1]
            print(f"seed {seed}: {came.tales} runs in {came.seconds:.0f} s, {dict(came.befell)}, {len(came.faults)} faults", flush=True)
            for fault in came.faults:
                print(f"    {fault}", flush=True)
    print(told(batches))
    wrong = any(b.faults for b in batches)
    if wrong:
        print(f"what failed is kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
