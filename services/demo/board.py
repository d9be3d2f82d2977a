"""The replay as one looks at it: a table that changes in place on a terminal, a line every few hours anywhere else, and the same table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import TracebackType

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.demo.replay import HOUR, SECOND, START, ZONE, Figures, Sample
from services.demo.score import PLAIN_SAMPLE, VERY_WEAK, WEAK

WIDTH = 104
EVERY = 6  # hours between two plain lines
WORDS = f"winner: the best rate of its test in the end; weak: below {WEAK} x its test's rate; very weak: below {VERY_WEAK} x"


def console() -> Console:
    """Standard output; where nobody looks it has a width of its own and no colours."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=WIDTH, force_terminal=False)


class Board:
    """A context for the time of the replay; `show` whenever an hour is over."""

    def __init__(self, screen: Console, sample: Sample) -> None:
        self.screen, self.sample = screen, sample
        self._live = Live(console=screen, auto_refresh=False) if screen.is_terminal else None
        self._last: Table | Group | None = None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._last is not None and error is None:
            self.screen.print(self._last)

    def show(self, f: Figures, seconds: float) -> None:
        self._last = picture(f, self.sample, seconds)
        if self._live is not None:
            self._live.update(self._last, refresh=True)
        elif f.rounds % EVERY == 0 and f.rounds < self.sample.rounds:
            self.screen.print(line(f, self.sample, seconds), soft_wrap=True)


def speed(rounds: int, seconds: float) -> float:
    """How many times as fast as the world's clock the simulated one has run."""
    return rounds * HOUR / SECOND / seconds if seconds > 0 else 0.0


def counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items(), key=lambda pair: (-pair[1], pair[0])))


def line(f: Figures, sample: Sample, seconds: float) -> str:
    held = f"{f.held} held back ({counted(f.held_back)})" if f.held else "0 held back"
    decided = f"{f.events:,} events; {f.executed} executed, {f.escalated} escalated, {held}"
    compared = f"winners paused {f.guarded.winners_paused}, by the plain rule {f.plain.winners_paused}"
    return f"hour {f.rounds:2} of {sample.rounds}, {speed(f.rounds, seconds):,.0f} x real time: {decided}; {compared}"


def picture(f: Figures, sample: Sample, seconds: float) -> Group:
    now = datetime.fromtimestamp((START + f.rounds * HOUR) / SECOND, ZONE)
    clock = f"Hour {f.rounds} of {sample.rounds}; the simulated clock says {now:%a %d %b %H:%M}, {speed(f.rounds, seconds):,.0f} x real time"
    return Group(Text(clock, style="bold"), Text(), decided(f), Text(), compared(f, sample), Text(WORDS, style="dim"))


def decided(f: Figures) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_row("events accepted", f"{f.events:,}")
    table.add_row("pauses executed at the platform", str(f.executed))
    table.add_row("escalated, waiting for a person", f"{f.escalated}" + ("  (headlines of tests whose views were not split evenly)" if f.escalated else ""))
    table.add_row("look weak, held back now", f"{f.held}" + (f"  (refused by {counted(f.held_back)})" if f.held else ""))
    others = {name: n for name, n in f.statuses.items() if name not in ("verified", "waiting")}
    if others:
        table.add_row("other actions", counted(others))
    return table


def compared(f: Figures, sample: Sample) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("")
    table.add_column("guarded rule", justify="right")
    table.add_column(f'plain rule "{PLAIN_SAMPLE:,} views, CTR below target"', justify="right")
    g, p = f.guarded, f.plain
    table.add_row(f"headlines paused, of {len(sample.arms)}", str(g.paused), str(p.paused))
    table.add_row(f"winners paused, of {len(sample.tests)}", wrong(g.winners_paused), wrong(p.winners_paused))
    table.add_row(f"weak headlines found, of {g.weak}", str(g.weak_found), str(p.weak_found))
    table.add_row(f"very weak headlines found, of {g.very_weak}", str(g.very_weak_found), str(p.very_weak_found))
    table.add_row("views of losing headlines saved", f"{g.impressions_saved:,}", f"{p.impressions_saved:,}")
    table.add_row("clicks of good headlines lost", wrong(g.clicks_lost), wrong(p.clicks_lost))
    table.add_row(f"tests that end without a pause, of {len(sample.tests)}", str(g.undecided), str(p.undecided))
    return table


def wrong(number: int) -> Text:
    return Text(f"{number:,}", style="red" if number else "green")


def in_words(f: Figures, sample: Sample) -> str:
    """What the table says, as one would tell it."""
    g, p = f.guarded, f.plain
    return (
        f"In words: the plain rule paused {p.paused} of {len(sample.arms)} headlines, {best(p.winners_paused)}, "
        f"and lost {p.clicks_lost:,} clicks. The guarded rule paused {g.paused}, {best(g.winners_paused)}, "
        f"and lost {g.clicks_lost:,} clicks; "
        f"what is not proven weak it leaves on, and says so."
    )


def best(winners: int) -> str:
    return f"{winners} of them the best of their tests" if winners > 1 else f"{'one' if winners else 'none'} of them the best of its test"
