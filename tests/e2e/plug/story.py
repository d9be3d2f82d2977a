"""One seeded run: a Trimtab that is killed again and again while reports, people and a bad platform keep it busy, then left in peace until all is done.

The senders do what senders do: they repeat a delivery, under the same ids, until somebody says 2xx. What they were told is kept, to be held against what
the files, the log and the platform say afterwards (verdict.py). A run may be repeated by its seed; which instruction it is killed at is up to the machine,
unless the kill is at a point.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from services.adapters.faultpoint import EMBEDDED, VARIABLE
from tests.e2e.plug.zygote import Started
from tests.e2e.running import SECRET, signed
from tests.shell.sandboxed import Sandbox

Start = Callable[[dict[str, str], Path], Started]

PACK = """
pack: plug
account: {{platform: sandbox, currency: EUR, time_zone: Europe/Berlin, interval: 100ms}}
targets: {{ctr: {{default: {ctr}}}}}
rules:
  - rule: pause-weak
    owner: jana@acme.example
    scope: {{level: creative, where: status = "active", except: label = "quick"}}
    when: ctr[since change] < target(ctr)
    guards: {{sample: {{impressions: 1000}}, keep_active: {{at_least: 1, per: ad_group}}}}
    do: pause
    risk: low
  - rule: resume-strong
    owner: jana@acme.example
    scope: {{level: creative, where: status = "paused"}}
    when: ctr[{window}] > 2%
    guards: {{sample: {{impressions: 500}}, cooldown: 1s}}
    do: resume
    risk: low
  - rule: ask-quick
    owner: jana@acme.example
    scope: {{level: creative, where: label = "quick" and status = "active"}}
    when: clicks[1h] > 20
    do: pause
    risk: low
    approve: {{always: true, by: media-lead, within: 1s, otherwise: leave running}}
  - rule: ask-budget
    owner: tom@acme.example
    scope: {{level: campaign, where: status = "active"}}
    when: spend[1h] > 10 EUR and daily_budget > {budget} EUR
    do: {{set_budget: {budget} EUR}}
    risk: high
    approve: {{always: true, by: media-lead, within: 10m, otherwise: leave as is}}
  - rule: ask-group
    owner: tom@acme.example
    scope: {{level: ad_group}}
    when: spend[1h] > 3 EUR and daily_budget > {group} EUR
    do: {{set_budget: {group} EUR}}
    risk: high
    approve: {{always: true, by: media-lead, within: 10m, otherwise: leave as is}}
  - rule: shift
    owner: tom@acme.example
    scope: {{level: campaign, pairs_within: account, same: objective}}
    from: cpc[1h] > 0.05 EUR
    to: cpc[1h] < 0.05 EUR
    guards: {{sample: {{spend: 2 EUR}}, cooldown: 1s}}
    do: {{shift_budget: 10% of from, floor: 20 EUR, to_at_most: +20% per day}}
    risk: low
  - rule: tell
    owner: tom@acme.example
    scope: {{level: campaign}}
    when: impressions[{window}] > 3000
    do: notify
    risk: low
"""
SHADOW = """
pack: shadow
account: {platform: sandbox, currency: EUR, time_zone: Europe/Berlin, interval: 100ms}
rules:
  - rule: proven-weak
    owner: jana@acme.example
    scope: {level: creative}
    when: ctr[since change] < 1%
    guards: {sample: {impressions: 1000}, confidence: 95%, min_runtime: 0s}
    do: pause
    risk: low
"""
FIRST = PACK.format(ctr="1%", window="1m", budget=50, group=20)
SECOND = PACK.format(ctr="0.9%", window="2h", budget=45, group=15)
RULES = ("pause-weak", "resume-strong", "ask-quick", "ask-budget", "ask-group", "shift", "tell")
ADS = [("c1", g, f"{g}a{i}") for g in ("g1", "g2") for i in (1, 2, 3, 4)] + [("c2", "g1", f"b{i}") for i in (1, 2, 3)]
QUICK = "b3"
BUDGETS = [("c1",), ("c2",), ("c1", "g1"), ("c1", "g2"), ("c2", "g1")]
BADLY = ("latency", "429", "500_before", "500_after", "drop_before", "drop_after", "error_inside", "garbage")
FINAL = ("verified", "failed", "unknown", "held", "rejected", "expired", "cancelled", "recorded")
UNDER_WAY = "state IN ('queued', 'running') AND steps != '[]'"
PATIENCE = 60.0  # seconds that a run may take to come to rest
AT_FIRST = ("private.begun", "private.written")  # of a folder's first start alone
LATER = ("engine.loaded", "actions.released", "people.undone")  # a second process meets them rather than the first
AT_LAST = ("stop.begun", "stop.ended")
ONCE = ("start.", "private.", "stop.", "rules.", "people.", "database.migrated", "engine.loaded", "engine.restored", "engine.rebuilt", "log.prepared")
NAMES = sorted(EMBEDDED)
random.Random(1).shuffle(NAMES)


@dataclass(frozen=True)
class AtPoint:
    name: str
    hit: int = 1


@dataclass(frozen=True)
class After:
    """So many seconds after it was started, wherever it is by then."""

    seconds: float


Kill = AtPoint | After


def kills_of(seed: int, rng: random.Random) -> list[Kill]:
    """What each process in turn meets. Every point comes up as often as any other over as many seeds as there are points."""
    names = [NAMES[(seed * 3 + i) % len(NAMES)] for i in range(3)]
    kills: list[Kill] = [AtPoint(name, 1 if name.startswith(ONCE) else rng.choice((1, 1, 1, 1, 2, 3))) for name in names]
    kills += [After(rng.uniform(0.02, 1.5))] * rng.choice((0, 0, 1))
    rng.shuffle(kills)
    return sorted(kills, key=lambda k: isinstance(k, AtPoint) and 2 * (k.name in AT_LAST) + (k.name in LATER) - (k.name in AT_FIRST))


class Stuck(Exception):
    """What should have come to an end did not, or ended as it should not have."""


@dataclass
class Told:
    """What the run's people and senders know at its end."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # by id: the first that was accepted
    refused: int = 0  # rows that belong into quarantine
    conflicts: int = 0
    answers: dict[str, str] = field(default_factory=dict)  # escalation -> what its person was told that it is
    undone: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    applied: list[tuple[str, str]] = field(default_factory=list)  # (rule, state) that the last answer about the rule named
    starts: int = 0
    deaths: list[float] = field(default_factory=list)  # instants of kills
    hits: list[str] = field(default_factory=list)  # points at which it was killed
    ready: list[float] = field(default_factory=list)  # seconds from a kill until it served again


@dataclass
class Run:
    """A data folder, whoever runs on it, and the world around it."""

    seed: int
    folder: Path
    begin: Start
    platform: Sandbox
    http: httpx2.Client
    kills: Sequence[Kill]
    rng: random.Random
    account: str  # at the platform, its own
    acts: Sequence[str] = ()  # what happens after the rules are in effect; () is for the seed to draw
    told: Told = field(default_factory=Told)
    log: Path = field(init=False)
    process: Started | None = None
    url: str = ""
    secret: str = SECRET
    patience: float = PATIENCE
    holds: bool = False
    is_stale: bool = False
    sent: int = 0
    _timer: threading.Timer | None = None
    _deliveries: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data, self.log = self.folder / "data", self.folder / "stderr"
        self.to_come = list(self.kills)
        self.plan: Kill | None = None
        self.end = time.monotonic() + self.patience

    # -- the process ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """It serves, however often it is killed on the way there."""
        while True:
            (self.data / "url").unlink(missing_ok=True)
            self.plan = self.to_come.pop(0) if self.to_come else None
            self.process = self.begin(self._settings(), self.log)
            self.told.starts += 1
            if isinstance(self.plan, After):
                self._timer = threading.Timer(self.plan.seconds, self._shoot, [self.process])
                self._timer.start()
            if self._serves():
                if self.told.deaths and len(self.told.ready) < len(self.told.deaths):
                    self.told.ready.append(time.time() - self.told.deaths[-1])
                return

    def _settings(self) -> dict[str, str]:
        values = {
            "data": str(self.data), "port": "0", "webhook_secrets": json.dumps({"sandbox": [SECRET]}), "sandbox_url": self.platform.url,
            "sandbox_token": "sandbox", "settle_seconds": "0.02", "checkpoint_records": "12", "checkpoint_seconds": "0.2", "log_level": "warning",
            "actions": "hold" if self.holds else "execute",
        }  # fmt: skip
        planted = {VARIABLE: f"{self.plan.name}:{self.plan.hit}:KILL"} if isinstance(self.plan, AtPoint) else {}
        return {f"TRIMTAB_{name.upper()}": value for name, value in values.items()} | planted

    @staticmethod
    def _shoot(process: Started) -> None:
        if process.ended_at == 0:
            process.send(signal.SIGKILL)

    def _serves(self) -> bool:
        while self.is_up():
            with suppress(OSError, httpx2.HTTPError):
                self.url = (self.data / "url").read_text()
                key = (self.data / "cli.key").read_text()
                if self.url and self.http.get(f"{self.url}/readyz").status_code == 200:
                    self.http.headers["Authorization"] = f"Bearer {key}"
                    return True
            time.sleep(0.004)
        return False

    def is_up(self, seconds: float = 0) -> bool:
        """False once the process has ended, which is noted; raises where it ended by itself, or the run takes too long."""
        if time.monotonic() > self.end:
            raise Stuck(f"not at rest after {self.patience:.0f} s: {self.unfinished()}")
        if self.process is None:
            return False
        code = self.process.ended(seconds)
        if code is None:
            return True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ended, self.process = self.process, None
        if code != -signal.SIGKILL or self.plan is None:
            raise Stuck(f"it ended by itself with {code}: {self.log.read_text()[-2000:]}")
        if isinstance(self.plan, AtPoint):
            self.told.hits.append(self.plan.name)
        self.told.deaths.append(ended.ended_at)
        return False

    def stop(self) -> bool:
        """Asks it to end in good order; False where it was killed on the way."""
        if not self.is_up():
            return False
        assert self.process is not None
        process = self.process
        process.send(signal.SIGTERM)
        code = process.ended(30)
        if code == 0:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self.process = None
            return True
        if code is None:
            process.send(signal.SIGKILL)
            raise Stuck("it did not end within 30 s of SIGTERM")
        self.is_up()
        return False

    def close(self) -> None:
        """Nothing of it runs any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self.process is not None and self.process.ended() is None:
            self.process.send(signal.SIGKILL)
            self.process.ended(10)

    # -- asking, until there is an answer ------------------------------------------------------------------------------

    def ask(self, method: str, path: str, make: Callable[[], dict[str, Any]] = dict) -> httpx2.Response:
        """The answer; who gets none, or is told to come back, asks again."""
        while True:
            if self.process is None:
                self.start()
            try:
                answer = self.http.request(method, f"{self.url}{path}", **make())
            except httpx2.TransportError:
                self.is_up(0.5)
                continue
            if answer.status_code not in (429, 503):
                return answer
            self.is_up(0.02)

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any, *codes: int, method: str = "POST") -> httpx2.Response:
        answer = self.ask(method, path, lambda: {"json": body})
        if answer.status_code not in (codes or (200, 201)):
            raise Stuck(f"{method} {path} answers {answer.status_code}: {answer.text[:500]}")
        return answer

    # -- what senders do ----------------------------------------------------------------------------------------------

    def path(self, *parts: str) -> str:
        return "/".join(("sandbox", self.account, *parts))

    def row(self, *parts: str, **more: Any) -> dict[str, Any]:
        self.sent += 1
        entity = dict(zip(("campaign", "ad_group", "creative"), parts, strict=False))
        return {"id": f"e{self.sent}", "entity": {"account": self.account, **entity}, "occurred_at": now(), "currency": "EUR", **more}

    def deliver(self, *rows: dict[str, Any], kind: str = "report", refused: int = 0) -> None:
        body = json.dumps({"type": kind, "account": self.account, "sent_at": now(), "rows": rows}).encode()
        self._deliveries.append((f"m{self.sent}", body))
        answer = self._send(f"m{self.sent}", body)
        said = answer.json()
        if answer.status_code != 202 or (said["accepted"], said["quarantined"]) != (len(rows) - refused, refused):
            raise Stuck(f"a delivery of {len(rows)} rows is answered {answer.status_code}: {answer.text[:500]}")
        self.told.refused += refused
        for row in rows:
            if row["occurred_at"]:
                self.told.rows.setdefault(row["id"], row)

    def _send(self, message: str, body: bytes) -> httpx2.Response:
        """Signed anew at every try, as a vendor does; the message keeps its id."""
        return self.ask("POST", "/v1/webhooks/sandbox", lambda: {"content": body, "headers": signed(body, message, self.secret)})

    def report(self) -> None:
        rows = []
        for parts in self.rng.sample(ADS, self.rng.randint(2, 6)):
            shown = self.rng.randint(400, 2500)
            rate = self.rng.choice((0.002, 0.004, 0.006, 0.015, 0.04, 0.06))
            spend = f"{self.rng.uniform(0.2, 6 if parts[0] == 'c1' else 1):.2f}"
            rows.append(self.row(*parts, impressions=shown, clicks=int(shown * rate), spend=spend))
        self.deliver(*rows)

    def burst(self) -> None:
        """Several ads turn out weak at once, and one is clicked enough for people to be asked."""
        rows = [self.row(*parts, impressions=3000, clicks=3, spend="0.40") for parts in self.rng.sample(ADS[:-1], 5)]
        self.deliver(*rows, self.row(*ADS[-1], impressions=900, clicks=30, spend="0.10"))

    def restate(self) -> None:
        """The same hour of an ad, read twice, the second time higher; then the older reading comes once more."""
        parts, hour, what = self.rng.choice(ADS), {"start": now(-7200), "end": now(-3600)}, self.rng.choice(("impressions", "clicks", "leads"))
        older = self.row(*parts, interval=hour, as_of=now(-3000), **{what: 9})
        newer = self.row(*parts, interval=hour, as_of=now(-2000), **{what: 12})
        for row in (older, newer):
            row.pop("currency")
            self.deliver(row)
        self.deliver(older | {"id": f"{older['id']}-again"})

    def repeat(self) -> None:
        """A sender that missed an answer, long ago."""
        if self._deliveries:
            message, body = self.rng.choice(self._deliveries)
            if self._send(message, body).status_code != 202:
                raise Stuck("a repeated delivery is not accepted")

    def contradict(self) -> None:
        """An id that was used before, of something else: the first counts."""
        known = [r for r in self.told.rows.values() if "impressions" in r and "interval" not in r]
        if known:
            first = self.rng.choice(known)
            self.deliver({**first, "impressions": first["impressions"] + 100_000})
            self.told.conflicts += 1

    def blunder(self) -> None:
        good, bad = self.row(*self.rng.choice(ADS), impressions=100, clicks=1), self.row("c1", "g1", "a1", impressions=5)
        bad["occurred_at"] = ""
        self.deliver(good, bad, refused=1)

    def by_hand(self) -> None:
        """Somebody changes something in the platform's own tool, which a report tells a little later."""
        if self.rng.random() < 0.7:
            parts, value = self.rng.choice(ADS), {"status": self.rng.choice(("active", "paused"))}
        else:
            parts, value = self.rng.choice(BUDGETS), {"daily_budget": self.rng.randint(60, 90) * 1_000_000}  # type: ignore[assignment,dict-item]
        self.platform.client.post(f"/by-hand/{self.path(*parts)}", json=value).raise_for_status()
        self.deliver(self.row(*parts, **self._as_reported(value)), kind="entity")

    @staticmethod
    def _as_reported(value: dict[str, Any]) -> dict[str, Any]:
        return {k: f"{v // 1_000_000}.00" if k == "daily_budget" else v for k, v in value.items()}

    # -- what people do -----------------------------------------------------------------------------------------------

    def apply(self, pack: str, state: str = "active") -> None:
        for rule in self.post("/v1/rules/apply", {"pack": pack, "state": state}).json()["rules"]:
            self.told.applied.append((rule["rule"], state))

    def activate(self) -> None:
        self.apply(FIRST)
        self.await_(lambda: len(self.get("/v1/engine")["rules"]) >= len(RULES))

    def rewrite(self) -> None:
        self.apply(SECOND)

    def shadow(self) -> None:
        self.apply(SHADOW, "shadow")

    def roll_back(self) -> None:
        self.ask("POST", f"/v1/rules/{self.rng.choice(RULES)}/rollback")  # or there is no earlier version

    def aim(self) -> None:
        self.post("/v1/targets", [{"name": "ctr", "path": self.path("c1"), "amount": self.rng.choice((8_000, 12_000)), "unit": "ratio"}])

    def answer(self, how: str) -> None:
        """The oldest that waits is answered; for a moment it is waited for."""
        end = time.monotonic() + 0.3
        while not (waiting := self.get("/v1/escalations")["escalations"]) and time.monotonic() < end:
            self.is_up(0.03)
        patient = [w for w in waiting if w["decision"]["rule"] != "ask-quick"]
        if waiting and (patient or self.rng.random() < 0.3):
            wanted = (patient or waiting)[0]["id"]
            answer = self.post(f"/v1/escalations/{wanted}/{how}", {"reason": "because"}, 200, 409)
            done = {"approve": "approved", "reject": "rejected"}[how]
            if answer.status_code == 200 or f"already_{done}" in answer.text:
                self.told.answers[wanted] = done

    def approve(self) -> None:
        self.answer("approve")

    def reject(self) -> None:
        self.answer("reject")

    def cancel(self) -> None:
        """What is not carried out yet, or, now and then, all of a rule's; for a moment it is waited for."""
        end = time.monotonic() + 0.5
        while not (pending := [d for s in ("waiting", "executing", "parked") for d in self.get(f"/v1/decisions?status={s}")["decisions"]]):
            if time.monotonic() >= end:
                return
            self.is_up(0.03)
        if self.rng.random() < 0.3:
            self.post("/v1/decisions/cancel", {"rule": self.rng.choice(pending)["rule"], "reason": "all wrong"}, 200)
        else:
            wanted = self.rng.choice(pending)["id"]
            if self.post(f"/v1/decisions/{wanted}/cancel", {"reason": "wrong"}, 200, 409).status_code == 200:
                self.told.cancelled.append(wanted)

    def undo(self) -> None:
        done = [d for d in self.get("/v1/decisions?status=verified&kind=fired")["decisions"] if not d["undoes"] and d["reason"] != "notified"]
        if done:
            undone = self.rng.choice(done)["id"]
            if self.post(f"/v1/decisions/{undone}/undo", {"reason": "a mistake"}, 202, 409).status_code == 202:
                self.told.undone.append(undone)

    def switch_on(self) -> None:
        """While something is under way, and the platform slow to say what is there."""
        self.platform.fault("latency", method="GET", path=self.path() + "/", times=6, seconds=0.25)
        self.burst()
        end = time.monotonic() + 0.6
        while time.monotonic() < end and not self.is_executing():
            self.is_up(0.01)
        self.post("/v1/kill-switch", {"engaged": True, "reason": "so"}, method="PUT")

    def switch_off(self) -> None:
        self.post("/v1/kill-switch", {"engaged": False}, method="PUT")

    # -- what else happens --------------------------------------------------------------------------------------------

    def misbehave(self) -> None:
        under = self.path() + "/"
        if self.rng.random() < 0.3 and not self.is_stale:  # once: reads that are stale for longer than the time to settle deceive us, as operations.md says
            self.is_stale = True
            self.platform.fault("stale_read", method="GET", path=under, times=1)
        else:
            self.platform.fault(self.rng.choice(BADLY), path=under, times=self.rng.randint(1, 2), seconds=0.1)

    def rest(self) -> None:
        self.is_up(self.rng.uniform(0, 0.2))

    def restart(self) -> None:
        """An orderly stop; the next one may be told to hold."""
        if self.stop():
            self.holds = not self.holds and self.rng.random() < 0.5
            self.start()

    def await_(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self.is_up(0.02)

    # -- the whole of it ----------------------------------------------------------------------------------------------

    def play(self) -> Told:
        objects: dict[str, dict[str, Any]] = {self.path(*parts): {"status": "active"} for parts in ADS}
        objects |= {self.path(*parts): {"status": "active", "daily_budget": 80_000_000} for parts in BUDGETS}
        self.platform.load(objects)
        self.start()
        known = [self.row(*parts, status="active", **({"label": "quick"} if parts[2] == QUICK else {})) for parts in ADS]
        known += [self.row(*parts, status="active", daily_budget="80.00", objective="sales") for parts in BUDGETS]
        self.deliver(*known, kind="entity")
        self.activate()
        for act in self.acts or self._acts():
            getattr(self, act)()
        self.come_to_rest()
        while not self.stop():
            self.start()
        return self.told

    def _acts(self) -> list[str]:
        """Everything once, most things more often, in an order of the seed's; the switch goes off some time after it went on."""
        acts = ["report"] * self.rng.randint(4, 8) + ["rest"] * 4 + ["misbehave"]
        acts += ["restate", "restate", "repeat", "contradict", "blunder", "by_hand", "rewrite", "shadow", "aim"]
        acts += ["approve", "approve", "reject", "reject", "cancel", "cancel", "undo", "undo", "restart"]
        acts += self.rng.choices(["roll_back", "repeat", "by_hand", "undo", "misbehave", "approve", "report"], k=3)
        self.rng.shuffle(acts)
        acts = ["burst", "report", *acts]
        on = self.rng.randint(2, len(acts) - 2)
        off = self.rng.randint(on + 1, min(len(acts), on + 8))
        return [*acts[:on], "switch_on", "burst", *acts[on:off], "report", "rest", "switch_off", *acts[off:]]

    def come_to_rest(self) -> None:
        """Everything works again; no rule is left, and every decision comes to its end."""
        self.platform.client.delete("/faults").raise_for_status()
        while self.holds:
            self.restart()
            if self.process is None:
                self.holds = False
                self.start()
        for rule in dict(self.told.applied):
            self.post(f"/v1/rules/{rule}/retire", {}, 200, 409)  # 409: it is retired, by an answer that got lost
            self.told.applied.append((rule, "retired"))
        while rest := self.unfinished():
            for waiting in self.get("/v1/escalations")["escalations"] if "decisions" in rest else ():
                how = self.rng.choice(("approve", "reject"))
                self.post(f"/v1/escalations/{waiting['id']}/{how}", {"reason": "the end"}, 200, 409)
            self.is_up(0.05)
            if self.process is None:
                self.start()

    def unfinished(self) -> dict[str, int]:
        """What has not come to its end yet, counted, read from the files."""
        log_ends = int(self.scalar("decisions.db", "SELECT coalesce(max(number) + 1, 0) FROM records"))
        counts = {
            "decisions not taken in": log_ends - int(self.scalar("trimtab.db", "SELECT coalesce(max(offset), 0) FROM offsets")),
            "decisions": int(self.scalar("trimtab.db", f"SELECT count(*) FROM decisions WHERE status NOT IN {FINAL}")),
            "outcomes": int(self.scalar("trimtab.db", "SELECT count(*) FROM outbox WHERE sent_at IS NULL")),
        }
        return {name: count for name, count in counts.items() if count}

    def is_executing(self) -> bool:
        return bool(self.scalar("trimtab.db", f"SELECT count(*) FROM intents WHERE {UNDER_WAY}"))

    def scalar(self, file: str, query: str) -> Any:
        with closing(sqlite3.connect(f"file:{self.data / file}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchone()[0]


def now(seconds: float = 0) -> str:
    at = time.time() + seconds
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1e6):06d}Z"
