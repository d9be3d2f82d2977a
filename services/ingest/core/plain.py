"""The plain form of an event, the one our own API documents; every other form is turned into it or into an Event directly.

    {"id": "o-1", "source": "shop", "entity": "meta_ads/1700/6215/62150/621500", "kind": "purchase", "occurred_at": "2026-03-01T12:00:00Z",
     "amounts": {"conversions:purchase": 1, "revenue:purchase": {"amount": "49.90", "currency": "EUR"}}, "attributes": {"status": "active"}}

A row of a report has an interval instead of happening at an instant; a later row for the same interval replaces it:
    {"entity": ..., "interval": {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"}, "as_of": "2026-03-01T12:00:00Z",
     "breakdown": {"device": "mobile"}, "amounts": {...}}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from services.ingest.core import normalize
from services.ingest.core.instant import instant
from services.ingest.core.place import place
from services.ingest.core.refused import Refused, at, step
from services.ingest.core.source import Item, Rejection
from services.kernel.errors import RejectedInput
from services.kernel.event import Event
from services.kernel.ids import digest

MEMBERS = frozenset({"id", "source", "entity", "kind", "occurred_at", "interval", "as_of", "breakdown", "amounts", "attributes"})
INTERVAL = frozenset({"start", "end"})
MOST = 50_000  # events of one delivery


def event(given: Any, *, source: str, received_at: int, horizon: int, pointer: str = "") -> Event:
    """The Event that a plain object says; raises Refused pointing to the member that is wrong."""
    fields = normalize.members(given, MEMBERS, "an event", pointer)
    with at(pointer, "source"):
        source = normalize.word(fields.get("source", source), "source")
    with at(pointer, "entity"):
        path = place(fields)
    amounts = normalize.amounts(fields.get("amounts", {}), step(pointer, "amounts"))
    attributes = normalize.attributes(fields.get("attributes", {}), step(pointer, "attributes"))
    if "interval" in fields:
        return _row(fields, source, path, amounts, attributes, received_at, horizon, pointer)
    for name in ("as_of", "breakdown"):
        if name in fields:
            raise Refused(f"{name} belongs to a report row, which also has an interval", reason="bad_interval", pointer=step(pointer, name))
    with at(pointer, "occurred_at"):
        if "occurred_at" not in fields:
            raise Refused("occurred_at is missing", reason="bad_time")
        occurred_at = normalize.not_ahead(instant(fields["occurred_at"]), horizon)
    with at(pointer, "id"):
        ident = normalize.native_id(fields.get("id"))
    with at(pointer, "kind"):
        kind = normalize.kind(fields.get("kind", "event"))
    with at(pointer):
        return normalize.checked(Event(ident, source, path, kind, occurred_at, amounts, attributes), horizon)


def _row(
    fields: Mapping[str, Any], source: str, path: str, amounts: dict[str, int], attributes: dict[str, str | int], received_at: int, horizon: int, pointer: str
) -> Event:
    with at(pointer, "interval"):
        interval = normalize.members(fields["interval"], INTERVAL, "an interval", step(pointer, "interval"))
        start, end = instant(interval.get("start")), instant(interval.get("end"))
    with at(pointer, "as_of"):
        as_of = instant(fields["as_of"]) if "as_of" in fields else received_at
        normalize.not_ahead(as_of, horizon, "as_of")
    with at(pointer, "breakdown"):
        breakdown = normalize.attributes(fields.get("breakdown", {}))
    with at(pointer):
        row = (path, *(f"{name}={value}" for name, value in sorted(breakdown.items())))
        snapshot = normalize.snapshot(start, end, as_of, row)
    with at(pointer, "id"):
        ident = normalize.native_id(fields["id"]) if "id" in fields else digest("report", *row, str(start), str(end), str(as_of))
    with at(pointer, "kind"):
        kind = normalize.kind(fields.get("kind", "report"))
    with at(pointer):
        return normalize.checked(Event(ident, source, path, kind, min(as_of, end - 1), amounts, attributes, snapshot), horizon)


def written(event: Event) -> dict[str, Any]:
    """The plain object that reads back as exactly this event, with decimals as texts where they are amounts and as Decimal where they are attributes."""
    made: dict[str, Any] = {"id": event.id, "source": event.source, "entity": event.path, "kind": event.kind}
    s = event.snapshot
    if s is None:
        made["occurred_at"] = event.occurred_at
    else:
        made |= {"interval": {"start": s.interval_start, "end": s.interval_end}, "as_of": s.as_of}
        if len(s.row) > 1:
            made["breakdown"] = dict(cell.split("=", 1) for cell in s.row[1:])
    made["amounts"] = {name: f"{Decimal(amount).scaleb(-6):f}" for name, amount in event.amounts.items()}
    made["attributes"] = {name: value if isinstance(value, str) else _number(value) for name, value in event.attributes.items()}
    return made


def _number(micros: int) -> int | Decimal:
    whole, rest = divmod(micros, 1_000_000)
    return Decimal(micros).scaleb(-6) if rest else whole


def each(items: Sequence[Any], pointer: str, make: Callable[[Any, str], Event | None]) -> Iterator[Item]:
    """Each item's Event, or the Rejection that says why not; an item that means nothing to us (None) yields nothing."""
    if len(items) > MOST:
        raise Refused(f"the delivery holds {len(items):,} events; at most {MOST:,} are read at once", reason="too_large", status=413)
    for i, item in enumerate(items):
        here = step(pointer, i)
        try:
            made = make(item, here)
        except RejectedInput as error:
            yield Rejection(error.reason, str(error), getattr(error, "pointer", "") or here)
            continue
        if made is not None:
            yield replace(made, at=here)


def one(item: Any, make: Callable[[Any, str], Event | None]) -> Iterator[Item]:
    """As `each`, for a body that is a single item."""
    try:
        made = make(item, "")
    except RejectedInput as error:
        yield Rejection(error.reason, str(error), getattr(error, "pointer", ""))
        return
    if made is not None:
        yield made
