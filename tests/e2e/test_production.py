"""The main job on Kafka and PostgreSQL, each service in processes of its own: as a user sees it, over one address."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from deploy.kafka.broker import Brokers
from tests.e2e.running import PACK, signed
from tests.e2e.siege.fleet import Fleet, fleet
from tests.shell.commanded import until
from tests.shell.sandboxed import sandbox

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def made(kafka: Brokers, postgres: Any, migrated: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    postgres.sql(f"CREATE DATABASE fleet TEMPLATE {migrated}")
    with sandbox(folder) as platform:
        platform.load({f"sandbox/demo/c1/g1/a{i}": {"status": "active", "name": f"Summer_v{i}"} for i in range(1, 9)})
        with fleet(folder, kafka.bootstrap, postgres.url("fleet"), platform) as running:
            yield running
    postgres.sql("DROP DATABASE fleet WITH (FORCE)")


def report(made: Fleet, *rows: dict[str, Any]) -> None:
    """Deltas of now, signed, sent to the one address until somebody takes them."""
    stamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    told = [
        {"id": f"r{time.monotonic_ns()}{row['ad']}", "occurred_at": stamp, "currency": "EUR"}
        | {"entity": {"account": "demo", "campaign": "c1", "ad_group": "g1", "creative": row["ad"]}}
        | {k: v for k, v in row.items() if k != "ad"}
        for row in rows
    ]
    body = json.dumps({"type": "report", "account": "demo", "sent_at": stamp, "rows": told}).encode()
    message = f"m{time.monotonic_ns()}"

    def send() -> bool:
        return made.http.post(f"{made.url}/v1/webhooks/sandbox", content=body, headers=signed(body, message)).status_code == 202

    until(send)


def get(made: Fleet, path: str) -> dict[str, Any]:
    answer = made.ask("GET", path)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def verified(made: Fleet, ad: str) -> dict[str, Any]:
    """The decision that paused it, once the platform says so."""
    path = f"/v1/decisions?entity=sandbox/demo/c1/g1/{ad}&status=verified"
    return until(lambda: next(iter(get(made, path)["decisions"]), None))


def test_a_weak_creative_is_paused_explained_and_undone_over_one_address(made: Fleet) -> None:
    report(made, *({"ad": f"a{i}", "status": "active", "name": f"Summer_v{i}"} for i in range(1, 9)))
    applied = made.ask("POST", "/v1/rules/apply", {"pack": PACK})
    assert applied.status_code == 200, applied.text
    until(lambda: get(made, "/v1/engine")["rules"])
    report(made, {"ad": "a1", "impressions": 9000, "clicks": 18, "spend": "9.00"})
    decision = verified(made, "a1")
    assert [e["path"] for e in made.platform.applied()] == ["sandbox/demo/c1/g1/a1"]
    told = made.command("explain", decision["id"][:12])
    assert "Summer_v1" in told and "0.2" in told
    assert "identical" in made.command("replay", decision["id"])
    assert "holds" in made.command("audit", "verify")
    made.command("undo", decision["id"], "--reason", "a mistake")
    until(lambda: len(made.platform.applied()) == 2)
    said = made.command("status").splitlines()
    assert said[0].startswith("engine       running")
    parts = [line for line in said if line.startswith("partition ")]
    assert len(parts) == 4 and all(" followed by http://127.0.0.1:" in line and ", 0 behind the log's end" in line for line in parts), parts
    assert all((", time 20" in line or ", record 0, " in line and ", time not begun" in line) and " checkpoint" in line for line in parts), parts
    examined = made.command("doctor")
    assert "its schema is this build's" in examined and "FAIL" not in examined and "events: 4 partitions" in examined
    page = made.http.get(made.command("login").strip())
    assert page.status_code == 200


def test_either_process_of_the_engine_answers_for_every_workspace(made: Fleet) -> None:
    answers = {m.name: made.ask("GET", "/v1/engine", base=m.url).json() for m in made.of("rules")}
    assert len(answers) == 2 and len({a["offset"] for a in answers.values()}) == 1
    held = [until(lambda m=m: made.http.get(f"{m.url}/readyz").json()["partitions"]) for m in made.of("rules")]
    assert sorted(held[0] + held[1]) == [0, 1, 2, 3]


def test_a_partition_that_nobody_has_is_told(made: Fleet) -> None:
    """Both processes of the engine are gone, one comes back: until it has all of them the others are told as they are."""
    for member in made.of("rules"):
        made.kill(member)
    one = made.of("rules")[0]
    made.begin(one)
    made.await_ready(one)
    until(lambda: all(p["state"] == "followed" and p["owner"] == one.url for p in get(made, "/v1/partitions")["partitions"]) or None)
    made.begin(made.of("rules")[1])
    made.await_ready()
    both = {m.url for m in made.of("rules")}
    until(lambda: {p["owner"] for p in get(made, "/v1/partitions")["partitions"]} == both or None)  # while it is decided anew nobody has any


def test_one_of_each_is_killed_or_replaced_and_the_job_goes_on(made: Fleet) -> None:
    before = len(made.platform.applied())
    for ad, name in (("a2", "rules-0"), ("a3", "actions-0"), ("a4", "rules-1"), ("a5", "actions-1"), ("a6", "ingest-0")):
        member = made.members[name]
        made.kill(member)
        made.begin(member)
        report(made, {"ad": ad, "impressions": 9000, "clicks": 18, "spend": "9.00"})
        verified(made, ad)
    for member in made.members.values():  # a rolling restart
        assert made.end(member) == 0, member.log.read_text()[-2000:]
        made.begin(member)
        made.await_ready(member)
    report(made, {"ad": "a7", "impressions": 9000, "clicks": 18, "spend": "9.00"})
    verified(made, "a7")
    paused = [e["path"].rpartition("/")[2] for e in made.platform.applied()[before:]]
    assert sorted(paused) == ["a2", "a3", "a4", "a5", "a6", "a7"]
    assert "holds" in made.command("audit", "verify")
    assert all(m.errors == "" for m in made.members.values()), [m.errors[:500] for m in made.members.values()]
