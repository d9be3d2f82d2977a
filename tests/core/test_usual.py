"""The usual delivery read by columns says what the careful reading says of it, and leaves to the careful reading what is unusual about any other."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.adapters.codec.columns import same
from services.ingest.core import reading, usual
from services.ingest.core.instant import rfc3339
from services.ingest.core.refused import Refused
from services.ingest.core.report import Context
from services.ingest.core.source import Delivery, Rejection
from services.ingest.intake import without_twins
from services.ingest.sources import generic, sandbox
from services.ingest.sources.generic import BATCH
from services.kernel.columns import Rows, batch, join, reported
from services.kernel.entity import level_of
from services.kernel.errors import RejectedInput
from services.kernel.event import Event

NOON = 1_772_366_400_000_000  # 2026-03-01T12:00:00Z
AD = "meta_ads/1700/6215/62150/621500"
PLAIN = "application/json"
SOURCES: dict[str, Any] = {"generic": generic.SOURCE, "sandbox": sandbox.SOURCE}


def delivery(body: bytes, media: str = PLAIN, source: str = "generic") -> Delivery:
    return Delivery(source, "acme", body, (("content-type", media),), NOON)


def carefully(d: Delivery, route: str = "events") -> tuple[list[Event], list[Rejection]]:
    try:
        items = list(SOURCES[d.source].events(d) if route == "events" else reading.events(d, "generic", (), Context(d.received_at)))
    except Refused as error:
        return [], [Rejection(error.reason, str(error), error.pointer)]
    events, twins = without_twins([i for i in items if isinstance(i, Event)])
    return events, [*(i for i in items if isinstance(i, Rejection)), *twins]


def by_columns(d: Delivery, route: str = "events") -> Any:
    if route == "events":
        return SOURCES[d.source].rows(d)
    found = usual.reports((d,), "generic")
    return found[0] if found is not None else None


def agree(d: Delivery, route: str = "events") -> bool:
    """Whether the delivery is a usual one; fails where the two readings differ."""
    rows = by_columns(d, route)
    if rows is None:
        return False
    events, refused = carefully(d, route)
    assert not refused
    assert same(join("acme", [rows]), batch("acme", events))
    return True


def event(**changes: Any) -> dict[str, Any]:
    made = {"id": "o-1", "entity": AD, "kind": "view", "occurred_at": "2026-03-01T11:59:00Z", "amounts": {"impressions": 1}}
    return {k: v for k, v in (made | changes).items() if v is not ...}


def cloud(**changes: Any) -> dict[str, Any]:
    made = {"specversion": "1.0", "id": "o-1", "source": "shop", "type": "sale", "time": "2026-03-01T11:00:00Z", "subject": AD}
    return {k: v for k, v in (made | {"data": {"amounts": {"clicks": 1}}} | changes).items() if v is not ...}


def row(**changes: Any) -> dict[str, Any]:
    interval = {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"}
    made = {"entity": AD, "interval": interval, "as_of": "2026-03-01T11:59:00Z", "amounts": {"impressions": 10}}
    return {k: v for k, v in (made | changes).items() if v is not ...}


def figure(**changes: Any) -> dict[str, Any]:
    entity = {"account": "demo", "campaign": "c1", "ad_group": "g1", "creative": "a1"}
    at = "2026-03-01T11:59:00.250Z"
    made = {"id": "r-1", "entity": entity, "occurred_at": at, "currency": "EUR", "impressions": 400, "clicks": 2, "spend": "1.25"}
    made |= {"conversions": {"purchase": {"7d_click": 1}}, "revenue": {"purchase": {"7d_click": "49.90"}}}
    return {k: v for k, v in (made | changes).items() if v is not ...}


USUAL_MONEY = {"amount": "1.25", "currency": "EUR"}
WORDS = st.sampled_from(
    ("o-1", "o-2", " ", "", " x", "a\x7f", "é", "a" * 256, "a" * 257, "view", "com.example.sale", "bad kind", "shop", "Shop", "https://shop.example/1", AD)
    + ("meta_ads/1", "meta_ads", "meta_ads/a b", "meta_ads/ a", "meta_ads/a|b", "meta_ads//1", "x/1/2/3/4/5", "Meta/1", "EUR", "XYZ", "1", "-1", "1.5", "1e3")
    + ("2026-03-01T11:59:00Z", "2026-03-01t11:59:00.5+01:00", "2026-03-01 11:59:00.123456789-23:59", "2026-03-01T11:59:60Z", "2026-03-01T24:00:00Z")
    + ("2026-03-01T11:59:00", "2026-03-01T13:00:00Z", "2026-03-01T13:00:00.000001Z", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00Z")
    + ("2026-03-01T12:00:00+24:00",)
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-3, 10), st.sampled_from((2**53 // 10**6, 2**53 // 10**6 + 1, -(2**53) // 10**6, 10**30, True, None, 1.5, 0.1)),
    st.sampled_from(("0", "1", "1.25", "-1.25", "0.0000004", "0.0000005", "1e3", "9007199254.740992", "9007199254.740993", "007", "1.", ".5", "+1", "x", "")),
)  # fmt: skip
CODES = st.sampled_from(("EUR", "USD", "JPY", "XYZ", "eur", "EUR@EUR", ""))
VALUES = st.one_of(
    NUMBERS, st.fixed_dictionaries({"amount": NUMBERS, "currency": CODES}), st.just({"amount": "1"}), st.just([1]), st.just(USUAL_MONEY | {"more": 1})
)
NAMES = st.sampled_from(
    ("impressions", "clicks", "spend", "revenue:purchase", "spend@EUR", "conversions:purchase:7d_click", "tips", "clicks@EUR", "Bad", "spend@XYZ")
    + ("a:b:c:d:e", "")
)
AMOUNTS = st.dictionaries(NAMES, VALUES, max_size=3)
GOOD_AMOUNTS = st.dictionaries(st.sampled_from(("impressions", "clicks", "leads")), st.integers(0, 900), min_size=1) | st.fixed_dictionaries(
    {"spend": st.fixed_dictionaries({"amount": st.decimals("0.01", 900, places=2).map(str), "currency": st.sampled_from(("EUR", "USD"))})}
)


def mostly(good: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 7).flatmap(lambda n: good if n else other)


IDS = st.integers(0, 10**9).map("o-{}".format)
TIMES = st.integers(0, 86_399_999).map(lambda ms: f"2026-02-28T{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}Z")
ANY = st.one_of(WORDS, NUMBERS, AMOUNTS)


def changed(make: Any, good: dict[str, st.SearchStrategy[Any]], members: tuple[str, ...]) -> st.SearchStrategy[Any]:
    """A usual item; now and then a member of it is something else, missing or unknown."""
    odd = st.dictionaries(st.sampled_from((*members, "more")), st.one_of(ANY, st.just(...)), min_size=1, max_size=2)
    return st.builds(lambda a, b: make(**(a | b)), st.fixed_dictionaries(good), mostly(st.just({}), mostly(odd, odd)))


EVENT = changed(
    event, {"id": IDS, "occurred_at": TIMES, "amounts": mostly(GOOD_AMOUNTS, AMOUNTS)}, ("id", "entity", "kind", "source", "occurred_at", "amounts"),
)  # fmt: skip
CLOUD = changed(
    cloud, {"id": IDS, "time": TIMES, "data": st.fixed_dictionaries({"amounts": mostly(GOOD_AMOUNTS, AMOUNTS)})},
    ("id", "source", "type", "time", "subject", "data", "specversion", "datacontenttype", "extension"),
)  # fmt: skip
ROW = changed(
    row, {"entity": st.integers(1, 99).map("meta_ads/1/2/{}".format), "amounts": mostly(GOOD_AMOUNTS, AMOUNTS)},
    ("entity", "interval", "as_of", "amounts", "breakdown", "id", "kind"),
)  # fmt: skip
FORMS = {"plain": (EVENT, PLAIN, "events"), "clouds": (CLOUD, BATCH, "events"), "rows": (ROW, PLAIN, "reports")}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_what_is_read_by_columns_is_what_the_careful_reading_makes_of_it(form: str, data: st.DataObject) -> None:
    item, media, route = FORMS[form]
    items = data.draw(st.lists(item, max_size=5))
    wrapped: Any = items
    if form == "plain" and data.draw(st.booleans()):
        wrapped = {"events": items} if data.draw(st.booleans()) or not items else items[0]
    agree(delivery(json.dumps(wrapped, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass"), media), route)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_deliveries_read_together_say_what_each_says_alone_or_nothing_where_one_is_unusual(form: str, data: st.DataObject) -> None:
    item, media, route = FORMS[form]
    is_plain = form == "plain"
    group = []
    for items in data.draw(st.lists(st.lists(item, min_size=1, max_size=3), min_size=1, max_size=4)):
        shape = data.draw(st.sampled_from((items, {"events": items}, items[0]) if is_plain else (items,)))
        group.append(delivery(json.dumps(shape).encode(), media))
    found = SOURCES["generic"].rows_of(group) if route == "events" else usual.reports(group, "generic")
    alone = [by_columns(d, route) for d in group]
    if found is None:
        assert None in alone
        return
    rows, of = found
    assert of == [len(one) for one in alone]
    assert same(join("acme", [rows]), join("acme", alone))


MONEY_WRITTEN = b'{"spend": {"amount": "1.25", "currency": "EUR"}}'
WRITTEN = st.sampled_from(
    (MONEY_WRITTEN, b'{"clicks": 1}', b'{"clicks":1}', b'{\n "clicks": 1}', b'{"clicks": 1, "leads": 2}', b'{"leads": 2, "clicks": 1}')
    + (b'{"clicks": 1,\r\n"spend": {"amount": 1, "currency": "USD"}}', b'{"spend@EUR": "1.25", "clicks": 0}', b'{"impressions": 7, "clicks": 1, "leads": 3}')
)
ODDLY_WRITTEN = st.sampled_from(
    (b'{"clicks": 1, "clicks": 1}', b'{"spend": {"amount": 1, "amount": 1, "currency": "EUR"}}', b"{}", b"null", b'{"clicks": -1}', b'{"clicks": 01}')
    + (b'{"clicks": 1}, "amounts": {"clicks": 1}', b'{"clicks": 1}, {"leads": 1}', b'{"clicks": 1,}', b'{"clicks": "\n"}', b'{"clicks" 1}')
    + (b'{"spend@EUR": "1", "spend": {"amount": "1", "currency": "EUR"}}',)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(mostly(WRITTEN, ODDLY_WRITTEN), min_size=1, max_size=12), st.sampled_from(("plain", "clouds", "rows")))
def test_amounts_written_alike_are_those_that_each_of_them_says(written: list[bytes], form: str) -> None:
    make, media, route = {"plain": event, "clouds": cloud, "rows": row}[form], *FORMS[form][1:]
    put = {"data": {"amounts": 0}} if form == "clouds" else {"amounts": 0}
    items = [make(**put, **({"entity": f"meta_ads/{i}"} if form == "rows" else {"id": f"o-{i}"})) for i in range(len(written))]
    bodies = [json.dumps(item).encode().replace(b'"amounts": 0', b'"amounts": ' + text) for item, text in zip(items, written, strict=True)]
    agree(delivery(b"[" + b", ".join(bodies) + b"]", media), route)


def test_amounts_written_alike_in_many_events_are_read_by_columns() -> None:
    texts = [b'{"clicks": 1}', b'{"clicks": 1,\n "leads": 2}', b'{"spend": {"amount": "1.25", "currency": "EUR"}, "leads": 3}', b'{"clicks": 1}'] * 3
    bodies = [json.dumps(event(id=f"o-{i}", amounts=0)).encode().replace(b'"amounts": 0', b'"amounts": ' + text) for i, text in enumerate(texts)]
    for some in (bodies, bodies[:1], bodies[:3], [b for i, b in enumerate(bodies) if i % 4 != 1]):
        assert agree(delivery(b"[" + b",".join(some) + b"]"))
        twice = some[0].replace(b'"clicks": 1}', b'"clicks": 1, "clicks": 1}')
        assert not agree(delivery(b"[" + b",".join([twice, *some[1:]]) + b"]"))


SAID = st.tuples(st.sampled_from(("a", "b")), st.sampled_from((AD, "meta_ads/1", "meta_ads/2", "meta_ads/1/2")), st.sets(st.sampled_from("abc"), min_size=1))


@given(st.lists(SAID))
def test_what_rows_report_is_each_measure_at_the_level_that_it_stands_at(said: list[tuple[str, str, set[str]]]) -> None:
    measures, n = [name for _, _, names in said for name in sorted(names)], len(said)
    sizes, sources, paths = [len(names) for _, _, names in said], [source for source, _, _ in said], [path for _, path, _ in said]
    rows = Rows([bytes(16)] * n, paths, sources, ["report"] * n, [0] * n, sizes, measures, [1] * len(measures))
    assert reported(rows) == {(source, level_of(path), name) for source, path, names in said for name in names}


def test_an_id_may_be_there_again_in_another_delivery_but_not_in_its_own() -> None:
    once, twice = delivery(json.dumps([event()]).encode()), delivery(json.dumps([event(), event()]).encode())
    assert SOURCES["generic"].rows_of([once, once]) is not None
    assert SOURCES["generic"].rows_of([once, twice]) is None


def test_the_instant_that_far_future_is_measured_from_is_each_delivery_s_own() -> None:
    ahead = json.dumps([event(occurred_at="2026-03-01T12:59:59Z")]).encode()
    early, late = (Delivery("generic", "acme", ahead, (("content-type", PLAIN),), at) for at in (NOON - 60_000_000, NOON))
    assert by_columns(late) is not None
    assert by_columns(early) is None
    assert SOURCES["generic"].rows_of([late, early]) is None


BITS = st.sampled_from([b"", *(bytes((c,)) for c in b'"\\,:[ \x00\x7f09e.-\xe9'), b"{}", b'"a":1,', b"null", b"\xc3\xa9"])


LEVEL = st.sampled_from(("demo", "c1", "g 1", "a|1", "a/1", " x", "", None, ..., 7))
LEVELS = ("account", "campaign", "ad_group", "creative")
ENTITY = st.fixed_dictionaries(dict.fromkeys(LEVELS, LEVEL)).map(lambda e: {k: v for k, v in e.items() if v is not ...})
OPEN_DAY = {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"}
WINDOWS = st.dictionaries(st.sampled_from(("7d_click", "x@EUR", "")), NUMBERS, max_size=2)
ACTIONS = st.dictionaries(st.sampled_from(("purchase", "lead", "a:b", "")), WINDOWS, max_size=2)
READ_AT = {"as_of": "2026-03-01T11:00:00Z"}
SNAPSHOT = st.sampled_from(({}, {"interval": OPEN_DAY} | READ_AT, {"interval": OPEN_DAY}, READ_AT, {"name": "Summer_v3"}))
ODD_MEMBERS = st.sampled_from((*figure(), "interval", "as_of", "leads", "name", "status", "more"))
SPOILT = st.sampled_from((None, None, b'"', b'"id":"x",', b"0", b"\\"))
FIGURE = st.builds(
    lambda ident, odd, entity, snapshot, by_action: figure(**({"id": ident} | snapshot | by_action | entity | odd)),
    IDS,
    mostly(st.just({}), st.dictionaries(ODD_MEMBERS, st.one_of(ANY, ACTIONS, st.just(...)), max_size=2)),
    mostly(st.just({}), st.fixed_dictionaries({"entity": ENTITY})),
    SNAPSHOT,
    mostly(st.just({}), st.fixed_dictionaries({"conversions": ACTIONS, "revenue": ACTIONS})),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(FIGURE, max_size=4), st.sampled_from(("report", "entity", "other")), st.booleans(), st.integers(0, 400), SPOILT)
def test_what_is_read_by_columns_of_the_sandbox_is_what_the_careful_reading_makes_of_it(
    rows: list[dict[str, Any]], kind: str, is_told: bool, at: int, put: bytes | None
) -> None:
    body = json.dumps({"type": kind, **({"account": "demo", "sent_at": "2026-03-01T12:00:00Z"} if is_told else {}), "rows": rows}).encode()
    if put is not None:
        body = body[:at] + put + body[at:]
    agree(delivery(body, source="sandbox"))


def test_a_usual_delivery_of_the_sandbox_is_read_by_columns() -> None:
    snapshot = {"interval": OPEN_DAY, "as_of": "2026-03-01T11:00:00Z"}
    account = figure(entity={"account": "demo"}, spend=..., revenue=..., currency=...)
    yesterday = {"interval": {"start": "2026-02-28T00:00:00Z", "end": "2026-03-01T00:00:00Z"}, "as_of": "2026-03-01T02:00:00Z"}
    mixed = [figure(**yesterday), figure(id="r-2", name="Summer_v3"), figure(id="r-3", **snapshot)]
    for rows in ([figure()], [figure(**snapshot), figure(id="r-2", name="Summer_v3")], mixed, [account]):
        assert agree(delivery(json.dumps({"type": "report", "account": "demo", "rows": rows}).encode(), source="sandbox"))
    twice = json.dumps({"type": "report", "rows": [figure()]}).replace('"clicks": 2', '"clicks": 2, "clicks": 2').encode()
    assert by_columns(delivery(twice, source="sandbox")) is None
    assert by_columns(delivery(json.dumps({"type": "report", "rows": [figure(status="active")]}).encode(), source="sandbox")) is None  # watched for changes


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_no_byte_put_into_a_usual_body_or_taken_out_of_it_is_read_differently(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(sorted(FORMS)))
    make, media, route = {"plain": event, "clouds": cloud, "rows": row}[form], *FORMS[form][1:]
    body = bytearray(json.dumps([make(), make(id="o-2") if form != "rows" else make(entity="meta_ads/1")]).encode())
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(BITS)
    agree(delivery(bytes(body), media), route)


def test_a_usual_delivery_is_read_by_columns() -> None:
    money = {"spend": USUAL_MONEY, "revenue:purchase": {"amount": 5, "currency": "EUR"}, "clicks": 2}
    assert agree(delivery(json.dumps([event(id=f"o-{i}", amounts=money) for i in range(3)]).encode()))
    assert agree(delivery(json.dumps({"events": [event(source="shop", kind=...)]}).encode()))
    assert agree(delivery(json.dumps(event(occurred_at="2026-03-01T12:59:59.5+01:00")).encode()))
    assert agree(delivery(json.dumps([cloud(), cloud(id="2", source="https://shop.example/")]).encode(), BATCH))
    assert agree(delivery(json.dumps([row(), row(entity="meta_ads/1/2/3")]).encode()), "reports")


@pytest.mark.parametrize(
    "body",
    [
        b'[{"id": "1", "id": "2", "entity": "meta_ads/1", "occurred_at": "2026-03-01T11:59:00Z", "amounts": {"clicks": 1}}]',
        b'[{"id": "1", "entity": "meta_ads/1", "occurred_at": "2026-03-01T11:59:00Z", "amounts": {"clicks": 1, "clicks": 1}}]',
        b'[{"id": "1", "entity": "meta_ads/1", "occurred_at": "2026-03-01T11:59:00Z", "amounts": {"clicks": 1}, "amounts": {"clicks": 1}}]',
        b'[{"id": "1", "entity": "meta_ads/1", "occurred_at": "2026-03-01T11:59:00Z", "amounts": {"spend": {"amount": 1, "amount": 2, "currency": "EUR"}}}]',
        b'[{"id": "1", "entity": "meta_ads/1", "occurred_at": "2026-03-01T11:59:00Z",'
        b' "amounts": {"spend@EUR": "1", "spend": {"amount": "1", "currency": "EUR"}}}]',
    ],
)
def test_what_stands_twice_is_left_to_the_careful_reading(body: bytes) -> None:
    assert by_columns(delivery(body)) is None
    assert [r.reason for r in carefully(delivery(body))[1]] == ["duplicate_key"]


def test_two_events_of_one_id_are_left_to_the_careful_reading() -> None:
    assert by_columns(delivery(json.dumps([event(), event(amounts={"clicks": 1})]).encode())) is None


def test_a_delivery_from_the_far_future_is_left_to_the_careful_reading() -> None:
    assert agree(delivery(json.dumps([event(occurred_at="2026-03-01T13:00:00Z")]).encode()))
    assert by_columns(delivery(json.dumps([event(occurred_at="2026-03-01T13:00:00.000001Z")]).encode())) is None


PUT = st.tuples(st.integers(0, 11), st.integers(0, 26), st.sampled_from("0123456789:-.TtZz +\x00"))


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from((0, 3, 6)), st.lists(PUT, max_size=2), st.booleans())
def test_instants_read_at_once_are_those_read_one_by_one(seed: int, digits: int, puts: list[tuple[int, int, str]], is_same_put_in_all: bool) -> None:
    rnd = random.Random(seed)
    texts = []
    for _ in range(12):
        fraction = "." + "".join(rnd.choices("0123456789", k=digits)) if digits else ""
        texts.append(f"2026-02-28T{rnd.randrange(24):02d}:{rnd.randrange(60):02d}:{rnd.randrange(60):02d}{fraction}Z")
    for which, place, character in puts:
        for i in range(12) if is_same_put_in_all else (which,):
            texts[i] = texts[i][: place % len(texts[i])] + character + texts[i][place % len(texts[i]) + 1 :]
    try:
        read = usual.instants(texts, NOON + 10**15)
    except (usual.Unusual, RejectedInput):
        return
    assert list(read) == [rfc3339(text) for text in texts]


def test_an_hour_past_the_last_and_a_sixtieth_second_are_no_instants() -> None:
    for wrong in ("2026-02-28T24:00:00Z", "2026-02-28T29:59:59Z", "2026-02-28T23:60:00Z", "2026-02-28T23:59:60Z"):
        with pytest.raises((usual.Unusual, RejectedInput)):
            usual.instants(["2026-02-28T23:59:59Z"] * 11 + [wrong], NOON)
    alike = usual._alike(["2026-02-28T23:59:59Z"] * 12)
    assert alike is not None and alike.tolist() == [rfc3339("2026-02-28T23:59:59Z")] * 12


@pytest.mark.parametrize(
    "odd",
    [
        {"entity": {"account": "demo", "ad_group": "g1"}},
        {"entity": {"account": "demo", "campaign": "c1", "creative": "a1"}},
        {"entity": {"account": "demo/c1"}},
        {"conversions": {"a:b": {"c": 1}, "a": {"b:c": 2}}},  # one measure, said twice
        {"impressions": -1},
        {"spend": "1.25", "currency": ...},
        {"interval": OPEN_DAY},
        {"interval": OPEN_DAY, "as_of": "2026-03-01T00:00:00Z"},
    ],
)
def test_an_odd_row_of_the_sandbox_is_left_to_the_careful_reading(odd: dict[str, Any]) -> None:
    assert not agree(delivery(json.dumps({"type": "report", "rows": [figure(**odd)]}).encode(), source="sandbox"))
