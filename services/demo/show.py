"""`make demo`: everything in one process, a practice ad platform beside it, real A/B tests replayed, then what a sceptic would ask for.

a folder of its own -> platform -> Trimtab -> creatives, targets, rules -> 48 hours -> ledger, replay, two answers in words -> pages, or figures
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import textwrap
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from services.adapters.http.calling import HttpClient
from services.adapters.log.codec import DECISIONS
from services.adapters.log.lock import FolderLock
from services.adapters.settings import Settings, from_environment
from services.adapters.telemetry import configure
from services.demo.board import WIDTH, Board, console, in_words, speed
from services.demo.platform import ROOT, TOKEN, sandbox
from services.demo.replay import HOUR, JUDGED, PACK, ROUNDS, RULE, START, ZONE, Figures, Replay, Sample, path, told
from services.demo.sample import Experiment, bundled
from services.demo.score import plain_rule
from services.demo.stage import Place, one_process
from services.kernel.errors import Misconfigured
from services.kernel.record import Clock
from services.sandbox.payload import instant

SEED = 1
MARK = "made-by-the-demo"
INTERRUPTED = 130
SECOND = 1_000_000


class Interrupted(Exception):
    """Somebody pressed Ctrl-C before the end."""


def main(leave: bool, seed: int = SEED, tests: list[Experiment] | None = None, rounds: int = ROUNDS) -> int:
    """The process's status: 0 where ledger and replay hold, 1 where they do not. `leave` keeps the pages until Ctrl-C; else figures are the last line."""
    wanted = from_environment(os.environ)
    screen = console()
    sample = Sample.draw(bundled() if tests is None else tests, rounds, seed)
    try:
        outcome = asyncio.run(Show(screen, wanted, sample).run(leave))
    except Interrupted:
        screen.print("stopped before its end; nothing is left running")
        return INTERRUPTED
    if not leave:
        print(json.dumps(outcome.figures), flush=True)
    return 0 if outcome.holds else 1


@dataclass(frozen=True, slots=True)
class Shown:
    """`decisions` are all that were made: id -> SHA-256 of its bytes."""

    figures: dict[str, Any]
    holds: bool
    decisions: dict[str, str]


@dataclass(slots=True)
class Show:
    screen: Console
    wanted: Settings
    sample: Sample
    place: Place = one_process
    where: str = "all services in this process"
    folder: str = "demo"

    async def run(self, leave: bool, prove: Callable[[dict[str, str]], None] = lambda _: None) -> Shown:
        """`prove` is given all decisions, while the pages are still there."""
        stop = asyncio.Event()
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(sign, stop.set)
        self._announce()
        folder = fresh(self.wanted.data / self.folder)
        with (folder / "demo.log").open("a", encoding="utf-8") as log:
            configure(self.wanted.log_level, self.wanted.log_format, self.wanted.secrets(), stream=log)
            async with AsyncExitStack() as stack:
                replay, url = await self.set_up(stack, folder, leave)
                figures, seconds = await self._play(replay, stop)
                shown = await self._prove(replay, figures, seconds)
                prove(shown.decisions)
                if leave and not stop.is_set():
                    await self._leave(replay, folder, url, stop)
        return shown

    def say(self, text: str = "") -> None:
        self.screen.print(text, soft_wrap=True, markup=False)

    def _announce(self) -> None:
        tests, arms = len(self.sample.tests), len(self.sample.arms)
        text = (
            f"Trimtab demo: {tests} real A/B tests of {arms} headlines (Upworthy Research Archive, CC BY 4.0) run through all of Trimtab. "
            "Their views arrive as signed webhooks, in random order drawn from a seed; a rule with guards pauses headlines at a practice ad "
            "platform once they are proven weak, and what a plain threshold would have done is reckoned beside it. "
            f"{self.sample.rounds} hours pass on a simulated clock; nothing outside this machine is touched."
        )
        self.say(textwrap.fill(text, WIDTH))
        self.say()

    # -- set-up ------------------------------------------------------------------------------------------------------

    async def set_up(self, stack: AsyncExitStack, folder: Path, leave: bool) -> tuple[Replay, str]:
        self.say("[1/4] practice ad platform, a process of its own ...")
        platform = await stack.enter_async_context(sandbox(folder / "platform.jsonl"))
        self.say(f"[2/4] Trimtab, {self.where}, data in {folder} ...")
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        given = {"data": folder, "sandbox_url": platform.url, "sandbox_token": TOKEN, "webhook_secrets": {"sandbox": [secret]}}
        declared = Clock(True, START, note=f"demo, seed {self.sample.seed}: as fast as everything keeps up")
        port = self.wanted.port if leave or "port" in self.wanted.model_fields_set else 0
        stage = await stack.enter_async_context(self.place(self.wanted.model_copy(update=given), declared, port))
        with_key = {"Authorization": f"Bearer {stage.key}"}
        api, sender = (HttpClient(base_url=stage.url, headers=headers, timeout=60, trust_env=False) for headers in (with_key, {}))
        replay = Replay(stage, platform, self.sample, await stack.enter_async_context(api), await stack.enter_async_context(sender), secret)
        self.say(f"[3/4] {len(self.sample.arms)} headlines, {len(self.sample.tests)} targets, the rules of {PACK.relative_to(ROOT)} ...")
        await replay.introduce()
        return replay, stage.url

    # -- the replay --------------------------------------------------------------------------------------------------

    async def _play(self, replay: Replay, stop: asyncio.Event) -> tuple[Figures, float]:
        begin = datetime.fromtimestamp(START / SECOND, ZONE)
        self.say(f"[4/4] {self.sample.rounds} simulated hours from {begin:%A %d %B %Y %H:%M}, New York, as fast as everything keeps up ...")
        self.say()
        began = time.monotonic()
        figures = await replay.figures(0)
        with Board(self.screen, self.sample) as board:
            for number in range(1, self.sample.rounds + 1):
                if stop.is_set():
                    raise Interrupted
                await replay.hour(number)
                figures = await replay.figures(number)
                board.show(figures, time.monotonic() - began)
        return figures, time.monotonic() - began

    # -- proof -------------------------------------------------------------------------------------------------------

    async def _prove(self, replay: Replay, figures: Figures, seconds: float) -> Shown:
        ledger = told(await replay.api.get("/v1/audit/verify"))
        holds = bool(ledger["verified"])
        self.say()
        self.say(textwrap.fill(in_words(figures, self.sample), WIDTH))
        self.say()
        self.say(f"Ledger    {'holds' if holds else 'BROKEN'}: " + (f"{ledger['entries']:,} entries, each chained to the one before" if holds else str(ledger)))
        chosen = await self._decision(replay)
        again = None if chosen is None else told(await replay.api.get(f"/v1/decisions/{chosen}/replay"))
        if again is None:
            self.say("Replay    nothing to replay: nothing was decided")
        else:
            same = f"identical bit for bit (sha-256 {again['hash'][:16]}...)" if again["identical"] else "DIFFERENT"
            self.say(f"Replay    decision {chosen}, recomputed from the log's first")
            self.say(f"          {again['records']:,} records: {same}")
        if chosen is not None:
            self._tell("A decision, told", told(await replay.api.get("/v1/explain", params={"decision": chosen})))
        if (left := self._non_decision(replay)) is not None:
            where, at = left
            self._tell("A non-decision, told", told(await replay.api.get("/v1/explain", params={"name": where, "rule": RULE, "at": instant(at)})))
        replayed = {"decision": chosen, "identical": bool(again and again["identical"])}
        decisions = {d.id: hashlib.sha256(DECISIONS.encode(d)).hexdigest() for d in replay.said}
        return Shown(self._figures(figures, ledger, replayed, seconds), holds and replayed["identical"] is True, decisions)

    def _figures(self, f: Figures, ledger: dict[str, Any], replayed: dict[str, Any], seconds: float) -> dict[str, Any]:
        """All but `took` depends on the seed alone."""
        s = self.sample
        return {
            "seed": s.seed,
            "tests": len(s.tests),
            "creatives": len(s.arms),
            "simulated_hours": f.rounds,
            "events": f.events,
            "decisions": {"executed": f.executed, "escalated": f.escalated, "held_back": f.held, "held_back_by": dict(f.held_back)},
            "actions": dict(f.statuses),
            "guarded": f.guarded.plain(),
            "plain": f.plain.plain(),
            "ledger": {"holds": ledger["verified"], "entries": ledger.get("entries", 0)},
            "replay": replayed,
            "took": {"seconds": round(seconds, 1), "times_real_time": round(speed(f.rounds, seconds))},
        }

    async def _decision(self, replay: Replay) -> str | None:
        """Of the executed pauses the one that saved most views."""
        done = [d for d in replay.fired if told(await replay.api.get(f"/v1/decisions/{d.id}"))["status"] == "verified"]
        return max(done, key=lambda d: (self._spared(replay, d.path.rpartition("/")[2]), d.path)).id if done else None

    def _spared(self, replay: Replay, arm: str) -> int:
        return sum(views for views, _ in self.sample.drawn[arm][replay.paused_after.get(arm, self.sample.rounds) :])

    def _non_decision(self, replay: Replay) -> tuple[str, int] | None:
        """A headline that the plain rule pauses and the guarded one leaves on, at that hour: a winner where there is one."""
        plain = plain_rule(self.sample.tests, self.sample.drawn)
        spared = [(t, a) for t, a in self.sample.arms if a.name in plain and a.name not in replay.paused_after and not t.is_doubtful]
        if not spared:
            return None
        test, arm = max(spared, key=lambda pair: (pair[0].winner is pair[1], pair[1].impressions, pair[1].name))
        return path(test, arm), START + plain[arm.name] * HOUR + JUDGED

    def _tell(self, title: str, found: dict[str, Any]) -> None:
        one = found.get("told", [found])[0]
        self.say()
        self.say(title)
        for paragraph in (one["title"], *one["paragraphs"]):
            self.say(textwrap.fill(paragraph, WIDTH, initial_indent="  ", subsequent_indent="  "))

    # -- afterwards --------------------------------------------------------------------------------------------------

    async def _leave(self, replay: Replay, folder: Path, url: str, stop: asyncio.Event) -> None:
        """The pages stay until Ctrl-C; the simulated clock runs on, now as fast as the world's."""
        where = folder / "url"
        where.write_text(url)
        waiting = len(told(await replay.api.get("/v1/escalations"))["escalations"])
        self.say()
        self.say(f"The pages stay at {url}. Log in once within the hour:")
        self.say(f"  {await replay.stage.login()}")
        if waiting:
            self.say(f"{waiting} escalations wait there for you to approve or reject. The simulated clock now runs as fast as the world's.")
        self.say(f"In another terminal: TRIMTAB_DATA={folder} .venv/bin/python -m services status (or decisions, explain NAME, --help)")
        self.say("Ctrl-C ends the demo.")
        try:
            while not stop.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1)
                replay.clock.advance(SECOND)
        finally:
            where.unlink(missing_ok=True)
        self.say("stopped")


def fresh(folder: Path) -> Path:
    """An empty folder that is marked as the demo's own. Whatever else stands in its place is left alone, and so is that of a demo which is running."""
    mark = folder / MARK
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and (mark.exists() or not any(folder.iterdir())))):
        raise Misconfigured(f"{folder} was not made by the demo and is left alone: move it away, or choose another place with TRIMTAB_DATA")
    try:
        if folder.exists():
            FolderLock(folder).release()
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        mark.write_text("The demo empties this folder whenever it starts.\n")
    except OSError as error:
        raise Misconfigured(f"the demo's folder {folder} cannot be made: {error.strerror}; choose another place with TRIMTAB_DATA") from error
    return folder
