"""Exports on disk become events: CSV and JSON lines, read as a stream, a column at a time understood by its name.

The tables of Google Ads and Meta are known by their headers; a mapping says what other columns mean, or corrects what was guessed:

    account=Account ID   campaign=Campaign ID   date=Day   impressions=Impr.   spend=Cost   spend.micros=cost_micros   currency=EUR
    attribute.status=Status   breakdown=Device   platform=meta_ads   date_format=%d.%m.%Y

What is on the right is a column, or, for levels, platform, source, currency, time_zone and date_format, the value of every row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from services.ingest.core import plain, reading, report, strict_json
from services.ingest.core.refused import Refused
from services.ingest.core.report import Context, Shape
from services.ingest.core.source import Delivery, Rejection, Reporter
from services.ingest.http import all_sources, time_zone
from services.ingest.intake import Intake
from services.kernel.entity import LEVELS
from services.kernel.errors import RejectedInput
from services.kernel.event import Event

CHUNK = 1000  # rows between two appends
LONGEST_CELL = 1_000_000
JSON = (("content-type", "application/json"),)
JSON_LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A row that could not be normalized, as it was read."""

    rejection: Rejection
    source: str
    row: Mapping[str, Any]


Sink: TypeAlias = Callable[[Sequence[Event], Sequence[Spoiled]], Awaitable[Sequence[Rejection]]]  # returns what it refused of the events
Progress: TypeAlias = Callable[[int, int], None]  # (bytes read, bytes in all)


@dataclass(slots=True)
class FileReceipt:
    """What became of one file; everything counted is durable."""

    path: Path
    shape: str
    rows: int = 0
    accepted: int = 0
    quarantined: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    first: list[Rejection] = field(default_factory=list)  # the first few, to show

    def note(self, rejection: Rejection) -> None:
        self.reasons[rejection.reason] = self.reasons.get(rejection.reason, 0) + 1
        if len(self.first) < 10:
            self.first.append(rejection)


def to_intake(intake: Intake, workspace: str) -> Sink:
    """Appends to the log of this process; spoiled rows go to quarantine, each with its row."""

    async def put(events: Sequence[Event], spoiled: Sequence[Spoiled]) -> Sequence[Rejection]:
        refused: list[Rejection] = []
        by_source: dict[str, list[Event]] = {}
        for event in events:
            some = by_source.setdefault(event.source, [])
            some.append(replace(event, at=f"/rows/{len(some)}"))
        for source, some in by_source.items():
            body = json.dumps({"rows": [plain.written(event) for event in some]}, default=str).encode()  # what quarantine keeps of a row that is refused
            receipt = await intake.accept(Delivery(source, workspace, body, JSON, intake.clock.now()), some, "reports")
            refused += receipt.rejections
        for one in spoiled:
            body = json.dumps({"rows": [one.row]}, default=str).encode()
            delivery = Delivery(one.source, workspace, body, JSON, intake.clock.now())
            pointer = f"/rows/0{one.rejection.pointer.partition('#')[2]}"
            await intake.accept(delivery, [Rejection(one.rejection.reason, one.rejection.detail, pointer)], "reports")
        return refused

    return put


async def ingest_file(
    path: Path, mapping: Mapping[str, str], append: Sink, progress: Progress | None = None, *, context: Context, sources: Mapping[str, Any] | None = None
) -> FileReceipt:
    """Returns once every row of the file is durable, as an event or in quarantine; Refused where the file as a whole cannot be understood.

    `context` is shared between files that belong together: what the histories say of parents, currencies and time zones is used by the reports.
    """
    shapes = shapes_of(sources)
    shape = shape_of(path, mapping, shapes)
    receipt = FileReceipt(path, shape.name if shape else "events")
    seen: dict[tuple[str, str], int] = {}
    events: list[Event] = []
    spoiled: list[Spoiled] = []
    total = size_of(path)

    async def flush(done: int) -> None:
        refused = await append(events, spoiled)
        receipt.accepted += len(events) - len(refused)
        receipt.quarantined += len(spoiled) + len(refused)
        for rejection in refused:
            receipt.note(rejection)
        events.clear()
        spoiled.clear()
        if progress is not None:
            progress(done, total)

    for row, place, done in rows_of(path):
        receipt.rows += 1
        try:
            events.append(_once(_event(row, shape, shapes, mapping, context, place), seen))
        except RejectedInput as error:
            rejection = Rejection(error.reason, str(error), f"{place}#{getattr(error, 'pointer', '')}")
            spoiled.append(Spoiled(rejection, shape.source if shape else "generic", row if isinstance(row, Mapping) else {"row": str(row)}))
            receipt.note(rejection)
        if len(events) + len(spoiled) >= CHUNK:
            await flush(done)
    await flush(total)
    return receipt


async def ingest_files(
    paths: Sequence[Path], mapping: Mapping[str, str], append: Sink, progress: Progress | None = None, *, context: Context,
    sources: Mapping[str, Any] | None = None,
) -> list[FileReceipt]:  # fmt: skip
    """As `ingest_file` for files that belong together: histories first, from account down, then reports, from the deepest level up.

    All of them are read once before, for whose child each id is: an ad's history may not name its campaign where its report does.
    """
    shapes = shapes_of(sources)
    for path in paths:
        shape = shape_of(path, mapping, shapes)
        for row, _, _ in rows_of(path) if shape else ():
            if isinstance(row, Mapping) and shape:
                report.learn(report.flat(row), shape, context)

    def turn(path: Path) -> tuple[int, int]:
        shape = shape_of(path, mapping, shapes)
        if shape is None:
            return (2, 0)
        depth = LEVELS.index(shape.level)
        return (1, -depth) if shape.day else (0, depth)

    return [await ingest_file(path, mapping, append, progress, context=context, sources=sources) for path in sorted(paths, key=turn)]


def new_context(received_at: int, *, currency: str = "", account: str = "", zone: str = "UTC") -> Context:
    """`received_at` is the instant the export was made, where its rows do not say it: the file's date, or now."""
    return Context(received_at, currency=currency, account=account, zone=time_zone(zone), zones=time_zone)


def size_of(path: Path) -> int:
    return path.stat().st_size


def shapes_of(sources: Mapping[str, Any] | None = None) -> tuple[Shape, ...]:
    every = all_sources() if sources is None else sources
    return tuple(shape for source in every.values() if isinstance(source, Reporter) for shape in source.shapes)


def shape_of(path: Path, mapping: Mapping[str, str], shapes: Sequence[Shape]) -> Shape | None:
    """The file's shape by its header and the mapping; None where rows are events in the plain form. Refused where nothing fits."""
    first = next(iter(rows_of(path)), None)
    if first is None:
        raise Refused(f"{path.name} has no rows", reason="malformed")
    row = first[0]
    if isinstance(row, RejectedInput):
        raise row
    if "entity" in row and not mapping:
        return None
    header = list(report.flat(row))
    known = report.detect(header, shapes)
    if mapping:
        return reading.mapped(mapping, header, known)
    if known is None:
        text = f"{path.name} has the columns {', '.join(header)[:300]}, which is no known report; say what they mean with --map, such as --map date=Day"
        raise Refused(text, reason="unknown_columns")
    return known


def rows_of(path: Path) -> Iterator[tuple[Any, str, int]]:
    """(row or the RejectedInput why there is none, where it stands, bytes read so far) of a CSV with a header, or of JSON lines."""
    with path.open("rb") as raw:
        if path.suffix.lower() in JSON_LINES:
            yield from _json_lines(raw)
        else:
            yield from _csv(raw)


def _json_lines(raw: Any) -> Iterator[tuple[Any, str, int]]:
    done = 0
    for i, line in enumerate(raw, 1):
        done += len(line)
        if not line.strip():
            continue
        try:
            row = strict_json.loads(line.strip(), LONGEST_CELL)
            yield (row if isinstance(row, Mapping) else Refused("a row is a JSON object", reason="bad_shape")), f"line {i}", done
        except RejectedInput as error:
            yield error, f"line {i}", done


def _csv(raw: Any) -> Iterator[tuple[Any, str, int]]:
    done = 0

    def lines() -> Iterator[str]:
        nonlocal done
        for line in raw:
            done += len(line)
            yield line.decode("utf-8-sig" if done == len(line) else "utf-8", "replace")

    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(lines())
    header = [name.strip() for name in next(reader, [])]
    if len(set(header)) != len(header):
        raise Refused("the header names a column twice", reason="malformed")
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Refused(f"the line is not CSV: {error}", reason="malformed"), f"line {reader.line_num}", done
            continue
        if not cells:
            continue
        where = f"line {reader.line_num}"
        if len(cells) != len(header):
            yield Refused(f"{len(cells)} cells where the header has {len(header)}", reason="malformed"), where, done
        elif any("\ufffd" in cell for cell in cells):
            yield Refused("the line is not UTF-8", reason="bad_text"), where, done
        else:
            yield dict(zip(header, cells, strict=True)), where, done


def _event(row: Any, shape: Shape | None, shapes: Sequence[Shape], mapping: Mapping[str, str], context: Context, place: str) -> Event:
    if isinstance(row, RejectedInput):
        raise row
    if shape is None:
        return plain.event(row, source="generic", received_at=context.received_at, horizon=context.horizon or context.received_at)
    flat = report.flat(row)
    if not mapping and not shape.columns <= flat.keys():  # JSON lines may differ from one another
        shape = report.detect(flat, shapes)
        if shape is None:
            raise Refused("no known report has these columns", reason="unknown_columns")
    return report.event(flat, shape, context)


def _once(event: Event, seen: dict[tuple[str, str], int]) -> Event:
    """The event, unless the file has another one of its id that says something else."""
    content = hash((event.path, event.occurred_at, event.snapshot, frozenset(event.amounts.items()), frozenset(event.attributes.items())))
    if seen.setdefault((event.source, event.id), content) != content:
        text = f"another row is {event.path} of the same day but says something else: name what tells them apart with --map breakdown=COLUMN"
        raise Refused(text, reason="conflicting_twin")
    return event
