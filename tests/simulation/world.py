"""One schedule: the real services over the memory log and a database of their own, people, senders and a platform, and what befalls them.

    senders --> ingest --> events log --> rules --> decisions log --> actions --> platform
                               ^------------------ outcomes ------------+

Each service is a process of its own: it may be killed at any await on the world, stand still while its successor works, or be stopped politely.
After the last fault everything is given time to come to its end; then the oracle looks.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from services.actions.execute import Pace
from services.actions.executors.contract import Step
from services.actions.worker import ActionsService, Conduct
from services.adapters.db.clock import Own
from services.adapters.faultpoint import POINTS
from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.log.writer import EventWriter
from services.ingest.core.source import Delivery
from services.ingest.intake import Intake
from services.kernel.decision import Decision
from services.kernel.errors import RejectedInput, TrimtabError, Unavailable
from services.kernel.principal import Principal
from services.kernel.record import Activation, Outcome, Record
from services.rules_engine.checkpoint import Checkpoints
from services.rules_engine.store import RuleStore
from services.rules_engine.unsaved import Often
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker
from tests.core.world import GUARDS, START
from tests.simulation.account import WORKSPACE, Account, Sending
from tests.simulation.chance import Faults, Trace
from tests.simulation.loop import HERE, SECOND, Killed, Loop, Process
from tests.simulation.platform import CONNECTIONS, READS, WRITES, AdPlatform, PlatformPort
from tests.simulation.ports import Disk, LogPort, SharedLog, SimulatedDatabase

MINUTE = 60 * SECOND
ROLES = ("ingest", "rules", "actions")
OF = {"ingest": ("ingest.",), "rules": ("engine.", "checkpoint."), "actions": ("actions.", "people.", "ledger.")}  # named points, by the process they are in
PEOPLE = (Principal("rita", "reviewer", WORKSPACE, "session"), Principal("ravi", "reviewer", WORKSPACE, "session"))
ADMIN = Principal("adam", "admin", WORKSPACE, "session")
DRAIN = 240 * MINUTE  # by then everything has come to its end, or something is stuck
FAULTS_OF_OURS = ("KeyError", "AssertionError", "AttributeError", "TypeError", "Bug", "IndexError", "ValueError")
WAITS = 30.0  # seconds that whoever calls a service waits

MENU: dict[str, tuple[float, int, int]] = {
    "append.refused": (0.3, 2, 14),
    "append.ambiguous": (0.3, 2, 14),
    "append.slow": (0.25, 2, 14),
    "database.busy": (0.3, 2, 14),
    "commit.lost": (0.3, 2, 20),
    "commit.ambiguous": (0.3, 2, 20),
    "checkpoint.damaged": (0.3, 2, 3),
    "delivery.duplicate": (0.3, 1, 1),
}
EVENTS_OF_LIFE = {  # what happens once, at some time or at some await, in this share of schedules
    "kill.ingest": 0.22, "kill.rules": 0.3, "kill.actions": 0.35, "kill.all": 0.22, "stop.rules": 0.2, "stop.actions": 0.16, "pause.ingest": 0.35,
    "zombie.rules": 0.25, "zombie.actions": 0.32, "clock.jump": 0.2, "log.clock.back": 0.22, "poison": 0.2, "foreign": 0.24, "rule.change": 0.25,
    "kill.switch": 0.2, "approvals.race": 0.45, "human.change": 0.2, "hold.mode": 0.2,
}  # fmt: skip


MOODS = {"write": WRITES, "read": READS, "connection": CONNECTIONS}
FAULTS = (*MENU, *EVENTS_OF_LIFE, *(f"{what}.{mood}" for what, of in MOODS.items() for mood in of))  # each in at least every tenth schedule


class Gone(Exception):
    """The service did not answer: nobody knows what became of the request."""


@dataclass(slots=True, eq=False)
class Instance:
    role: str
    process: Process
    service: Any = None
    ready: bool = False
    why: str = ""
    database: SimulatedDatabase | None = None
    watch: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Told:
    """What the world was answered, to be held against what is there."""

    acknowledged: set[str] = field(default_factory=set)  # ids of events
    answered: list[tuple[str, str, str]] = field(default_factory=list)  # (person, act, escalation) that were answered with success


class World:
    def __init__(self, seed: int, template: Path, folder: Path, keep_trace: bool = False) -> None:
        self.seed, self.folder = seed, folder
        self.chance = random.Random(f"life {seed}")
        self.loop = Loop(random.Random(f"turns {seed}"))
        self.trace = Trace(keep_trace)
        self.faults = Faults(random.Random(f"faults {seed}"), MENU)
        self.span = self.chance.choices([6, 10, 20, 45, 480], [4, 4, 4, 4, 3])[0] * MINUTE
        self.loop.ground.start = START
        place = folder / "trimtab.db"
        shutil.copyfile(template, place)
        self.disk = Disk(str(place), self.loop, self.faults, self.trace)
        self.eyes = self.disk.look()
        broker = Process(self.loop, "log", START)
        self.log_clock = broker
        self.events: SharedLog[Record] = SharedLog(EVENTS, broker, self.loop, self.trace, "events")
        self.decisions: SharedLog[Decision] = SharedLog(DECISIONS, broker, self.loop, self.trace, "decisions")
        self.platform = AdPlatform(self.loop, self.faults, self.trace, is_conditional=self.chance.random() < 0.5)
        self.platform.witness = self._witness
        self.account = Account(self.chance, START, self.span)
        self.account.furnish(self.platform)
        self.instances: list[Instance] = []
        self.counts = dict.fromkeys(ROLES, 0)
        self.told = Told()
        self.violations: list[str] = []
        self.points: Counter[str] = Counter()
        self.fuses: dict[str, list[tuple[int | str, Callable[[Instance], None]]]] = {role: [] for role in ROLES}
        self.skew = dict.fromkeys(ROLES, 0)
        self.hold = False
        self.idle = self.chance.choice([10, 30, 120, 240] if self.span < 15 * MINUTE else [30, 120, 240]) * SECOND if self.span < 60 * MINUTE else 900 * SECOND
        self.patience = self.chance.choice([5.0, 20.0, 40.0]) if self.span < 60 * MINUTE else 40.0
        self.often = Often(self.chance.choice([2, 4, 8, 1000]), 1e9)
        self.is_over = False
        self._work: list[asyncio.Task[Any]] = []

    # -- the course of a schedule ---------------------------------------------------------------------------------------

    def run(self) -> None:
        self.loop.run(self._live())

    async def _live(self) -> None:
        self._plan()
        for role in ROLES:
            self._start(role)
        for sending in self.account.sendings():
            self._begin(self._send(sending), "sender")
        for program in self.account.programs:
            self._begin(self._activate(program, int(self.span * 0.1 * self.chance.random())), "activation")
        self._begin(self._people(), "people")
        operator = self._spawn(self._operate(), "operator")
        await asyncio.sleep(self.span / SECOND)
        await self._heal()
        for task in self._work:
            await task
        await self._drain()
        operator.cancel()
        await self._end()

    def _spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        return self.loop.ground.spawn(work, name)

    def _begin(self, work: Any, name: str) -> None:
        """A part of life that has to come to its own end before the drain."""
        self._work.append(self._spawn(work, name))

    async def _heal(self) -> None:
        """Nothing fails any more, and whoever stood still goes on."""
        self.faults.over = True
        self.log_clock.skew = max(0, self.log_clock.skew)
        for role in ROLES:
            self.fuses[role].clear()
            self.skew[role] = 0
        if self.hold:
            self.hold = False
            for instance in self._of("actions"):
                instance.process.kill()
        for process in self.loop.processes:
            process.skew, process.fuse, process.mine = 0, None, None
            process.resume()
        self._note("-", "the last fault is over")
        await self._persist(lambda: self.call("actions", lambda s: s.people.set_kill_switch(ADMIN, False, "")))

    async def _drain(self) -> None:
        until = self.loop.at + DRAIN
        while why := self._unsettled():
            if self.loop.at > until:
                self.violations.append(f"does not come to rest: {why}")
                return
            await asyncio.sleep(20)
            if self.loop.at > self.span + 3 * MINUTE:  # what nobody answers is asked anew for ever
                for (escalation,) in self.eyes.execute("SELECT id FROM escalations WHERE status = 'waiting' ORDER BY position").fetchall():
                    await self._answer(PEOPLE[0], "reject", escalation)

    def _unsettled(self) -> str:
        rules = [i for i in self._of("rules") if i.ready and not i.service.stopped]
        if not rules or not self._of("actions") or not self._of("ingest"):
            return "a service is not there"
        if any(i.service.done < len(self.events.kept) for i in rules):
            return "records are not folded"
        if any((due := i.service.partition.due()) is not None and due <= i.process.now() for i in rules):
            return "a boundary is due"
        one = self.eyes.execute
        checks = {
            "a decision has not ended": "SELECT 1 FROM decisions WHERE status IN ('executing', 'waiting', 'parked') LIMIT 1",
            "an intent is not done": "SELECT 1 FROM intents WHERE state != 'done' LIMIT 1",
            "an escalation waits": "SELECT 1 FROM escalations WHERE status = 'waiting' LIMIT 1",
            "an outcome is not sent": "SELECT 1 FROM outbox WHERE sent_at IS NULL LIMIT 1",
        }
        for why, query in checks.items():
            if one(query).fetchone() is not None:
                return why
        noted = one("SELECT coalesce(max(offset), 0) FROM outcome_positions").fetchone()[0]
        if any(isinstance(EVENTS.decode(data), Outcome) for _, data in self.events.kept[noted:]):
            return "ingest has not noted an outcome"
        taken = one("SELECT coalesce(max(offset), 0) FROM offsets WHERE log = 'decisions'").fetchone()[0]
        return "decisions are not taken in" if taken < len(self.decisions.kept) else ""

    async def _end(self) -> None:
        rules = [i for i in self._of("rules") if i.ready]
        self.state = rules[-1].service.partition.digest() if rules else ""
        self.is_over = True
        self.violations += [f"{i.process.name} follows the log no more: {i.watch!r}" for i in self._of("ingest") if i.watch is not None and i.watch.done()]
        for process in list(self.loop.processes):
            if process is not self.loop.ground:
                process.kill()
        await asyncio.sleep(0)
        for task in self.loop.ground.tasks:
            if not task.done() and task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def close(self) -> None:
        self.eyes.close()
        self.disk.close()
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        for name in ("trimtab.db", "trimtab.db-wal", "trimtab.db-shm"):
            (self.folder / name).unlink(missing_ok=True)

    def _note(self, who: str, what: str) -> None:
        self.trace.tell(self.loop.at, who, what)

    def happened(self, kind: str) -> None:
        self.faults.happened[kind] += 1
        self._note("-", kind)

    # -- services -------------------------------------------------------------------------------------------------------

    def _of(self, role: str) -> list[Instance]:
        return [i for i in self.instances if i.role == role and i.process.alive]

    def _succeed(self, role: str) -> None:
        """Some time from now there is one of the role that works: what has ended is started again, what stands still has a successor."""

        async def start() -> None:
            await asyncio.sleep(10 * self.loop.chance.random())
            if not self.is_over and all(i.process.paused for i in self._of(role)):
                self._start(role)

        self._spawn(start(), f"successor of {role}")

    def _start(self, role: str) -> Instance:
        self.counts[role] += 1
        process = self.loop.process(f"{role}-{self.counts[role]}", START)
        process.skew = self.skew[role]
        instance = Instance(role, process, database=SimulatedDatabase(self.disk, process, self.faults))
        self.instances.append(instance)
        process.on_kill.append(lambda: self._succeed(role))
        if self.fuses[role]:
            at, act = self.fuses[role].pop(0)
            if isinstance(at, str):
                process.mine = (at, lambda: act(instance))
            else:
                process.fuse = (at, lambda: act(instance))
        self._note(process.name, "starts")
        process.spawn(self._main(instance), f"{process.name} main")
        return instance

    async def _main(self, instance: Instance) -> None:
        try:
            instance.service = await getattr(self, f"_start_{instance.role}")(instance)
            instance.ready = True
        except TrimtabError as error:
            instance.why = f"{type(error).__name__}: {error}"
            self._note(instance.process.name, f"does not start: {instance.why}")
            if not isinstance(error, Unavailable):
                self.violations.append(f"{instance.process.name} does not start: {instance.why}")
            instance.process.kill()

    async def _start_rules(self, instance: Instance) -> Worker:
        process, database = instance.process, instance.database
        assert database is not None
        store = RuleStore(database)
        metrics = Metrics(CollectorRegistry())
        worker = Worker(
            LogPort(self.events, process, self.faults), LogPort(self.decisions, process, self.faults), process, GUARDS, metrics,
            checkpoints=_Checkpoints(self.folder / "checkpoints", self), often=self.often, patience=self.patience, stopwatch=self.loop.time,
        )  # fmt: skip
        worker.on_activation = lambda activation, offset, stamp: store.follow(activation, 0, offset, stamp)
        worker.followed = lambda: store.followed(0)
        instance.service = worker
        await worker.start()
        return worker

    async def _start_actions(self, instance: Instance) -> ActionsService:
        process, database = instance.process, instance.database
        assert database is not None
        is_successor = any(i is not instance for i in self._of("actions"))
        owner = process.name if is_successor or self.chance.random() < 0.5 else "actions"
        conduct = Conduct(hold=self.hold, owner=owner, pace=Pace(idle=self.idle, show=3600 * SECOND, audit=600 * SECOND))
        decisions, events = LogPort(self.decisions, process, self.faults), LogPort(self.events, process, self.faults)
        service = ActionsService(database, decisions, events, [PlatformPort(self.platform, process)], process, CollectorRegistry(), conduct, Own(process))
        service.following.every = 3600.0  # a group of one hears of no offset: telling it would be two fifths of all turns
        await service.start()
        return service

    async def _start_ingest(self, instance: Instance) -> Intake:
        process, database = instance.process, instance.database
        assert database is not None
        events = LogPort(self.events, process, self.faults)
        writer = EventWriter(events)

        async def append_changes(changes: Any) -> None:
            await events.append([(c.workspace, c) for c in changes])

        intake = Intake(database, writer.append, append_changes, process, CollectorRegistry(), append_rows=writer.append_rows)
        instance.watch = process.spawn(intake.watch(events, 0), f"{process.name} watch")
        return intake

    async def call(self, role: str, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        """What a service answers; raises Gone where none does, and whatever the service raises."""
        ready = [i for i in self._of(role) if i.ready]
        if not ready:
            raise Gone(f"no {role} there")
        instance = ready[int(self.loop.chance.random() * len(ready))]
        answered: asyncio.Future[Any] = self.loop.create_future()
        await asyncio.sleep(0.02 * self.loop.chance.random())
        if not instance.process.alive:
            raise Gone(f"{instance.process.name} is not there any more")

        async def answer() -> Any:
            return await ask(instance.service)

        def done(task: asyncio.Task[Any]) -> None:
            if answered.done():  # whoever asked has gone: what the answer would have been is of no matter
                heard(task)
                return
            if task.cancelled():
                answered.set_exception(Gone(f"{instance.process.name} ended"))
            elif (error := task.exception()) is not None:
                answered.set_exception(Gone(f"{instance.process.name} ended") if isinstance(error, Killed) else error)
            else:
                answered.set_result(task.result())

        task = instance.process.spawn(answer(), "call")
        task.add_done_callback(done)
        try:
            async with asyncio.timeout(WAITS):
                return await answered
        except TimeoutError:
            raise Gone(f"{instance.process.name} does not answer") from None

    async def _persist(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """The work is done in the end, however often it has to be tried."""
        for attempt in range(200):
            try:
                return await work()
            except (Gone, Unavailable):
                await asyncio.sleep(min(1 + attempt, 10) * (0.5 + self.loop.chance.random()))
        self.violations.append("a caller was never answered")
        return None

    # -- life ------------------------------------------------------------------------------------------------------------

    async def _send(self, sending: Sending) -> None:
        await asyncio.sleep(sending.at / SECOND)
        delivery = Delivery("sandbox", WORKSPACE, b"{}", (), self.loop.ground.now())
        events = [replace(e, attributes=self._seen(e.path)) if e.amounts and self.chance.random() < 0.3 else e for e in sending.events]

        async def deliver() -> None:
            receipt = await self.call("ingest", lambda intake: intake.accept(delivery, list(events), "events"))
            if receipt.accepted == len(events):
                self.told.acknowledged |= {e.key.hex() for e in events}

        async def again(at: int) -> None:
            await asyncio.sleep(max(0, at - self.loop.at) / SECOND)
            self.happened("delivery.again")
            with suppress(Gone, Unavailable):
                await deliver()

        for at in sending.again:
            self._work.append(self._spawn(again(at), "sender again"))
        if self.faults.strikes("delivery.duplicate"):
            self._work.append(self._spawn(again(self.loop.at), "sender twice"))
        await self._persist(deliver)

    def _seen(self, path: str) -> dict[str, Any]:
        return {"status": self.platform.objects[path, "status"], "daily_budget": self.platform.objects[path, "daily_budget"]}

    async def _activate(self, program: Any, at: int, state: str = "active") -> None:
        await asyncio.sleep(at / SECOND)
        record = Activation(WORKSPACE, program.rule, program.version, state, program.to_json())
        await self.events.append("operator", [(WORKSPACE, record)])

    async def _people(self) -> None:
        """Reviewers look at what waits for them now and then, and answer some of it."""
        while self.loop.at < self.span:
            await asyncio.sleep((40 + 160 * self.loop.chance.random()) * max(1, self.span / 60 / MINUTE))
            for (escalation,) in self.eyes.execute("SELECT id FROM escalations WHERE status = 'waiting' ORDER BY position").fetchall():
                act = self.chance.choices(["approve", "reject", "leave"], [5, 2, 2])[0]
                if act != "leave":
                    self._begin(self._answer(PEOPLE[0], act, escalation), "reviewer")
                    if "approvals.race" in self.lives:
                        self.happened("approvals.race")
                        self._begin(self._answer(PEOPLE[1], self.chance.choice(["approve", "reject"]), escalation), "reviewer")

    async def _answer(self, who: Principal, act: str, escalation: str) -> None:
        with suppress(Gone, Unavailable, RejectedInput):
            await self.call("actions", lambda s: getattr(s.people, act)(who, escalation, "because"))
            self.told.answered.append((who.name, act, escalation))

    async def _operate(self) -> None:
        """Whoever is on call: skips a record that cannot be read, and starts again what stopped."""
        while True:
            await asyncio.sleep(40)
            for instance in self._of("rules"):
                worker = instance.service
                if worker is None or not worker.stopped or instance.process.paused:
                    continue
                if worker.poisoned is not None:
                    offset = worker.poisoned
                    with suppress(Gone, TrimtabError):
                        await self._call_on(instance, lambda s, at=offset: s.skip(at, "cannot be read", "adam"))
                    continue
                self._note(instance.process.name, f"stopped: {worker.stopped}")
                if "disagree" in worker.stopped or worker.stopped.startswith(FAULTS_OF_OURS):
                    self.violations.append(f"{instance.process.name} stopped: {worker.stopped}")
                self.skew["rules"] = 0
                instance.process.kill()

    async def _call_on(self, instance: Instance, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        async def answer() -> Any:
            return await ask(instance.service)

        task = instance.process.spawn(answer(), "call")
        task.add_done_callback(heard)
        await asyncio.wait([task], timeout=60)
        return task.result() if task.done() and not task.cancelled() and task.exception() is None else None

    # -- what befalls it ------------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        chance = self.chance
        self.lives = {kind for kind, share in EVENTS_OF_LIFE.items() if chance.random() < share}
        for role in ROLES:
            if f"kill.{role}" in self.lives:
                for _ in range(chance.choice([1, 1, 2])):
                    self.fuses[role].append((self._place(role, 120), lambda i: self._kill(i)))
            if f"zombie.{role}" in self.lives or f"pause.{role}" in self.lives:
                self.fuses[role].insert(int(2 * chance.random()), (self._place(role, 100), lambda i: self._freeze(i)))
        for kind in sorted(self.lives):
            work = getattr(self, "_" + kind.replace(".", "_"), None)
            if work is not None and (kind != "kill.switch" or chance.random() < 0.4):
                self._begin(self._later(int(self.span * (0.05 + 0.9 * chance.random())), work), kind)

    def _place(self, role: str, among: int) -> int | str:
        """Where something befalls a process: at one of its first awaits on the world, or at a named point of its code."""
        if self.chance.random() < 0.5:
            return 1 + int(among * self.chance.random() ** 2)
        return self.chance.choice([p for p in POINTS if p.startswith(OF[role])])

    def reach(self, point: str) -> None:
        """Some process has come to a named point."""
        self.points[point] += 1
        HERE.get(self.loop.ground).reach(point)
        if point == "actions.claimed" and "kill.switch" in self.lives and not self.faults.over and self.loop.chance.random() < 0.5:
            self._begin(self._kill_switch(), "kill.switch")
            self.lives.discard("kill.switch")

    async def _later(self, at: int, work: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(at / SECOND)
        await work()

    def _kill(self, instance: Instance) -> None:
        self.happened(f"kill.{instance.role}")
        self._note(instance.process.name, "killed")
        instance.process.kill()

    def _freeze(self, instance: Instance) -> None:
        """Stands still, as under SIGSTOP; goes on beside its successor, and is ended some time after that."""
        assert instance.database is not None
        if instance.database.writes:
            instance.process.fuse = (instance.process.passed + 1, lambda: self._freeze(instance))
            return
        self.happened(("pause." if instance.role == "ingest" else "zombie.") + instance.role)
        self._note(instance.process.name, "stands still")
        instance.process.pause()
        self._succeed(instance.role)
        self._begin(self._thaw(instance, 10 + 170 * self.chance.random(), 30 + 200 * self.chance.random()), "thaw")

    async def _thaw(self, instance: Instance, seconds: float, more: float) -> None:
        await asyncio.sleep(seconds)
        self._note(instance.process.name, "goes on")
        instance.process.resume()
        await asyncio.sleep(more)
        if any(i is not instance for i in self._of(instance.role)):
            self._note(instance.process.name, "is ended")
            instance.process.kill()

    async def _kill_all(self) -> None:
        self.happened("kill.all")
        for instance in [i for i in self.instances if i.process.alive]:
            instance.process.kill()

    async def _stop_rules(self) -> None:
        await self._stop("rules", lambda s: s.stop())

    async def _stop_actions(self) -> None:
        await self._stop("actions", lambda s: s.stop())

    async def _stop(self, role: str, stop: Callable[[Any], Awaitable[None]]) -> None:
        for instance in [i for i in self._of(role) if i.ready and not i.process.paused]:
            self.happened(f"stop.{role}")
            await self._call_on(instance, stop)
            instance.process.kill()

    async def _clock_jump(self) -> None:
        role = self.chance.choice(["rules", "actions", "ingest"])
        by = self.chance.choice([-5 * MINUTE, -30 * SECOND, 30 * SECOND, 3 * MINUTE])
        self.happened("clock.jump")
        self.skew[role] = by
        for instance in self._of(role):
            instance.process.skew = by
        await asyncio.sleep(30 + 90 * self.chance.random())
        self.skew[role] = 0
        for instance in self._of(role):
            instance.process.skew = 0

    async def _log_clock_back(self) -> None:
        self.happened("log.clock.back")
        self.log_clock.skew = -self.chance.choice([SECOND, 20 * SECOND, 90 * SECOND])
        await asyncio.sleep(60 * self.chance.random())
        self.log_clock.skew = 0

    async def _poison(self) -> None:
        self.happened("poison")
        self.events.put_bytes(b"\xff\xfe no record")

    async def _foreign(self) -> None:
        """Another build says something else under an id that is there already."""
        if self.decisions.kept:
            _, data = self.decisions.kept[int(len(self.decisions.kept) * self.chance.random())]
            decision = DECISIONS.decode(data)
            other = replace(decision, action=decision.action.replace('"paused"', '"archived"').replace('"desired":50', '"desired":99'), evidence=7)
            self.happened("foreign")
            await self.decisions.append("foreign", [(WORKSPACE, other)])

    async def _rule_change(self) -> None:
        program = self.chance.choice(self.account.programs)
        self.happened("rule.change")
        if self.chance.random() < 0.3:
            await self._activate(program, 0, "retired")
        else:
            await self._activate(self.account.edited(program), 0)

    async def _kill_switch(self) -> None:
        await self._persist(lambda: self.call("actions", lambda s: s.people.set_kill_switch(ADMIN, True, "stop")))
        self.happened("kill.switch")
        await asyncio.sleep(240 * self.chance.random() ** 2)
        await self._persist(lambda: self.call("actions", lambda s: s.people.set_kill_switch(ADMIN, False, "")))

    async def _human_change(self) -> None:
        self.happened("human.change")
        ad = self.chance.choice(self.account.ads)
        if self.chance.random() < 0.6:
            status = self.platform.objects[ad, "status"]
            self.platform.change(ad, "status", "paused" if status == "active" else "active")
        else:
            self.platform.change(ad, "daily_budget", self.chance.choice([30, 60, 120]) * 1_000_000)

    async def _hold_mode(self) -> None:
        """The operator starts the actions service again, with TRIMTAB_ACTIONS=hold, and later without."""
        self.happened("hold.mode")
        for hold in (True, False):
            self.hold = hold
            await self._stop("actions", lambda s: s.stop())
            for instance in self._of("actions"):
                instance.process.kill()
            await asyncio.sleep(180 * self.chance.random())

    # -- who looks on -----------------------------------------------------------------------------------------------------

    def _witness(self, step: Step, key: str) -> None:
        """At the moment of each change: its intent is committed, and is about this and nothing else."""
        row = self.eyes.execute("SELECT path, attribute, desired FROM attempts WHERE key = ?", (key,)).fetchone()
        if row is None or (row[0], row[1], row[2]) != (step.path, step.attribute, _json(step.desired)):
            self.violations.append(f"{step.path} {step.attribute} was set to {step.desired} without a committed intent: {row}")


def heard(task: asyncio.Task[Any]) -> None:
    """How it ended is known, and nobody's business."""
    if not task.cancelled():
        task.exception()


def _json(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


class _Checkpoints(Checkpoints):
    """The real ones, on a disk that may turn a byte."""

    def __init__(self, folder: Path, world: World) -> None:
        super().__init__(folder)
        self.world = world

    def write(self, *what: Any) -> Path:
        path = super().write(*what)
        if self.world.faults.strikes("checkpoint.damaged"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 0x40
            path.write_bytes(bytes(data))
        return path

