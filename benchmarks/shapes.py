"""What the bare endpoint parses each delivery into: the structures that one would write for these bodies."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Money(msgspec.Struct):
    amount: str
    currency: str


Amounts = dict[str, int | Money]


class Event(msgspec.Struct):
    id: str
    entity: str
    kind: str
    occurred_at: datetime
    amounts: Amounts


class Data(msgspec.Struct):
    amounts: Amounts


class CloudEvent(msgspec.Struct):
    specversion: str
    id: str
    source: str
    type: str
    time: datetime
    subject: str
    data: Data


class Interval(msgspec.Struct):
    start: datetime
    end: datetime


class Row(msgspec.Struct):
    entity: str
    interval: Interval
    as_of: datetime
    amounts: Amounts


class Entity(msgspec.Struct):
    account: str
    campaign: str
    ad_group: str
    creative: str


class SandboxRow(msgspec.Struct):
    id: str
    entity: Entity
    occurred_at: datetime
    interval: Interval
    as_of: datetime
    currency: str
    impressions: int
    clicks: int
    spend: str
    conversions: dict[str, dict[str, int]]
    revenue: dict[str, dict[str, str]]


class Sandbox(msgspec.Struct):
    type: str
    account: str
    rows: list[SandboxRow]


BATCHES: dict[str, object] = {
    "generic": list[Event], "single": Event, "cloudevents": list[CloudEvent], "report": list[Row], "sandbox": Sandbox,
}  # fmt: skip
