"""All of Trimtab in one process on SQLite: the same services, other adapters. `trimtab up` starts it, tests and the demo run it in their own loop.

folder/  lock  events.db  decisions.db  trimtab.db  checkpoints/  secret  cli.key
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal

import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

import services.ingest.http as ingest_http
import services.rules_engine.api as rules_api
from services import VERSION, console
from services.actions import api as actions_api
from services.actions.connect import connect
from services.actions.executors.contract import Executor
from services.actions.executors.sandbox import Platform as SandboxPlatform
from services.actions.worker import ActionsService, Rules
from services.adapters.clock import SystemClock
from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.adapters.http import auth as authentication
from services.adapters.http.problem import install as install_problems
from services.adapters.log.codec import DECISIONS, EVENTS
from services.adapters.log.lock import FolderLock
from services.adapters.log.sqlite import SqliteLog
from services.adapters.log.writer import EventWriter
from services.adapters.settings import Settings
from services.backup import restored_at
from services.ingest.files import ingest_files, new_context, to_intake
from services.ingest.intake import Intake
from services.kernel.errors import Forbidden, Misconfigured, RejectedInput
from services.kernel.ports import Clock
from services.kernel.record import Change
from services.kernel.record import Clock as ClockRecord
from services.rules_engine import worker as engine
from services.rules_engine.answers import Answers
from services.rules_engine.checkpoint import Checkpoints
from services.rules_engine.language.pack import guards
from services.rules_engine.store import RuleStore

log = structlog.get_logger("embedded")
HOUR = 3_600_000_000


class Embedded:
    """One workspace's whole installation. `clock` is the log's (a demo's is simulated and declared), `wall` the world's."""

    def __init__(
        self, settings: Settings, clock: Clock | None = None, simulated: ClockRecord | None = None, executors: Sequence[Executor] | None = None
    ) -> None:
        self.settings, self.wall = settings, SystemClock()
        self.clock = clock or self.wall
        self.simulated = simulated
        self.registry = CollectorRegistry()
        self._cleanup = contextlib.AsyncExitStack()
        self._executors = executors
        self.ready = ""  # why not, "" when ready
        self.url = ""

    async def start(self) -> None:
        """Everything runs, restored from what the folder holds; raises Misconfigured with one clear line where it cannot."""
        self.ready = "starting"
        folder = self.settings.data
        lock = FolderLock(folder)
        self._cleanup.callback(lock.release)
        self._restored_at = restored_at(folder)
        self.events = SqliteLog(folder / "events.db", EVENTS, self.clock)
        self._cleanup.push_async_callback(self.events.close)
        self.decisions = SqliteLog(folder / "decisions.db", DECISIONS, self.clock)
        self._cleanup.push_async_callback(self.decisions.close)
        self.database = Database(f"sqlite:///{folder / 'trimtab.db'}")
        self._cleanup.push_async_callback(self.database.close)
        await migrate(self.database)
        self.auth = authentication.Auth(self.database, authentication.load_secret(folder), self.wall)
        await self._declare_clock()
        self.writer = EventWriter(self.events, self.settings.linger_ms)
        self._cleanup.push_async_callback(self.writer.close)
        append_rows = self.writer.append_rows
        self.intake = Intake(self.database, self.writer.append, self._append_changes, self.clock, self.registry, append_rows=append_rows)
        await self._start_engine()
        await self._start_actions()
        self._watch = asyncio.create_task(self.intake.watch(self.events, 0), name="ingest-outcomes")
        self._cleanup.push_async_callback(self._stop_watch)
        self.app = self._build()
        self.ready = ""

    async def _declare_clock(self) -> None:
        first = await self.events.read(0, 0, 1)
        if first and first[0].offset > 0:
            return  # whatever it declared is in the checkpoint that the engine needs now
        declared = bool(first) and isinstance(first[0].record, ClockRecord) and first[0].record.simulated
        if not first and self.simulated is not None:
            await self.events.append([("", self.simulated)])
        else:
            self._agree_on_clock(declared)

    def _agree_on_clock(self, declared: bool) -> None:
        if declared != (self.simulated is not None):
            kind = "a simulated" if declared else "the world's"
            raise Misconfigured(f"the log in {self.settings.data} runs on {kind} clock: choose another folder with TRIMTAB_DATA")

    async def _start_engine(self) -> None:
        self.store = RuleStore(self.database)
        often = engine.Often(self.settings.checkpoint_records, self.settings.checkpoint_seconds)
        checkpoints = Checkpoints(self.settings.data / "checkpoints")
        metrics = engine.Metrics(self.registry)
        self.worker = engine.Worker(self.events, self.decisions, self.clock, guards(), metrics, checkpoints=checkpoints, often=often)
        self.worker.on_activation = lambda activation, offset, stamp: self.store.follow(activation, 0, offset, stamp)
        self.worker.followed = lambda: self.store.followed(0)
        self._cleanup.push_async_callback(self.worker.stop)
        await self.worker.start()
        if self.worker.restored:
            self._agree_on_clock(self.worker.partition.simulated)
        self.answers = Answers(self.worker, self.events, self.store)

    async def _start_actions(self) -> None:
        executors = self._executors
        if executors is None:
            sandbox = self.settings.sandbox_url
            practice = [SandboxPlatform(sandbox, self.settings.sandbox_token)] if sandbox else []
            executors = [*practice, *connect(self.settings.executors)]
        rules = Rules(hold=self.settings.actions == "hold", stale_before=self._restored_at)
        self.actions = ActionsService(self.database, self.decisions, self.events, executors, self.clock, self.registry, rules, self.wall)
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
        self.ready = "stopping"
        await self._cleanup.aclose()

    # -- HTTP --------------------------------------------------------------------------------------------------------

    def _build(self) -> FastAPI:
        app = FastAPI(title="Trimtab", version=VERSION, docs_url=None, redoc_url=None)
        install_problems(app)
        authentication.install(app, self.auth)
        secrets = {self.settings.workspace: self.settings.webhook_secrets}
        largest, known = self.settings.max_body_bytes, self.auth.known
        routes, self.front = ingest_http.doors(self.intake, self.auth.principal, secrets, self.wall, self.registry, max_body_bytes=largest, known=known)
        app.include_router(routes)
        app.include_router(actions_api.router(self.actions))
        app.include_router(rules_api.router(self.store, self.answers, self.events, self.clock))
        self._operations(app)
        self._pages(app)
        return app

    def _operations(self, app: FastAPI) -> None:
        @app.get("/livez", include_in_schema=False)
        async def livez() -> Response:
            """The loop turns."""
            return PlainTextResponse("alive")

        @app.get("/readyz", include_in_schema=False)
        async def readyz() -> Response:
            """Restored, and nothing has stopped that a person must mend."""
            why = self.ready or self.worker.stopped or ("" if self.worker.restored else "restoring")
            return JSONResponse({"ready": not why, "why": why}, 200 if not why else 503)

        @app.get("/metrics", include_in_schema=False)
        async def metrics() -> Response:
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

        @app.post("/v1/login-links", status_code=201, operation_id="make_login_link", summary="A one-time login for a person")
        async def login_link(body: LinkWanted, request: Request) -> dict[str, str]:
            who = await self.auth.principal(request)
            if not who.may("admin"):
                raise Forbidden(f"this needs the role admin; {who.name} is {who.role}")
            return {"link": await self.auth.login_link(body.name, body.role, who.workspace, self.url)}

        @app.post("/v1/keys", status_code=201, operation_id="make_key", summary="A new API key; it is shown once")
        async def make_key(body: KeyWanted, request: Request) -> dict[str, str]:
            who = await self.auth.principal(request)
            if not who.may("admin"):
                raise Forbidden(f"this needs the role admin; {who.name} is {who.role}")
            return {"key": await self.auth.issue_key(body.name, body.role, who.workspace)}

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
            except Exception as error:  # the answer has begun: what went wrong is its last line
                steps.put_nowait({"error": str(error), "reason": getattr(error, "reason", type(error).__name__)})
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
        wanted = self.settings.port if port is None else port
        listener = open_port(self.settings.host, wanted)
        self.url = f"http://{self.settings.host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(self.front(self.app), log_config=None, lifespan="off", timeout_graceful_shutdown=5, access_log=False, server_header=False)
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
        while not server.started and not task.done():  # noqa: ASYNC110  the server has no event for it
            await asyncio.sleep(0.01)
        try:
            yield self.url
        finally:
            server.should_exit = True
            await task

    async def cli_key(self) -> Path:
        """The command line's own key, kept in the folder, readable by its owner only."""
        path = self.settings.data / "cli.key"
        if not path.exists():
            key = await self.auth.issue_key("command line", "admin", self.settings.workspace)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(key)
        return path

    async def login(self, name: str = "you", role: str = "admin") -> str:
        """An address that logs one person in, once, within the hour."""
        return await self.auth.login_link(name, role, self.settings.workspace, self.url, HOUR)


class _Server(uvicorn.Server):
    """Leaves the process's signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class LinkWanted(BaseModel):
    name: str = Field("you", max_length=100)
    role: Literal["viewer", "editor", "reviewer", "admin"] = "admin"


class KeyWanted(BaseModel):
    name: str = Field(max_length=100)
    role: Literal["source", "viewer", "editor", "reviewer", "admin"] = "source"


class ImportWanted(BaseModel):
    paths: list[Path] = Field(min_length=1, max_length=100)
    map: dict[str, str] = Field(default_factory=dict)
    currency: str = ""
    account: str = ""
    time_zone: str = "UTC"


def open_port(host: str, port: int) -> socket.socket:

    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise Misconfigured(f"port {port} of {host} cannot be opened: {os.strerror(error.errno or 0)}; choose another with TRIMTAB_PORT") from error
