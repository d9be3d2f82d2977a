"""For every test: no example fails because the machine was busy; and the parts that several share."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from httpx2._transports import default as transports
from hypothesis import settings

from deploy.kafka.broker import Brokers, Missing
from deploy.postgres import server as postgresql
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.adapters.http.calling import trust
from tests.parts import lacks

settings.register_profile("house", deadline=None)
settings.load_profile("house")

_context = transports.create_ssl_context


def _read_once(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
    return trust("", trust_env) if verify is True and cert is None else _context(verify, cert, trust_env)


transports.create_ssl_context = _read_once  # thousands of tests make clients, and each would read a thousand certificates

LONGEST = ("test_siege.py", "test_simulation.py", "test_plug.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest is begun first: nothing is left to wait for alone."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


SOON = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "400"}  # a controller believes sooner that a broker is gone, or back


@contextmanager
def brokers(folder: Path, number: int = 1, **settings: str) -> Iterator[Brokers]:
    made = Brokers(folder, number, settings)
    try:
        made.start()
    except Missing as why:
        lacks("kafka", str(why))
    try:
        yield made
    finally:
        made.stop(patience=0)  # nobody wants what they hold


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """One broker for all tests that only read and write: each takes topics of its own, and leaves the broker as it is."""
    with brokers(tmp_path_factory.mktemp("kafka")) as made:
        yield made


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """A broker to be killed, and started again."""
    with brokers(tmp_path_factory.mktemp("fragile"), **SOON) as made:
        yield made


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """Three brokers to be killed, one at a time."""
    with brokers(tmp_path_factory.mktemp("three"), 3, **SOON) as made:
        yield made


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Server]:
    """One server for all tests that only ask it: each takes a database of its own. What tests durability starts its own."""
    server = postgresql.Server(is_durable=False)
    try:
        server.start()
    except postgresql.Missing as why:
        lacks("postgres", str(why))
    yield server
    server.remove()


async def _migrate(url: str) -> None:
    database = Database(url)
    await migrate(database)
    await database.close()


@pytest.fixture(scope="session")
def on_server(postgres: postgresql.Server) -> Iterator[Callable[[str], None]]:
    """Has one statement after the other done, as the superuser; by one connection, for a `psql` each would take longer than most of the tests.

    It has a thread and a loop of its own: who asks may be in a loop, and is kept waiting.
    """
    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as thread:

        def run(work: Coroutine[Any, Any, Any]) -> Any:
            return thread.submit(runner.run, work).result(60)

        connection = run(asyncpg.connect(postgres.url().replace("+asyncpg", "")))
        yield lambda statement: run(connection.execute(statement))
        run(connection.close())


@pytest.fixture(scope="session")
def migrated(postgres: postgresql.Server, on_server: Callable[[str], None]) -> str:
    """The name of a migrated database that nobody writes to: the others are copies of it."""
    on_server("CREATE DATABASE migrated")
    with asyncio.Runner() as runner:
        runner.run(_migrate(postgres.url("migrated")))
    return "migrated"


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of SQLite."""
    place = tmp_path_factory.mktemp("migrated") / "trimtab.db"
    with asyncio.Runner() as runner:
        runner.run(_migrate(f"sqlite:///{place}"))
    assert [p.name for p in place.parent.iterdir()] == [place.name], "all of it is in the file"
    return place


NUMBERS = count(1)


@pytest.fixture
def on_postgres(postgres: postgresql.Server, migrated: str, on_server: Callable[[str], None]) -> Iterator[Callable[[], str]]:
    """Makes new migrated databases, and gives their addresses."""
    made: list[str] = []

    def make() -> str:
        made.append(f"test_{next(NUMBERS)}")
        on_server(f"CREATE DATABASE {made[-1]} TEMPLATE {migrated}")
        return postgres.url(made[-1])

    yield make
    for name in made:
        on_server(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a migrated database of each kind that we support."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(request.getfixturevalue('migrated_file'), tmp_path / 'trimtab.db')}"
    return str(request.getfixturevalue("on_postgres")())
