"""The demo on Kafka and PostgreSQL: a process of the engine and one of actions are killed on the way, and it decides what a demo in one process decides."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.kafka.broker import Brokers
from deploy.postgres.server import Server
from services.adapters.clock import ManualClock, SharedClock
from services.adapters.log.cluster import Cluster
from services.adapters.log.codec import EVENTS
from services.adapters.log.kafka import KafkaLog
from services.adapters.settings import Settings, from_environment
from services.demo.fleet import Member, environment_of
from services.demo.fleet import free_ports as ports_of_demo
from services.demo.production import compared_with
from services.demo.show import Shown
from services.kernel.errors import Misconfigured
from services.kernel.record import Record, Tick
from services.production import service
from tests.brokers import fresh, on_kafka
from tests.e2e.test_demo import ROOT, environment

SHORT = "from services.demo.production import main; from tests.e2e.test_demo import few; raise SystemExit(main(False, tests=few(), rounds=12))"


def on(kafka: Brokers, database: str, folder: Path, **more: str) -> dict[str, str]:
    own = {"TRIMTAB_KAFKA": kafka.bootstrap, "TRIMTAB_KAFKA_REPLICAS": "1", "TRIMTAB_KAFKA_PARTITIONS": "4", "TRIMTAB_KAFKA_SESSION_SECONDS": "4"}
    return environment(folder, **own, TRIMTAB_DATABASE=database, **more)


def ran(environment: dict[str, str], code: str = SHORT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)


async def kept_apart(settings: Settings) -> None:
    made = service("ingest", settings)
    try:
        await made._keep_apart()
    finally:
        await made.database.close()


def test_nothing_that_is_set_for_production_reaches_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CHECKPOINTS", "CHECKPOINTS_ENDPOINT", "ARCHIVE", "WITNESS", "SECRET_FILE", "EXECUTORS", "WEBHOOK_SECRETS_FILE"):
        monkeypatch.setenv(f"TRIMTAB_{name}", "theirs")
    monkeypatch.setenv("TRIMTAB_KAFKA_USER", "kept")
    members = {f"{name}-0": Member(name, f"{name}-0", 1, tmp_path) for name in ("ingest", "rules", "actions")}
    found = environment_of(Settings(data=tmp_path, clock=tmp_path / "clock"), members)
    assert "theirs" not in found.values()
    assert found["TRIMTAB_KAFKA_USER"] == "kept"
    folders = {found[f"TRIMTAB_{name}"] for name in ("CHECKPOINTS", "ARCHIVE", "WITNESS", "CLOCK")}
    assert {str(Path(f).parent) for f in folders} == {str(tmp_path)}


@pytest.mark.timeout(300)
def test_what_is_decided_in_production_is_what_one_process_decides_whoever_is_killed(kafka: Brokers, postgres: Server, tmp_path: Path) -> None:
    postgres.sql("CREATE DATABASE shown")
    own = on(kafka, postgres.url("shown"), tmp_path)
    ended = ran(own)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    figures: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert figures["decisions_as_in_one_process"] is figures["ledger"]["holds"] is figures["replay"]["identical"] is True
    assert figures["decisions"]["executed"] == figures["actions"]["verified"] > 0
    for said in ("kill -9 of rules-", "kill -9 of actions-", "the same bit for bit as in one process", "12 simulated hours"):
        assert said in ended.stdout, said
    assert "DIFFER" not in ended.stdout
    simulated = postgres.sql("SELECT count(*) FILTER (WHERE simulated), count(*) FROM decisions", "shown").split("|")
    assert simulated[0] == simulated[1] != "0"

    with pytest.raises(Misconfigured, match="holds decisions on a simulated clock, this process is on the world's: name another with TRIMTAB_DATABASE"):
        asyncio.run(kept_apart(Settings(kafka=kafka.bootstrap, database=postgres.url("shown"), secret="5e" * 32)))

    again = ran(own)
    assert again.returncode != 0
    assert "holds decisions, and the demo needs a database of its own" in again.stderr
    assert again.stdout == ""


def test_without_a_broker_it_says_what_starts_one(tmp_path: Path) -> None:
    ended = ran(environment(tmp_path), "import sys; sys.argv[1:] = ['demo', '--production']; import services.__main__ as m; m.main()")
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stderr.strip() == "a demo of production needs TRIMTAB_KAFKA and TRIMTAB_DATABASE; `make demo-production` starts both"


def test_decisions_that_differ_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    alone = Shown({}, True, {"a": "1", "b": "2"})
    compared_with(print, alone, {"a": "1", "b": "3"})
    compared_with(print, alone, {"a": "1"})
    compared_with(print, alone, dict(alone.decisions))
    differ, missing, same = capsys.readouterr().out.splitlines()
    assert differ == "Decisions DIFFER from those in one process: 1 of 2, among them b"
    assert missing == "Decisions DIFFER from those in one process: 1 of 1, among them b"
    assert same.startswith("Decisions 2 of them, each the same")


# -- a clock that processes share -----------------------------------------------------------------------------------------


def test_a_shared_clock_stands_where_any_process_has_set_it_and_never_goes_back(tmp_path: Path) -> None:
    clock, other = SharedClock.made(tmp_path / "clock", 5), SharedClock(tmp_path / "clock")
    clock.advance(10)
    assert (clock.now(), other.now()) == (15, 15)
    code = "import sys; from pathlib import Path; from services.adapters.clock import SharedClock; SharedClock(Path(sys.argv[1])).set(1 << 50)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "clock")], cwd=ROOT, check=True, timeout=60)
    assert clock.now() == 1 << 50
    with pytest.raises(ValueError, match="cannot go back to 3"):
        other.set(3)


def test_a_file_that_is_no_clock_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"")
    for wrong in ("missing", "short"):
        with pytest.raises(Misconfigured, match="is no simulated clock .*unset it"):
            SharedClock(tmp_path / wrong)


def test_on_a_simulated_clock_nothing_real_can_be_acted_on() -> None:
    given = {"TRIMTAB_CLOCK": "clock", "TRIMTAB_KAFKA": "k:1", "TRIMTAB_EXECUTORS": '{"house_ads": {"url": "https://example.org", "token": "t"}}'}
    with pytest.raises(Misconfigured, match="TRIMTAB_CLOCK and TRIMTAB_EXECUTORS do not go together"):
        from_environment(given)
    with pytest.raises(Misconfigured, match="TRIMTAB_CLOCK says nothing without TRIMTAB_KAFKA"):
        from_environment({"TRIMTAB_CLOCK": "clock"})


async def test_records_of_a_simulated_topic_have_its_clocks_stamps_and_no_other_process_takes_it_for_real(kafka: Brokers) -> None:
    topic, clock = fresh(EVENTS, simulated=True), ManualClock(1_700_000_000_000_000)
    simulated: KafkaLog[Record] = KafkaLog(Cluster(kafka.bootstrap), EVENTS, clock, topic)
    await simulated.start()
    await simulated.append([("", Tick())])
    clock.advance(3_600_000_000)
    await simulated.append([("", Tick())])
    assert [s.stamp for s in await simulated.read(0, 0)] == [1_700_000_000_000_000, 1_700_003_600_000_000]
    await simulated.close()
    with pytest.raises(Misconfigured, match="message.timestamp.type=CreateTime where LogAppendTime is needed"):
        await on_kafka(kafka, EVENTS, fresh(EVENTS, name=topic.name))
    real = await on_kafka(kafka, EVENTS)
    await real.append([("", Tick())])
    taken: KafkaLog[Record] = KafkaLog(Cluster(kafka.bootstrap), EVENTS, clock, fresh(EVENTS, name=real.topic.name, simulated=True))
    with pytest.raises(Misconfigured, match="message.timestamp.type=LogAppendTime where CreateTime is needed"):
        await taken.start()
    with pytest.raises(Misconfigured, match="stamped by a broker"):
        await taken.read(0, 0)
    await asyncio.gather(real.close(), taken.close())


def test_the_demos_ports_are_as_many_as_asked_for() -> None:
    assert len(set(ports_of_demo(6))) == 6
