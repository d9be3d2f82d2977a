"""What counts of a batch, once, on every level, in the pane it belongs to."""

from __future__ import annotations

import random
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kernel.page import coalesced
from services.kernel.record import EventBatch
from services.rules_engine.core.demand import HORIZON, Demand
from services.rules_engine.core.facts import DAY, HOUR, Facts
from services.rules_engine.core.seen import Seen
from tests.core.world import fold

START = 1_760_000_400_000_000 // DAY * DAY
MINUTE = 60_000_000


def ids(*names: str) -> np.ndarray:
    return np.array([np.frombuffer(blake2b(n.encode(), digest_size=16).digest(), "<i8") for n in names], np.int64).reshape(-1, 2)


def batch(*events: dict) -> EventBatch:
    """Events as dicts: id, path, at, amounts {measure: n}; with as_of, interval, row for a snapshot; attributes {name: value}."""
    paths = sorted({e["path"] for e in events})
    measures = sorted({m for e in events for m in e.get("amounts", {})})
    amounts = [(i, measures.index(m), a) for i, e in enumerate(events) for m, a in e.get("amounts", {}).items()]
    intervals = [e.get("interval", (0, 0)) for e in events]
    attributes = [(i, n, v) for i, e in enumerate(events) for n, v in e.get("attributes", {}).items()]
    names = tuple(sorted({n for _, n, _ in attributes}))
    texts = tuple(sorted({v for _, _, v in attributes if isinstance(v, str)}))
    u, i8 = np.uint32, np.int64
    return EventBatch(
        "acme", tuple(paths), ("meta_ads",), ("report",), tuple(measures), names, texts,
        ids(*(e["id"] for e in events)), np.array([paths.index(e["path"]) for e in events], u), np.zeros(len(events), u), np.zeros(len(events), u),
        np.array([e["at"] for e in events], i8), np.array([i[0] for i in intervals], i8), np.array([i[1] for i in intervals], i8),
        np.array([e.get("as_of", 0) for e in events], i8), ids(*(e.get("row", "") for e in events)),
        np.array([a[0] for a in amounts], u), np.array([a[1] for a in amounts], u), np.array([a[2] for a in amounts], i8),
        np.array([a[0] for a in attributes], u), np.array([names.index(a[1]) for a in attributes], u),
        np.array([texts.index(a[2]) + 1 if isinstance(a[2], str) else 0 for a in attributes], u),
        np.array([0 if isinstance(a[2], str) else a[2] for a in attributes], i8),
    )  # fmt: skip


def sums(facts: Facts, path: str, width: int = DAY, measure: str = "clicks") -> int:
    window = next(w for (size, _), w in facts.windows.windows.items() if size == width)
    slot = facts.slot.get(("meta_ads", measure))
    row = facts.entities.row.get(path)
    return 0 if slot is None or row is None or row >= len(window.sums.table) else int(window.sums.table[row, slot])


@pytest.fixture
def facts() -> Facts:
    f = Facts(Demand(((HOUR, MINUTE), (DAY, MINUTE)), (0, 1, 2, 3, 4), (("meta_ads", "clicks"),)))
    f.roll(START)
    return f


A = "meta_ads/act/cmp/grp/a"


def test_an_amount_counts_on_every_level(facts: Facts) -> None:
    fold(facts, START + 5, batch({"id": "1", "path": A, "at": START + 1, "amounts": {"clicks": 7}}))
    assert [sums(facts, p) for p in ("meta_ads", "meta_ads/act", "meta_ads/act/cmp", "meta_ads/act/cmp/grp", A)] == [7] * 5


def test_of_two_events_with_one_id_the_first_counts_and_the_conflict_is_counted(facts: Facts) -> None:
    for amount in (7, 9, 7):
        fold(facts, START + 5, batch({"id": "1", "path": A, "at": START + 1, "amounts": {"clicks": amount}}))
    assert sums(facts, A) == 7
    assert (facts.counts["conflicting"], facts.counts["duplicate"]) == (1, 2)


@pytest.mark.parametrize("later", [1, 10], ids=["in the same period", "in the next one"])
@pytest.mark.parametrize(
    "other",
    [
        {"amounts": {"clicks": 9}},
        {"amounts": {"leads": 7}},
        {"path": "meta_ads/act/cmp/grp/b"},
        {"at": -9},
        {"attributes": {"status": "paused", "budget": 5}},
        {"attributes": {"status": "active", "budget": 6}},
        {"attributes": {"state": "active", "budget": 5}},
        {"attributes": {}},
        {"attributes": {"status": "active", "clicks": 7}, "amounts": {"budget": 5}},
        {"as_of": 1, "interval": (1, 5), "row": "r"},
        {},
    ],
    ids=str,
)
def test_whatever_else_an_event_says_under_a_known_id_is_a_conflict(facts: Facts, other: dict, later: int) -> None:
    period = (START // HORIZON + 1) * HORIZON
    said = {"id": "1", "path": A, "at": -8, "amounts": {"clicks": 7}, "attributes": {"status": "active", "budget": 5}}
    for stamp, event in ((-5, said), (-5 + later, said | other)):
        fold(facts, period + stamp, batch(event | {"at": period + event["at"]}))
    assert (facts.counts["accepted"], facts.counts["duplicate"], facts.counts["conflicting"]) == (1, 1, int(bool(other)))


@pytest.mark.parametrize("other", [{"interval": (START - 9, START - 1)}, {"interval": (START - 8, START - 2)}, {"row": "s"}, {"as_of": START + 1}, {}], ids=str)
def test_whatever_else_a_report_row_says_under_a_known_id_is_a_conflict(facts: Facts, other: dict) -> None:
    said = {"id": "1", "path": A, "at": START, "amounts": {"clicks": 7}, "as_of": START, "interval": (START - 9, START - 2), "row": "r"}
    for event in (said, said | other):
        fold(facts, START + 5, batch(event))
    assert (facts.counts["accepted"], facts.counts["duplicate"], facts.counts["conflicting"]) == (1, 1, int(bool(other)))


@pytest.mark.parametrize("first", [True, False], ids=["in front", "behind"])
def test_what_an_event_says_is_the_same_in_another_record(facts: Facts, first: bool) -> None:
    """Among others, in another order, with other dictionaries, beside other batches."""
    said = {"id": "1", "path": A, "at": START, "amounts": {"leads": 3, "clicks": 7}, "attributes": {"status": "active", "budget": 5}}
    more = {"id": "2", "path": f"{A}b", "at": START, "amounts": {"a": 1, "z": 2}, "attributes": {"label": "active", "status": "a", "b": 5}}
    fold(facts, START + 5, batch(said))
    again = said | {"amounts": {"clicks": 7, "leads": 3}, "attributes": {"budget": 5, "status": "active"}}
    other = batch(again, more | {"id": "3"}) if first else batch(more | {"id": "3"}, again)
    facts.fold(facts.read(coalesced([(START + 6, batch(more)), (START + 6, other)])), 0, 2)
    assert (facts.counts["accepted"], facts.counts["duplicate"], facts.counts["conflicting"]) == (3, 1, 0)


def test_a_restated_day_amends_the_day_it_belongs_to(facts: Facts) -> None:
    day = {"path": A, "interval": (START - DAY, START - 6 * HOUR), "row": "r"}
    fold(facts, START + 1, batch({"id": "1", "at": START, "as_of": START, "amounts": {"clicks": 10}, **day}))
    fold(facts, START + HOUR, batch({"id": "2", "at": START, "as_of": START + HOUR, "amounts": {"clicks": 14}, **day}))
    assert sums(facts, A) == 14
    facts.roll(START + 18 * HOUR - 1)  # the interval's end - 1 us is still inside
    assert sums(facts, A) == 14
    facts.roll(START + 18 * HOUR)
    assert sums(facts, A) == 0


def test_a_redelivered_older_row_changes_nothing(facts: Facts) -> None:
    for i, (as_of, clicks) in enumerate([(START + 2, 14), (START + 1, 10), (START + 2, 99)]):
        row = {"path": A, "at": START, "interval": (START, START + DAY), "row": "r"}
        fold(facts, START + HOUR, batch({"id": str(i), "as_of": as_of, "amounts": {"clicks": clicks}, **row}))
    assert sums(facts, A) == 14
    assert facts.counts["outdated"] == 2


def test_a_delta_past_the_horizon_a_future_one_and_a_huge_one_are_set_aside_visibly(facts: Facts) -> None:
    now = START + HORIZON
    events = [("late", START - 1, 1), ("edge", START, 2), ("ahead", now + HOUR + 1, 4), ("huge", now, (1 << 53) + 1), ("deep", now, -(1 << 53) - 1)]
    for name, at, clicks in events:
        fold(facts, now, batch({"id": name, "path": A, "at": at, "amounts": {"clicks": clicks}}))
    assert {n: facts.counts[n] for n in ("late", "ahead", "huge", "accepted")} == {"late": 1, "ahead": 1, "huge": 2, "accepted": 1}


def test_the_latest_attribute_wins_and_a_tie_goes_to_the_later_record(facts: Facts) -> None:
    for i, (at, status) in enumerate([(5, "active"), (3, "paused"), (5, "archived")]):
        fold(facts, START + 9, batch({"id": str(i), "path": A, "at": START + at, "attributes": {"status": status}}))
    assert facts.attribute("status", facts.entities.row[A]) == "archived"


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(0, 3)), max_size=60), st.integers(0, 2**32))
def test_sums_over_a_window_equal_a_recount(events: list[tuple[int, int, int]], seed: int) -> None:
    """Any order of arrival, any duplication, any split: the sums are those of the distinct events inside the window."""
    rng = random.Random(seed)
    paths = [f"meta_ads/act/cmp/grp/{i}" for i in range(4)]
    deliveries = [{"id": f"{i}", "path": paths[p], "at": START + i * 7 * MINUTE + 11, "amounts": {"clicks": n}} for i, (_, n, p) in enumerate(events)] * 2
    rng.shuffle(deliveries)
    facts, now = Facts(Demand(((HOUR, MINUTE),), (4,), (("meta_ads", "clicks"),))), START + 10 * HOUR
    while deliveries:
        cut = rng.randint(1, len(deliveries))
        facts.roll(START + rng.randint(0, 9) * HOUR)
        fold(facts, now - 1, batch(*deliveries[:cut]))
        deliveries = deliveries[cut:]
    facts.roll(now)
    for p, path in enumerate(paths):
        expected = sum(n for i, (_, n, q) in enumerate(events) if q == p and (START + i * 7 * MINUTE + 11) // MINUTE >= (now - HOUR) // MINUTE)
        assert sums(facts, path, HOUR) == expected


@given(st.lists(st.lists(st.integers(0, 50), max_size=30), max_size=8))
def test_an_id_is_new_once(deliveries: list[list[int]]) -> None:
    seen, known = Seen(HORIZON), set()
    for names in deliveries:
        new, _ = seen.accept(ids(*map(str, names)), np.zeros(len(names), np.int64), np.full(len(names), START))
        for name, is_new in zip(names, new.tolist(), strict=True):
            assert is_new == (name not in known)
            known.add(name)


def test_an_id_is_known_until_the_period_after_its_own_ends() -> None:
    seen, one, body = Seen(HORIZON), ids("x"), np.zeros(1, np.int64)
    period = 2900
    assert seen.accept(one, body, np.array([period * HORIZON]))[0].all()
    assert not seen.accept(one, body, np.array([(period + 2) * HORIZON - 1]))[0].any()
    assert seen.accept(one, body, np.array([(period + 2) * HORIZON]))[0].all()


def test_an_amount_dated_ahead_lands_at_its_stamp(facts: Facts) -> None:
    fold(facts, START + 5, batch({"id": "1", "path": A, "at": START + 50 * MINUTE, "amounts": {"clicks": 7}}))
    assert sums(facts, A, HOUR) == 7
    facts.roll(START + HOUR + 2 * MINUTE)
    assert sums(facts, A, HOUR) == 0


def test_sums_past_what_a_float_can_hold_are_exact(facts: Facts) -> None:
    for i, amount in enumerate((1 << 53, 1)):
        fold(facts, START + 5, batch({"id": f"{i}", "path": A, "at": START + 1, "amounts": {"clicks": amount}}))
    assert sums(facts, A) == (1 << 53) + 1


def test_a_delta_counts_for_seven_days_and_once(facts: Facts) -> None:
    week = 7 * 24 * HOUR
    for stamp in (START, START + week - 1, START + week):
        fold(facts, stamp, batch({"id": "1", "path": A, "at": START, "amounts": {"clicks": 7}}))
    fold(facts, START + week, batch({"id": "2", "path": A, "at": START, "amounts": {"clicks": 1}}))
    fold(facts, START + week + 1, batch({"id": "3", "path": A, "at": START, "amounts": {"clicks": 1}}))
    assert {n: facts.counts[n] for n in ("accepted", "duplicate", "late")} == {"accepted": 2, "duplicate": 2, "late": 1}
