"""hubspot: leads and deals from HubSpot's webhooks (signature v3), to `POST /v1/webhooks/hubspot`.

The secret is the app's client secret; give two while rotating. HubSpot signs method, address, body and time stamp, so Trimtab must know the address it
is called by: set the public address where a proxy stands in between.

| subscription | becomes |
|---|---|
| contact.creation, object.creation of contacts | `leads` 1 (each contact counts once) |
| contact.propertyChange of lifecyclestage to lead, marketingqualifiedlead or salesqualifiedlead | `leads` 1, once a contact |
| deal.propertyChange of dealstage to closedwon | `conversions:deal` 1 and, where `amount` and `deal_currency_code` are sent along, `revenue:deal@CURRENCY` |

Others are passed over. A plain subscription tells only the object's id: Trimtab cannot know which ad won it, and keeps the message in quarantine as
`no_entity`. Send the missing properties along (a workflow's webhook action, or `properties` beside each message): `entity` (a path), or `utm_source`,
`account_id`, `utm_campaign`, `utm_term`, `utm_content` with the ad platform's ids, and `amount` with `deal_currency_code` for deals.
HubSpot numbers its messages by eventId, which is not unique; a lead is known by its contact, a deal by its id.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.ingest.core import normalize, plain, signature
from services.ingest.core.instant import epoch
from services.ingest.core.place import place
from services.ingest.core.refused import Refused, at, step
from services.ingest.core.report import amount_of
from services.ingest.core.source import Delivery, Example, Item
from services.kernel.errors import Unauthorized
from services.kernel.event import Event
from services.kernel.measure import MICRO, currency

LEAD_STAGES = frozenset({"lead", "marketingqualifiedlead", "salesqualifiedlead"})
MOST = 100  # messages of one delivery
DECODED = {"%3A": ":", "%2F": "/", "%3F": "?", "%40": "@", "%21": "!", "%24": "$", "%27": "'", "%28": "(", "%29": ")", "%2A": "*", "%2C": ",", "%3B": ";"}
_ENCODED = re.compile("|".join(DECODED), re.IGNORECASE)


class HubSpot:
    name = "hubspot"

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: int) -> None:
        given, stamp = delivery.header("x-hubspot-signature-v3"), delivery.header("x-hubspot-request-timestamp")
        if not (given and stamp):
            raise Unauthorized("X-HubSpot-Signature-v3 and X-HubSpot-Request-Timestamp are needed", reason="missing_signature")
        signature.fresh(signature.whole(stamp) * 1000, now)
        signature.matches((_signed(delivery, key, stamp) for key in signature.plain_keys(secrets)), [given])

    def sign(self, delivery: Delivery, secret: str, now: int) -> tuple[tuple[str, str], ...]:
        stamp = str(now // 1000)
        return (("x-hubspot-signature-v3", _signed(delivery, secret.encode(), stamp)), ("x-hubspot-request-timestamp", stamp))

    def events(self, delivery: Delivery) -> Iterator[Item]:
        given = delivery.json()
        messages = given if isinstance(given, list) else [given]
        if len(messages) > MOST:
            raise Refused(f"HubSpot sends at most {MOST} messages at once; these are {len(messages):,}", reason="too_large", status=413)
        return plain.each(messages, "", lambda message, pointer: _event(message, delivery, pointer))

    example = Example(
        body=b'[{"eventId": 1, "subscriptionId": 12345, "portalId": 62515, "occurredAt": 1772366300000, "subscriptionType": "contact.creation",'
        b' "attemptNumber": 0, "objectId": 123, "changeSource": "CRM", "changeFlag": "NEW", "appId": 54321,'
        b' "properties": {"utm_source": "google", "account_id": "2121", "utm_campaign": "344106493"}},'
        b' {"eventId": 2, "subscriptionId": 12346, "portalId": 62515, "occurredAt": 1772366301000, "subscriptionType": "deal.propertyChange",'
        b' "propertyName": "dealstage", "propertyValue": "closedwon", "objectId": 9,'
        b' "properties": {"entity": "google_ads/2121/344106493", "amount": "1200.00", "deal_currency_code": "EUR"}},'
        b' {"eventId": 3, "subscriptionId": 12345, "portalId": 62515, "occurredAt": 1772366302000, "subscriptionType": "contact.creation", "objectId": 124},'
        b' {"eventId": 4, "subscriptionId": 1, "portalId": 62515, "occurredAt": 1772366302000, "subscriptionType": "contact.deletion", "objectId": 124}]',
        events=2,
        rejections=1,
    )


def decoded(url: str) -> str:
    """The address as HubSpot signs it: only these twelve escapes are undone."""
    return _ENCODED.sub(lambda m: DECODED[m.group(0).upper()], url)


def _signed(delivery: Delivery, key: bytes, stamp: str) -> str:
    signed = f"{delivery.method}{decoded(delivery.url)}".encode() + delivery.body + stamp.encode()
    return base64.b64encode(signature.mac(key, signed)).decode()


def _event(message: Any, delivery: Delivery, pointer: str) -> Event | None:
    if not isinstance(message, Mapping) or not isinstance(message.get("subscriptionType"), str):
        raise Refused("a message is an object with a subscriptionType", reason="bad_shape", pointer=pointer)
    kind = _kind(message)
    if kind is None:
        return None
    with at(pointer, "objectId"):
        about = normalize.native_id(message.get("objectId"), "objectId")
    with at(pointer, "portalId"):
        portal = normalize.native_id(message.get("portalId"), "portalId")
    with at(pointer, "occurredAt"):
        occurred_at = normalize.not_ahead(epoch(message.get("occurredAt"), 1000), delivery.horizon)
    properties = message.get("properties") or {}
    if not isinstance(properties, Mapping):
        raise Refused("properties must be an object", reason="bad_shape", pointer=step(pointer, "properties"))
    with at(pointer, "properties"):
        path = place(properties)
    amounts = {"leads": MICRO} if kind == "lead" else {"conversions:deal": MICRO} | _revenue(properties, step(pointer, "properties"))
    with at(pointer):
        return normalize.checked(Event(f"{portal}:{kind}:{about}", HubSpot.name, path, kind, occurred_at, amounts), delivery.horizon)


def _kind(message: Mapping[str, Any]) -> str | None:
    name, value = message.get("propertyName"), str(message.get("propertyValue") or "").lower()
    match message["subscriptionType"]:
        case "contact.creation":
            return "lead"
        case "object.creation" if message.get("objectTypeId") == "0-1":
            return "lead"
        case "contact.propertyChange" if name == "lifecyclestage" and value in LEAD_STAGES:
            return "lead"
        case "deal.propertyChange" if name == "dealstage" and value == "closedwon":
            return "deal"
    return None


def _revenue(properties: Mapping[str, Any], pointer: str) -> dict[str, int]:
    if properties.get("amount") in (None, ""):
        return {}
    with at(pointer, "deal_currency_code"):
        code = currency(properties.get("deal_currency_code"))
    with at(pointer, "amount"):
        measure, micros = amount_of("revenue:deal", properties["amount"], "units", code)
        return {measure: micros}


SOURCE = HubSpot()
