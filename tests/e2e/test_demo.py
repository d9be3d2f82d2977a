"""The demo: its figures depend on the seed alone, a paused headline is shown to nobody, and what is not its own folder stays as it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rich.console import Console

from services.adapters.settings import Settings
from services.demo.replay import PACK, Figures, Replay, Sample, path
from services.demo.sample import Experiment, bundled
from services.demo.show import MARK, Show, fresh
from services.demo.stage import OneProcess
from services.embedded import Embedded
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.record import EventBatch
from services.rules_engine.language.pack import guards, load_pack
from services.rules_engine.replay import pages
from services.rules_engine.trial import run_tests

ROOT = Path(__file__).parents[2]
HOURS = 12
CHOSEN = ("53976a2e7e590b449b000083", "51f805a51633fa3737007467", "521a5966ed594023b800bda8", "5418c1533088cf8ec000000c")  # two of them doubtful


def few() -> list[Experiment]:
    return [t for t in bundled() if t.name in CHOSEN]


@asynccontextmanager
async def staged(folder: Path, seed: int) -> AsyncIterator[Replay]:
    async with staged_with(folder, few(), HOURS, seed) as replay:
        yield replay


@asynccontextmanager
async def staged_with(folder: Path, tests: list[Experiment], hours: int, seed: int) -> AsyncIterator[Replay]:
    """A whole Trimtab and a whole platform, with the creatives of a few tests and the demo's rules in effect."""
    show = Show(Console(quiet=True), Settings(data=folder, port=0), Sample.draw(tests, hours, seed))
    async with AsyncExitStack() as stack:
        replay, _ = await show.set_up(stack, fresh(folder / "demo"), leave=False)
        yield replay


def trimtab_of(replay: Replay) -> Embedded:
    assert isinstance(replay.stage, OneProcess)
    return replay.stage.trimtab


async def replayed(folder: Path, seed: int) -> tuple[Figures, list[tuple[str, str, tuple[str, ...]]]]:
    async with staged(folder, seed) as replay:
        for hour in range(1, HOURS + 1):
            await replay.hour(hour)
        figures = await replay.figures(HOURS)
    return figures, sorted((d.id, d.kind, d.refusals) for d in replay.said)


async def test_one_seed_gives_one_run_decision_for_decision_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = [await replayed(tmp_path / name, seed) for name, seed in (("first", 1), ("again", 1), ("other", 2))]
    assert first == again
    assert first[1] != other[1]
    assert first[0].executed > 0
    assert first[0].escalated > 0


async def test_a_paused_headline_is_shown_to_nobody_and_a_doubtful_test_is_left_to_a_person(tmp_path: Path) -> None:
    async with staged(tmp_path, 1) as replay:
        for hour in range(1, HOURS + 1):
            await replay.hour(hour)
        counted: Counter[str] = Counter()
        for batch in [s.record async for page in pages(trimtab_of(replay).events, 0) for s in page if isinstance(s.record, EventBatch)]:
            for event, measure, amount in zip(batch.amount_event.tolist(), batch.amount_measure.tolist(), batch.amount.tolist(), strict=True):
                if batch.measures[measure] == "impressions":
                    counted[batch.paths[batch.entity[event]]] += amount
        for test, arm in replay.sample.arms:
            hours = replay.sample.drawn[arm.name][: replay.paused_after.get(arm.name, HOURS)]
            assert counted[path(test, arm)] == sum(views for views, _ in hours) * 1_000_000
        assert 0 < len(replay.paused_after) < len(replay.sample.arms)
        assert min(replay.paused_after.values()) < HOURS

        escalations = (await replay.api.get("/v1/escalations")).json()["escalations"]
        doubtful = {t.name for t in replay.sample.tests if t.is_doubtful}
        assert escalations
        assert {e["decision"]["path"].split("/")[3] for e in escalations} <= doubtful
        assert not any(a.name in replay.paused_after for t, a in replay.sample.arms if t.is_doubtful)

        held = escalations[0]
        approved = await replay.api.post(f"/v1/escalations/{held['id']}/approve", json={"reason": "looked at it"})
        assert approved.status_code == 200, approved.text
        await replay.settle()
        assert held["decision"]["path"] not in await replay.platform.running()


async def test_a_replay_that_cannot_move_ends_with_the_reason(tmp_path: Path) -> None:
    async with staged(tmp_path, 1) as replay:
        trimtab_of(replay).worker.stopped = "the partition stopped for a test"
        with pytest.raises(Unavailable, match="the partition stopped for a test"):
            await replay.hour(1)


def test_the_rules_of_the_demo_pass_their_own_tests() -> None:
    results = run_tests(load_pack(PACK.read_text(encoding="utf-8"), str(PACK)), guards())
    assert [r.failures for r in results] == [(), ()]


def test_the_demo_empties_its_own_folder_and_no_other(tmp_path: Path) -> None:
    own, other, linked, file = tmp_path / "own", tmp_path / "other", tmp_path / "linked", tmp_path / "file"
    (fresh(own) / "events.db").write_text("old")
    assert [p.name for p in fresh(own).iterdir()] == [MARK]
    other.mkdir()
    (other / "precious").write_text("keep me")
    linked.symlink_to(own)
    file.write_text("keep me")
    for wrong in (other, linked, file):
        with pytest.raises(Misconfigured, match="left alone"):
            fresh(wrong)
    assert (other / "precious").read_text() == file.read_text() == "keep me"


async def test_the_folder_of_a_demo_that_runs_is_left_alone(tmp_path: Path) -> None:
    async with staged(tmp_path, 1):
        with pytest.raises(Misconfigured, match="another Trimtab"):
            fresh(tmp_path / "demo")
        assert (tmp_path / "demo" / "events.db").exists()


# -- as a person runs it ----------------------------------------------------------------------------------------------


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRIMTAB_")}
    return {**kept, "TRIMTAB_DATA": str(folder), **more}


@pytest.mark.timeout(300)
def test_run_to_its_end_it_proves_itself_and_its_last_line_is_its_figures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services", "demo", "--exit"]
    ended = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr
    assert ended.stderr == ""
    figures: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert (figures["tests"], figures["creatives"], figures["simulated_hours"]) == (36, 163, 48)
    assert figures["ledger"]["holds"] is figures["replay"]["identical"] is True
    guarded, plain = figures["guarded"], figures["plain"]
    assert guarded["winners_paused"] == 0 < plain["winners_paused"]
    assert 2 * guarded["very_weak_found"] > guarded["very_weak"] > 0
    assert guarded["impressions_saved"] > 0
    assert guarded["clicks_lost"] < plain["clicks_lost"]
    assert guarded["paused"] == figures["decisions"]["executed"] == figures["actions"]["verified"] > 0
    assert figures["decisions"]["escalated"] > 0
    assert figures["decisions"]["held_back_by"]["confidence"] > 0
    assert figures["took"]["times_real_time"] > 1
    for said in ("[1/4]", "[4/4]", "x real time", "hour 24 of 48", "Ledger    holds", "identical bit for bit", "  Paused ", "  Left ", "20 needed"):
        assert said in ended.stdout, said


LEFT = "from services.demo.show import main; from tests.e2e.test_demo import few; raise SystemExit(main(leave=True, tests=few(), rounds=12))"


@pytest.mark.timeout(200)
async def test_left_running_its_pages_answer_its_link_logs_in_once_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    env = environment(tmp_path, TRIMTAB_PORT="0")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", LEFT, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    try:
        said = []
        async with asyncio.timeout(150):
            while (line := (await process.stdout.readline()).decode()) and "Ctrl-C ends" not in line:
                said.append(line)
        [link] = [line.strip() for line in said if "/login/" in line]
        assert (tmp_path / "demo" / "url").read_text() == link.partition("/login/")[0]
        async with httpx2.AsyncClient(trust_env=False, timeout=20) as browser:
            assert (await browser.get(link)).status_code == 200
            assert (await browser.get(link.partition("/login/")[0] + "/v1/me")).json()["role"] == "admin"
            assert (await browser.get(link)).status_code == 401
        assert "escalations wait there" in "".join(said)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, err.decode(), out.decode().splitlines()[-1]) == (0, "", "stopped")
        assert not (tmp_path / "demo" / "url").exists()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "services", "demo"]
        ended = subprocess.run(command, cwd=ROOT, env=environment(tmp_path, TRIMTAB_PORT=port), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [f"port {port} of 127.0.0.1 cannot be opened: Address already in use; choose another with TRIMTAB_PORT"]
