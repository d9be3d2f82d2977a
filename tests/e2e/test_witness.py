"""A database that was put back to an older state while its processes run: they hold by themselves, say so, and go on once two people agree."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from deploy.kafka.broker import Brokers
from deploy.postgres.server import Failed, Server
from tests.e2e.running import PACK
from tests.e2e.siege.fleet import Fleet, fleet
from tests.e2e.test_production import get, report, verified
from tests.shell.commanded import until
from tests.shell.sandboxed import sandbox

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MANY = {"ingest": 1, "rules": 1, "actions": 2, "console": 1}
NAMES = ("witnessed", "witnessed_then", "witnessed_lost")


@pytest.fixture
def made(kafka: Brokers, postgres: Server, migrated: str, tmp_path: Any) -> Iterator[Fleet]:
    postgres.sql(f"CREATE DATABASE witnessed TEMPLATE {migrated}")
    with sandbox(tmp_path) as platform:
        platform.load({f"sandbox/demo/c1/g1/a{i}": {"status": "active", "name": f"Summer_v{i}"} for i in range(1, 9)})
        settings = {"witness": tmp_path / "elsewhere"}
        with fleet(tmp_path, kafka.bootstrap, postgres.url("witnessed"), platform, many=MANY, settings=settings) as running:
            yield running
    for name in NAMES:
        postgres.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def renamed(postgres: Server, name: str, other: str) -> None:
    """Whoever is connected is thrown out first."""

    def tried() -> bool:
        try:
            postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}';\nALTER DATABASE {name} RENAME TO {other};")
        except Failed:
            return False
        return True

    until(tried)


def seen(made: Fleet, postgres: Server) -> None:
    """The witness has seen all that the ledger holds."""

    def so() -> bool:
        head = int(postgres.sql("SELECT max(sequence) FROM ledger_heads WHERE workspace = 'main'", database="witnessed") or 0)
        path = made.folder / "elsewhere" / "main.witness"
        return path.exists() and int(json.loads(path.read_text())["sequence"]) == head > 0

    until(so)


def person(made: Fleet, name: str) -> httpx2.Client:
    """Logged in as themselves."""
    http = httpx2.Client(base_url=made.url, timeout=30, trust_env=False, headers={"Origin": made.url})
    link = made.ask("POST", "/v1/login-links", {"name": name, "role": "admin"}).json()["link"]
    assert http.get(link).status_code == 200
    return http


def release(http: httpx2.Client) -> httpx2.Response:
    return http.put("/v1/kill-switch", json={"engaged": False, "reason": "compared with the platform"})


def test_an_older_database_is_held_while_everything_runs_and_released_by_two(made: Fleet, postgres: Server) -> None:
    report(made, *({"ad": f"a{i}", "status": "active", "name": f"Summer_v{i}"} for i in range(1, 9)))
    assert made.ask("POST", "/v1/rules/apply", {"pack": PACK}).status_code == 200
    until(lambda: get(made, "/v1/engine")["rules"])
    report(made, {"ad": "a1", "impressions": 9000, "clicks": 18, "spend": "9.00"})
    verified(made, "a1")
    renamed(postgres, "witnessed", "witnessed_then")  # the copy that will be restored
    postgres.sql("CREATE DATABASE witnessed TEMPLATE witnessed_then")
    report(made, {"ad": "a2", "impressions": 9000, "clicks": 18, "spend": "9.00"})
    verified(made, "a2")
    seen(made, postgres)
    assert all("held_by_witness" not in made.http.get(f"{m.url}/readyz").json() for m in made.of("actions"))
    examined = made.command("doctor")
    assert "ledger" in examined and "entries, head" in examined and "1 heads in" in examined and "FAIL" not in examined, examined

    made.platform.load({"sandbox/demo/c1/g1/a2": {"status": "active", "name": "Summer_v2"}})  # by hand since: a second pause would undo that
    before = made.platform.applied()
    renamed(postgres, "witnessed", "witnessed_lost")
    renamed(postgres, "witnessed_then", "witnessed")
    for member in made.of("actions"):
        until(lambda m=member: made.http.get(f"{m.url}/readyz").json().get("held_by_witness") == ["main"])  # type: ignore[misc]
        assert "trimtab_ledger_witness_disagreements 1.0" in made.http.get(f"{member.url}/metrics").text  # TrimtabWitnessDisagrees pages
    assert "its witness saw" in made.command("kill-switch")
    with pytest.raises(AssertionError, match="not the one that its witness saw"):
        made.command("doctor")
    report(made, {"ad": "a3", "impressions": 9000, "clicks": 18, "spend": "9.00"})
    parked = "/v1/decisions?status=parked&entity=sandbox/demo/c1/g1/"
    until(lambda: len(get(made, parked + "a3")["decisions"]) == 1)
    refused = made.http.put(f"{made.url}/v1/kill-switch", json={"engaged": False, "reason": "a key"})
    assert refused.status_code == 403 and "two people" in refused.json()["detail"]

    adam, eve = person(made, "adam"), person(made, "eve")
    first = release(adam)
    assert (first.status_code, first.json()["engaged"]) == (200, True)
    again = release(adam)
    assert (again.status_code, again.json()["reason"]) == (409, "same_person")
    time.sleep(1)
    assert made.platform.applied() == before
    second = release(eve)
    assert (second.status_code, second.json()["engaged"]) == (200, False), second.text
    verified(made, "a3")
    until(lambda: all("held_by_witness" not in made.http.get(f"{m.url}/readyz").json() for m in made.of("actions")))
    assert "holds" in made.command("audit", "verify")
    adam.close()
    eve.close()
