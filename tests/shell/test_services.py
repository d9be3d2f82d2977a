"""The processes of production one by one: what each needs, what it says while it waits for that, and who answers what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from deploy.kafka.broker import free_ports
from services.actions import api as actions_api
from services.adapters.clock import SystemClock
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.adapters.http.passing import LONG, Passing
from services.adapters.http.serving import open_port, serving
from services.adapters.log.cluster import Cluster, Topic
from services.adapters.log.codec import EVENTS, partition_of
from services.adapters.log.following import Alone, Following
from services.adapters.log.kafka import KafkaLog
from services.adapters.log.memory import MemoryLog
from services.adapters.progress import Beat
from services.adapters.settings import Settings
from services.ingest import http as ingest_http
from services.ingest.intake import Intake
from services.kernel.errors import Misconfigured, NotFound, RejectedInput, Unavailable, Unreadable
from services.kernel.principal import Principal
from services.kernel.record import Outcome, Ready, Record, Stamped
from services.production import NAMES, service
from services.production.console import OWN, service_of
from services.production.rules import Rules
from services.rules_engine import api as rules_api
from tests.brokers import until
from tests.shell.commanded import run

SECRET = "5e" * 32
WHOLE = {"kafka": "127.0.0.1:1", "database": "postgresql+asyncpg://joe@127.0.0.1:1/trimtab", "secret": SECRET, "port": "0"}
WHOLE |= {f"{name}_url": "http://127.0.0.1:1" for name in ("ingest", "rules", "actions")}


@pytest.mark.parametrize(
    ("name", "lacking", "said"),
    [
        ("ingest", "kafka", "no Kafka is named: TRIMTAB_KAFKA=host:port"),
        ("actions", "database", "no PostgreSQL is named: TRIMTAB_DATABASE=postgresql+asyncpg://"),
        ("console", "rules_url", "set TRIMTAB_RULES_URL to http://HOST:PORT"),
        ("rules", "secret", "no secret is given: TRIMTAB_SECRET_FILE"),
        ("everything", "", "there is no service everything: ingest, rules, actions, console"),
    ],
)
def test_what_a_service_lacks_is_told_in_one_line(name: str, lacking: str, said: str) -> None:
    refused = run("serve", name, **{k: v for k, v in WHOLE.items() if k != lacking}).refused()
    assert said in refused and "\n" not in refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"secret": "short"}, "TRIMTAB_SECRET"),
        ({"rules_url": "rules:8420"}, "TRIMTAB_RULES_URL=rules:8420 is no address: write http://HOST:PORT"),
        ({"advertise": "http://here"}, "TRIMTAB_ADVERTISE=http://here is no address"),
    ],
)
def test_an_address_or_a_secret_that_is_none_is_told(given: dict[str, str], said: str) -> None:
    assert said in run("serve", "ingest", **(WHOLE | given)).refused()


def test_all_in_one_process_listens_on_this_machine_alone(tmp_path: Path) -> None:
    assert "listens on this machine only" in run("up", data=str(tmp_path), host="0.0.0.0").refused()


@pytest.mark.parametrize("name", NAMES)
async def test_while_what_it_needs_is_away_it_waits_says_so_and_takes_nothing(name: str, tmp_path: Path) -> None:
    away = free_ports(2)
    settings = Settings(**(WHOLE | {"kafka": f"127.0.0.1:{away[0]}", "database": f"postgresql://joe:pw@127.0.0.1:{away[1]}/t", "data": tmp_path, "port": 0}))
    made = service(name, settings)
    async with made.serving() as url, httpx2.AsyncClient(base_url=url, trust_env=False) as http:
        starting = asyncio.create_task(made.start())
        await until(lambda: made.why_not_ready not in ("", "starting"))
        ready = await http.get("/readyz")
        assert ready.status_code == 503 and f"127.0.0.1:{away[0] if name != 'console' else away[1]}" in ready.json()["why"]
        assert (await http.get("/livez")).text == "alive" and (await http.get("/metrics")).status_code == 200
        for method, path in (("POST", "/v1/events"), ("GET", "/v1/decisions"), ("GET", "/v1/me"), ("POST", "/v1/rules/apply")):
            refused = await http.request(method, path, json={})
            assert refused.status_code == 503 and refused.headers["retry-after"] and refused.json()["reason"] == "starting"
            assert refused.headers["x-request-id"]
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    await made.stop()


async def test_a_schema_that_is_older_is_waited_for_and_one_of_a_newer_build_is_worked_with(on_postgres: Callable[[], str], tmp_path: Path) -> None:
    settings = Settings(**(WHOLE | {"database": on_postgres(), "data": tmp_path, "port": 0}))
    made = service("console", settings)
    async with made.database.writing() as tx:
        await tx.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    starting = asyncio.create_task(made.start())
    await until(lambda: "run `trimtab migrate`" in made.why_not_ready)
    async with made.database.writing() as tx:
        await tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    await starting
    assert await made.unready() == ""
    await made.stop()


async def test_the_console_needs_no_kafka(on_postgres: Callable[[], str], tmp_path: Path) -> None:
    made = service("console", Settings(**(WHOLE | {"kafka": "", "database": on_postgres(), "data": tmp_path, "port": 0})))
    await made.start()
    assert await made.unready() == ""
    await made.stop()


def test_what_is_asked_goes_to_the_service_that_has_it() -> None:
    """Each route of each service."""
    nothing: Any = SimpleNamespace(database=None, people=None)
    assert service_of("/v1/partitions") == "rules"
    routers: dict[str, Any] = {
        "ingest": ingest_http.doors(nothing, nothing, {}, nothing, CollectorRegistry())[0],
        "rules": rules_api.router(nothing, nothing, nothing, nothing),
        "actions": actions_api.router(nothing),
    }
    for name, router in routers.items():
        paths = [route.path for route in router.routes]
        assert paths and {p: service_of(p) for p in paths} == dict.fromkeys(paths, name)


async def test_a_closed_log_on_kafka_says_so_and_not_that_nothing_is_there() -> None:
    log: KafkaLog[Record] = KafkaLog(Cluster("127.0.0.1:1"), EVENTS, SystemClock(), Topic("t.events"))
    await log.close()
    with pytest.raises(Unavailable, match="closed"):
        await log.read(0, 0)


# -- passing on -----------------------------------------------------------------------------------------------------------


async def echo(request: Request) -> Response:
    told = f"{request.method} {request.url.path} {request.url.query} {request.headers.get('authorization')} {request.headers.get('host')} "
    return PlainTextResponse(told + (await request.body()).decode(), 201, {"X-Kept": "yes"})


async def test_a_request_is_passed_on_as_it_is_and_its_answer_back() -> None:
    passing, behind = Passing(), open_port("127.0.0.1", 0)
    there = f"http://127.0.0.1:{behind.getsockname()[1]}"

    async def front(scope: Any, receive: Any, send: Any) -> None:
        await passing.on(there, scope, receive, send)

    listener = open_port("127.0.0.1", 0)
    own = f"127.0.0.1:{listener.getsockname()[1]}"
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST", "PUT"])])
    async with serving(app, behind), serving(front, listener), httpx2.AsyncClient(base_url=f"http://{own}", trust_env=False) as http:
        answer = await http.post("/v1/a%20b/c?x=1&y=%C3%A4", content=b"body" * 50_000, headers={"Authorization": "Bearer k.s"})
        assert (answer.status_code, answer.headers["x-kept"]) == (201, "yes")
        assert answer.text == f"POST /v1/a b/c x=1&y=%C3%A4 Bearer k.s {own} " + "body" * 50_000
        assert (await http.get("/v1/me")).text == f"GET /v1/me  None {own} "
    await passing.close()


@pytest.mark.parametrize("path", [b"/v1/../metrics", b"/v1/%2e%2E/login/abc", b"/v1/./x", b"/v1/a%2F..%2Fb"])
async def test_a_path_that_leads_out_of_the_api_is_not_passed_on(path: bytes) -> None:
    passing, scope = Passing(), {"type": "http", "method": "GET", "raw_path": path, "query_string": b"", "headers": []}
    with pytest.raises(NotFound):
        await passing.on("http://127.0.0.1:1", scope, None, None)  # type: ignore[arg-type]
    with pytest.raises(RejectedInput, match="the path is none"):
        await passing.on("http://127.0.0.1:1", scope | {"raw_path": b"/v1/\x7f"}, None, None)  # type: ignore[arg-type]
    await passing.close()


async def test_a_cookie_that_a_service_sets_is_sent_along_with_nobody_elses_request() -> None:
    passing, behind = Passing(), open_port("127.0.0.1", 0)
    there, cookies = f"http://127.0.0.1:{behind.getsockname()[1]}", list[str]()

    async def greedy(request: Request) -> Response:
        cookies.append(request.headers.get("cookie", ""))
        return PlainTextResponse("", headers={"Set-Cookie": "trimtab_session=stolen; Path=/"})

    async def front(scope: Any, receive: Any, send: Any) -> None:
        await passing.on(there, scope, receive, send)

    listener = open_port("127.0.0.1", 0)
    app = Starlette(routes=[Route("/{path:path}", greedy)])
    async with serving(app, behind), serving(front, listener):
        for _ in range(2):
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", trust_env=False) as http:
                await http.get("/v1/x")
    assert cookies == ["", ""]
    await passing.close()


async def test_an_address_is_believed_only_of_a_process_that_has_our_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = service("rules", Settings(**(WHOLE | {"data": tmp_path, "port": 0, "kafka_partitions": 4})))
    assert isinstance(rules, Rules)
    ours = rules.auth.sign("http://10.0.0.1:8420")
    told: dict[int, str] = {0: ours, 1: "http://evil:80", 2: ours.replace("10.0.0.1", "10.6.6.6")}
    asked = 0

    async def group(*_: Any) -> dict[int, str]:
        nonlocal asked
        asked += 1
        if not told:
            raise Unavailable("away", reason="group")
        return told

    monkeypatch.setattr("services.production.rules.owners", group)
    assert await rules.owners.all() == {0: "http://10.0.0.1:8420"}
    with pytest.raises(Unavailable, match="no process has partition 1"):
        await rules.owners.of(1)
    told.clear()
    rules.owners.forget()
    asked = 0
    answers = await asyncio.gather(*(rules.owners.of(0) for _ in range(20)), return_exceptions=True)
    assert [str(a) for a in answers] == ["away"] * 20 and asked == 1  # who waited for that answer does not ask again


async def test_where_people_come_over_tls_their_cookie_never_goes_without(on_postgres: Callable[[], str], tmp_path: Path) -> None:
    for address, is_secure in (("https://trimtab.example.org:443", True), ("", False)):
        made = service("console", Settings(**(WHOLE | {"database": on_postgres(), "data": tmp_path, "port": 0, "advertise": address})))
        await made.start()
        link = await made.auth.login_link("joe", "viewer", "main")
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=made.app), base_url="http://console") as http:
            cookie = (await http.get(link)).headers["set-cookie"]
        assert ("Secure" in cookie) == is_secure
        await made.stop()


def test_on_kafka_nothing_is_kept_in_a_file_that_no_service_reads() -> None:
    with pytest.raises(Misconfigured, match="TRIMTAB_KAFKA is set and TRIMTAB_DATABASE is not"):
        Settings(kafka="k:1").with_database()
    assert Settings(kafka="k:1", database="postgresql+asyncpg://u@h/d").with_database().kafka == "k:1"
    assert Settings().with_database().kafka == ""


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/keys/tk1/revoke", "/v1/me", "/v1/login-links"])
def test_keys_and_logins_are_the_consoles_own(path: str) -> None:
    assert OWN.match(path)
    assert not OWN.match("/v1/keyss") and not OWN.match("/v1/keys/a/b/revoke")


async def test_where_nobody_is_behind_the_sender_is_told_to_come_back() -> None:
    passing, scope = Passing(), {"type": "http", "method": "GET", "raw_path": b"/v1/x", "query_string": b"", "headers": []}
    with pytest.raises(Unavailable, match="send it again"):
        await passing.on(f"http://127.0.0.1:{free_ports(1)[0]}", scope, None, None)  # type: ignore[arg-type]
    await passing.close()


async def test_a_fault_of_the_client_itself_is_no_fault_of_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    async def cut(*_: object, **__: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'write'")

    passing, scope = Passing(), {"type": "http", "method": "GET", "raw_path": b"/v1/x", "query_string": b"", "headers": []}
    monkeypatch.setattr(passing._http, "send", cut)
    with pytest.raises(Unavailable, match="send it again"):
        await passing.on("http://127.0.0.1:1", scope, None, None)  # type: ignore[arg-type]
    await passing.close()


@pytest.mark.parametrize(("sent", "begun"), [(0, False), (500, False), (LONG + 1, True)])
async def test_an_answer_that_is_broken_off_is_a_503_unless_it_is_long(sent: int, begun: bool) -> None:
    """The process behind was killed as it answered: whoever asked is told to ask again, and nothing is wrong with us."""

    async def broken_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * LONG) + b"x" * sent)
        await writer.drain()
        writer.close()

    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    passing, scope = Passing(), {"type": "http", "method": "GET", "raw_path": b"/v1/x", "query_string": b"", "headers": []}
    server = await asyncio.start_server(broken_off, "127.0.0.1", 0)
    async with server:
        expected = (httpx2.RemoteProtocolError, "complete message body") if begun else (Unavailable, "broke off its answer .*; send it again")
        with pytest.raises(expected[0], match=expected[1]):
            await passing.on(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", scope, None, send)  # type: ignore[arg-type]
    assert bool(messages) is begun
    await passing.close()


# -- the engine's processes ask one another -------------------------------------------------------------------------------


class Asked:
    """A process of the engine that has some partitions, and says who asks for what; nobody is asked who has the others but `url`."""

    def __init__(self, ours: set[int], url: str, tmp_path: Path) -> None:
        made = service("rules", Settings(**(WHOLE | {"data": tmp_path, "port": 0, "kafka_partitions": 4})))
        assert isinstance(made, Rules)
        self.rules, self.url, self.asked, self.forgotten = made, url, 0, False
        made.share.ours, made.why_not_ready, made.owners = frozenset(ours), "", self  # type: ignore[assignment]
        made.auth.principal = self.principal  # type: ignore[method-assign]

    async def principal(self, request: Request) -> Principal:
        return Principal("joe", "admin", request.headers["authorization"].removeprefix("Bearer "), "key")

    async def of(self, partition: int) -> str:
        self.asked += 1
        return self.url

    def forget(self) -> None:
        self.forgotten = True


def of_partition(number: int) -> str:
    return next(f"w{i}" for i in range(100) if partition_of(f"w{i}", 4) == number)


async def test_what_another_process_has_is_asked_of_that_one_once_and_what_is_ours_of_ourselves(tmp_path: Path) -> None:
    behind = open_port("127.0.0.1", 0)
    asked = Asked({0, 1}, f"http://127.0.0.1:{behind.getsockname()[1]}", tmp_path)
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    transport = httpx2.ASGITransport(app=asked.rules.app)
    async with serving(app, behind), httpx2.AsyncClient(transport=transport, base_url="http://rules") as http:
        theirs = await http.get("/v1/engine", headers={"Authorization": f"Bearer {of_partition(2)}"})
        assert theirs.status_code == 201 and theirs.text.startswith(f"GET /v1/engine  Bearer {of_partition(2)} ")
        passed = await http.get("/v1/engine", headers={"Authorization": f"Bearer {of_partition(2)}", "X-Trimtab-Passed": "1"})
        assert (passed.status_code, passed.json()["reason"], asked.asked) == (503, "restoring", 1)
        ours = await http.get("/v1/engine", headers={"Authorization": f"Bearer {of_partition(1)}"})
        assert (ours.status_code, ours.json()["reason"], asked.asked) == (503, "restoring", 1)  # it is, but its state is not whole yet
    async with httpx2.AsyncClient(transport=transport, base_url="http://rules") as http:
        gone = await http.get("/v1/engine", headers={"Authorization": f"Bearer {of_partition(3)}"})
        assert (gone.status_code, gone.json()["reason"], asked.forgotten) == (503, "passing", True)
    await asked.rules.passing.close()


async def test_of_every_partition_it_is_told_who_has_it_or_that_nobody_has_or_that_its_owner_does_not_answer(tmp_path: Path) -> None:
    asked = Asked(set(), "", tmp_path)
    away = f"http://127.0.0.1:{free_ports(1)[0]}"

    async def every() -> dict[int, str]:
        return {0: away, 1: away, 2: there}

    async def theirs(request: Request) -> Response:
        assert request.query_params["own"] == "true" and request.headers["authorization"] == "Bearer w1"
        return JSONResponse({"partitions": [{"partition": 2, "state": "followed", "why": "", "owner": there}]})

    asked.all = every  # type: ignore[attr-defined]
    behind = open_port("127.0.0.1", 0)
    there = f"http://127.0.0.1:{behind.getsockname()[1]}"
    app = Starlette(routes=[Route("/v1/partitions", theirs)])
    async with serving(app, behind), httpx2.AsyncClient(transport=httpx2.ASGITransport(app=asked.rules.app), base_url="http://rules") as http:
        told = (await http.get("/v1/partitions", headers={"Authorization": "Bearer w1"})).json()["partitions"]
    assert [(p["partition"], p["state"], p["owner"]) for p in told] == [(0, "unknown", away), (1, "unknown", away), (2, "followed", there), (3, "unowned", "")]
    assert "does not answer" in told[0]["why"]
    await asked.rules.passing.close()


def test_nobody_is_answered_from_a_state_that_is_not_whole(tmp_path: Path) -> None:
    rules = Asked({1}, "", tmp_path).rules
    rules.share.workers[1] = SimpleNamespace(restored=False, stopped="", restoring="restoring")  # type: ignore[assignment]
    with pytest.raises(Unavailable, match="partition 1: restoring"):
        rules._answers(of_partition(1))
    rules.share.workers[1] = SimpleNamespace(restored=False, stopped="poisoned: record 7")  # type: ignore[assignment]
    assert rules._answers(of_partition(1)).worker.stopped  # so that it can be passed over


async def test_an_admin_passes_over_no_record_of_another_workspace(tmp_path: Path) -> None:
    asked, theirs = Asked({1}, "", tmp_path), [Stamped(3, 1, Ready("somebody", "v"))]
    skipped: list[int] = []

    async def read(number: int, offset: int, limit: int) -> list[Stamped[Record]]:
        return theirs if (number, offset) == (1, 3) else []  # type: ignore[return-value]

    async def skip(offset: int, reason: str, by: str) -> None:
        skipped.append(offset)
        raise Unavailable("far enough", reason="tried")

    worker = SimpleNamespace(restored=True, stopped="poisoned", poisoned=3, number=1, events=SimpleNamespace(read=read), skip=skip)
    asked.rules.share.workers[1] = worker  # type: ignore[assignment]
    mine, body = of_partition(1), {"offset": 3, "reason": "it is nothing"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=asked.rules.app), base_url="http://rules") as http:
        refused = await http.post("/v1/partition/skip", json=body, headers={"Authorization": f"Bearer {mine}"})
        assert refused.status_code == 403 and "another workspace" in refused.json()["detail"] and not skipped
        theirs[0] = Stamped(3, 1, Ready(mine, "v"))
        tried = await http.post("/v1/partition/skip", json=body, headers={"Authorization": f"Bearer {mine}"})
        assert tried.json()["reason"] == "tried" and skipped == [3]


# -- partitions that come and go ------------------------------------------------------------------------------------------


class Fickle(Alone):
    def __init__(self) -> None:
        super().__init__(())
        self.committed: dict[int, int] = {}
        self.given: Callable[[frozenset[int]], None] = lambda _: None

    async def join(self, given: Callable[[frozenset[int]], None]) -> None:
        self.given = given

    async def commit(self, done: Any) -> bool:
        self.committed |= done
        return True


async def test_each_partition_of_ours_is_followed_once_while_it_is_ours() -> None:
    group, running, ends = Fickle(), list[int](), list[int]()

    async def run_one(number: int, beat: Beat) -> None:
        running.append(number)
        following.done[number] = 10 + number
        try:
            await asyncio.Event().wait()
        finally:
            running.remove(number)
            ends.append(number)
            await asyncio.sleep(0.01)

    following = Following(group, run_one, "test")
    await following.start()
    group.given(frozenset({0, 1}))
    await until(lambda: sorted(running) == [0, 1])
    group.given(frozenset({1, 2}))
    await until(lambda: sorted(running) == [1, 2])
    assert ends == [0]
    group.given(frozenset({2}))
    group.given(frozenset({1, 2}))  # given back while it is ending
    await until(lambda: sorted(running) == [1, 2] and ends == [0, 1])
    stopping = asyncio.create_task(following.stop())
    await asyncio.sleep(0)
    group.given(frozenset({0, 1, 2}))  # we are a member until the end, and begin nothing any more
    await stopping
    assert running == [] and group.committed == {0: 10, 1: 11, 2: 12}


class Forgetful(MemoryLog[Record]):
    """Has deleted what came before record 2."""

    async def follow(self, partition: int, offset: int) -> AsyncIterator[Any]:
        if offset < 2:
            raise Unreadable("records 0 to 1 were deleted before they were read", 2)
        async for page in super().follow(partition, offset):
            yield page


async def test_outcomes_are_followed_on_from_where_the_log_still_has_them(database_url: str) -> None:
    database, clock = Database(database_url), SystemClock()
    await migrate(database)
    log, nothing = Forgetful(EVENTS, clock), SimpleNamespace()
    seen: list[str] = []

    async def ours(outcomes: Iterable[tuple[Outcome, int]]) -> None:
        seen.extend(outcome.decision_id for outcome, _ in outcomes)

    intake = Intake(database, nothing, nothing, clock, CollectorRegistry())  # type: ignore[arg-type]
    intake.ours = ours  # type: ignore[method-assign]
    await log.append([("w", Outcome("w", f"d{i}", "verified", path="p")) for i in range(3)])
    watching = asyncio.create_task(intake.watch(log, 0))
    await until(lambda: seen == ["d2"])
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await database.close()
