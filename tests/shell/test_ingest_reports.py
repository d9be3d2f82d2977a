"""Report rows at the doors of ingest: each is a snapshot of its interval, read by its own columns, and counts once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.ingest.http import all_sources
from services.kernel.record import EventBatch
from services.rules_engine.core.demand import Demand
from services.rules_engine.core.facts import Facts
from services.rules_engine.core.snapshots import SLOT, VALUE
from tests.core.world import fold
from tests.shell.ingesting import NOON, World, event, told


@pytest.fixture
async def w(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    world = World(tmp_path, database_url)
    await world.start()
    yield world
    await world.stop()


@pytest.mark.parametrize("source", ["google_ads", "meta_ads"])
async def test_report_rows_are_snapshots(w: World, source: str) -> None:
    example = all_sources()[source].example
    answer = await w.post(f"/v1/reports/{source}", example.body)
    assert (answer.status_code, answer.json()["accepted"], answer.json()["quarantined"]) == (202, 1, 1)
    (batch,) = await w.records()
    assert isinstance(batch, EventBatch)
    assert batch.as_of.tolist() == [NOON]


async def test_a_restated_row_counts_the_difference_and_an_older_one_nothing(w: World) -> None:
    row = {"account_id": "1", "date_start": "2026-02-28", "account_currency": "EUR"}
    facts = Facts(Demand(depths=(1,), measures=(("meta_ads", "clicks"), ("meta_ads", "impressions"))))
    for hour, clicks in ((10, "5"), (12, "7"), (11, "6")):
        body = {"rows": [row | {"impressions": "100", "inline_link_clicks": clicks}], "as_of": f"2026-03-01T{hour}:00:00Z"}
        assert (await w.post("/v1/reports/meta_ads", body)).status_code == 202
    for stamped in await w.log.read(0, 0):
        assert isinstance(stamped.record, EventBatch)
        fold(facts, stamped.stamp, stamped.record)
    clicks_slot = facts.slot["meta_ads", "clicks"]
    kept = facts.snapshots.kept[: len(facts.snapshots)]
    assert kept[kept[:, SLOT] == clicks_slot, VALUE].tolist() == [7_000_000]
    assert facts.counts["outdated"] == 2  # both measures of the older row


async def test_names_that_grow_with_their_depth_are_refused(w: World) -> None:
    """Each of a thousand members would have the name of what it stands in, again."""
    row = {"customer": {"id": "1"}, "campaign": {"id": "2"}, "segments": {"date": "2026-02-28"}, "metrics": {"impressions": "5"}}
    for name, members in (("p" * 300, 1), ("p", 2001)):
        large = {name: {f"k{i}": 1 for i in range(members)}}
        assert told(await w.post("/v1/reports/google_ads", [row | large])) == (422, "too_large")
        assert told(await w.post("/v1/reports/google_ads", {"rows": [row]} | large)) == (422, "too_large")
    assert (await w.post("/v1/reports/google_ads", [row | {"p" * 200: {f"k{i}": 1 for i in range(1900)}}])).json()["accepted"] == 1


@pytest.mark.parametrize(
    "other", [{"breakdown": {"device": "tv"}}, {"interval": {"start": "2026-02-28T00:00:00Z", "end": "2026-02-28T12:00:00Z"}}, {}], ids=str
)
async def test_two_rows_of_one_id_that_differ_in_what_they_are_about_are_twins(w: World, other: dict[str, Any]) -> None:
    row = event(interval={"start": "2026-02-27T00:00:00Z", "end": "2026-02-28T00:00:00Z"}, breakdown={"device": "phone"}, occurred_at=...)
    answer = await w.post("/v1/reports/generic", {"rows": [row, row | other], "as_of": "2026-03-01T10:00:00Z"})
    assert (answer.json()["accepted"], answer.json()["quarantined"]) == (1, int(bool(other)))


async def test_each_row_is_read_by_its_own_columns_however_many_kinds_of_rows_there_are(w: World) -> None:
    """More kinds of headers than are remembered, each of two rows, in turns."""
    row = {"customer": {"id": "1"}, "campaign": {"id": "2"}, "segments": {"date": "2026-02-28"}}
    kinds: list[dict[str, Any]] = [{"metrics": {"impressions": "5"}}, {"adGroup": {"id": "3"}, "metrics": {"clicks": "4"}}]
    kinds += [{f"column{i}": 1, "campaign": {"id": f"c{i}"}, "metrics": {"impressions": "1"}} for i in range(100)]
    answer = await w.post("/v1/reports/google_ads", {"results": [row | kind for kind in kinds * 2], "currency": "EUR"})
    assert (answer.json()["accepted"], answer.json()["quarantined"]) == (len(kinds), 0)
    (first, *_) = [s.record for s in await w.log.read(0, 0)]
    assert isinstance(first, EventBatch)
    assert sorted(first.paths)[:2] == ["google_ads/1/2", "google_ads/1/2/3"]
    assert len(first.paths) == 102


async def test_rows_of_another_level_are_not_added(w: World) -> None:
    ad = {"account_id": "1", "campaign_id": "2", "adset_id": "3", "ad_id": "4", "date_start": "2026-02-28", "impressions": "5"}
    account = {"account_id": "1", "date_start": "2026-02-28", "impressions": "5"}
    assert (await w.post("/v1/reports/meta_ads", [ad])).json()["accepted"] == 1
    assert told(await w.post("/v1/reports/meta_ads", [account])) == (422, "other_level")
    w.intake.levels.clear()  # as a start leaves it
    assert told(await w.post("/v1/reports/meta_ads", [account])) == (422, "other_level")
    assert len(await w.ids()) == 1
