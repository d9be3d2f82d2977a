"""The doors of ingest over a real log, database and keys: what is answered 2xx is durable, what is bad has a clear problem, and nothing is lost."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.ingest.http import all_sources
from services.ingest.intake import FAR
from services.kernel.ids import event_id
from services.kernel.record import Change, EventBatch, Outcome, Tick
from services.rules_engine.core.demand import Demand
from services.rules_engine.core.facts import Facts
from tests.core.world import fold
from tests.shell.ingesting import AD, GLOBEX, MINUTE, NOON, SECRET, World, event, told
from tests.shell.serving import serving

SALE = {"specversion": "1.0", "source": "shop", "type": "sale", "time": "2026-03-01T11:00:00Z", "subject": AD, "data": {"amounts": {"clicks": 1}}}


@pytest.fixture
async def w(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    world = World(tmp_path, database_url)
    await world.start()
    yield world
    await world.stop()


# -- what is accepted -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "media", "n"),
    [
        (event(), "application/json", 1),
        ([event(), event(id="o-2")], "application/json; charset=utf-8", 2),
        ({"events": [event(), event(id="o-2")]}, "application/json", 2),
        ([], "application/json", 0),
        (json.dumps(event()).encode() + b"\n\n" + json.dumps(event(id="o-2")).encode(), "application/x-ndjson", 2),
        (SALE | {"id": "1"}, "application/cloudevents+json", 1),
        ([SALE | {"id": str(i)} for i in range(3)], "application/cloudevents-batch+json", 3),
    ],
)
async def test_one_event_or_many_are_in_the_log_when_202_is_said(w: World, body: Any, media: str, n: int) -> None:
    answer = await w.post("/v1/events", body, content_type=media)
    assert (answer.status_code, answer.json()) == (202, {"accepted": n, "quarantined": 0, "problems": []})
    assert len(await w.ids()) == n


async def test_a_binary_cloudevent_is_accepted(w: World) -> None:
    envelope = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "shop", "ce_type": "sale", "ce_time": "2026-03-01T11:00:00Z"}
    answer = await w.post("/v1/events", {"entity": AD, "amounts": {"clicks": 1}}, **envelope)
    assert answer.status_code == 202
    assert await w.ids() == [event_id("shop", "1")]


async def test_a_known_id_is_a_2xx_without_effect(w: World) -> None:
    for amounts in ({"impressions": 1}, {"impressions": 1}, {"impressions": 999}):
        assert (await w.post("/v1/events", event(amounts=amounts))).status_code == 202
    facts = Facts(Demand(depths=(1,), measures=(("meta_ads", "clicks"), ("meta_ads", "impressions"))))
    for stamped in await w.log.read(0, 0):
        assert isinstance(stamped.record, EventBatch)
        fold(facts, stamped.stamp, stamped.record)
    assert (facts.counts["accepted"], facts.counts["duplicate"], facts.counts["conflicting"]) == (1, 2, 1)


async def test_what_is_good_of_a_delivery_is_accepted_and_the_rest_is_kept_aside(w: World) -> None:
    answer = await w.post("/v1/events", [event(), event(id="o-2", amounts={"clicks": -1}), event(id="o-3")])
    assert answer.status_code == 202
    assert answer.json() == {
        "accepted": 2,
        "quarantined": 1,
        "problems": [{"pointer": "/1/amounts/clicks", "reason": "negative_count", "detail": "-1 is a negative count"}],
    }
    assert await w.ids() == [event_id("generic", "o-1"), event_id("generic", "o-3")]
    (row,) = await w.quarantined()
    assert (row["pointer"], row["reason"], row["source"], row["state"]) == ("/1/amounts/clicks", "negative_count", "generic", "waiting")


async def test_many_events_make_few_records(w: World) -> None:
    answer = await w.post("/v1/events", [event(id=f"o-{i}") for i in range(2500)])
    assert answer.json()["accepted"] == 2500
    assert [len(r.event_id) for r in await w.records() if isinstance(r, EventBatch)] == [1000, 1000, 500]


@pytest.mark.parametrize("source", ["web", "sandbox", "generic", "hubspot"])
async def test_a_signed_webhook_is_accepted_in_the_workspace_of_its_secret(w: World, source: str) -> None:
    example = all_sources()[source].example
    answer = await w.push(source, example.body, "client-secret" if source == "hubspot" else SECRET)
    assert (answer.status_code, answer.json()["accepted"], answer.json()["quarantined"]) == (202, example.events, example.rejections)
    assert {r.workspace for r in await w.records() if isinstance(r, EventBatch)} == {"acme"}
    assert len(await w.quarantined()) == example.rejections


async def test_the_secret_that_signed_decides_the_workspace(w: World) -> None:
    assert (await w.push("web", all_sources()["web"].example.body, GLOBEX)).status_code == 202
    assert {r.workspace for r in await w.records() if isinstance(r, EventBatch)} == {"globex"}
    assert await w.quarantined() == []  # it is theirs, not acme's


# -- what is refused --------------------------------------------------------------------------------------------------------------------------------------

BAD = [
    (event(amounts={"clicks": -1}), 422, "negative_count", "/amounts/clicks"),
    (event(amounts={"spend": {"amount": "1", "currency": "XYZ"}}), 422, "unknown_currency", "/amounts/spend/currency"),
    (event(amounts={"spend": {"amount": "9007199254.75", "currency": "EUR"}}), 422, "too_large", "/amounts/spend/amount"),
    (event(occurred_at="2026-03-01T14:00:00Z"), 422, "far_future", "/occurred_at"),
    (event(occurred_at="now"), 422, "bad_time", "/occurred_at"),
    (event(id=...), 422, "missing_id", "/id"),
    (event(entity=...), 422, "no_entity", "/entity"),
    (event(amounts={"impressions": "N/A"}), 422, "not_a_number", "/amounts/impressions"),
    (event(entity="x" * 5000), 422, "bad_entity", "/entity"),
    (event(attributes={"name": "\u0000"}), 422, "bad_text", "/attributes/name"),
    ([event(amounts={"clicks": -1})], 422, "negative_count", "/0/amounts/clicks"),
]


@pytest.mark.parametrize(("body", "status", "reason", "pointer"), BAD, ids=[f"{b[2]}-{i}" for i, b in enumerate(BAD)])
async def test_an_event_that_cannot_be_read_is_a_problem_with_its_place_and_waits_in_quarantine(
    w: World, body: Any, status: int, reason: str, pointer: str
) -> None:
    answer = await w.post("/v1/events", body)
    assert told(answer) == (status, reason)
    assert answer.json()["pointer"] == pointer
    assert [(r["reason"], r["pointer"]) for r in await w.quarantined()] == [(reason, pointer)]
    assert await w.records() == []


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "malformed"), (b"", 400, "malformed"), (b"\xff", 400, "malformed"), (b'{"id": NaN}', 422, "not_a_number"),
        (b'{"id": "1", "id": "2"}', 422, "duplicate_key"), (b"[" * 40 + b"]" * 40, 422, "too_deep"), (b"[" * 300_000, 422, "too_deep"),
        (b'{"id": 1' + b"0" * 6000 + b"}", 422, "too_large"),
    ],
)  # fmt: skip
async def test_a_body_that_is_no_trustworthy_json_is_refused_whole(w: World, body: bytes, status: int, reason: str) -> None:
    assert told(await w.post("/v1/events", body)) == (status, reason)
    assert told(await w.post("/v1/reports/meta_ads", body)) == (status, reason)
    assert (await w.records(), await w.quarantined()) == ([], [])  # the sender was told no, and has it still


@pytest.mark.parametrize(("body", "status", "reason"), [(b"{", 400, "malformed"), (b'{"rows": 1}', 422, "bad_shape"), (b"[" * 40 + b"]" * 40, 422, "too_deep")])
async def test_a_signed_body_that_cannot_be_read_is_refused_and_kept(w: World, body: bytes, status: int, reason: str) -> None:
    for _ in range(3):  # a vendor tries again
        assert told(await w.push("sandbox", body)) == (status, reason)
    (row,) = await w.quarantined()
    whole = (await w.get(f"/v1/quarantine/{row['id']}", "editor")).json()
    assert (row["reason"], whole["body"], whole["route"]) == (reason, body.decode(), "webhooks")


@pytest.mark.parametrize("media", ["", "text/plain", "application/xml", "application/json; charset=latin-1"])
async def test_a_media_type_that_is_not_read_is_a_415(w: World, media: str) -> None:
    assert told(await w.post("/v1/events", event(), content_type=media)) == (415, "unsupported_media_type")


async def test_a_compressed_body_is_a_415(w: World) -> None:
    assert told(await w.post("/v1/events", event(), content_encoding="gzip")) == (415, "unsupported_media_type")


async def test_signatures_that_are_wrong_missing_stale_or_junk_are_a_401_and_leave_nothing(w: World) -> None:
    body = all_sources()["web"].example.body
    junk = {"webhook-id": "m", "webhook-timestamp": str(NOON // 1_000_000), "webhook-signature": "v1,\u00ff!"}
    answers = {
        "wrong_signature": await w.push("web", body, "whsec_" + base64.b64encode(b"x" * 32).decode()),
        "missing_signature": await w.http.post("/v1/webhooks/web", content=body),
        "stale_signature": await w.push("web", body, at=NOON - 6 * MINUTE),
    }
    assert {told(a) for a in answers.values()} == {(401, reason) for reason in answers}
    assert told(await w.push("web", body, at=NOON + 6 * MINUTE)) == (401, "stale_signature")
    raw = [(n.encode(), v.encode("latin-1")) for n, v in junk.items()]
    assert told(await w.http.post("/v1/webhooks/web", content=body, headers=raw)) == (401, "wrong_signature")
    for odd in ({"webhook-timestamp": "9" * 400}, {"webhook-timestamp": "-1"}, {"webhook-signature": "v1," + "\u00e9" * 10}, {"webhook-signature": ","}):
        raw = [(n.encode(), v.encode("latin-1")) for n, v in (junk | odd).items()]
        assert (await w.http.post("/v1/webhooks/web", content=body, headers=raw)).status_code == 401
    assert (await w.records(), await w.quarantined()) == ([], [])


async def test_a_captured_delivery_is_refused_once_its_time_is_over(w: World) -> None:
    body = all_sources()["web"].example.body
    assert (await w.push("web", body, at=NOON)).status_code == 202
    w.wall.move(4 * MINUTE)
    assert (await w.push("web", body, at=NOON)).status_code == 202  # a retry; the engine knows the ids
    w.wall.move(2 * MINUTE)
    assert told(await w.push("web", body, at=NOON)) == (401, "stale_signature")


async def test_a_key_is_needed_and_must_be_allowed(w: World) -> None:
    w.keys["nobody"] = "tk000000000000.nothing"
    for path in ("/v1/events", "/v1/reports/meta_ads"):
        assert told(await w.post(path, event(), "nobody"))[0] == 401
        assert told(await w.post(path, event(), "viewer"))[0] == 403
    assert told(await w.get("/v1/quarantine", "source"))[0] == 403
    assert told(await w.post("/v1/quarantine/x/redrive", b"", "viewer"))[0] == 403


async def test_unknown_sources_and_sources_without_webhooks_are_a_404(w: World) -> None:
    assert told(await w.http.post("/v1/webhooks/nosuch", content=b"{}")) == (404, "not_found")
    assert told(await w.http.post("/v1/webhooks/google_ads", content=b"{}")) == (404, "not_found")
    assert told(await w.post("/v1/reports/nosuch", [])) == (404, "not_found")


async def test_no_mangled_body_is_our_fault(w: World) -> None:
    chance = random.Random(20260301)
    pieces = (b"null", b"-1", b"1e999", b"[]", b"{}", b'"\\ud800"', b'"\\u0000"', b"true", b'""', b"\xff", b'"/a"', b"N/A")
    for i in range(400):
        source = chance.choice(["generic", "web", "sandbox", "google_ads", "meta_ads"])
        body = all_sources()[source].example.body
        at = chance.randrange(len(body))
        body = body[:at] + chance.choice(pieces) + body[at + chance.randrange(10) :]
        if source == "generic":
            answer = await w.post("/v1/events", body)
        elif source.endswith("_ads"):
            answer = await w.post(f"/v1/reports/{source}", body)
        else:
            answer = await w.push(source, body)
        assert answer.status_code in (202, 400, 413, 422), (i, body, answer.text)


# -- durability -------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["log", "changes"])
async def test_a_part_that_is_not_durable_is_a_503_and_the_repetition_completes_it(w: World, step: str) -> None:
    before = event(id="s-1", amounts=..., attributes={"status": "active"}, occurred_at="2026-03-01T11:00:00Z")
    after = event(id="s-2", amounts=..., attributes={"status": "paused"})
    assert (await w.post("/v1/events", before)).status_code == 202
    w.fails = {step}
    answer = await w.post("/v1/events", [after, event(amounts={"clicks": -1})])
    assert told(answer) == (503, "log")
    assert answer.headers["retry-after"] == "1"
    assert await w.quarantined() == []
    w.fails = set()
    assert (await w.post("/v1/events", [after, event(amounts={"clicks": -1})])).status_code == 202
    assert await w.changes() == [Change("acme", AD, "status", "active", "paused", NOON - MINUTE)]
    assert len(await w.quarantined()) == 1


async def test_a_quarantine_that_is_away_is_a_503_though_the_log_has_the_events(w: World) -> None:
    async with w.database.writing() as tx:
        await tx.exec_driver_sql("ALTER TABLE quarantine RENAME TO away")
    assert told(await w.post("/v1/events", [event(), event(amounts={"clicks": -1})]))[0] == 503
    async with w.database.writing() as tx:
        await tx.exec_driver_sql("ALTER TABLE away RENAME TO quarantine")
    assert (await w.post("/v1/events", [event(), event(amounts={"clicks": -1})])).status_code == 202
    assert (len(set(await w.ids())), len(await w.quarantined())) == (1, 1)


async def test_a_log_that_does_not_answer_is_a_503(tmp_path: Path) -> None:
    world = World(tmp_path, f"sqlite:///{tmp_path / 'trimtab.db'}")
    await world.start(log_patience=0.05)
    world.fails = {"silence"}
    assert told(await world.post("/v1/events", event())) == (503, "log")
    await world.stop()


# -- quarantine -------------------------------------------------------------------------------------------------------------------------------------------


async def test_quarantine_is_paged_newest_first_and_belongs_to_its_workspace(w: World) -> None:
    for i in range(5):
        await w.post("/v1/events", event(id=f"o-{i}", amounts={"clicks": -i - 1}))
    seen: list[str] = []
    path = "/v1/quarantine?limit=2"
    while path:
        page = (await w.get(path)).json()
        seen += [row["detail"] for row in page["quarantine"]]
        path = f"/v1/quarantine?limit=2&cursor={page['next']}" if page["next"] else ""
    assert seen == [f"-{i} is a negative count" for i in (5, 4, 3, 2, 1)]
    (row, *_) = await w.quarantined()
    assert (await w.get("/v1/quarantine", "stranger")).json() == {"quarantine": [], "next": None}
    assert (await w.get(f"/v1/quarantine/{row['id']}", "stranger")).status_code == 404
    assert (await w.post(f"/v1/quarantine/{row['id']}/redrive", b"", "stranger")).status_code == 404


async def test_a_delivery_driven_again_is_accepted_once_it_can_be(w: World) -> None:
    early = event(id="o-2", occurred_at="2026-03-01T14:00:00Z")
    assert (await w.post("/v1/events", [event(), early])).json()["quarantined"] == 1
    (row,) = await w.quarantined()
    answer = await w.post(f"/v1/quarantine/{row['id']}/redrive", b"", "editor")
    assert told(answer) == (422, "far_future")
    assert len(await w.quarantined()) == 1
    w.clock.move(2 * 60 * MINUTE)
    answer = await w.post(f"/v1/quarantine/{row['id']}/redrive", b"", "editor")
    assert (answer.status_code, answer.json()["redriven"]) == (200, 1)
    assert set(await w.ids()) == {event_id("generic", "o-1"), event_id("generic", "o-2")}
    assert (await w.quarantined(), [r["id"] for r in await w.quarantined("redriven")]) == ([], [row["id"]])
    assert (await w.post(f"/v1/quarantine/{row['id']}/redrive", b"", "editor")).json()["redriven"] == 0


async def test_credentials_do_not_enter_quarantine(w: World) -> None:
    await w.post("/v1/events", event(amounts={"clicks": -1}), cookie="trimtab_session=secretcookie")
    await w.push("web", {"type": "track", "event": "Lead", "messageId": "m", "timestamp": "2026-03-01T11:00:00Z"})
    for row in await w.quarantined():
        whole = (await w.get(f"/v1/quarantine/{row['id']}", "editor")).text
        assert w.keys["source"] not in whole
        assert "secretcookie" not in whole
        assert "v1," not in whole


# -- changes by hand --------------------------------------------------------------------------------------------------------------------------------------


def status(value: str, minute: int, ident: str = "") -> dict[str, Any]:
    return event(id=ident or f"s-{minute}", kind="state", amounts=..., attributes={"status": value}, occurred_at=f"2026-03-01T11:{minute:02d}:00Z")


async def test_a_status_that_differs_is_a_change_even_after_a_restart(w: World) -> None:
    assert (await w.post("/v1/events", [status("active", 1), status("active", 2)])).status_code == 202
    assert await w.changes() == []
    w.intake.levels.clear()  # what a process remembers is in the database
    assert (await w.post("/v1/events", status("paused", 3))).status_code == 202
    assert await w.changes() == [Change("acme", AD, "status", "active", "paused", NOON - 57 * MINUTE)]
    assert w.metric("trimtab_ingest_changes_total", what="status") == 1


async def test_what_an_action_of_ours_set_is_no_change_when_the_platform_reports_it(w: World) -> None:
    await w.post("/v1/events", status("active", 1))
    watching = asyncio.create_task(w.intake.watch(w.log, 0))
    w.clock.at = NOON - 55 * MINUTE
    await w.log.append([("acme", Outcome("acme", "d", "verified", AD, "status", by="rule", value="paused"))])
    w.clock.at = NOON
    async with asyncio.timeout(20):
        while not await _known(w, "paused"):
            pass
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await w.post("/v1/events", status("paused", 10))
    assert await w.changes() == []
    await w.post("/v1/events", status("active", 11))
    assert [c.after for c in await w.changes()] == ["active"]


async def test_how_far_the_log_was_read_for_outcomes_is_noted_though_there_are_none(w: World) -> None:
    """Else every start would read the whole log, archive included."""
    await w.log.append([("", Tick())] * (FAR + 1500))
    watching = asyncio.create_task(w.intake.watch(w.log, 0))
    async with asyncio.timeout(20):
        while not (noted := await _noted(w)):
            pass
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert FAR <= noted[0] <= FAR + 1500


async def _noted(w: World) -> list[int]:
    async with w.database.reading() as connection:
        return [row[0] for row in await connection.exec_driver_sql('SELECT "offset" FROM outcome_positions')]


async def _known(w: World, value: str) -> bool:
    async with w.database.reading() as connection:
        return value in [row[0] for row in await connection.exec_driver_sql("SELECT value FROM known_attributes")]


async def test_two_deliveries_at_once_see_one_change(w: World) -> None:
    await w.post("/v1/events", status("active", 1))
    await asyncio.gather(*(w.post("/v1/events", status("paused", 2, f"p-{i}")) for i in range(8)))
    assert len(await w.changes()) == 1


# -- numbers for those who watch --------------------------------------------------------------------------------------------------------------------------


async def test_what_happened_is_counted(w: World) -> None:
    await w.post("/v1/events", [event(), event(id="o-2", amounts={"clicks": -1})])
    await w.http.post("/v1/webhooks/web", content=b"{}")
    assert w.metric("trimtab_ingest_events_total", source="generic", outcome="accepted") == 1
    assert w.metric("trimtab_ingest_events_total", source="generic", outcome="quarantined") == 1
    assert w.metric("trimtab_ingest_quarantined_total", reason="negative_count") == 1
    assert w.metric("trimtab_ingest_requests_total", route="events", status="202") == 1
    assert w.metric("trimtab_ingest_requests_total", route="webhooks", status="401") == 1


# -- over a real socket -----------------------------------------------------------------------------------------------------------------------------------


async def test_a_body_past_the_limit_is_a_413_whether_announced_or_not(tmp_path: Path) -> None:
    world = World(tmp_path, f"sqlite:///{tmp_path / 'trimtab.db'}")
    await world.start(max_body_bytes=10_000)
    headers = {"authorization": f"Bearer {world.keys['source']}", "content-type": "application/json"}

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 1000

    async with serving(world.app, world.front) as http:
        for content in (b" " * 10_001, endless()):
            answer = await http.post("/v1/events", content=content, headers=headers)
            assert told(answer) == (413, "too_large")
        assert (await http.post("/v1/events", content=json.dumps(event()).encode(), headers=headers)).status_code == 202
    await world.stop()


async def test_a_sender_that_is_slow_is_a_408_and_one_that_goes_away_is_forgotten(tmp_path: Path) -> None:
    world = World(tmp_path, f"sqlite:///{tmp_path / 'trimtab.db'}")
    await world.start(patience=0.2)
    fields = ("host: t", f"authorization: Bearer {world.keys['source']}", "content-type: application/json", "content-length: 100")
    head = "\r\n".join(("POST /v1/events HTTP/1.1", *fields, "", ""))
    async with serving(world.app, world.front) as http, asyncio.timeout(20):
        for goes_away in (True, False):
            reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
            writer.write(head.encode() + b"{")
            await writer.drain()
            if not goes_away:
                assert (await reader.readline()).startswith(b"HTTP/1.1 408")
            writer.close()
            await writer.wait_closed()
        headers = {"authorization": f"Bearer {world.keys['source']}", "content-type": "application/json"}
        assert (await http.post("/v1/events", content=json.dumps(event()).encode(), headers=headers)).status_code == 202
    assert len(await world.ids()) == 1
    await world.stop()


async def test_many_senders_at_once_lose_nothing(w: World) -> None:
    answers = await asyncio.gather(*(w.post("/v1/events", event(id=f"o-{i}")) for i in range(60)))
    assert {a.status_code for a in answers} == {202}
    assert set(await w.ids()) == {event_id("generic", f"o-{i}") for i in range(60)}
