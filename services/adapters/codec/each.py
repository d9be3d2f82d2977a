"""One event of a batch as others are told of it: data as JSON, and what its CloudEvents headers say."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.kernel.record import EventBatch

MICRO = 1_000_000


SCHEMA: dict[str, Any] = {  # of the data, JSON Schema
    "type": "object",
    "required": ["id", "workspace", "source", "kind", "entity", "occurred_at", "amounts", "attributes"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "description": "as ce_id"},
        "workspace": {"type": "string"},
        "source": {"type": "string", "description": "the sending system"},
        "kind": {"type": "string"},
        "entity": {"type": "string", "description": "platform/account[/campaign[/ad_group[/creative]]]"},
        "occurred_at": {"type": "string", "format": "date-time"},
        "as_of": {"type": "string", "format": "date-time", "description": "of a report's row: what the interval now reads, in place of before"},
        "interval": {"type": "array", "items": {"type": "string", "format": "date-time"}, "minItems": 2, "maxItems": 2, "description": "of such a row"},
        "amounts": {"type": "object", "additionalProperties": {"type": "number"}, "description": "measure: amount in units; added up where there is no as_of"},
        "attributes": {"type": "object", "additionalProperties": {"type": ["number", "string"]}},
    },
}


@dataclass(frozen=True, slots=True)
class Each:
    """`sequence` is where its record stands in the events topic, and which of that record's events it is."""

    workspace: str
    id: str  # hash of source and event id: of two with one id the first counts
    source: str
    path: str
    at: int  # microseconds
    sequence: str
    data: bytes


def sequence_of(offset: int, index: int) -> str:
    """Texts in the order of the log."""
    return f"{offset:020d}.{index:06d}"


def place_of(sequence: str) -> tuple[int, int]:
    """(offset, index). Raises ValueError."""
    offset, _, index = sequence.partition(".")
    return int(offset), int(index)


def each(b: EventBatch, offset: int, first: int = 0) -> Iterator[Each]:
    """The events of a record from the one of index `first` on."""
    amounts, attributes = defaultdict[int, dict[str, Any]](dict), defaultdict[int, dict[str, Any]](dict)
    for event, measure, amount in zip(b.amount_event.tolist(), b.amount_measure.tolist(), b.amount.tolist(), strict=True):
        amounts[event][b.measures[measure]] = units(amount)
    rows = zip(b.attribute_event.tolist(), b.attribute_name.tolist(), b.attribute_text.tolist(), b.attribute_number.tolist(), strict=True)
    for event, name, text, number in rows:
        attributes[event][b.names[name]] = b.texts[text - 1] if text else units(number)
    for i in range(first, len(b.event_id)):
        id, source, path, at = b.event_id[i].tobytes().hex(), b.sources[b.source[i]], b.paths[b.entity[i]], int(b.occurred_at[i])
        data: dict[str, Any] = {"id": id, "workspace": b.workspace, "source": source, "kind": b.kinds[b.kind[i]], "entity": path, "occurred_at": instant(at)}
        if b.as_of[i]:
            data |= {"as_of": instant(int(b.as_of[i])), "interval": [instant(int(b.interval_start[i])), instant(int(b.interval_end[i]))]}
        data |= {"amounts": amounts.get(i, {}), "attributes": attributes.get(i, {})}
        yield Each(b.workspace, id, source, path, at, sequence_of(offset, i), json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())


def units(micros: int) -> int | float:
    return micros // MICRO if micros % MICRO == 0 else micros / MICRO


def instant(micros: int) -> str:
    """RFC 3339, UTC; of what no calendar has, the microseconds."""
    try:
        return datetime.fromtimestamp(micros // MICRO, UTC).replace(microsecond=micros % MICRO).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(micros)


def read(data: bytes) -> Each:
    """As its data say; where it stands is not among them."""
    said = json.loads(data)
    return Each(said["workspace"], said["id"], said["source"], said["entity"], 0, "", data)
