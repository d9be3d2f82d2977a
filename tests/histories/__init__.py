"""Logs that were decided once, and what was decided on them: today's code must decide the same, byte for byte.

A history is two segment files in this folder, of the events log and of the decisions log. `histories.json` says which state they were last renewed or
checked with, what the files were then (SHA-256), which ADR told the last change of what is decided, and the newest ADR that there was.

    python -m tests.histories check SEED        replays every history with its pages cut as the seed draws them; names the first that differs
    python -m tests.histories renew ADR         derives every history's decisions again (`make histories ADR=nnnn`); records those that are not there yet

Two sources: the demo's own sample (Upworthy Research Archive, CC BY 4.0, see services/demo/data/README.md), and generated accounts (tests/reference).
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.log.segment import Content, Row, SegmentFile, write
from services.kernel.decision import Decision
from services.kernel.record import Record, Stamped
from services.rules_engine.core import state
from services.rules_engine.core.partition import Partition, demand_of, skips_of
from tests.core.world import GUARDS

FOLDER = Path(__file__).parent
ABOUT = FOLDER / "histories.json"
ADRS = FOLDER.parents[1] / "docs/adr"
PAGES = (1, 1, 2, 5, 20, 100, 1000)  # records fed at once
RESTART = 0.02  # of the pages: the state is dumped and loaded after it
REMEDY = (
    "This build decides otherwise on a log that was decided before. If that is not meant, it is a bug. If it is: tell it in a new ADR that says what becomes "
    "of the histories and of `STATE`, count up STATE in services/rules_engine/core/state.py (a checkpoint of the old semantics must not be gone on from), "
    "and renew the histories with `make histories ADR=nnnn`."
)


class Differs(AssertionError):
    """Today's code does not decide what was decided."""


@dataclass(frozen=True, slots=True)
class History:
    name: str
    records: tuple[Stamped[Record], ...]
    decided: tuple[bytes, ...]

    def derive(self, rng: random.Random) -> Iterator[Decision]:
        """What today's code decides, whatever the pages and restarts."""
        skipped = skips_of(self.records)
        partition, rest = Partition(GUARDS, demand_of(self.records), skipped), list(self.records)
        while rest:
            cut = rng.choice(PAGES)
            yield from partition.step(rest[:cut])
            rest = rest[cut:]
            if rng.random() < RESTART:
                plain, pieces = state.dump(partition)
                partition = state.load(json.loads(json.dumps(plain)), state.joined(pieces), GUARDS)
                partition.skipped = skipped

    def check(self, rng: random.Random) -> None:
        """Raises Differs naming the first decision that is another one."""
        derived = tuple(DECISIONS.encode(d) for d in self.derive(rng))
        for i in range(max(len(derived), len(self.decided))):
            ours, theirs = derived[i : i + 1], self.decided[i : i + 1]
            if ours != theirs:
                told = [repr(DECISIONS.decode(x[0])) if x else "none" for x in (theirs, ours)]
                raise Differs(f"history {self.name}, decision {i} of {len(self.decided)}:\n  was {told[0]}\n  is  {told[1]}\n{REMEDY}")


def files(name: str) -> tuple[Path, Path]:
    return FOLDER / f"{name}.events", FOLDER / f"{name}.decisions"


def names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.events"))


def read(name: str) -> History:
    events, decisions = (rows(path) for path in files(name))
    return History(name, tuple(Stamped(n, stamp, EVENTS.decode(data)) for n, stamp, data in events), tuple(data for _, _, data in decisions))


def rows(path: Path) -> list[Row]:
    file = SegmentFile(path)
    return [row for block in file.blocks for row in file.rows(block)] if file.segment.size else []


def put(path: Path, topic: str, many: Sequence[Row]) -> None:
    content = Content()
    content.add(many)
    with path.open("wb") as file:
        write(file, content.segment(topic, 0, ""), [many])


def about() -> dict[str, Any]:
    return {"state": 0, "adr": "", "newest_adr": "", "files": {}} | (json.loads(ABOUT.read_text()) if ABOUT.exists() else {})


def digest(name: str) -> str:
    """Of both files of a history."""
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files(name))).hexdigest()


def newest_adr() -> str:
    return max((path.name[:4] for path in ADRS.glob("[0-9]*.md")), default="")


def untold(adr: str, before: dict[str, Any]) -> str:
    """Why this ADR does not tell a change of what is decided under a state that has risen; "" where it does."""
    found = list(ADRS.glob(f"{adr}-*.md")) if re.fullmatch(r"\d{4}", adr) else []
    if before["state"] >= state.STATE:
        return f"STATE is {state.STATE} and was {before['state']} already"
    if len(found) != 1:
        return f"there is no ADR {adr}" if adr else "no ADR is named"
    if adr <= max(before["adr"], before["newest_adr"]):
        return f"ADR {adr} was there before this change"
    text = found[0].read_text()
    if "histories" not in text or not re.search(rf"`?STATE`? (is )?{state.STATE}\b", text):
        return f"ADR {adr} does not speak of the histories and of `STATE` {state.STATE}"
    return ""


def check(seed: int) -> int:
    """How many decisions of all histories were derived again. Raises Differs."""
    count = 0
    for name in names():
        history = read(name)
        history.check(random.Random(f"{seed} {name}"))
        count += len(history.decided)
    return count


def renew(adr: str, sources: dict[str, Callable[[], list[tuple[int, Record]]]], said: Callable[[str], None] = print) -> None:
    """Every history holds what today's code decides. Raises Differs where one changed, or is not what it was, and no new ADR and no new state tell it."""
    before, changed = about(), []
    fresh: dict[str, History] = {}
    for name in sorted({*names(), *sources, *before["files"]}):
        if name in names():
            history = read(name)
        elif name in sources:
            history = History(name, tuple(Stamped(i, stamp, EVENTS.decode(EVENTS.encode(r))) for i, (stamp, r) in enumerate(sources[name]())), ())
        else:
            raise Differs(f"history {name} is in {ABOUT.name} and its files are gone")
        derived = tuple(DECISIONS.encode(d) for d in history.derive(random.Random(0)))
        was_kept = name in names() and derived == history.decided and before["files"].get(name) in (None, digest(name))
        if not was_kept and (name in names() or name in before["files"]):
            changed.append(name)
        fresh[name] = History(name, history.records, derived)
    if changed and (why := untold(adr, before)):
        raise Differs(f"{', '.join(changed)} would change: {why}.\n{REMEDY}")
    for name, history in fresh.items():
        if name in names() and name not in changed:
            continue
        events, decisions = files(name)
        if name not in names():
            put(events, "events", [(s.offset, s.stamp, EVENTS.encode(s.record)) for s in history.records])
        put(decisions, "decisions", [(i, 0, data) for i, data in enumerate(history.decided)])
        said(f"{name}: {len(history.records)} records, {len(history.decided)} decisions")
    told = {"state": state.STATE, "adr": adr if changed else before["adr"], "newest_adr": newest_adr(), "files": {name: digest(name) for name in names()}}
    ABOUT.write_text(json.dumps(told, indent=2) + "\n")
