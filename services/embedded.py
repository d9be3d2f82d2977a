"""All of Trimtab in one process: the same services on SQLite, or with a PostgreSQL as their database. `trimtab up` starts it, tests and the demo run it in
their own loop.

folder/  lock  events.db  decisions.db  trimtab.db  checkpoints/  archive/  secret  cli.key
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, Field

import services.ingest.http as ingest_http
import services.rules_engine.api as rules_api
from services import VERSION, console
from services.actions import api as actions_api
from services.actions.connect import executors_of
from services.actions.execute import SECOND, Pace
from services.actions.executors.contract import Executor
from services.actions.ledger.witness import witness_of
from services.actions.worker import ActionsService, Conduct
from services.adapters.clock import SystemClock, instant
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.adapters.disk import require_whole
from services.adapters.faultpoint import faultpoint
from services.adapters.http import auth as authentication
from services.adapters.http.front import Bounds, Front, bounded
from services.adapters.http.keys import install_keys
from services.adapters.http.problem import install as install_problems
from services.adapters.http.serving import address_of, install_health, open_port, serving
from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.log.lock import FolderLock
from services.adapters.log.sqlite import SqliteLog
from services.adapters.log.writer import EventWriter
from services.adapters.private import keep
from services.adapters.settings import Settings
from services.backup import DATABASES, restored_at
from services.ingest.files import ingest_files, new_context, to_intake
from services.ingest.intake import Intake
from services.keeping import LogUpkeep
from services.kernel.errors import Forbidden, Misconfigured, RejectedInput, TrimtabError
from services.kernel.ports import Clock
from services.kernel.record import Change
from services.kernel.record import Clock as ClockRecord
from services.rules_engine.answers import Answers, standing
from services.rules_engine.bucket import checkpoints_of
from services.rules_engine.core.demand import HORIZON
from services.rules_engine.language.pack import guards
from services.rules_engine.replay import oldest
from services.rules_engine.store import RuleStore
from services.rules_engine.unsaved import Often
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker

log = structlog.get_logger("embedded")
HOUR = 3_600_000_000
LEAP = 24 * HOUR  # between the newest record and a start: more is told
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Embedded:
    """One workspace's whole installation. `clock` is the log's (a demo's is simulated and declared), `wall` the world's."""

    def __init__(
        self, settings: Settings, clock: Clock | None = None, simulated: ClockRecord | None = None, executors: Sequence[Executor] | None = None
    ) -> None:
        if settings.host not in LOOPBACK:
            raise Misconfigured(f"TRIMTAB_HOST={settings.host}: all in one process listens on this machine only ({', '.join(LOOPBACK)})")
        self.settings, self.wall = settings, SystemClock()
        self.clock = clock or self.wall
        self.simulated = simulated
        self.registry = CollectorRegistry()
        self._cleanup = contextlib.AsyncExitStack()
        self._executors = executors
        self.bounds: Bounds | None = None  # of connections; by default those of the settings
        self.why_not_ready = ""  # why not, "" when ready
        self.url = ""

    async def start(self) -> None:
        """Everything runs, restored from what the folder holds; raises Misconfigured with one clear line where it cannot."""
        self.why_not_ready = "starting"
        folder = self.settings.data
        lock = FolderLock(folder)
        self._cleanup.callback(lock.release)
        faultpoint("start.locked")
        self._restored_at = restored_at(folder)
        for name in DATABASES[1:] if self.settings.database else DATABASES:
            await asyncio.to_thread(require_whole, folder / name)
        self.events = SqliteLog(folder / "events.db", EVENTS, self.clock, archive=self.settings.archive_folder)
        self._cleanup.push_async_callback(self.events.close)
        self.decisions = SqliteLog(folder / "decisions.db", DECISIONS, self.clock)
        self._cleanup.push_async_callback(self.decisions.close)
        self.database = Database(self.settings.database_address, self.settings.database_password)
        self._cleanup.push_async_callback(self.database.close)
        await migrate(self.database)
        faultpoint("database.migrated")
        self.auth = authentication.Auth(self.database, self._secret(), self.wall)
        await self._declare_clock()
        self.writer = EventWriter(self.events, self.settings.linger_ms, registry=self.registry)
        self._cleanup.push_async_callback(self.writer.close)
        append_rows = self.writer.append_rows
        self.intake = Intake(self.database, self.writer.append, self._append_changes, self.clock, self.registry, append_rows=append_rows)
        await self._start_engine()
        await self._start_actions()
        self.upkeep = LogUpkeep(self.settings, self.clock, self.registry)
        self.upkeep.start()
        self._cleanup.push_async_callback(self.upkeep.stop)
        self._watch = asyncio.create_task(self.intake.watch(self.events, 0), name="ingest-outcomes")
        self._cleanup.push_async_callback(self._stop_watch)
        self.app = self._build()
        self.why_not_ready = ""

    def _secret(self) -> bytes:
        return authentication.given_secret(self.settings.secret) if self.settings.secret else authentication.load_secret(self.settings.data)

    async def _declare_clock(self) -> None:
        first, _ = await oldest(self.events)
        if first is not None and first.offset > 0:
            return  # whatever it declared is in the checkpoint that the engine needs now
        declared = first is not None and isinstance(first.record, ClockRecord) and first.record.simulated
        if first is None and self.simulated is not None:
            await self.events.append([("", self.simulated)])
        else:
            self._agree_on_clock(declared)

    def _agree_on_clock(self, declared: bool) -> None:
        if declared != (self.simulated is not None):
            kind = "a simulated" if declared else "the world's"
            raise Misconfigured(f"the log in {self.settings.data} runs on {kind} clock: choose another folder with TRIMTAB_DATA")

    async def _start_engine(self) -> None:
        self.store = RuleStore(self.database)
        often = Often(self.settings.checkpoint_records, self.settings.checkpoint_seconds)
        checkpoints = checkpoints_of(self.settings)
        metrics = Metrics(self.registry)
        self.worker = Worker(self.events, self.decisions, self.clock, guards(), metrics, checkpoints=checkpoints, often=often)
        self.worker.on_activation = lambda activation, offset, stamp: self.store.follow(activation, 0, offset, stamp)
        self.worker.followed = lambda: self.store.followed(0)
        self._cleanup.push_async_callback(self.worker.stop)
        await self.worker.start()
        if self.worker.restored:
            self._agree_on_clock(self.worker.partition.simulated)
            self._tell_of_a_leap(self.worker.partition.now, self.worker.partition.demand.horizon or HORIZON)
        self.answers = Answers(self.worker, self.events, self.store)

    def _tell_of_a_leap(self, newest: int, horizon: int) -> None:
        """A clock that is ahead cannot be told from a long rest; what is stamped by it stays so. So whoever starts is told, before anything is stamped."""
        leap = self.clock.now() - newest
        if self.simulated is None and newest and leap > LEAP:
            why = "nobody recorded anything meanwhile, or this machine's clock is ahead: compare it with a time server, a stamp is never taken back"
            late = instant(self.clock.now() - horizon)
            log.warning("time leaps", newest_record=instant(newest), days=round(leap / LEAP, 1), late_are_events_before=late, why=why)

    async def _start_actions(self) -> None:
        witness = witness_of(self.settings.witness, self._secret())
        executors = executors_of(self.settings) if self._executors is None else self._executors
        conduct = Conduct(hold=self.settings.actions == "hold", stale_before=self._restored_at, pace=Pace(again=round(self.settings.settle_seconds * SECOND)))
        self.actions = ActionsService(self.database, self.decisions, self.events, executors, self.clock, self.registry, conduct, witness=witness)
        await self.actions.start()
        self._cleanup.push_async_callback(self.actions.stop)

    async def _append_changes(self, changes: Sequence[Change]) -> None:
        await self.events.append([(c.workspace, c) for c in changes])

    async def _stop_watch(self) -> None:
        self._watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch

    async def stop(self) -> None:
        """Takes nothing more, finishes what is under way, and lets go of the folder."""
        self.why_not_ready = "stopping"
        faultpoint("stop.begun")
        await self._cleanup.aclose()
        faultpoint("stop.ended")

    # -- HTTP --------------------------------------------------------------------------------------------------------

    def _build(self) -> FastAPI:
        app = FastAPI(title="Trimtab", version=VERSION, docs_url=None, redoc_url=None)
        install_problems(app)
        authentication.install(app, self.auth)
        routes, self.short = ingest_http.doors_of(self.settings, self.intake, self.auth, self.wall, self.registry)
        app.include_router(routes)
        app.include_router(actions_api.router(self.actions))
        app.include_router(rules_api.router(self.store, lambda _: self.answers, self.events, self.clock))
        app.include_router(rules_api.partitions(self._partitions))
        self._operations(app)
        self._pages(app)
        return app

    async def _partitions(self, request: Request, own: bool) -> list[dict[str, Any]]:
        return [standing(self.worker) | {"owner": self.url, "lag": 0}]

    async def _unready(self) -> str:
        return self.why_not_ready or self.worker.stopped or self.worker.restoring

    def _operations(self, app: FastAPI) -> None:
        install_health(app, self._unready, self.registry, lambda: self.actions.told())
        install_keys(app, self.auth, lambda: self.url)

        @app.post("/v1/imports", operation_id="import_files", summary="Ingests files of this machine; answers with a line of progress a step")
        async def imports(body: ImportWanted, request: Request) -> Response:
            who = await self.auth.principal(request)
            if not who.may("admin"):
                raise Forbidden(f"this needs the role admin; {who.name} is {who.role}")
            missing = [p for p in body.paths if not p.is_file()]
            if missing:
                raise RejectedInput(f"there is no file {missing[0]}", reason="not_found")
            return StreamingResponse(self._import(body, who.workspace), media_type="application/x-ndjson")

    async def _import(self, body: ImportWanted, workspace: str) -> AsyncIterator[str]:

        steps: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        async def run() -> None:
            try:
                context = new_context(self.clock.now(), currency=body.currency, account=body.account, zone=body.time_zone)
                sink = to_intake(self.intake, workspace)
                receipts = await ingest_files(body.paths, body.map, sink, lambda d, n: steps.put_nowait({"done": d, "total": n}), context=context)
                for r in receipts:
                    first = [{"reason": p.reason, "detail": p.detail, "place": p.pointer} for p in r.first]
                    counts = {"rows": r.rows, "accepted": r.accepted, "quarantined": r.quarantined, "reasons": r.reasons}
                    steps.put_nowait({"file": r.path.name, "shape": r.shape, **counts, "first": first})
            except TrimtabError as error:  # the answer has begun: what went wrong is its last line
                steps.put_nowait({"error": str(error), "reason": error.reason})
            except Exception:
                log.exception("import failed")
                steps.put_nowait({"error": "something is wrong on our side; the log of the server says what", "reason": "bug"})
            steps.put_nowait(None)

        task = asyncio.create_task(run())
        while (step := await steps.get()) is not None:
            yield json.dumps(step) + "\n"
        await task

    def _pages(self, app: FastAPI) -> None:
        """The pages ask the APIs of this same app, as they would over the network."""
        apis = console.Client.within(app)
        self._cleanup.push_async_callback(apis.close)
        console.install(app, apis)

    @contextlib.asynccontextmanager
    async def serving(self, port: int | None = None) -> AsyncIterator[str]:
        """The pages and APIs on loopback, for as long as the block lasts; yields the address."""
        listener = open_port(self.settings.host, self.settings.port if port is None else port)
        self.url = address_of(self.settings.host, listener)
        front = Front(self.registry, self.bounds or bounded(self.settings.connections), self.short)
        async with serving(self.app, listener, front.protocol):
            yield self.url

    async def cli_key(self) -> Path:
        """The command line's own key, kept in the folder, readable by its owner only."""
        path = self.settings.data / "cli.key"
        if not path.exists():
            keep(path, await self.auth.issue_key("command line", "admin", self.settings.workspace))
        return path

    async def login(self, name: str = "you", role: str = "admin") -> str:
        """An address that logs one person in, once, within the hour."""
        return await self.auth.login_link(name, role, self.settings.workspace, self.url, HOUR)


class ImportWanted(BaseModel):
    paths: list[Path] = Field(min_length=1, max_length=100)
    map: dict[str, str] = Field(default_factory=dict)
    currency: str = ""
    account: str = ""
    time_zone: str = "UTC"
