"""What the bare endpoint parses each delivery into: the structures that one would write for these bodies."""

from __future__ import annotations

from datetime import date, datetime

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


class Campaign(msgspec.Struct):
    source: str
    account_id: str
    name: str
    term: str
    content: str


class Context(msgspec.Struct):
    campaign: Campaign


class Message(msgspec.Struct):
    messageId: str
    type: str
    timestamp: datetime
    context: Context
    event: str = ""
    properties: dict[str, str] = {}


class Web(msgspec.Struct):
    batch: list[Message]


class HubSpot(msgspec.Struct):
    eventId: int
    portalId: int
    occurredAt: int
    subscriptionType: str
    objectId: int
    properties: dict[str, str]
    propertyName: str = ""
    propertyValue: str = ""


class Insight(msgspec.Struct):
    account_id: str
    campaign_id: str
    adset_id: str
    ad_id: str
    account_currency: str
    date_start: date
    date_stop: date
    impressions: str
    inline_link_clicks: str
    spend: str
    actions: list[dict[str, str]]
    action_values: list[dict[str, str]]


class Meta(msgspec.Struct):
    data: list[Insight]


class Customer(msgspec.Struct):
    id: str
    currencyCode: str
    timeZone: str


class Named(msgspec.Struct):
    id: str


class Ad(msgspec.Struct):
    ad: Named
    status: str


class Segments(msgspec.Struct):
    date: date


class Metrics(msgspec.Struct):
    impressions: str
    clicks: str
    costMicros: str
    conversions: float
    conversionsValue: float


class GoogleRow(msgspec.Struct):
    customer: Customer
    campaign: Named
    adGroup: Named
    adGroupAd: Ad
    segments: Segments
    metrics: Metrics


class Google(msgspec.Struct):
    results: list[GoogleRow]


BATCHES: dict[str, object] = {
    "generic": list[Event], "single": Event, "cloudevents": list[CloudEvent], "report": list[Row], "sandbox": Sandbox, "web": Web, "hubspot": list[HubSpot],
    "meta_ads": Meta, "google_ads": Google,
}  # fmt: skip


def count(read: object) -> int:
    """How many events a parsed body holds."""
    for name in ("rows", "batch", "data", "results"):
        if isinstance(inside := getattr(read, name, None), list):
            return len(inside)
    return len(read) if isinstance(read, list) else 1
