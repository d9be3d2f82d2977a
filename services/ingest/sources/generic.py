"""generic: your own events, in JSON.

Send one event, an array of events, or `{"events": [...]}` to `POST /v1/events` with an API key, or sign them (Standard Webhooks) and send them to
`POST /v1/webhooks/generic`:

    {"id": "o-1", "source": "shop", "entity": "meta_ads/1700/6215/62150/621500", "kind": "purchase", "occurred_at": "2026-03-01T12:00:00Z",
     "amounts": {"conversions:purchase": 1, "revenue:purchase": {"amount": "49.90", "currency": "EUR"}}}

* `id` is yours and unique within the source: the same id counts once, however often it is sent. `source` (default `generic`) names the sending system.
* `entity` is `platform/account[/campaign[/ad_group[/creative]]]` in the platforms' own ids. `occurred_at` is RFC 3339 with its offset.
* `amounts` are added up: impressions, clicks, leads, `conversions:NAME`, and money (spend, `revenue:NAME`) with its currency. Counts are never negative.
* `attributes` replace their last value: status (active, paused ...), daily_budget, name, label, objective.
* A report row has `interval: {start, end}` and `as_of` instead of `occurred_at`; a newer row for the same interval replaces the older one.

CloudEvents 1.0 are read too (structured `application/cloudevents+json`, batch `application/cloudevents-batch+json`, binary `ce-*` headers): the envelope
gives `id`, `source`, `time` and `type`, and `data` holds the rest. `subject` may carry the entity. A `source` that is a URI becomes part of the id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.ingest.core import cloudevent, plain, strict_json, usual
from services.ingest.core.refused import Refused
from services.ingest.core.signature import sign_standard_webhooks, standard_webhooks
from services.ingest.core.source import Delivery, Example, Item
from services.kernel.columns import Rows
from services.kernel.event import Event

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
LINES = ("application/x-ndjson", "application/jsonl")
MEDIA_TYPES = ("application/json", STRUCTURED, BATCH, *LINES)


class Generic:
    name = "generic"

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: int) -> None:
        standard_webhooks(delivery, secrets, now)

    def sign(self, delivery: Delivery, secret: str, now: int) -> tuple[tuple[str, str], ...]:
        return sign_standard_webhooks(delivery, secret, now)

    def rows(self, delivery: Delivery) -> Rows | None:
        found = self.rows_of((delivery,))
        return found[0] if found is not None else None

    def rows_of(self, deliveries: Sequence[Delivery]) -> usual.Read | None:
        first, media = deliveries[0], deliveries[0].media_type
        if media not in ("application/json", BATCH) or first.header("ce-specversion"):
            return None
        if any(d.headers is not first.headers and (d.header("ce-specversion") or d.media_type != media) for d in deliveries):
            return None
        return (usual.events if media == "application/json" else usual.clouds)(deliveries, self.name)

    def events(self, delivery: Delivery) -> Iterator[Item]:
        def make(item: Any, pointer: str) -> Event:
            return plain.event(item, source=self.name, received_at=delivery.received_at, horizon=delivery.horizon, pointer=pointer)

        def from_cloud(item: Any, pointer: str) -> Event:
            try:
                return make(cloudevent.structured(item).plain(), "")
            except Refused as error:
                raise Refused(str(error), reason=error.reason, pointer=pointer + error.pointer) from None

        if delivery.header("ce-specversion"):
            headers = {name: delivery.header(name) for name, _ in delivery.headers}
            return plain.one(None, lambda _, pointer: make(cloudevent.binary(headers, delivery.body).plain(), pointer))
        media = delivery.media_type
        if media in LINES:
            return self._lines(delivery, make)
        given = delivery.json()
        if media == STRUCTURED:
            return plain.one(given, from_cloud)
        if media == BATCH:
            if not isinstance(given, list):
                raise Refused("a batch of CloudEvents is a JSON array", reason="bad_cloudevent")
            return plain.each(given, "", from_cloud)
        if isinstance(given, list):
            return plain.each(given, "", make)
        if isinstance(given, Mapping) and set(given) == {"events"} and isinstance(given["events"], list):
            return plain.each(given["events"], "/events", make)
        return plain.one(given, make)

    def _lines(self, delivery: Delivery, make: Any) -> Iterator[Item]:
        lines = [line for line in delivery.body.splitlines() if line.strip()]
        return plain.each(lines, "", lambda line, pointer: make(strict_json.loads(line), pointer))

    example = Example(
        body=b'[{"id": "o-1", "entity": "meta_ads/1700/6215/62150/621500", "kind": "purchase", "occurred_at": "2026-03-01T11:59:00Z",'
        b' "amounts": {"conversions:purchase": 1, "revenue:purchase": {"amount": "49.90", "currency": "EUR"}}},'
        b' {"id": "o-2", "entity": "meta_ads/1700/6215", "kind": "state", "occurred_at": "2026-03-01T11:59:00+01:00", "attributes": {"status": "paused"}},'
        b' {"id": "o-3", "entity": "meta_ads/1700/6215", "occurred_at": "2026-03-01T11:59:00Z", "amounts": {"clicks": -1}}]',
        events=2,
        rejections=1,
    )


SOURCE = Generic()
