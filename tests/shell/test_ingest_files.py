"""Exports on disk: known tables by their header, others by a mapping, and no cell that is not there read as 0."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.ingest.core.refused import Refused
from services.ingest.core.source import Rejection
from services.ingest.files import FileReceipt, Spoiled, ingest_file, ingest_files, new_context, to_intake
from services.ingest.intake import Intake
from services.kernel.event import Event
from services.kernel.record import Change, EventBatch
from tests.shell.acting import ByHand

DATA = Path(os.environ.get("TRIMTAB_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
SEEDS = DATA / "fivetran_ad_reporting_seeds"
NOON = 1_772_366_400_000_000  # 2026-03-01T12:00:00Z
HEADER = "date,account_id,campaign_id,adset_id,ad_id,impressions,inline_link_clicks,spend"


class Kept:
    """A sink that keeps everything it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.spoiled: list[Spoiled] = []
        self.calls = 0

    async def __call__(self, events: Sequence[Event], spoiled: Sequence[Spoiled]) -> Sequence[Rejection]:
        self.events += events
        self.spoiled += spoiled
        self.calls += 1
        return ()


async def read(path: Path, mapping: dict[str, str] | None = None, currency: str = "EUR", zone: str = "UTC") -> tuple[FileReceipt, Kept]:
    kept = Kept()
    return await ingest_file(path, mapping or {}, kept, context=new_context(NOON, currency=currency, zone=zone)), kept


def write(folder: Path, text: str, name: str = "export.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


MAPPING = {
    "platform": "meta_ads", "account": "Account", "campaign": "Campaign ID", "date": "Day", "impressions": "Impr.", "clicks": "Clicks", "spend": "Cost",
    "attribute.name": "Campaign",
}  # fmt: skip
TABLE = "Day,Account,Campaign ID,Campaign,Impr.,Clicks,Cost\n"


async def test_a_mapping_says_what_columns_mean(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff" + TABLE + '2026-02-28,1700,6215,"Summer, big","67,283",12,"1,234.50"\n')
    receipt, kept = await read(path, MAPPING)
    assert (receipt.rows, receipt.accepted, receipt.quarantined) == (1, 1, 0)
    (event,) = kept.events
    assert event.path == "meta_ads/1700/6215"
    assert event.amounts == {"impressions": 67_283_000_000, "clicks": 12_000_000, "spend@EUR": 1_234_500_000}
    assert event.attributes == {"name": "Summer, big"}


async def test_a_mapped_value_that_is_no_column_holds_for_every_row(tmp_path: Path) -> None:
    path = write(tmp_path, "Day,Campaign ID,Cost\n2026-02-28,6215,5\n")
    mapping = {"platform": "google_ads", "account": "2121", "campaign": "Campaign ID", "date": "Day", "spend.micros": "Cost", "currency": "USD"}
    _, kept = await read(path, mapping, currency="")
    assert [(e.path, e.amounts) for e in kept.events] == [("google_ads/2121/6215", {"spend@USD": 5})]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2026-02-28,1700,6215,Summer,N/A,12,1.50", "not_available"),
        ("2026-02-28,1700,6215,Summer,,12,1.50", "missing_value"),
        ("2026-02-28,1700,6215,Summer,5,80.00%,1.50", "percent"),
        ('2026-02-28,1700,6215,Summer,5,1,"1,234"', "ambiguous_number"),
        ("2026-02-28,1700,6215,Summer,5,-1,1", "negative_count"),
        ("2/28/26,1700,6215,Summer,5,1,1", "bad_time"),
        ("2026-02-28,,6299,Summer,5,1,1", "no_entity"),
        ("2026-02-28,1700,6215,Summer,5,1", "malformed"),
        ("2026-03-05,1700,6215,Summer,5,1,1", "bad_interval"),
        ("2026-02-28,1700,6215,Summer,5,1,9007199254.75", "too_large"),
        ("2026-02-28,1700,6215,\udcff,5,1,1", "bad_text"),
    ],
)
async def test_a_spoiled_row_has_its_reason_and_the_others_are_read(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "export.csv"
    path.write_bytes((TABLE + "2026-02-27,1700,6215,Summer,5,1,1.5\n" + row + "\n2026-02-26,1700,6215,Summer,5,1,1.5\n").encode("utf-8", "surrogateescape"))
    receipt, kept = await read(path, MAPPING)
    assert (receipt.rows, receipt.accepted, receipt.reasons) == (3, 2, {reason: 1})
    assert kept.spoiled[0].rejection.pointer.startswith("line 3#")


async def test_two_rows_that_are_one_without_their_breakdown_are_told_apart_or_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "Day,Account,Device,Impr.\n2026-02-28,1,mobile,5\n2026-02-28,1,desktop,7\n2026-02-28,1,mobile,5\n")
    mapping = {"platform": "meta_ads", "account": "Account", "date": "Day", "impressions": "Impr."}
    receipt, kept = await read(path, mapping)
    assert (receipt.reasons, len({e.key for e in kept.events})) == ({"conflicting_twin": 1}, 1)
    receipt, kept = await read(path, mapping | {"breakdown": "Device"})
    assert (receipt.reasons, len({e.key for e in kept.events})) == ({}, 2)


async def test_a_file_that_nobody_understands_is_refused_with_its_columns(tmp_path: Path) -> None:
    for text in ("a,b\n1,2\n", "", "a,a\n1,2\n"):
        with pytest.raises(Refused):
            await read(write(tmp_path, text))
    with pytest.raises(Refused) as refused:
        await read(write(tmp_path, TABLE + "1,2,3,4,5,6,7\n"), MAPPING | {"clicks": "Klicks"})
    assert "Klicks" in str(refused.value)


async def test_json_lines_hold_events_or_report_rows(tmp_path: Path) -> None:
    plain = '{"id": "1", "entity": "web/shop", "occurred_at": "2026-03-01T11:00:00Z", "amounts": {"clicks": 1}}\n'
    receipt, kept = await read(write(tmp_path, plain + "\n{\n" + plain.replace('"1"', '"2"'), "events.jsonl"))
    assert (receipt.accepted, receipt.reasons, [e.id for e in kept.events]) == (2, {"malformed": 1}, ["1", "2"])
    row = '{"account_id": "1", "date_start": "2026-02-28", "impressions": "5", "spend": "1"}\n'
    receipt, kept = await read(write(tmp_path, row, "rows.jsonl"))
    assert [e.amounts for e in kept.events] == [{"impressions": 5_000_000, "spend@EUR": 1_000_000}]


async def test_progress_reaches_the_end_and_rows_go_in_chunks(tmp_path: Path) -> None:
    rows = "".join(f"2026-02-28,1700,{i},x,5,1,1\n" for i in range(2500))
    path = write(tmp_path, TABLE + rows)
    seen: list[tuple[int, int]] = []
    kept = Kept()
    await ingest_file(path, MAPPING, kept, lambda done, total: seen.append((done, total)), context=new_context(NOON, currency="EUR"))
    assert (len(kept.events), kept.calls) == (2500, 3)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


# -- vendors' tables --------------------------------------------------------------------------------------------------------------------------------------


def seeds(prefix: str, *names: str) -> list[Path]:
    if not SEEDS.exists():
        pytest.skip(f"{SEEDS} is not there")
    return [SEEDS / f"{prefix}_{name}_data.csv" for name in names]


async def test_google_tables_are_known_by_their_header_and_cost_is_in_millionths() -> None:
    kept = Kept()
    paths = seeds("google_ads", "ad_stats", "campaign_stats", "ad_group_stats", "account_history", "campaign_history", "ad_group_history", "ad_history")
    receipts = await ingest_files(paths, {}, kept, context=new_context(NOON))
    assert {r.path.name: (r.rows, r.quarantined) for r in receipts} == {
        "google_ads_account_history_data.csv": (1, 0), "google_ads_campaign_history_data.csv": (10, 0), "google_ads_ad_group_history_data.csv": (3, 0),
        "google_ads_ad_history_data.csv": (10, 0), "google_ads_ad_stats_data.csv": (10, 0), "google_ads_ad_group_stats_data.csv": (15, 0),
        "google_ads_campaign_stats_data.csv": (16, 0),
    }  # fmt: skip
    first = next(e for e in kept.events if e.path == "google_ads/2121450128/9935249409" and e.snapshot)
    assert first.amounts["spend@USD"] == 36_150_000  # cost_micros 36150000 is 36.15 USD; the currency is the account history's
    statuses = [e.attributes["status"] for e in kept.events if e.path == "google_ads/2121450128/9935249409" and "status" in e.attributes]
    assert set(statuses) == {"paused"}


async def test_metas_tables_are_known_by_their_header_and_spend_is_in_units() -> None:
    kept = Kept()
    paths = seeds("facebook_ads", "basic_ad", "campaign_history", "ad_set_history", "ad_history")
    receipts = await ingest_files(paths, {}, kept, context=new_context(NOON, currency="EUR"))
    assert sum(r.quarantined for r in receipts) == 0
    first = next(e for e in kept.events if e.snapshot and e.path.endswith("/6215293456071"))
    assert first.path == "meta_ads/1700252260223815/6215293444271/6215293450671/6215293456071"  # the report names no campaign: the history does
    assert first.amounts == {"impressions": 4_233_000_000, "clicks": 10_000_000, "spend@EUR": 76_530_000}


async def test_a_report_of_ads_that_nobody_listed_waits_with_its_reason() -> None:
    (path,) = seeds("facebook_ads", "basic_ad")
    receipt, kept = await read(path)
    assert (receipt.accepted, receipt.reasons) == (0, {"no_entity": 10})
    assert "read the file that lists it first" in kept.spoiled[0].rejection.detail


async def test_tables_that_split_the_same_figures_are_not_taken_for_totals() -> None:
    (path,) = seeds("google_ads", "search_term_keyword_stats")
    with pytest.raises(Refused) as refused:
        await read(path)
    assert refused.value.reason == "unknown_columns"


async def test_a_raw_export_with_unknown_figures_has_no_zero_in_it() -> None:
    path = DATA / "upworthy_ga_daily" / "daily-users-info.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    kept = Kept()
    mapping = {"platform": "web", "account": "upworthy", "date": "Day Index", "date_format": "%m/%d/%y", "page_views": "Pageviews", "sessions": "Sessions"}
    receipt = await ingest_file(path, mapping, kept, context=new_context(NOON))
    assert receipt.accepted + receipt.quarantined == receipt.rows > 400
    assert set(receipt.reasons) <= {"missing_value", "not_available"}
    assert receipt.quarantined > 100
    assert all(amount > 0 for e in kept.events for amount in e.amounts.values())


# -- into the log -----------------------------------------------------------------------------------------------------------------------------------------


class Logged:
    def __init__(self) -> None:
        self.batches: list[EventBatch] = []

    async def append(self, batch: EventBatch) -> None:
        self.batches.append(batch)

    async def change(self, changes: Sequence[Change]) -> None:
        raise AssertionError(f"nothing changed by hand: {changes}")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'trimtab.db'}")
    await migrate(made)
    yield made
    await made.close()


async def test_every_row_of_a_file_is_an_event_or_waits_in_quarantine(database: Database, tmp_path: Path) -> None:
    log = Logged()
    intake = Intake(database, log.append, log.change, ByHand(NOON), CollectorRegistry())
    rows = "2026-02-28,1700,6215,a,5,1,1\n2026-02-28,1700,6216,b,N/A,1,1\n2026-02-28,1700,6217,c,,1,1\n"
    path = write(tmp_path, TABLE + rows)
    for _ in range(2):  # the same file again: the same ids, the same quarantine
        receipt = await ingest_file(path, MAPPING, to_intake(intake, "acme"), context=new_context(NOON, currency="EUR"))
        assert (receipt.rows, receipt.accepted, receipt.quarantined) == (3, 1, 2)
    waiting = await intake.quarantine.page("acme", limit=10, before=None, state="waiting")
    assert Counter(row.reason for row in waiting) == {"not_available": 1, "missing_value": 1}
    assert len({b.event_id.tobytes() for b in log.batches}) == 1


async def test_rows_of_another_level_than_a_source_reports_at_wait_in_quarantine(database: Database) -> None:
    log = Logged()
    intake = Intake(database, log.append, log.change, ByHand(NOON), CollectorRegistry())
    paths = seeds("google_ads", "account_stats", "ad_stats")
    receipts = await ingest_files(paths, {}, to_intake(intake, "acme"), context=new_context(NOON, currency="USD"))
    assert [(r.accepted, r.reasons) for r in receipts] == [(10, {}), (0, {"other_level": 19})]
    assert sum(len(b.event_id) for b in log.batches) == 10
    waiting = await intake.quarantine.page("acme", limit=100, before=None, state="waiting")
    assert Counter(row.reason for row in waiting) == {"other_level": 19}
