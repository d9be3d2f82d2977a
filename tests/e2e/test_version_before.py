"""The version before goes on with the newest schema, alone and beside this one: what a rolling upgrade, and one that is taken back, need."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory

from deploy.kafka.broker import Brokers
from services.adapters.db.migrate import MIGRATIONS
from tests.e2e.running import PACK
from tests.e2e.siege.fleet import Fleet
from tests.e2e.test_production import report, verified
from tests.parts import lacks
from tests.shell.commanded import until
from tests.shell.sandboxed import ROOT, sandbox

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
MANY = {"ingest": 1, "rules": 2, "actions": 2, "console": 1}


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The code of the commit before the newest migration."""
    newest = Path(ScriptDirectory(str(MIGRATIONS)).get_revision("head").path).relative_to(ROOT)

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        added = git("log", "-1", "--diff-filter=A", "--format=%H", "--", str(newest))
        commit = git("rev-parse", f"{added}^" if added else "HEAD")
        git("archive", "--output", str(tmp_path / "before.tar"), commit, "services")
    except (OSError, subprocess.CalledProcessError) as error:
        lacks("git", f"the version before cannot be had: {getattr(error, 'stderr', error)}")
    root = tmp_path / "before"
    root.mkdir()
    subprocess.run(["tar", "-x", "-f", tmp_path / "before.tar", "-C", root], check=True)
    assert (root / newest.parent).is_dir() and not (root / newest).exists()
    return root


@pytest.fixture
def made(before: Path, kafka: Brokers, postgres: Any, migrated: str, tmp_path: Path) -> Iterator[Fleet]:
    """Every process is of the version before; the schema is the newest."""
    postgres.sql(f"CREATE DATABASE before TEMPLATE {migrated}")
    with sandbox(tmp_path) as platform:
        platform.load({f"sandbox/demo/c1/g1/a{i}": {"status": "active", "name": f"Summer_v{i}"} for i in range(1, 9)})
        fleet = Fleet(tmp_path, kafka.bootstrap, postgres.url("before"), platform, "before", partitions=2, many=MANY)
        for member in fleet.members.values():
            member.root = before
        try:
            yield fleet.start()
        finally:
            fleet.close()
            postgres.sql("DROP DATABASE before WITH (FORCE)")


def test_the_version_before_does_its_work_on_the_newest_schema_and_beside_the_newest_version(made: Fleet) -> None:
    def weak(ad: str) -> None:
        report(made, {"ad": ad, "impressions": 9000, "clicks": 18, "spend": "9.00"})
        verified(made, ad)

    def switch(engaged: bool) -> None:
        answer = made.ask("PUT", "/v1/kill-switch", {"engaged": engaged, "reason": "practice"})
        assert answer.status_code == 200, answer.text

    report(made, *({"ad": f"a{i}", "status": "active", "name": f"Summer_v{i}"} for i in range(1, 9)))
    assert made.ask("POST", "/v1/rules/apply", {"pack": PACK}).status_code == 200
    until(lambda: made.ask("GET", "/v1/engine").json()["rules"])
    weak("a1")
    switch(True)
    assert all("schema of a newer build" in m.log.read_text() for m in made.members.values())

    for number, name in enumerate(("actions-0", "rules-0", "console-0", "ingest-0"), 2):  # from here on both versions are at work
        replace(made, name)
        if name == "actions-0":
            switch(False)
        weak(f"a{number}")
    for name in ("actions-1", "rules-1"):
        replace(made, name)
    weak("a6")
    paused = [e["path"].rpartition("/")[2] for e in made.platform.applied()]
    assert sorted(paused) == [f"a{i}" for i in range(1, 7)]
    assert "holds" in made.command("audit", "verify")
    assert {m.name: m.errors[:500] for m in made.members.values() if m.errors} == {}


def replace(made: Fleet, name: str) -> None:
    """By one of this version."""
    member = made.members[name]
    assert made.end(member) == 0, member.log.read_text()[-2000:]
    member.root = ROOT
    made.begin(member)
    made.await_ready(member)
