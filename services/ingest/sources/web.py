"""web: what people do on your site: page views, submitted forms, purchases.

Signed (Standard Webhooks) to `POST /v1/webhooks/web`; one message or `{"batch": [...]}`, in the shape that tag managers and customer data platforms know:

    {"messageId": "m-1", "type": "track", "event": "Order Completed", "timestamp": "2026-03-01T12:00:00Z",
     "properties": {"order_id": "1001", "revenue": "49.90", "currency": "EUR"},
     "context": {"page": {"url": "https://shop.example/thanks"}, "campaign": {"source": "facebook", "name": "6215", "content": "621500"}}}

| message | becomes |
|---|---|
| `type: page` | `page_views` 1 |
| event Form Submitted, Lead, Signed Up, Lead Generated | `leads` 1 |
| event Order Completed, Purchase | `conversions:purchase` 1 and, where `revenue` (or `total`) and `currency` are given, `revenue:purchase@CURRENCY` |

Other messages (identify, group, alias, screen, other events) say nothing that is counted here and are passed over.

**Where it belongs:** `properties.entity` (a path), or the ad's ids: UTM parameters in `context.campaign` (source, account_id, name or id, term, content),
in `properties`, or in the query of `context.page.url`. utm_campaign, utm_term and utm_content must carry the platform's ids, not names. A message
without them is kept in quarantine as `no_entity`.
An order repeated under another messageId counts once: its identity is `properties.order_id` where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from services.ingest.core import normalize, plain
from services.ingest.core.instant import rfc3339
from services.ingest.core.place import place
from services.ingest.core.refused import Refused, at, step
from services.ingest.core.report import amount_of
from services.ingest.core.signature import sign_standard_webhooks, standard_webhooks
from services.ingest.core.source import Delivery, Example, Item
from services.kernel.event import Event
from services.kernel.measure import MICRO, currency

LEADS = frozenset({"form submitted", "form submit", "form_submitted", "lead", "lead generated", "generate_lead", "signed up", "sign_up"})
PURCHASES = frozenset({"order completed", "order_completed", "purchase", "purchased"})


class Web:
    name = "web"

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: int) -> None:
        standard_webhooks(delivery, secrets, now)

    def sign(self, delivery: Delivery, secret: str, now: int) -> tuple[tuple[str, str], ...]:
        return sign_standard_webhooks(delivery, secret, now)

    def events(self, delivery: Delivery) -> Iterator[Item]:
        given = delivery.json()

        def make(message: Any, pointer: str) -> Event | None:
            return _event(message, delivery, pointer)

        if isinstance(given, list):
            return plain.each(given, "", make)
        if isinstance(given, Mapping) and isinstance(given.get("batch"), list):
            return plain.each(given["batch"], "/batch", make)
        return plain.one(given, make)

    example = Example(
        body=b'{"batch": [{"messageId": "m-1", "type": "track", "event": "Order Completed", "timestamp": "2026-03-01T11:58:00.000Z",'
        b' "properties": {"order_id": "1001", "revenue": "49.90", "currency": "EUR"},'
        b' "context": {"campaign": {"source": "facebook", "account_id": "1700", "name": "6215", "term": "62150", "content": "621500"}}},'
        b' {"messageId": "m-2", "type": "page", "timestamp": "2026-03-01T11:57:00Z",'
        b' "context": {"page": {"url": "https://shop.example/?utm_source=google&account_id=2121&utm_campaign=344106493"}}},'
        b' {"messageId": "m-3", "type": "track", "event": "Form Submitted", "timestamp": "2026-03-01T11:57:30Z", "properties": {}},'
        b' {"messageId": "m-4", "type": "identify", "timestamp": "2026-03-01T11:57:30Z", "traits": {}}]}',
        events=2,
        rejections=1,
    )


def _event(message: Any, delivery: Delivery, pointer: str) -> Event | None:
    if not isinstance(message, Mapping):
        raise Refused("a message is an object", reason="bad_shape", pointer=pointer)
    what = str(message.get("event") or "").strip().lower()
    kind = _kind(message.get("type"), what, pointer)
    if kind is None:
        return None
    properties = _object(message, "properties", pointer)
    with at(pointer, "timestamp"):
        occurred_at = normalize.not_ahead(rfc3339(message.get("timestamp")), delivery.horizon)
    with at(pointer, "messageId"):
        ident = normalize.native_id(message.get("messageId") or message.get("id"), "messageId")
    with at(pointer, "context"):
        path = place(_signs(message, properties, pointer))
    amounts = {"page_views": MICRO} if kind == "page_view" else {"leads": MICRO} if kind == "lead" else {"conversions:purchase": MICRO}
    if kind == "purchase":
        if properties.get("order_id") not in (None, ""):
            with at(pointer, "properties", "order_id"):
                ident = "order:" + normalize.native_id(properties["order_id"], "order_id")
        amounts |= _revenue(properties, step(pointer, "properties"))
    with at(pointer):
        return normalize.checked(Event(ident, Web.name, path, kind, occurred_at, amounts), delivery.horizon)


def _kind(of: Any, event: str, pointer: str) -> str | None:
    if of == "page":
        return "page_view"
    if of in ("identify", "group", "alias", "screen"):
        return None
    if of != "track":
        raise Refused(f"type {str(of)[:40]!r} is none of track, page, screen, identify, group, alias", reason="bad_kind", pointer=step(pointer, "type"))
    if not event:
        raise Refused("a track message names its event", reason="bad_kind", pointer=step(pointer, "event"))
    return "lead" if event in LEADS else "purchase" if event in PURCHASES else None


def _revenue(properties: Mapping[str, Any], pointer: str) -> dict[str, int]:
    name = next((n for n in ("revenue", "total", "value") if properties.get(n) not in (None, "")), None)
    if name is None:
        return {}
    with at(pointer, "currency"):
        code = currency(properties.get("currency"))
    with at(pointer, name):
        measure, micros = amount_of("revenue:purchase", properties[name], "units", code)
        return {measure: micros}


def _object(of: Mapping[str, Any], name: str, pointer: str) -> Mapping[str, Any]:
    value = of.get(name) or {}
    if not isinstance(value, Mapping):
        raise Refused(f"{name} must be an object", reason="bad_shape", pointer=step(pointer, name))
    return value


def _signs(message: Mapping[str, Any], properties: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    """All that may say which ad brought this visit; what is said nearer to the event wins."""
    context = _object(message, "context", pointer)
    campaign, page = _object(context, "campaign", pointer), _object(context, "page", pointer)
    url = page.get("url") or properties.get("url") or ""
    signs: dict[str, Any] = {}
    if isinstance(url, str) and "?" in url:
        try:
            signs |= dict(parse_qsl(urlsplit(url).query))
        except ValueError as error:
            raise Refused(f"the page's address cannot be read: {error}", reason="bad_shape") from None
    names = {"source": "utm_source", "name": "utm_campaign", "id": "campaign_id", "term": "utm_term", "content": "utm_content"}
    signs |= {names.get(n, n): v for n, v in campaign.items() if isinstance(v, str | int)}
    return signs | {n: v for n, v in properties.items() if n in ("entity", "platform") or n.startswith("utm_") or (n.endswith("_id") and n != "order_id")}


SOURCE = Web()
