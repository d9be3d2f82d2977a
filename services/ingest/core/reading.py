"""A pushed report, as JSON, JSON lines or CSV, becomes rows; each row finds its shape and becomes an Event or a Rejection."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.ingest.core import plain, report, strict_json
from services.ingest.core.instant import instant
from services.ingest.core.refused import Refused, at
from services.ingest.core.report import Context, Shape
from services.ingest.core.source import Delivery, Item
from services.kernel.entity import LEVELS
from services.kernel.event import Event
from services.kernel.measure import currency

HEADERS = 64  # of one delivery whose shape is remembered
MEMBERS = ("rows", "results", "data", "events")  # ours, Google's, Meta's, and the plain form


def rows(delivery: Delivery) -> tuple[str, Sequence[Any], Mapping[str, Any]]:
    """(pointer of the rows, the rows, what is said beside them); raises Refused for a body that holds none."""
    if delivery.media_type == "text/csv":
        return "", list(from_csv(delivery.body)), {}
    if delivery.media_type in ("application/x-ndjson", "application/jsonl"):
        return "", [strict_json.loads(line) for line in delivery.body.splitlines() if line.strip()], {}
    given = delivery.json()
    if isinstance(given, list):
        return "", given, {}
    if not isinstance(given, Mapping):
        raise Refused("a report is an array of rows, or an object with rows", reason="bad_shape")
    name = next((m for m in MEMBERS if isinstance(given.get(m), list)), None)
    if name is None:
        raise Refused(f"a report has its rows under {', '.join(MEMBERS[:3])}", reason="bad_shape")
    beside = report.flat({k: v for k, v in given.items() if k != name})
    return f"/{name}", given[name], beside


def from_csv(body: bytes) -> Iterator[dict[str, str]]:
    """The rows of a CSV of UTF-8 with a header; raises Refused where a row has more or fewer cells than the header."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"the body is not UTF-8 at byte {error.start}", reason="malformed", status=400) from None
    return table(csv.reader(io.StringIO(text, newline="")))


def table(lines: Iterable[list[str]]) -> Iterator[dict[str, str]]:
    """Rows as {column: cell}; the first line is the header, empty lines are passed over."""
    reader = iter(lines)
    header = [name.strip() for name in next(reader, [])]
    if len(set(header)) != len(header) or not any(header):
        raise Refused("the header needs a name for every column, each once", reason="malformed", status=400)
    for i, cells in enumerate(reader, 2):
        if not cells:
            continue
        if len(cells) != len(header):
            raise Refused(f"line {i} has {len(cells)} cells where the header has {len(header)}", reason="malformed", status=400)
        yield dict(zip(header, cells, strict=True))


def events(delivery: Delivery, source: str, shapes: Sequence[Shape], context: Context) -> Iterator[Item]:
    """What a pushed report says. Rows whose columns no shape knows must be in the plain form, with an interval."""
    pointer, given, beside = rows(delivery)
    with at("/currency"):
        context.currency = currency(beside["currency"]) if "currency" in beside else context.currency
    context.account = str(beside.get("account", context.account))
    with at("/as_of"):
        context.received_at = instant(beside["as_of"]) if "as_of" in beside else context.received_at
    if "time_zone" in beside and context.zones is not None:
        with at("/time_zone"):
            context.zone = context.zones(str(beside["time_zone"]))
    context.horizon = context.horizon or delivery.horizon

    shape_of: dict[tuple[str, ...], Shape | None] = {}

    def make(row: Any, here: str) -> Event:
        if not isinstance(row, Mapping):
            raise Refused("a row is an object", reason="bad_shape", pointer=here)
        if "interval" in row or not shapes:
            if "interval" not in row:
                raise Refused("a report row has an interval {start, end}", reason="bad_interval", pointer=here)
            return plain.event(row, source=source, received_at=context.received_at, horizon=delivery.horizon, pointer=here)
        flat = report.flat(row)
        header = tuple([name for name, value in flat.items() if value is not None])
        shape = shape_of[header] if header in shape_of else report.detect(header, shapes)
        if len(shape_of) < HEADERS:
            shape_of[header] = shape
        if shape is None:
            raise Refused(f"no report of {source} has these columns: {', '.join(sorted(flat))[:200]}", reason="unknown_columns", pointer=here)
        return report.event(flat, shape, context, here)

    return plain.each(given, pointer, make)


def mapped(mapping: Mapping[str, str], header: Sequence[str], base: Shape | None) -> Shape:
    """A shape from {our name: column}: entity levels, date, as_of, currency, time_zone, platform, measures, attribute.NAME, breakdown.NAME.

    A value that is no column is the same for every row (currency=EUR). spend.micros=COLUMN reads millionths. Over a detected shape only what is named changes.
    """
    shape = base or Shape("mapped", mapping.get("platform", "file"), "account", {})
    ids, measures, attributes = dict(shape.ids), dict(shape.measures), dict(shape.attributes)
    constants, breakdown, plain_fields = dict(shape.constants), list(shape.breakdown), dict[str, Any]()
    for name, column in mapping.items():
        there = column in header
        if name in LEVELS[1:]:
            (ids if there else constants)[name] = column
            if not there:
                ids.pop(name, None)
        elif name == "date_format":
            plain_fields["day_form"] = column
        elif name in ("platform", "source"):
            constants[name] = column
        elif name in ("currency", "time_zone") and not there:
            constants[name] = column
            plain_fields["zone" if name == "time_zone" else name] = ""
        elif not there:
            raise Refused(f"--map {name}={column}: the file has no column {column!r}; it has {', '.join(header)[:300]}", reason="unknown_columns")
        elif name in ("currency", "time_zone", "date", "as_of"):
            plain_fields[{"time_zone": "zone", "date": "day"}.get(name, name)] = column
        elif name.startswith("attribute."):
            what = name.removeprefix("attribute.").partition(".")
            attributes[column] = report.As(what[0], what[2] or ("status" if what[0] == "status" else "units" if what[0] == "daily_budget" else "text"))
        elif name == "breakdown":
            breakdown.append(column)
        else:
            base_name, _, unit = name.partition(".")
            measures = {c: a for c, a in measures.items() if a.name != base_name} | {column: report.As(base_name, unit or "units")}
    level = max((lv for lv in (*ids, *constants) if lv in LEVELS), key=LEVELS.index, default="account")
    return replace(
        shape, level=level if base is None else shape.level, ids=ids, measures=measures, attributes=attributes, constants=constants,
        breakdown=tuple(breakdown), source=mapping.get("source", shape.source), **plain_fields,
    )  # fmt: skip
