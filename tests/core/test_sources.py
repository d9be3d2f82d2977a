"""Every source, found by scanning, keeps one contract; signatures agree with what vendors published."""

from __future__ import annotations

import base64
import hmac
import json
import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import services.ingest.sources as folder
from services.ingest.core import cloudevent, reading, report, strict_json
from services.ingest.core.refused import Refused
from services.ingest.core.report import Context
from services.ingest.core.signature import matches, standard_webhooks
from services.ingest.core.source import Delivery, Item, Rejection, Reporter, Webhook
from services.ingest.http import time_zone
from services.ingest.sources.hubspot import decoded
from services.kernel import columns
from services.kernel.errors import RejectedInput, Unauthorized
from services.kernel.event import Event
from services.kernel.extension import found

DATA = Path(os.environ.get("TRIMTAB_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
SOURCES = found(folder, "source", "SOURCE")
WEBHOOKS = [name for name, source in SOURCES.items() if isinstance(source, Webhook)]
WALL = 1_772_366_400_000_000
SECRET = "whsec_" + base64.b64encode(b"a test's own secret, 32 bytes ..").decode()
OLD = "whsec_" + base64.b64encode(b"the one before it, also 32 bytes").decode()


def delivered(name: str, body: bytes | None = None, headers: tuple[tuple[str, str], ...] | None = None) -> Delivery:
    example = SOURCES[name].example
    return Delivery(
        name, "acme", example.body if body is None else body, example.headers if headers is None else headers, example.received_at, url="https://t.example/hook"
    )


def items(delivery: Delivery) -> list[Item]:
    source = SOURCES[delivery.source]
    if isinstance(source, Webhook):
        return list(source.events(delivery))
    return list(reading.events(delivery, source.name, source.shapes, Context(delivery.received_at, zones=time_zone)))


def signed(name: str, secret: str = SECRET, now: int = WALL, body: bytes | None = None) -> Delivery:
    delivery = delivered(name, body)
    return replace(delivery, headers=delivery.headers + SOURCES[name].sign(delivery, secret, now))


# -- the contract -----------------------------------------------------------------------------------------------------------------------------------------


def test_the_sources_that_people_expect_are_there() -> None:
    assert set(SOURCES) >= {"generic", "sandbox", "hubspot", "web", "google_ads", "meta_ads"}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_documented_and_named_as_its_file(name: str) -> None:
    module = type(SOURCES[name]).__module__
    documentation = import_module(module).__doc__ or ""
    assert module.endswith("." + name)
    assert documentation.startswith(f"{name}: ")
    assert isinstance(SOURCES[name], Webhook | Reporter)


@pytest.mark.parametrize("name", SOURCES)
def test_the_example_becomes_the_events_and_rejections_it_says(name: str) -> None:
    made = items(delivered(name))
    events = [i for i in made if isinstance(i, Event)]
    rejections = [i for i in made if isinstance(i, Rejection)]
    assert (len(events), len(rejections)) == (SOURCES[name].example.events, SOURCES[name].example.rejections)
    assert all(r.reason and r.detail and r.pointer.startswith("/") for r in rejections)
    assert len(columns.batch("acme", events).event_id) == len(events)


@pytest.mark.parametrize("name", SOURCES)
def test_a_delivery_sent_again_has_the_same_ids(name: str) -> None:
    assert items(delivered(name)) == items(delivered(name))
    keys = [i.key for i in items(delivered(name)) if isinstance(i, Event)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", SOURCES)
@given(data=st.data())
def test_any_body_is_read_or_refused_and_never_breaks_a_source(name: str, data: st.DataObject) -> None:
    body = SOURCES[name].example.body
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 12)))
    piece = data.draw(st.binary(max_size=6) | st.sampled_from([b"null", b"-1", b"1e999", b'"N/A"', b"[]", b"{}", b'"\\ud800"', b'"\\u0000"', b"true", b'""']))
    try:
        items(delivered(name, body[:start] + piece + body[end:]))
    except RejectedInput as refused:
        assert refused.reason


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 1.5, "", " ", "\u0000", "\ud800", "x" * 2000),
    *([], [[]], {}, {"amount": 1}, [1], ["a"], {"a": {}}, "2026-03-01", "NaN", "%"),
)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("odd", range(len(ODD)), ids=lambda i: repr(ODD[i])[:20])
def test_any_value_in_any_place_is_an_event_a_rejection_or_refused(name: str, odd: int) -> None:
    tried = 0

    def visit(tree: Any, node: Any) -> None:
        nonlocal tried
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()):
            node[key] = ODD[odd]
            try:
                items(delivered(name, json.dumps(tree, default=str).encode()))
            except RejectedInput as refused:
                assert refused.reason
            node[key] = value
            tried += 1
            visit(tree, value)

    tree = strict_json.loads(SOURCES[name].example.body)
    visit(tree, tree)
    assert tried > 10


# -- signatures -------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEBHOOKS)
def test_every_active_secret_opens_and_a_revoked_one_does_not(name: str) -> None:
    source = SOURCES[name]
    source.verify(signed(name), [SECRET], WALL)
    source.verify(signed(name, OLD), [SECRET, OLD], WALL)
    with pytest.raises(Unauthorized) as refused:
        source.verify(signed(name, OLD), [SECRET], WALL)
    assert refused.value.reason == "wrong_signature"


@pytest.mark.parametrize("name", WEBHOOKS)
@pytest.mark.parametrize("apart", [-299, 299])
def test_a_signature_of_five_minutes_ago_or_ahead_is_fresh(name: str, apart: int) -> None:
    SOURCES[name].verify(signed(name, now=WALL + apart * 1_000_000), [SECRET], WALL)


@pytest.mark.parametrize("name", WEBHOOKS)
@pytest.mark.parametrize("apart", [-302, 302, -86_400, 86_400])
def test_a_signature_further_away_on_either_side_is_stale(name: str, apart: int) -> None:
    with pytest.raises(Unauthorized) as refused:
        SOURCES[name].verify(signed(name, now=WALL + apart * 1_000_000), [SECRET], WALL)
    assert refused.value.reason == "stale_signature"


@pytest.mark.parametrize("name", WEBHOOKS)
def test_an_unsigned_delivery_is_refused_as_unsigned(name: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        SOURCES[name].verify(delivered(name), [SECRET], WALL)
    assert refused.value.reason == "missing_signature"


@pytest.mark.parametrize("name", WEBHOOKS)
@pytest.mark.parametrize("secrets", [[], [""], ["  "], ["\t"]])
def test_no_secret_and_an_empty_one_open_nothing(name: str, secrets: list[str]) -> None:
    with pytest.raises(Unauthorized):
        SOURCES[name].verify(signed(name), secrets, WALL)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_!!!", "whsec_ =="])
def test_a_secret_without_a_key_in_it_signs_nothing(secret: str) -> None:
    empty = base64.b64encode(hmac.digest(b"", b"m.1772366400." + SOURCES["web"].example.body, "sha256")).decode()
    headers = (("webhook-id", "m"), ("webhook-timestamp", "1772366400"), ("webhook-signature", f"v1,{empty}"))
    with pytest.raises(Unauthorized):
        standard_webhooks(delivered("web", headers=headers), [secret], WALL)


@pytest.mark.parametrize("name", WEBHOOKS)
@given(data=st.data())
def test_no_changed_byte_is_accepted(name: str, data: st.DataObject) -> None:
    good = signed(name)
    body = bytearray(good.body)
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Unauthorized):
        SOURCES[name].verify(replace(good, body=bytes(body)), [SECRET], WALL)


@pytest.mark.parametrize("name", WEBHOOKS)
@given(data=st.data())
def test_no_changed_header_is_accepted_and_none_breaks_the_check(name: str, data: st.DataObject) -> None:
    good = signed(name)
    added = [i for i, h in enumerate(good.headers) if h not in delivered(name).headers]
    i = data.draw(st.sampled_from(added))
    header, value = good.headers[i]
    other = data.draw(st.text(alphabet=st.characters(max_codepoint=255), max_size=40).filter(lambda v: v != value))
    headers = tuple((n, other) if j == i else (n, v) for j, (n, v) in enumerate(good.headers))
    assert header
    with pytest.raises(Unauthorized):
        SOURCES[name].verify(replace(good, headers=headers), [SECRET], WALL)


@pytest.mark.parametrize("name", WEBHOOKS)
def test_reformatted_json_is_not_what_was_signed(name: str) -> None:
    good = signed(name)
    with pytest.raises(Unauthorized):
        SOURCES[name].verify(replace(good, body=json.dumps(json.loads(good.body), indent=1).encode()), [SECRET], WALL)


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_signature_header_sent_twice_with_two_values_is_refused(name: str) -> None:
    good = signed(name)
    header, value = good.headers[-1]
    with pytest.raises(Unauthorized) as refused:
        SOURCES[name].verify(replace(good, headers=(*good.headers, (header, value + "x"))), [SECRET], WALL)
    assert refused.value.reason == "ambiguous_header"


class Watched(str):
    """A text that tells who compares it letter by letter."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared with ==, which takes longer the more of it is right")


def test_signatures_are_compared_in_constant_time() -> None:
    matches(["wrong", "right"], [Watched("right")])
    with pytest.raises(Unauthorized):
        matches(["right"], [Watched("wrong"), Watched("")])


def test_a_search_among_many_signatures_is_cut_short() -> None:
    good = signed("web")
    value = dict(good.headers)["webhook-signature"]
    wrong = "v1," + base64.b64encode(bytes(32)).decode()
    rest = tuple(h for h in good.headers if h[0] != "webhook-signature")
    standard_webhooks(replace(good, headers=(*rest, ("webhook-signature", f"{wrong} {value}"))), [SECRET], WALL)
    with pytest.raises(Unauthorized):
        standard_webhooks(replace(good, headers=(*rest, ("webhook-signature", " ".join([wrong] * 5 + [value])))), [SECRET], WALL)


def vectors(scheme: str) -> list[Any]:
    path = DATA / "webhook_signature_vectors" / "vectors.json"
    if not path.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{path} is not there"))]
    return [pytest.param(v, id=v["id"]) for v in json.loads(path.read_text()) if v["scheme"] == scheme]


def as_delivery(vector: dict[str, Any], **changes: Any) -> Delivery:
    headers = tuple((n.lower(), v) for n, v in vector["headers"].items())
    made = Delivery("x", "acme", vector["body"].encode(), headers, 0, vector.get("method", "POST"), vector.get("url", ""))
    return replace(made, **changes)


@pytest.mark.parametrize("vector", vectors("standard_webhooks_v1"))
def test_published_standard_webhooks_are_accepted_and_only_for_their_bytes(vector: dict[str, Any]) -> None:
    now = vector["now"] * 1_000_000
    standard_webhooks(as_delivery(vector), [vector["secret"]], now)
    with pytest.raises(Unauthorized):
        standard_webhooks(replace(as_delivery(vector), body=vector["body"].encode() + b" "), [vector["secret"]], now)
    with pytest.raises(Unauthorized):
        standard_webhooks(as_delivery(vector), [vector["secret"]], now + 301_000_000)


@pytest.mark.parametrize("vector", vectors("hubspot_v3"))
def test_published_hubspot_deliveries_are_accepted_and_only_for_their_method_and_address(vector: dict[str, Any]) -> None:
    verify, now = SOURCES["hubspot"].verify, vector["now_ms"] * 1000
    verify(as_delivery(vector), [vector["secret"]], now)
    for changes in ({"method": "GET"}, {"url": vector["url"] + "/"}, {"url": vector["url"].replace("www", "ww2")}):
        with pytest.raises(Unauthorized):
            verify(as_delivery(vector, **changes), [vector["secret"]], now)
    for late in (now + 301_000_000, now - 302_000_000):
        with pytest.raises(Unauthorized):
            verify(as_delivery(vector), [vector["secret"]], late)


def test_hubspots_address_undoes_only_its_own_escapes() -> None:
    assert decoded("https://a.example/x%3Fy%3a%20%2B%26%2f") == "https://a.example/x?y:%20%2B%26/"


# -- HubSpot and the web ----------------------------------------------------------------------------------------------------------------------------------


def test_a_contact_created_and_promoted_is_one_lead() -> None:
    base = {"portalId": 1, "objectId": 7, "occurredAt": 1_772_366_000_000, "properties": {"entity": "google_ads/2121/344"}}
    messages = [
        base | {"eventId": 1, "subscriptionType": "contact.creation"},
        base | {"eventId": 1, "subscriptionType": "contact.propertyChange", "propertyName": "lifecyclestage", "propertyValue": "lead"},
        base | {"eventId": 2, "subscriptionType": "contact.propertyChange", "propertyName": "email", "propertyValue": "a@b.example"},
    ]
    made = items(delivered("hubspot", json.dumps(messages).encode()))
    assert [i.id for i in made if isinstance(i, Event)] == ["1:lead:7", "1:lead:7"]


def test_hubspots_published_payloads_belong_to_no_entity_and_say_so() -> None:
    folder = DATA / "vendor_doc_payload_samples"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    for path in sorted(folder.glob("hubspot_*.json")):
        body = json.dumps(json.loads(path.read_text())["body"]).encode()
        assert [i.reason for i in items(delivered("hubspot", body)) if isinstance(i, Rejection)] == ["no_entity"]


def test_an_order_sent_under_two_message_ids_is_one_order() -> None:
    order = {"type": "track", "event": "Order Completed", "timestamp": "2026-03-01T11:00:00Z", "properties": {"order_id": 9, "entity": "meta_ads/1/2"}}
    made = items(delivered("web", json.dumps([order | {"messageId": "a"}, order | {"messageId": "b"}]).encode()))
    assert [i.id for i in made if isinstance(i, Event)] == ["order:9", "order:9"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"properties": {"revenue": "5", "entity": "meta_ads/1"}}, "unknown_currency"),
        ({"properties": {"revenue": "5 EUR", "currency": "EUR", "entity": "meta_ads/1"}}, "not_a_number"),
        ({"timestamp": "yesterday"}, "bad_time"),
        ({"timestamp": "2026-03-01T14:00:00Z"}, "far_future"),
        ({"messageId": None}, "missing_id"),
        ({"type": "tracked"}, "bad_kind"),
    ],
)
def test_a_message_that_cannot_be_counted_says_why(changes: dict[str, Any], reason: str) -> None:
    order = {"messageId": "m", "type": "track", "event": "Purchase", "timestamp": "2026-03-01T11:00:00Z", "properties": {"entity": "meta_ads/1"}}
    (made,) = items(delivered("web", json.dumps(order | changes).encode()))
    assert isinstance(made, Rejection)
    assert made.reason == reason


def test_messages_of_customer_data_platforms_are_read_passed_over_or_say_why_not() -> None:
    path = DATA / "segment_spec_events" / "events.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    outcomes: dict[str, int] = {}
    for line in path.read_bytes().splitlines():
        message = json.loads(line)["message"]
        made = items(delivered("web", json.dumps(message).encode()))
        outcome = "passed over" if not made else made[0].reason if isinstance(made[0], Rejection) else "event"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["passed over"] > 50
    assert set(outcomes) - {"passed over", "event"}, "messages that name no ad are rejected with a reason"


# -- CloudEvents ------------------------------------------------------------------------------------------------------------------------------------------


def conformance(name: str, member: str) -> list[Any]:
    path = DATA / "cloudevents_conformance" / name
    if not path.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{path} is not there"))]
    return [pytest.param(t[member], id=t["id"]) for t in json.loads(path.read_text("utf-8-sig"))["tests"]]


@pytest.mark.parametrize("event", conformance("valid-events.json", "event"))
def test_valid_cloudevents_are_read(event: dict[str, Any]) -> None:
    made = cloudevent.structured(strict_json.loads(json.dumps(event).encode()))
    assert (made.id, made.source, made.type) == (event["id"], event["source"], event["type"])


@pytest.mark.parametrize("event", conformance("invalid-events.json", "event"))
def test_invalid_cloudevents_are_refused_with_their_place(event: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        cloudevent.structured(strict_json.loads(json.dumps(event).encode()))
    assert refused.value.pointer.startswith("/")


@pytest.mark.parametrize("batch", conformance("valid-batches.json", "batch") + conformance("invalid-batches.json", "batch"))
def test_every_event_of_a_batch_is_answered_for(batch: list[Any]) -> None:
    headers = (("content-type", "application/cloudevents-batch+json"),)
    made = items(delivered("generic", json.dumps(batch).encode(), headers))
    assert len(made) == len(batch)
    assert all(isinstance(i, Rejection) and i.pointer.startswith(f"/{n}") for n, i in enumerate(made))  # none of them names an entity of ours


@pytest.mark.parametrize("media", ["application/json", "application/json; charset=utf-8"])
def test_a_binary_cloudevent_has_its_envelope_in_headers(media: str) -> None:
    headers = (
        ("ce-specversion", "1.0"), ("ce-type", "com.example.someevent"), ("ce-time", "2018-04-05T03:56:24Z"), ("ce-id", "1234-1234-1234"),
        ("ce-source", "/mycontext/subcontext"), ("content-type", media),
    )  # fmt: skip
    made = cloudevent.binary(dict(headers), b'{"message": "Hello World!"}')
    assert (made.id, made.source, made.time, made.data) == ("1234-1234-1234", "/mycontext/subcontext", "2018-04-05T03:56:24Z", {"message": "Hello World!"})
    (item,) = items(delivered("generic", b'{"entity": "web/shop", "amounts": {"clicks": 1}}', headers))
    assert isinstance(item, Event)
    assert (item.kind, item.path) == ("com.example.someevent", "web/shop")


# -- reports ----------------------------------------------------------------------------------------------------------------------------------------------


def test_millionths_and_units_are_the_same_money() -> None:
    shapes = {s.name: s for s in (*SOURCES["google_ads"].shapes, *SOURCES["meta_ads"].shapes)}
    google = {"customer_id": "1", "id": "2", "date": "2026-02-28", "impressions": "10", "clicks": "1", "cost_micros": "20836690", "base_campaign": "x"}
    meta = {"account_id": "1", "campaign_id": "2", "adset_id": "3", "ad_id": "4", "date_start": "2026-02-28", "impressions": "10", "spend": "20.83669"}
    context = Context(WALL, currency="EUR")
    a = report.event(google, shapes["google_ads campaign stats"], context)
    b = report.event(meta, shapes["meta_ads creative insights"], context)
    assert a.amounts["spend@EUR"] == b.amounts["spend@EUR"] == 20_836_690


@pytest.mark.parametrize("value", ["N/A", "--", "", "80.00%", "1,23,4"])
def test_a_figure_that_is_not_there_refuses_the_row_and_is_never_0(value: str) -> None:
    shape = next(s for s in SOURCES["meta_ads"].shapes if s.name == "meta_ads ad report")
    row = {"account_id": "1", "ad_id": "4", "date": "2026-02-28", "impressions": value, "spend": "1"}
    context = Context(WALL, currency="EUR", parents={("meta_ads", "creative", "4"): "3", ("meta_ads", "ad_group", "3"): "2"})
    with pytest.raises(Refused) as refused:
        report.event(row, shape, context)
    assert refused.value.pointer == "/impressions"


def test_money_without_a_currency_is_refused() -> None:
    body = b'[{"account_id": "1", "date_start": "2026-02-28", "impressions": 5, "spend": 1}]'
    (made,) = items(delivered("meta_ads", body))
    assert isinstance(made, Rejection)
    assert (made.reason, made.pointer) == ("unknown_currency", "/0/spend")


def test_a_days_interval_is_the_accounts_day() -> None:
    body = b'{"currency": "EUR", "time_zone": "Europe/Berlin", "rows": [{"account_id": "1", "date_start": "2026-02-28", "impressions": 5, "spend": 1}]}'
    (made,) = items(delivered("meta_ads", body))
    assert isinstance(made, Event)
    assert made.snapshot is not None
    assert made.snapshot.interval_start == WALL - 37 * 3_600_000_000  # midnight in Berlin is 23:00 UTC the day before


def test_a_csv_is_a_report_too() -> None:
    delivery = delivered("meta_ads", b"account_id,date_start,impressions,account_currency,spend\n1,2026-02-28,5,EUR,1.5\n", (("content-type", "text/csv"),))
    (made,) = items(delivery)
    assert isinstance(made, Event)
    assert made.amounts == {"impressions": 5_000_000, "spend@EUR": 1_500_000}
