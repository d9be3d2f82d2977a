"""The sample replayed: hour by hour readers see headlines, the platform reports, Trimtab decides, and the simulated clock waits until all of it is done.

    clock --1 h--> views of what is still shown --signed webhooks, each answered 202--> clock --2 s--> judged, executed, outcomes folded --> next hour

The clock stands still while anything is under way, so what is decided depends on the seed alone, not on how fast this machine is.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx2
from standardwebhooks import Webhook

from services.demo.platform import Platform
from services.demo.sample import Arm, Experiment, order
from services.demo.score import Score, plain_rule, score
from services.demo.stage import Hand, Stage, stands_still
from services.kernel.decision import Decision
from services.kernel.errors import Bug
from services.sandbox import payload

PACK = Path(__file__).parent / "headlines.yaml"
RULE = "pause-weak-headlines"
ZONE = ZoneInfo("America/New_York")
SECOND, HOUR = 1_000_000, 3_600_000_000
START = round(datetime(2026, 3, 2, tzinfo=ZONE).timestamp()) * SECOND
ROUNDS = 48  # hours
JUDGED = 2 * SECOND  # after an hour's reports the clock moves past the next boundary
ROWS = 20  # of one delivery
AT_ONCE = 4  # deliveries under way at the same time
PAUSE = 0.002  # seconds between two looks at whether all is still; the actions service has no event for it
AGAIN = 0.2  # seconds until whoever was told to come back does
DOUBTFUL = "doubtful assignment"


def ad_group(test: Experiment) -> str:
    return f"sandbox/upworthy/headlines/{test.name}"


def path(test: Experiment, arm: Arm) -> str:
    return f"{ad_group(test)}/{arm.name}"


@dataclass(frozen=True, slots=True)
class Sample:
    """The tests, and each arm's (views, clicks) hour by hour, as the seed draws them."""

    tests: list[Experiment]
    drawn: dict[str, list[tuple[int, int]]]
    rounds: int
    seed: int

    @staticmethod
    def draw(tests: list[Experiment], rounds: int, seed: int) -> Sample:
        return Sample(tests, {arm.name: order(arm, rounds, seed) for test in tests for arm in test.arms}, rounds, seed)

    @property
    def arms(self) -> list[tuple[Experiment, Arm]]:
        return [(test, arm) for test in self.tests for arm in test.arms]


@dataclass(frozen=True, slots=True)
class Figures:
    """Where the replay stands after so many hours."""

    rounds: int
    events: int
    statuses: Mapping[str, int]  # decisions that fired, by what became of them
    held_back: Mapping[str, int]  # creatives that look weak and are left on now, by the guard that refuses
    held: int  # such creatives; of several guards that refuse each is counted above
    guarded: Score
    plain: Score

    @property
    def executed(self) -> int:
        return self.statuses.get("verified", 0)

    @property
    def escalated(self) -> int:
        return self.statuses.get("waiting", 0)


@dataclass(slots=True)
class Replay:
    stage: Stage
    platform: Platform
    sample: Sample
    api: httpx2.AsyncClient  # with the command line's key
    sender: httpx2.AsyncClient  # with none: a signature is all that a webhook shows
    secret: str
    shown: set[str] = field(default_factory=set)  # paths of the creatives that readers see
    paused_after: dict[str, int] = field(default_factory=dict)  # arm -> hours it was shown
    said: list[Decision] = field(default_factory=list)  # every decision, as the log has them
    overview: dict[str, Any] = field(default_factory=dict)  # as of the last time that nothing moved

    @property
    def clock(self) -> Hand:
        return self.stage.clock

    @property
    def fired(self) -> list[Decision]:
        return [d for d in self.said if d.kind == "fired"]

    async def introduce(self) -> None:
        """The platform has the creatives, Trimtab knows them, every test has its target, and the rules are in effect."""
        creatives = {path(t, a): {"status": "active", "name": a.headline} | ({"label": DOUBTFUL} if t.is_doubtful else {}) for t, a in self.sample.arms}
        await self.platform.load(creatives)
        stamp = payload.instant(self.clock.now())
        known = [{"id": f"known {p}", "entity": payload.entity(p), "occurred_at": stamp, **attributes} for p, attributes in creatives.items()]
        await self._deliver("entity", "known", known)
        targets = [{"name": "ctr", "path": ad_group(t), "amount": t.target, "unit": "ratio"} for t in self.sample.tests]
        await self._post("/v1/targets", targets)
        await self._post("/v1/rules/apply", {"pack": PACK.read_text(encoding="utf-8"), "filename": PACK.name})
        self.clock.advance(JUDGED)
        await self.settle()
        await self._look(0)

    async def hour(self, number: int) -> None:
        """Hour `number`, from 1, is over: its views are reported, judged, and acted on."""
        self.clock.set(START + number * HOUR)
        await self._deliver("report", f"hour-{number}", [self._row(test, arm, number) for test, arm in self.sample.arms if path(test, arm) in self.shown])
        async with self.stage.trouble(number):
            self.clock.advance(JUDGED)
            await self.settle()
        await self._look(number)

    async def settle(self) -> None:
        """Returns once nothing moves at this instant: everything is judged, what may act has acted, and its outcome has come back to the log.

        Then every decision is in the inbox, and those in flight are the ones that wait for a person.
        """
        try:
            async with asyncio.timeout(self.stage.patience):
                await self.stage.judged()
                while True:
                    self.said += await self.stage.news()
                    self.overview = await self._get("/v1/overview")
                    taken_in = sum(self.overview["kinds"].values()) == len(self.said)
                    if taken_in and (await self._get("/v1/engine"))["in_flight"] == self.overview["waiting"]:
                        return
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            raise stands_still(self.stage) from None

    async def figures(self, rounds: int) -> Figures:
        last = {d.path: d for d in self.said}  # what was decided last about each
        held = [d for d in last.values() if d.kind == "refused"]
        engine = await self._get("/v1/engine")
        statuses = {name: n for name, n in sorted(self.overview["statuses"].items()) if name != "recorded"}
        by_guard = Counter(guard for d in held for guard in d.refusals)
        drawn = {name: hours[:rounds] for name, hours in self.sample.drawn.items()}
        plain = plain_rule(self.sample.tests, drawn)
        scores = (score(self.sample.tests, drawn, paused) for paused in (self.paused_after, plain))
        return Figures(rounds, engine["events"].get("accepted", 0), statuses, dict(sorted(by_guard.items())), len(held), *scores)

    async def _look(self, hours: int) -> None:
        """What the platform shows after so many hours is what readers see in the next; what it has stopped showing is noted."""
        self.shown = await self.platform.running()
        for test, arm in self.sample.arms:
            if path(test, arm) not in self.shown:
                self.paused_after.setdefault(arm.name, hours)

    def _row(self, test: Experiment, arm: Arm, number: int) -> dict[str, Any]:
        views, clicks = self.sample.drawn[arm.name][number - 1]
        where, stamp = payload.entity(path(test, arm)), payload.instant(self.clock.now())
        return {"id": f"{arm.name} {number}", "entity": where, "occurred_at": stamp, "impressions": views, "clicks": clicks}

    async def _deliver(self, kind: str, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Several deliveries at once, each of some rows, in whatever order they arrive."""
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(start: int) -> None:
            async with limit:
                await self._push(kind, f"{name}-{start}", rows[start : start + ROWS])

        await asyncio.gather(*(one(start) for start in range(0, len(rows), ROWS)))

    async def _push(self, kind: str, message: str, rows: Sequence[dict[str, Any]]) -> None:
        """Returns once the delivery is durable. Its signature is dated by the world's clock, its rows by the simulated one."""
        body, now = payload.body(kind, "upworthy", self.clock.now(), rows), datetime.now(UTC)
        signature = Webhook(self.secret).sign(message, now, body.decode())
        headers = {"webhook-id": message, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature, "content-type": "application/json"}
        answer = await self._patiently(self.sender, "POST", "/v1/webhooks/sandbox", content=body, headers=headers)
        if answer.status_code != 202 or answer.json().get("quarantined"):
            raise Bug(f"the webhook {message} was answered {answer.status_code}: {answer.text[:300]}")

    async def _get(self, route: str) -> Any:
        return told(await self._patiently(self.api, "GET", route))

    async def _post(self, route: str, body: Any) -> Any:
        return told(await self._patiently(self.api, "POST", route, content=json.dumps(body), headers={"content-type": "application/json"}))

    async def _patiently(self, http: httpx2.AsyncClient, method: str, route: str, **options: Any) -> httpx2.Response:
        """Who is told to come back does, as any sender would."""
        try:
            async with asyncio.timeout(self.stage.patience):
                while True:
                    answer = await http.request(method, route, **options)
                    if answer.status_code not in (429, 503):
                        return answer
                    await asyncio.sleep(AGAIN)
        except TimeoutError:
            raise stands_still(self.stage) from None


def told(answer: httpx2.Response) -> Any:
    """What an API of ours answers; the demo asks for nothing that it may refuse."""
    if answer.is_error:
        raise Bug(f"{answer.request.url.path} answers {answer.status_code}: {answer.text[:300]}")
    return answer.json()
