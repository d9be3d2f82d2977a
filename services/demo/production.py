"""`make demo-production`: the demo once in one process and once on Kafka and PostgreSQL, whose decisions have to be the same."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from functools import partial

from rich.console import Console

from services.adapters.settings import from_environment
from services.demo.board import console
from services.demo.fleet import fleet, usable
from services.demo.replay import ROUNDS, Sample
from services.demo.sample import Experiment, bundled
from services.demo.show import INTERRUPTED, SEED, Interrupted, Show, Shown


def main(leave: bool, seed: int = SEED, tests: list[Experiment] | None = None, rounds: int = ROUNDS) -> int:
    """As the demo's own `main`; a process of the engine and one of actions are killed on the way. 1 also where its decisions differ."""
    wanted = from_environment(os.environ)
    screen, kills = console(), {max(1, rounds // 3): "rules", max(2, 2 * rounds // 3): "actions"}
    sample = Sample.draw(bundled() if tests is None else tests, rounds, seed)
    beside = wanted.model_copy(update={"kafka": "", "database": "", "data": wanted.data / "beside", "port": 0})
    words = "its services on Kafka and PostgreSQL, two processes of the engine and two of actions"

    def say(text: str) -> None:
        screen.print(text, soft_wrap=True, markup=False)

    async def both() -> tuple[Shown, Shown]:
        await usable(wanted)
        say("First the same in one process, to compare with ...")
        alone = await Show(Console(quiet=True), beside, sample).run(False)
        show = Show(screen, wanted, sample, fleet(say, kills), words, folder="demo-production")
        return alone, await show.run(leave, partial(compared_with, say, alone))

    try:
        alone, shown = asyncio.run(both())
    except Interrupted:
        screen.print("stopped before its end; nothing is left running")
        return INTERRUPTED
    same = alone.decisions == shown.decisions
    if not leave:
        print(json.dumps(shown.figures | {"decisions_as_in_one_process": same}), flush=True)
    return 0 if shown.holds and same else 1


def compared_with(say: Callable[[str], None], alone: Shown, decisions: dict[str, str]) -> None:
    if alone.decisions == decisions:
        say(f"Decisions {len(decisions):,} of them, each the same bit for bit as in one process, where nothing was killed")
    else:
        apart = {i for i in alone.decisions.keys() | decisions.keys() if alone.decisions.get(i) != decisions.get(i)}
        say(f"Decisions DIFFER from those in one process: {len(apart)} of {len(decisions):,}, among them {min(apart)}")
