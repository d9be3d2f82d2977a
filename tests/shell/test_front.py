"""The sockets under clients that mean ill or are ill: each bound closes what does not get on, and a good client never notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import Request
from fastapi.responses import PlainTextResponse, StreamingResponse

from services.adapters.http.front import Bounds, bounded
from services.kernel.ids import event_id
from tests.shell.ingesting import World, event, told
from tests.shell.serving import serving

QUICK = Bounds(connections=20, head_bytes=4096, head_seconds=0.3, body_seconds=0.3, drain_seconds=0.3, unread_seconds=0.3)


class Site:
    """A world behind real sockets."""

    def __init__(self, world: World, http: httpx2.AsyncClient) -> None:
        self.world, self.http = world, http
        self.port = int(http.base_url.port or 0)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def request(self, body: Any, *fields: str, size: int | None = None) -> bytes:
        raw = json.dumps(body).encode() if not isinstance(body, bytes) else body
        given = ("host: t", f"authorization: Bearer {self.world.keys['source']}", "content-type: application/json")
        head = ("POST /v1/events HTTP/1.1", *given, f"content-length: {len(raw) if size is None else size}", *fields, "", "")
        return "\r\n".join(head).encode() + raw

    async def send(self, body: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.world.keys['source']}", "content-type": "application/json"}
        return await self.http.post("/v1/events", content=json.dumps(body).encode(), headers=headers)

    def shed(self, reason: str) -> float:
        return self.world.metric("trimtab_http_shed_total", reason=reason)


@asynccontextmanager
async def site(folder: Path, bounds: Bounds = QUICK, add: Callable[[World], None] = lambda _: None, **options: Any) -> AsyncIterator[Site]:
    world = World(folder)
    await world.start(bounds=bounds, **options)
    add(world)
    async with serving(world.app, world.front) as http, asyncio.timeout(20):
        yield Site(world, http)
    await world.stop()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The next answer on the connection."""
    status = int((await reader.readline()).split()[1])
    headers: dict[str, str] = {}
    while (line := (await reader.readline()).strip()) != b"":
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    return status, headers, await reader.readexactly(int(headers["content-length"]))


async def test_a_head_that_comes_a_byte_at_a_time_is_a_408_and_other_clients_do_not_notice(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        reader, writer = await s.connect()

        async def drip() -> None:
            for byte in s.request(event()):
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert (await s.send(event(id="good"))).status_code == 202
        status, headers, body = await answer(reader)
        assert (status, json.loads(body)["reason"], headers["connection"]) == (408, "slow_head", "close")
        assert await reader.read() == b""
        dripping.cancel()
        assert s.shed("head") == 1
        assert await s.world.ids() == [event_id("generic", "good")]


async def test_a_connection_that_says_nothing_is_closed_without_a_word(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        reader, _ = await s.connect()
        assert await reader.read() == b""
        assert s.world.metric("trimtab_http_connections") == 0


@pytest.mark.parametrize("size", [100, 100_000])
async def test_a_body_that_comes_a_byte_at_a_time_is_a_408(tmp_path: Path, size: int) -> None:
    async with site(tmp_path) as s:
        reader, writer = await s.connect()
        writer.write(s.request(b"[", size=size))
        status, headers, body = await answer(reader)
        assert (status, json.loads(body)["reason"], headers["connection"]) == (408, "slow_body", "close")
        assert await reader.read() == b""
        assert (await s.send(event())).status_code == 202
        assert s.world.metric("trimtab_ingest_deliveries_in_work") == 0
        assert s.world.metric("trimtab_ingest_bytes_in_work") == 0


async def test_an_endless_head_is_a_431(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        reader, writer = await s.connect()
        writer.write(b"POST /v1/events HTTP/1.1\r\n")
        for i in range(200):
            writer.write(b"x-%d: %s\r\n" % (i, b"y" * 60))
        status, _, body = await answer(reader)
        assert (status, json.loads(body)["reason"]) == (431, "head_too_large")
        assert s.shed("head_bytes") == 1


async def test_where_all_connections_are_taken_the_longest_idle_makes_room(tmp_path: Path) -> None:
    async with site(tmp_path, Bounds(connections=20)) as s:
        idle = [await s.connect() for _ in range(20)]
        assert (await s.send(event())).status_code == 202
        assert await idle[0][0].read() == b""
        assert s.shed("connections") == 1
        assert s.world.metric("trimtab_http_connections") == 20
        idle[1][1].write(s.request(event(id="o-2")))  # the next one idle is still served
        assert (await answer(idle[1][0]))[0] == 202


async def test_where_all_connections_are_at_work_the_newest_is_asked_to_come_back(tmp_path: Path) -> None:
    async with site(tmp_path, Bounds(connections=4)) as s:
        busy = [await s.connect() for _ in range(4)]
        for _, writer in busy:
            writer.write(s.request(b"[", size=100))
        while s.world.front._clocks["head"]:  # noqa: ASYNC110  turn by turn, until all have begun
            await asyncio.sleep(0.01)
        reader, _ = await s.connect()
        status, headers, body = await answer(reader)
        assert (status, json.loads(body)["reason"], headers["retry-after"]) == (503, "busy", "1")
        busy[0][1].write(b" " * 98 + b"]")
        assert (await answer(busy[0][0]))[0] == 202


async def test_the_rest_of_a_body_that_is_refused_is_not_read_for_ever(tmp_path: Path) -> None:
    async with site(tmp_path, max_body_bytes=10_000) as s:
        reader, writer = await s.connect()
        writer.write(s.request(b"[", size=10**9))
        assert (await answer(reader))[0] == 413

        async def flood() -> None:
            while True:
                writer.write(b" " * 10_000)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await flood()
        assert s.shed("drain") == 1


async def test_a_reader_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    def endless(world: World) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65_536
                await asyncio.sleep(0)

        @world.app.get("/endless")
        async def get() -> StreamingResponse:
            return StreamingResponse(chunks())

    async with site(tmp_path, add=endless) as s:
        _, writer = await s.connect()
        writer.write(b"GET /endless HTTP/1.1\r\nhost: t\r\n\r\n")
        while not s.shed("unread"):  # noqa: ASYNC110  turn by turn, until it is noticed
            await asyncio.sleep(0.02)
        assert (await s.send(event())).status_code == 202


async def test_requests_one_after_the_other_on_one_connection_are_answered_in_their_order(tmp_path: Path) -> None:
    def late(world: World) -> None:
        @world.app.post("/late")
        async def post(request: Request) -> PlainTextResponse:
            return PlainTextResponse("late" + str(len(await request.body())))

    async with site(tmp_path, Bounds(), add=late) as s:
        await s.send(event(id="known"))
        reader, writer = await s.connect()
        bad = s.request([event(amounts={"clicks": -1})])
        other = b"POST /late HTTP/1.1\r\nhost: t\r\ncontent-length: 3\r\n\r\nabc"
        writer.write(s.request([event(id="a"), event(id="b")]) + bad + other + s.request(event(id="c"), "connection: close"))
        answers = [await answer(reader) for _ in range(4)]
        assert [status for status, _, _ in answers] == [202, 422, 200, 202]
        assert [json.loads(answers[i][2])["accepted"] for i in (0, 1, 3)] == [2, 0, 1]
        assert answers[2][2] == b"late3"
        assert len({headers["x-request-id"] for _, headers, _ in answers}) == 4
        assert await reader.read() == b""  # it said that it would close
        assert len(await s.world.ids()) == 4


async def test_a_sender_that_waits_to_be_told_to_go_on_is_told(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        reader, writer = await s.connect()
        whole = s.request(event(), "expect: 100-continue")
        head, _, body = whole.partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        await reader.readline()
        writer.write(body)
        assert (await answer(reader))[0] == 202


async def test_the_short_way_says_what_the_whole_way_says(tmp_path: Path) -> None:
    """In one piece or in two, known key or not: status, body and all headers but the id are the same."""
    async with site(tmp_path, Bounds()) as s:
        reader, writer = await s.connect()
        seen = []
        for number, pieces in enumerate((1, 1, 2)):  # the first goes the whole way, its key is not known yet
            raw = s.request(event(id=f"o-{number}"), "x-request-id: mine", *(["expect: 100-continue"] if pieces == 2 else []))
            writer.write(raw)
            if pieces == 2:
                await reader.readuntil(b"\r\n\r\n")
            status, headers, body = await answer(reader)
            headers.pop("date")
            seen.append((status, headers, body))
        assert seen[0] == seen[1] == seen[2]
        assert seen[0][1]["x-request-id"] == "mine"


async def test_a_sender_that_leaves_before_its_answer_loses_nothing_that_was_to_be_acknowledged(tmp_path: Path) -> None:
    async with site(tmp_path, Bounds()) as s:
        await s.send(event(id="known"))
        for i in range(20):
            _, writer = await s.connect()
            writer.write(s.request(event(id=f"gone-{i}")))
            await writer.drain()
            writer.close()
        assert (await s.send(event(id="after"))).status_code == 202
        while s.world.metric("trimtab_ingest_deliveries_in_work"):  # noqa: ASYNC110  turn by turn, until all have ended
            await asyncio.sleep(0.01)
        assert {event_id("generic", "known"), event_id("generic", "after")} <= set(await s.world.ids())
        while s.world.metric("trimtab_http_connections") > 1:  # noqa: ASYNC110  the good client keeps one
            await asyncio.sleep(0.01)


def test_connections_leave_files_for_the_log_and_the_database() -> None:
    assert bounded(10_000, lambda: 1024).connections == 768
    assert bounded(500, lambda: 1024).connections == 500


async def test_a_wrong_key_is_refused_the_same_on_every_connection(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        s.world.keys["source"] = "tk000000000000.nothing"
        for _ in range(2):
            assert told(await s.send(event()))[0] == 401
