"""Production is replaced process by process under load: what was answered 2xx is on the log and counts once, and nobody is told anything else but "later"."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deploy.kafka.broker import Brokers
from services.adapters.log.codec import partition_of
from services.kernel.ids import event_id
from services.kernel.record import EventBatch
from tests.e2e.plug.zygote import Zygote
from tests.e2e.siege.fleet import Fleet, fleet
from tests.e2e.siege.tale import Inside
from tests.shell.commanded import until
from tests.shell.sandboxed import sandbox

MANY = {"ingest": 2, "rules": 2, "actions": 1, "console": 1}
AD = "sandbox/demo/c1/g1/a1"
LAST = 10_000_000  # impressions of the event that ends it
PACK = """
pack: rolled
account: {platform: sandbox, currency: EUR, time_zone: Europe/Berlin}
rules:
  - rule: pause-weak
    owner: jana@acme.example
    objective: stop paying for creatives that people scroll past
    scope: {level: creative, where: status = "active"}
    when: ctr[7d] < 0.8%
    guards:
      sample: {impressions: 5000000}
      min_runtime: 0s
      keep_active: {at_least: 1, per: ad_group}
    do: pause
    risk: low
    approve: {above: 300 EUR per day, by: media-lead, within: 4h, otherwise: leave running}
"""


@pytest.fixture
def running(kafka: Brokers, postgres: Any, migrated: str, tmp_path: Path) -> Iterator[Fleet]:
    postgres.sql(f"CREATE DATABASE rolled TEMPLATE {migrated}")
    zygote = Zygote()
    try:
        with sandbox(tmp_path) as platform:
            platform.load({f"sandbox/demo/c1/g1/a{i}": {"status": "active"} for i in range(1, 4)})
            with fleet(tmp_path, kafka.bootstrap, postgres.url("rolled"), platform, partitions=2, many=MANY, zygote=zygote) as made:
                yield made
    finally:
        zygote.close()
        postgres.sql("DROP DATABASE rolled WITH (FORCE)")


def event(ident: str, **more: Any) -> dict[str, Any]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    made = {"id": ident, "source": "sandbox", "entity": AD, "kind": "view", "occurred_at": at, "amounts": {"impressions": 1, "clicks": 1}}
    return made | more


@dataclass
class Senders:
    """Each delivers one batch after the other, to whoever takes it, and again until it is acknowledged; now and then once more, as platforms do."""

    fleet: Fleet
    answers: Counter[int] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)  # by why
    acknowledged: set[str] = field(default_factory=set)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, sender: int) -> None:
        doors = [member.url for member in (*self.fleet.of("ingest"), *self.fleet.of("console"))]
        headers = {"Authorization": f"Bearer {self.fleet.key}"}
        turn, batch = sender, 0
        async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
            while not self.is_over.is_set():
                batch += 1
                rows = [event(f"{sender}-{batch}-{i}") for i in range(5)]
                left = 1 if batch % 5 else 2
                while left:
                    turn += 1
                    try:
                        status = (await http.post(f"{doors[turn % len(doors)]}/v1/events", json=rows)).status_code
                    except httpx2.TransportError as error:
                        self.unanswered[type(error).__name__] += 1
                    else:
                        self.answers[status] += 1
                        left -= status == 202
                    await asyncio.sleep(0.02)
                self.acknowledged.update(str(row["id"]) for row in rows)


def replace_each(made: Fleet) -> None:
    """One after the other is asked to end, and does in good order; the next only once it is ready again."""
    for member in made.members.values():
        assert made.end(member) == 0, f"{member.name}: {member.log.read_text()[-2000:]}"
        made.begin(member)
        made.await_ready(member)


@pytest.mark.timeout(240)
async def test_while_each_process_is_replaced_every_event_that_is_acknowledged_counts_once(running: Fleet) -> None:
    made, ask = running, asyncio.to_thread
    states = [event(f"state-{i}", entity=f"sandbox/demo/c1/g1/a{i}", kind="state", amounts={}, attributes={"status": "active"}) for i in range(1, 4)]
    assert (await ask(made.ask, "POST", "/v1/events", states)).status_code == 202
    assert (await ask(made.ask, "POST", "/v1/rules/apply", {"pack": PACK})).status_code == 200
    await ask(until, lambda: made.ask("GET", "/v1/engine").json()["rules"])

    senders = Senders(made)
    sending = [asyncio.create_task(senders.send(i)) for i in range(4)]
    try:
        await ask(replace_each, made)
    finally:
        senders.is_over.set()
        await asyncio.gather(*sending)
    print(dict(senders.answers), dict(senders.unanswered))
    assert set(senders.answers) <= {202, 429, 503}
    assert senders.answers[202] > 50 and senders.unanswered.total() > 0  # it was under load, and somebody was away

    assert (await ask(made.ask, "POST", "/v1/events", [event("last", amounts={"impressions": LAST})])).status_code == 202
    [decision] = await ask(until, lambda: made.ask("GET", f"/v1/decisions?entity={AD}&kind=fired&status=verified").json()["decisions"])
    told = (await ask(made.ask, "GET", f"/v1/decisions/{decision['id']}")).json()
    count = len(senders.acknowledged)
    assert [(r["numerator"], r["denominator"]) for r in told["readings"]] == [(count * 1_000_000, (LAST + count) * 1_000_000)]
    assert [e["path"] for e in made.platform.applied()] == [AD]

    inside = Inside(made)
    records, _ = await ask(inside.whole, partition_of("main", made.partitions))
    inside.close()
    on_the_log = {row.tobytes() for s in records if isinstance(s.record, EventBatch) for row in s.record.event_id}
    assert [i for i in senders.acknowledged if event_id("sandbox", i) not in on_the_log] == []
    assert {m.name: await ask(made.end, m) for m in made.members.values()} == dict.fromkeys(made.members, 0)
    assert {m.name: m.errors[:500] for m in made.members.values() if m.errors} == {}
