"""What senders write becomes events; what cannot be read has a reason and a place."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.core import cell, cloudevent, instant, normalize, plain, strict_json
from services.ingest.core.change import ChangeDetector
from services.ingest.core.place import place
from services.ingest.core.refused import Refused
from services.ingest.core.report import Levels
from services.kernel import columns
from services.kernel.errors import RejectedInput
from services.kernel.event import Event, Snapshot
from services.kernel.ids import event_id
from services.kernel.record import Change, Outcome

NOW = 1_772_366_400_000_000  # 2026-03-01T12:00:00Z
HOUR = 3_600_000_000
AD = "meta_ads/1700/6215/62150/621500"
GOOD: dict[str, Any] = {"id": "o-1", "entity": AD, "kind": "view", "occurred_at": "2026-03-01T11:59:00Z", "amounts": {"impressions": 1}}


def read(**changes: Any) -> Event:
    fields = {k: v for k, v in (GOOD | changes).items() if v is not ...}
    return plain.event(fields, source="generic", received_at=NOW, horizon=NOW, pointer="/0")


def test_a_plain_event_is_read_whole() -> None:
    event = read(source="shop", amounts={"impressions": 1, "spend": {"amount": "1.25", "currency": "EUR"}}, attributes={"status": "active", "daily_budget": 68})
    assert event == Event(
        "o-1", "shop", AD, "view", NOW - 60_000_000, {"impressions": 1_000_000, "spend@EUR": 1_250_000}, {"status": "active", "daily_budget": 68_000_000}
    )


def test_a_report_row_is_a_snapshot_known_by_its_entity_interval_and_breakdown() -> None:
    day = {"start": "2026-02-28T00:00:00Z", "end": "2026-03-01T00:00:00Z"}
    row = read(id=..., occurred_at=..., interval=day, as_of="2026-03-01T03:00:00Z", breakdown={"device": "mobile"})
    again = read(id=..., occurred_at=..., interval=day, as_of="2026-03-01T04:00:00Z", breakdown={"device": "mobile"}, amounts={"impressions": 2})
    other = read(id=..., occurred_at=..., interval=day, as_of="2026-03-01T04:00:00Z", breakdown={"device": "desktop"})
    assert row.snapshot == Snapshot(NOW - 36 * HOUR, NOW - 12 * HOUR, NOW - 9 * HOUR, (AD, "device=mobile"))
    assert row.row_key == again.row_key != other.row_key
    assert row.key != again.key
    assert row.occurred_at == NOW - 12 * HOUR - 1  # within the interval it speaks of


def test_a_row_read_today_for_today_happened_when_it_was_read() -> None:
    row = read(id=..., occurred_at=..., interval={"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"})
    assert row.snapshot is not None
    assert row.occurred_at == row.snapshot.as_of == NOW


@pytest.mark.parametrize(
    ("changes", "reason", "pointer"),
    [
        ({"amounts": {"clicks": -1}}, "negative_count", "/0/amounts/clicks"),
        ({"amounts": {"spend": {"amount": "1", "currency": "XYZ"}}}, "unknown_currency", "/0/amounts/spend/currency"),
        ({"amounts": {"spend": 1}}, "unknown_currency", "/0/amounts/spend"),
        ({"amounts": {"spend@EUR": "9007199254.740993"}}, "too_large", "/0/amounts/spend@EUR"),
        ({"amounts": {"clicks": None}}, "not_a_number", "/0/amounts/clicks"),
        ({"amounts": {"clicks": "N/A"}}, "not_a_number", "/0/amounts/clicks"),
        ({"amounts": {"a/b": 1}}, "bad_measure", "/0/amounts/a~1b"),
        ({"amounts": {"spend": {"amount": "1", "currency": "EUR"}, "spend@EUR": 1}}, "duplicate_key", "/0/amounts/spend@EUR"),
        ({"amounts": [1]}, "bad_amounts", "/0/amounts"),
        ({"amounts": ..., "attributes": ...}, "empty_event", "/0"),
        ({"occurred_at": "2026-03-01T13:00:01Z"}, "far_future", "/0/occurred_at"),
        ({"occurred_at": ...}, "bad_time", "/0/occurred_at"),
        ({"occurred_at": "2026-03-01T12:00:00"}, "bad_time", "/0/occurred_at"),
        ({"occurred_at": "2026-02-30T12:00:00Z"}, "bad_time", "/0/occurred_at"),
        ({"occurred_at": 1_772_366_400}, "bad_time", "/0/occurred_at"),  # seconds where microseconds are meant
        ({"id": ...}, "missing_id", "/0/id"),
        ({"id": True}, "bad_text", "/0/id"),
        ({"entity": ...}, "no_entity", "/0/entity"),
        ({"entity": "meta_ads"}, "bad_entity", "/0/entity"),
        ({"entity": "meta_ads/1700//2"}, "bad_entity", "/0/entity"),
        ({"entity": "meta_ads/1/2/3/4/5"}, "bad_entity", "/0/entity"),
        ({"entity": "Meta/1"}, "bad_entity", "/0/entity"),
        ({"entity": "meta_ads/a|b"}, "bad_entity", "/0/entity"),
        ({"source": "Shop 1"}, "bad_source", "/0/source"),
        ({"occured_at": "2026-03-01T12:00:00Z"}, "unknown_member", "/0/occured_at"),
        ({"attributes": {"name": "a\x00b"}}, "bad_text", "/0/attributes/name"),
        ({"attributes": {"name": "\ud800"}}, "bad_text", "/0/attributes/name"),
        ({"attributes": {"name": None}}, "bad_attributes", "/0/attributes/name"),
        ({"as_of": "2026-03-01T12:00:00Z"}, "bad_interval", "/0/as_of"),
        ({"interval": {"start": "2026-03-01T00:00:00Z", "end": "2026-03-01T00:00:00Z"}}, "bad_interval", "/0"),
        ({"interval": {"start": "2026-03-02T00:00:00Z", "end": "2026-03-03T00:00:00Z"}}, "bad_interval", "/0"),
    ],
)
def test_what_is_wrong_with_an_event_has_a_reason_and_a_place(changes: dict[str, Any], reason: str, pointer: str) -> None:
    with pytest.raises(Refused) as refused:
        read(**changes)
    assert (refused.value.reason, refused.value.pointer) == (reason, pointer)


def test_an_hour_ahead_is_still_believed() -> None:
    assert read(occurred_at="2026-03-01T13:00:00Z").occurred_at == NOW + HOUR


def test_a_written_event_reads_back_as_itself() -> None:
    day = {"start": "2026-02-28T00:00:00Z", "end": "2026-03-01T00:00:00Z"}
    for event in (
        read(amounts={"spend@EUR": "1.000001"}, attributes={"name": "Summer", "daily_budget": 12}),
        read(id=..., occurred_at=..., interval=day, breakdown={"device": "mobile", "country": "DE"}),
    ):
        wire = json.dumps(plain.written(event), default=str)
        assert plain.event(strict_json.loads(wire.encode()), source="x", received_at=NOW, horizon=NOW) == event


# -- texts and JSON ---------------------------------------------------------------------------------------------------------------------------------------


def test_texts_are_composed_and_printable() -> None:
    assert normalize.text("Cafe\u0301", "name") == "Caf\u00e9"
    assert normalize.text("\u590f \U0001f600", "name") == "\u590f \U0001f600"


@pytest.mark.parametrize(
    ("body", "reason", "status"),
    [
        (b"", "malformed", 400), (b"{", "malformed", 400), (b"{} x", "malformed", 400), (b"\xff\xfe{}", "malformed", 400), (b"{'a': 1}", "malformed", 400),
        (b'{"a": 1, "a": 2}', "duplicate_key", 422), (b'{"a": NaN}', "not_a_number", 422), (b"[-Infinity]", "not_a_number", 422),
        (b"[" * 33 + b"]" * 33, "too_deep", 422), (b'{"a":' * 40 + b"1" + b"}" * 40, "too_deep", 422), (b"[" * 100_000, "too_deep", 422),
        (b"[1" + b"0" * 5000 + b"]", "too_large", 422), (b"[0." + b"1" * 100 + b"]", "too_large", 422), (b"[1, 2]" + b" " * 100, "too_large", 413),
    ],
)  # fmt: skip
def test_json_that_cannot_be_trusted_is_refused(body: bytes, reason: str, status: int) -> None:
    with pytest.raises(Refused) as refused:
        strict_json.loads(body, 100 if status == 413 else 1_000_000)
    assert (refused.value.reason, refused.value.status) == (reason, status)


def test_thirty_two_levels_are_read_and_brackets_in_texts_are_none() -> None:
    assert strict_json.loads(b"[" * 32 + b"]" * 32)
    assert strict_json.loads(json.dumps({"a": "[" * 100, "b": '\\"' + "{" * 50}).encode())


def test_an_unterminated_text_full_of_escapes_costs_one_scan() -> None:
    body = b"[" * 20 + b'"' + b'\\"[' * 600_000  # quadratic backtracking would run into the test's time limit
    with pytest.raises(Refused):
        strict_json.loads(body)


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:\\0123eE+-.nulltrfaseNaIiy ', max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        strict_json.loads(body)
    except Refused as refused:
        assert refused.reason in {"malformed", "too_deep", "duplicate_key", "not_a_number", "too_large"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["1.5", "EUR", AD]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*sorted(plain.MEMBERS), "x"]), inner),
    max_leaves=12,
)


@given(JSON)
def test_any_value_is_an_event_or_refused(value: Any) -> None:
    items = list(plain.each([value], "", lambda item, at: plain.event(item, source="generic", received_at=NOW, horizon=NOW, pointer=at)))
    assert len(items) == 1


# -- instants ---------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T12:00:00Z", NOW), ("2026-03-01T13:00:00+01:00", NOW), ("2026-03-01t12:00:00.5z", NOW + 500_000),
        ("2026-03-01T12:00:00.123456789Z", NOW + 123_456), ("1996-12-19T16:39:57-08:00", 851_042_397_000_000),
    ],
)  # fmt: skip
def test_rfc_3339_is_read_to_the_microsecond(text: str, expected: int) -> None:
    assert instant.rfc3339(text) == expected


@pytest.mark.parametrize(
    "text",
    ["2026-03-01", "lunchtime", "2026-03-01T12:00Z", "2026-03-01T12:00:00+25:00", "2026-03-01T12:00:00+05", "", 5, None, "2026-3-1T12:00:00Z"],
)
def test_what_is_no_rfc_3339_is_refused(text: object) -> None:
    with pytest.raises(RejectedInput) as refused:
        instant.rfc3339(text)
    assert refused.value.reason == "bad_time"


@pytest.mark.parametrize("text", ["9999-12-31", "0001-01-01", "2026-02-30", "yesterday", "2026-03-01 12:00:00", ""])
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_what_is_no_day_is_refused_every_time(text: str, zone: str) -> None:
    for _ in range(2):
        try:
            start, end = instant.day(text, ZoneInfo(zone))
        except RejectedInput as refused:
            assert refused.reason == "bad_time"
        else:
            assert text.startswith(("0001", "9999")) and 23 * HOUR <= end - start <= 25 * HOUR  # the end of all years is a matter of the zone


def test_a_local_day_is_as_long_as_it_is_there() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    lengths = [(end - start) // HOUR for start, end in (instant.day(d, berlin) for d in ("2026-03-28", "2026-03-29", "2026-10-25"))]
    assert lengths == [24, 23, 25]
    assert instant.day("2021-05-19 00:00:00", ZoneInfo("UTC")) == instant.day("2021-05-19", ZoneInfo("UTC"))


# -- cells of exports -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1234.5", "1234.5"), ("1,234.5", "1234.5"), ("1.234,5", "1234.5"), ("1 234,50", "1234.50"), ("1,234,567", "1234567"), ("1.234.567", "1234567"),
     ("12,5", "12.5"), ("-3", "-3"), ("\u22123", "-3"), ("0", "0"), ("1'234.50", "1234.50"), ("1.234", "1.234")],
)  # fmt: skip
def test_a_number_with_one_reading_is_read(text: str, expected: str) -> None:
    assert str(cell.number(text)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [("N/A", "not_available"), ("--", "not_available"), ("nan", "not_available"), ("80.00%", "percent"), ("1,234", "ambiguous_number"), ("$5", "not_a_number"),
     ("3 of 4", "not_a_number"), ("1,23,4", "not_a_number"), ("0:01:46", "not_a_number"), ("1.234,5.6", "not_a_number")],
)  # fmt: skip
def test_a_number_with_another_reading_or_none_is_refused_and_never_0(text: str, reason: str) -> None:
    with pytest.raises(RejectedInput) as refused:
        cell.number(text)
    assert refused.value.reason == reason


def test_thousands_are_plain_where_only_whole_numbers_make_sense() -> None:
    assert cell.number("67,283", whole=True) == 67_283
    assert cell.number("67.283", whole=True) == 67_283
    assert cell.number("  ") is None
    with pytest.raises(RejectedInput):
        cell.number("1.5", whole=True)
    assert cell.ratio("80.00%") == cell.number("0.8")


# -- entities ---------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"entity": AD}, AD),
        ({"utm_source": "Facebook", "account_id": "1700", "utm_campaign": "6215", "utm_term": "62150", "utm_content": "621500"}, AD),
        ({"utm_source": "google", "account_id": 2121, "campaign_id": 344}, "google_ads/2121/344"),
        ({"utm_source": "google", "account_id": "2121", "campaign_id": "344", "utm_content": "9"}, "google_ads/2121/344"),  # a gap: the ad group is unknown
        ({"platform": "taboola", "account_id": "1"}, "taboola/1"),
    ],
)
def test_an_ads_ids_name_its_entity(fields: dict[str, object], expected: str) -> None:
    assert place(fields) == expected


@pytest.mark.parametrize("fields", [{}, {"utm_source": "google"}, {"utm_source": "google", "utm_campaign": "344"}, {"utm_source": " "}])
def test_what_names_no_entity_is_kept_aside(fields: dict[str, object]) -> None:
    with pytest.raises(Refused) as refused:
        place(fields)
    assert refused.value.reason == "no_entity"


# -- columns ----------------------------------------------------------------------------------------------------------------------------------------------


def test_a_batch_says_exactly_what_its_events_say() -> None:
    day = {"start": "2026-02-28T00:00:00Z", "end": "2026-03-01T00:00:00Z"}
    events = [
        read(amounts={"impressions": 3, "spend@EUR": "0.5"}, attributes={"status": "active", "daily_budget": 5}),
        read(id="o-2", entity="meta_ads/1700", source="shop"),
        read(id="o-3", occurred_at=..., interval=day, attributes={"status": "paused"}),
    ]
    made = columns.batch("acme", events)
    for i, event in enumerate(events):
        amounts = {made.measures[m]: int(a) for e, m, a in zip(made.amount_event, made.amount_measure, made.amount, strict=True) if e == i}
        said = {
            made.names[n]: (made.texts[t - 1] if t else int(v))
            for e, n, t, v in zip(made.attribute_event, made.attribute_name, made.attribute_text, made.attribute_number, strict=True)
            if e == i
        }
        s = event.snapshot
        assert (made.paths[made.entity[i]], made.sources[made.source[i]], made.kinds[made.kind[i]]) == (event.path, event.source, event.kind)
        assert (amounts, said, int(made.occurred_at[i])) == (event.amounts, event.attributes, event.occurred_at)
        assert made.event_id[i].tobytes() == event_id(event.source, event.id)
        assert made.row_id[i].tobytes() == event.row_key
        assert (made.interval_start[i], made.interval_end[i], made.as_of[i]) == ((s.interval_start, s.interval_end, s.as_of) if s else (0, 0, 0))
    assert (made.event_id.dtype, made.entity.dtype) == (np.dtype(np.int64), np.dtype(np.uint32))


def test_one_id_of_two_sources_is_two_events() -> None:
    made = columns.batch("acme", [read(source="shop"), read(source="crm"), read(source="shop")])
    assert len({row.tobytes() for row in made.event_id}) == 2


def test_no_event_and_many_events_make_records_of_bounded_size() -> None:
    assert list(columns.batches("acme", [])) == []
    assert [len(b.event_id) for b in columns.batches("acme", [read()] * 2500)] == [1000, 1000, 500]


# -- changes and levels -----------------------------------------------------------------------------------------------------------------------------------


def state(status: str, at: int) -> Event:
    return Event(f"s-{at}", "generic", AD, "state", at, {}, {"status": status})


def test_the_first_sight_is_no_change_and_a_different_value_is_one() -> None:
    detector = ChangeDetector("acme")
    assert list(detector.see([state("active", 1), state("active", 2)])) == []
    assert list(detector.see([state("paused", 3)])) == [Change("acme", AD, "status", "active", "paused", 3)]


def test_an_older_value_is_no_news() -> None:
    detector = ChangeDetector("acme")
    assert list(detector.see([state("active", 5), state("paused", 4)])) == []
    assert list(detector.see([state("active", 6)])) == []


def test_what_we_did_ourselves_is_no_change_by_hand() -> None:
    detector = ChangeDetector("acme")
    assert list(detector.see([state("active", 1)])) == []
    detector.ours(Outcome("acme", "d", "verified", AD, "status", value="paused"), 5)
    assert list(detector.see([state("paused", 6)])) == []
    assert [c.after for c in detector.see([state("active", 7)])] == ["active"]


def test_an_outcome_that_is_not_verified_changed_nothing() -> None:
    detector = ChangeDetector("acme")
    list(detector.see([state("active", 1)]))
    detector.ours(Outcome("acme", "d", "failed", AD, "status", value="paused"), 5)
    assert [c.after for c in detector.see([state("paused", 6)])] == ["paused"]


def test_a_measure_reported_at_one_level_is_refused_at_another() -> None:
    levels = Levels()
    row = Snapshot(0, 10, 5, (AD,))
    levels.check(Event("1", "meta_ads", AD, "report", 1, {"clicks": 1}, snapshot=row))
    levels.check(Event("2", "web", "meta_ads/1700", "report", 1, {"clicks": 1}, snapshot=row))  # another source, another measure
    levels.check(Event("3", "meta_ads", "meta_ads/1700", "view", 1, {"clicks": 1}))  # a delta counts where it happens
    for other in (Event("4", "meta_ads", "meta_ads/1700", "report", 1, {"clicks": 1}, snapshot=row),
                  Event("5", "meta_ads", AD, "report", 1, {"clicks": 1}, snapshot=Snapshot(0, 10, 5, (AD, "device=mobile")))):  # fmt: skip
        with pytest.raises(Refused) as refused:
            levels.check(other)
        assert refused.value.reason == "other_level"


# -- CloudEvents ------------------------------------------------------------------------------------------------------------------------------------------


def test_the_envelope_gives_identity_time_and_kind() -> None:
    given_ = {"specversion": "1.0", "id": "1", "source": "shop", "type": "com.example.sale", "time": "2026-03-01T11:00:00Z", "subject": AD,
              "data": {"amounts": {"clicks": 1}}}  # fmt: skip
    event = plain.event(cloudevent.structured(given_).plain(), source="generic", received_at=NOW, horizon=NOW)
    assert event == Event("1", "shop", AD, "com.example.sale", NOW - HOUR, {"clicks": 1_000_000}, {})


def test_two_sources_that_are_addresses_do_not_share_ids() -> None:
    base = {"specversion": "1.0", "id": "1", "type": "t", "data": {}}
    ids = {cloudevent.structured(base | {"source": s}).plain()["id"] for s in ("https://a.example", "https://b.example")}
    assert len(ids) == 2
