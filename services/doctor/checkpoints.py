"""What a start would go on from, compared with the log that it is to be of: the same judgement for a folder and for a partition on Kafka.

    of each place, newest first:   damaged, of another form, before the log's reach  -> passed over
    the first that is none of it:  beyond the log's end, not of this log             -> a start is refused
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.adapters.clock import instant
from services.doctor.line import FAIL, OK, WARN, Line
from services.kernel.record import Record, Stamped
from services.rules_engine.checkpoint import Checkpoints, Header, Unusable, mark
from services.rules_engine.core.state import STATE

FAR_BEHIND = 2_000_000  # records that a start would fold


@dataclass(frozen=True, slots=True)
class Found:
    """The newest checkpoint that a start does not pass over, None where there is none, and what is to be said of those that it does."""

    name: str
    header: Header | None
    passed: tuple[Line, ...] = ()


def newest(places: Iterable[Checkpoints], partition: int, first: int) -> Found:
    """Of a log that can be read from record `first` on. A place is asked where those before it hold none. Reads files whole. Raises OSError, Unavailable."""
    passed: list[Line] = []
    for place in places:
        for kept in place.every(partition):
            try:
                header = place.verify(kept)
            except FileNotFoundError:
                continue  # a process that runs has just made it superfluous
            except OSError as error:
                passed.append(warn(f"{kept.path.name} cannot be read: {error}", "a start that cannot read it either passes it over"))
                continue
            except Unusable as error:
                passed.append(warn(f"{kept.path.name}: {error}", "a start passes it over; delete it"))
                continue
            if header.state != STATE:
                passed.append(warn(f"{kept.path.name} is of form {header.state}, this build's is {STATE}", "a start passes it over"))
            elif header.offset < first:
                passed.append(warn(f"{kept.path.name}: the log begins after it", "a start passes it over; delete it"))
            else:
                return Found(kept.path.name, header, tuple(passed))
    return Found("", None, tuple(passed))


def judged(found: Found, first: int, end: int, before: Stamped[Record] | None, place: str) -> list[Line]:
    """What is to be said of a log's checkpoints: those that a start passes over, and what it goes on from.

    The log can be read from record `first` up to `end`, exclusive, where `end` was asked for after the checkpoints. `before` is the record that the
    checkpoint was taken after, None where the log does not hold it any more; `place` says where was looked.
    """
    header = found.header
    if header is not None and (header.offset > end or not is_marked(header, before)):
        is_beyond = f"has folded more than the {end} records of the log, which has lost records or is another"
        is_other = f"was not taken of this log: its record {header.offset - 1} is another"
        mend = "restore the log that it was taken of, or name the place of this log's own with TRIMTAB_CHECKPOINTS: a start is refused"
        return [*found.passed, Line(FAIL, "checkpoints", f"{found.name} {is_beyond if header.offset > end else is_other}", mend)]
    if header is None and first > 0:
        mend = "name their place with TRIMTAB_CHECKPOINTS, or restore the whole log, or a checkpoint, from a backup: until then a start is refused"
        return [*found.passed, Line(FAIL, "checkpoints", f"none in {place} covers the records before {first}, and they are gone", mend)]
    behind = end - (header.offset if header else first)
    level, mend = (OK, "") if behind <= FAR_BEHIND else (WARN, "a start takes long: docs/operations.md, the runbook, says why none is written")
    if header is not None:
        text = f"the newest that is valid is of {instant(header.at)}, {behind} records behind the log"
        if 0 < first == end:
            text += ", which holds none any more"
    elif end == first:
        text = f"none in {place}, and nothing on the log"
    else:
        text = f"none in {place}: a start folds all {behind} records"
    return [*found.passed, Line(level, "checkpoints", text, mend)]


def reach_of(places: Iterable[Checkpoints], partition: int, first: int) -> str:
    """What can be recomputed of a log that can be read from record `first` on only: what was decided since its oldest valid checkpoint was taken.

    Reads a file whole, or more where some do not hold. Raises OSError, Unavailable.
    """
    every = [(place, kept) for place in places for kept in place.every(partition) if kept.header is not None]
    for place, kept in sorted(every, key=lambda found: found[1].offset):
        if kept.offset < first or kept.header is None or kept.header.state != STATE:
            continue
        try:
            place.verify(kept)
        except (Unusable, FileNotFoundError):
            continue
        since = f"what was decided after {instant(kept.header.engine_time)}" if kept.header.engine_time else "all that was decided"
        return f"{since} can be replayed and explained, from record {kept.offset} on, by {kept.path.name}; nothing before"
    return f"no valid checkpoint is of record {first} or a later one: nothing can be replayed or explained"


def is_marked(header: Header, before: Stamped[Record] | None) -> bool:
    """Whether this is the record that the checkpoint was taken after; it may have been one that is skipped."""
    return before is None or header.last in (mark(before), mark(before, frozenset({before.offset})))


def warn(text: str, mend: str) -> Line:
    return Line(WARN, "checkpoints", text, mend)
