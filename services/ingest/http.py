"""The doors of ingest: events, signed webhooks, reports, and what waits in quarantine.

202 is said only when the log and the quarantine hold everything durably. A body is read up to a limit and for a limited time, a signature is checked over
the raw bytes before anything is parsed, and the workspace comes from the credential: the API key's, or that of the secret which signed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from secrets import token_hex
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import services.ingest.sources as sources_folder
from services.adapters.http.problem import REQUEST_ID, from_error, problem
from services.ingest.core import reading, usual
from services.ingest.core.refused import Refused
from services.ingest.core.report import Context
from services.ingest.core.source import Columnar, Delivery, Item, Rejection, Reporter, Webhook
from services.ingest.intake import Intake, Receipt, look_again
from services.ingest.quarantine import Quarantined
from services.ingest.sources.generic import MEDIA_TYPES
from services.kernel.columns import Rows
from services.kernel.errors import Forbidden, NotFound, RejectedInput, TrimtabError, Unauthorized, Unavailable
from services.kernel.extension import found
from services.kernel.ports import Clock
from services.kernel.principal import SOURCE, Principal

log = structlog.get_logger()

Secrets: TypeAlias = Mapping[str, Mapping[str, Sequence[str]]]  # workspace -> source -> active secrets
Known: TypeAlias = Callable[[str], Principal | None]
Authenticate: TypeAlias = Callable[[Request], Awaitable[Principal]]

TOLD = 100  # problems told in one answer; all are in quarantine
IN_FLIGHT = 128  # deliveries in work at once; the next is asked to come back
PATIENCE = 30.0  # seconds a sender has for its body
SMALL = 65_536  # bodies up to here are parsed in place
SMALL_IN_COLUMNS = 524_288  # and up to here where they are usual: it takes a few milliseconds
ACCEPTED = b'{"accepted":%d,"quarantined":0,"problems":[]}'
USUAL_TYPES = (b"application/json", b"application/cloudevents-batch+json")
REPORT_TYPES = ("application/json", "text/csv", "application/x-ndjson", "application/jsonl")


def all_sources() -> dict[str, Any]:
    """name -> source, of the folder and of the entry points `trimtab.source`."""
    return found(sources_folder, "source", "SOURCE")


def time_zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Refused(f"{name[:60]!r} is not a time zone such as Europe/Berlin", reason="unknown_time_zone") from None


def router(
    intake: Intake,
    authenticate: Authenticate,
    secrets: Secrets,
    wall: Clock,
    registry: CollectorRegistry,
    *,
    sources: Mapping[str, Any] | None = None,
    max_body_bytes: int = 5_000_000,
    public_url: str = "",
    patience: float = PATIENCE,
) -> APIRouter:
    """The routes of `doors`, without the short way."""
    options: dict[str, Any] = {"sources": sources, "max_body_bytes": max_body_bytes, "public_url": public_url, "patience": patience}
    return doors(intake, authenticate, secrets, wall, registry, **options)[0]


def doors(
    intake: Intake,
    authenticate: Authenticate,
    secrets: Secrets,
    wall: Clock,
    registry: CollectorRegistry,
    *,
    sources: Mapping[str, Any] | None = None,
    max_body_bytes: int = 5_000_000,
    public_url: str = "",
    patience: float = PATIENCE,
    known: Known | None = None,
) -> tuple[APIRouter, Callable[[ASGIApp], ASGIApp]]:
    """(the routes, what to put before the whole app so that a usual delivery takes the short way).

    POST /v1/events, /v1/webhooks/{source}, /v1/reports/{source}; GET /v1/quarantine, /v1/quarantine/{id}; POST /v1/quarantine/{id}/redrive.

    `wall` is the world's clock, for signatures; events are received by `intake.clock`, which may be simulated. `public_url` is scheme and host as senders
    know them, where a proxy stands in between. `known` tells whose an Authorization header is without asking anyone, or None.
    """
    door = _Door(intake, secrets, wall, sources or all_sources(), max_body_bytes, public_url.rstrip("/"), patience)
    requests = Counter("trimtab_ingest_requests_total", "Requests by route and status", ["route", "status"], registry=registry)
    api = APIRouter(tags=["ingest"], route_class=_Straight)
    counters: dict[tuple[str, str], Any] = {}  # looking a label up costs more than counting

    def count(route: str, status: str) -> None:
        if (route, status) not in counters:
            counters[route, status] = requests.labels(route, status)
        counters[route, status].inc()

    async def pusher(request: Request) -> Principal:
        who = await authenticate(request)
        if not who.may(SOURCE):
            raise Forbidden(f"this needs the role source or editor; {who.name} is {who.role}")
        return who

    async def reader(request: Request, role: str) -> Principal:
        who = await authenticate(request)
        if not who.may(role):
            raise Forbidden(f"this needs the role {role}; {who.name} is {who.role}")
        return who

    async def counted(route: str, work: Callable[[], Awaitable[Response]]) -> Response:
        """What the work answers, done while there is room for it, and counted."""
        status = "500"
        try:
            with door.room():
                answer = await work()
            status = str(answer.status_code)
            return answer
        except TrimtabError as error:
            status = str(error.status)
            raise
        finally:
            count(route, status)

    async def events(request: Request) -> Response:
        who = await pusher(request)
        _media(request, MEDIA_TYPES)
        delivery = await door.delivery(request, "generic", who.workspace)
        return answer(await door.take(delivery, "events"), refuse_all=True)

    async def webhook(source: str, request: Request) -> Response:
        delivery = door.verified(await door.delivery(request, door.webhook(source).name, ""))
        try:
            return answer(await door.take(delivery, "webhooks"), refuse_all=False)
        except RejectedInput as error:  # a vendor will not mend it: keep what was sent
            rejection = Rejection(error.reason, str(error), getattr(error, "pointer", ""))
            await intake.accept(delivery, [rejection], "webhooks")
            raise

    async def report(source: str, request: Request) -> Response:
        who = await pusher(request)
        door.known(source)
        _media(request, REPORT_TYPES)
        delivery = await door.delivery(request, source, who.workspace)
        return answer(await door.take(delivery, "reports"), refuse_all=True)

    @api.post("/v1/events", status_code=202, operation_id="post_events", summary="One event or many, plain JSON or CloudEvents")
    async def post_events(request: Request) -> Response:
        return await counted("events", lambda: events(request))

    @api.post("/v1/webhooks/{source}", status_code=202, operation_id="post_webhook", summary="A signed delivery of one source, raw")
    async def post_webhook(source: str, request: Request) -> Response:
        return await counted("webhooks", lambda: webhook(source, request))

    @api.post("/v1/reports/{source}", status_code=202, operation_id="post_report", summary="Report rows of one source: JSON, JSON lines or CSV")
    async def post_report(source: str, request: Request) -> Response:
        return await counted("reports", lambda: report(source, request))

    @api.get("/v1/quarantine", operation_id="list_quarantine", summary="What could not be normalized, newest first")
    async def list_quarantine(
        request: Request,
        limit: int = Query(50, ge=1, le=200),
        cursor: str = Query("", pattern=r"^\d{0,18}$"),
        state: str = Query("waiting", pattern="^(waiting|redriven)$"),
        source: str = Query("", max_length=64),
        reason: str = Query("", max_length=64),
    ) -> Response:
        who = await reader(request, "viewer")
        before = int(cursor) if cursor else None
        page = await intake.quarantine.page(who.workspace, limit=limit + 1, before=before, state=state, source=source, reason=reason)
        more = str(page[limit - 1].position) if len(page) > limit else None
        return JSONResponse({"quarantine": [told(row) for row in page[:limit]], "next": more})

    @api.get("/v1/quarantine/{row_id}", operation_id="get_quarantined", summary="One of them with the delivery as it was received")
    async def get_quarantined(row_id: str, request: Request) -> Response:
        who = await reader(request, "editor")
        row, delivery, route = await intake.quarantine.get(who.workspace, row_id)
        body = delivery.body.decode("utf-8", "replace")
        return JSONResponse(told(row) | {"route": route, "headers": [list(h) for h in delivery.headers], "body": body})

    @api.post("/v1/quarantine/{row_id}/redrive", operation_id="redrive", summary="Drive its delivery again, with today's sources")
    async def redrive(row_id: str, request: Request) -> Response:
        who = await reader(request, "editor")
        row, delivery, route = await intake.quarantine.get(who.workspace, row_id)
        if row.state != "waiting":
            return JSONResponse({"redriven": 0, "waiting": 0, "id": row.id})
        receipt = await door.take(look_again(delivery, intake.clock.now()), route, keep=False)
        still = {r.pointer: r for r in receipt.rejections}
        rows = await intake.quarantine.waiting(row.delivery_id)
        settled = [r.id for r in rows if r.pointer not in still]
        await intake.quarantine.settle(settled, wall.now(), who.name)
        if row.pointer in still:
            refused = still[row.pointer]
            return problem(422, refused.reason, f"it is still refused: {refused.detail}", pointer=refused.pointer)
        return JSONResponse({"redriven": len(settled), "waiting": len(rows) - len(settled), "id": row.id})

    return api, lambda app: ShortWay(app, door, known or (lambda _: None), count)


class ShortWay:
    """Before the whole app: a usual delivery of a known sender that is here in one piece is answered at once, any other goes the whole way.

    It takes nothing that the whole way would refuse, and says the same; it spares routing, middleware and validation, which cost more than the delivery.
    """

    def __init__(self, app: ASGIApp, door: _Door, known: Known, count: Callable[[str, str], None]) -> None:
        self.app, self.door, self.known, self.count = app, door, known, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
            return await self.app(scope, receive, send)
        _, _, route, source = (*scope["path"].split("/", 3), "", "")[:4]
        if route == "events" and not source:
            source = "generic"
        elif route not in ("webhooks", "reports") or source not in self.door.sources:
            return await self.app(scope, receive, send)
        first = await receive()
        if first["type"] == "http.request" and not first.get("more_body"):
            delivery = self._delivery(scope, first.get("body", b""), route, source)
            if delivery is not None and (rows := self.door.rows(delivery, route)) is not None:
                answer = await self._take(delivery, rows, route)
                if answer is not None:
                    status, body, headers = answer
                    given = dict(scope["headers"]).get(b"x-request-id", b"")
                    headers.append((b"x-request-id", given if REQUEST_ID.fullmatch(given.decode("latin-1")) else token_hex(8).encode()))
                    await send({"type": "http.response.start", "status": status, "headers": headers})
                    await send({"type": "http.response.body", "body": body})
                    return None

        async def again() -> Message:
            nonlocal first
            message, first = first, {}
            return message or await receive()

        return await self.app(scope, again, send)

    def _delivery(self, scope: Scope, body: bytes, route: str, source: str) -> Delivery | None:
        """The delivery in its sender's workspace, or None where anything about the request wants a closer look."""
        door, given = self.door, dict(scope["headers"])
        if len(given) != len(scope["headers"]) or len(body) > min(door.max_body_bytes, SMALL_IN_COLUMNS) or b"content-encoding" in given:
            return None
        if given.get(b"content-type") not in USUAL_TYPES or not door.has_room:
            return None
        headers = tuple([(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]])
        now = door.intake.clock.now()
        if route == "webhooks":
            try:
                return door.verified(Delivery(source, "", body, headers, now, "POST", door.address(Request(scope))))
            except RejectedInput:
                return None
        who = self.known(given.get(b"authorization", b"").decode("latin-1"))
        return Delivery(source, who.workspace, body, headers, now, "POST") if who is not None and who.may(SOURCE) else None

    async def _take(self, delivery: Delivery, rows: Rows, route: str) -> tuple[int, bytes, list[tuple[bytes, bytes]]] | None:
        """(status, body, headers) of the answer; None where the whole way must say it, and nothing is done."""
        try:
            with self.door.room():
                receipt = await self.door.intake.accept_rows(delivery, rows)
        except TrimtabError as error:
            log.warning("unavailable", reason=error.reason)
            self.count(route, str(error.status))
            told = from_error(error)
            return told.status_code, bytes(told.body), list(told.raw_headers)
        if receipt is None:
            return None
        self.count(route, "202")
        body = ACCEPTED % receipt.accepted
        return 202, body, [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]


class _Straight(APIRoute):
    """A door that only reads raw bodies is handed the request as it is: it has no parameters to solve but those of its path."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        if self.methods != {"POST"} or not set(self.param_convertors) <= {"source"}:
            return super().get_route_handler()

        async def straight(request: Request) -> Response:
            return await self.endpoint(request=request, **request.path_params)  # type: ignore[no-any-return]

        return straight


class _Door:
    """What every door does: read, verify, parse, hand over."""

    def __init__(
        self, intake: Intake, secrets: Secrets, wall: Clock, sources: Mapping[str, Any], max_body_bytes: int, public_url: str, patience: float
    ) -> None:
        self.intake, self.secrets, self.wall, self.sources = intake, secrets, wall, sources
        self.max_body_bytes, self.public_url, self.patience = max_body_bytes, public_url, patience
        self._inside = 0
        self._webhooks = frozenset(name for name, one in sources.items() if isinstance(one, Webhook))  # asked once: it costs more than a look-up
        self._columnar = frozenset(name for name, one in sources.items() if isinstance(one, Columnar))
        self._addresses: dict[tuple[Any, ...], str] = {}

    @property
    def has_room(self) -> bool:
        return self._inside < IN_FLIGHT

    @contextmanager
    def room(self) -> Iterator[None]:
        """Bounds what is in memory at once: the next delivery is refused, not queued without end."""
        if not self.has_room:
            raise Unavailable("too many deliveries at once; send it again in a moment", reason="busy")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def known(self, source: str) -> Any:
        if source not in self.sources:
            raise NotFound(f"there is no source {source[:40]!r}; there are {', '.join(self.sources)}")
        return self.sources[source]

    def webhook(self, source: str) -> Webhook:
        one = self.known(source)
        if source not in self._webhooks:
            raise NotFound(f"{source} sends no webhooks; push its report rows to /v1/reports/{source}")
        return one  # type: ignore[no-any-return]

    async def delivery(self, request: Request, source: str, workspace: str) -> Delivery:
        """The request, read whole; Refused 413, 408 or 415 before it costs more than its limits."""
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused("send the body uncompressed", reason="unsupported_media_type", status=415)
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and len(declared) < 20 and int(declared) > self.max_body_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self.patience):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self.max_body_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise Refused(f"the body did not arrive within {self.patience:g} s", reason="slow_body", status=408) from None
        except ClientDisconnect:
            raise Refused("the sender went away", reason="malformed", status=400) from None
        headers = tuple([(n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in request.headers.raw])
        return Delivery(source, workspace, bytes(body), headers, self.intake.clock.now(), request.method, self.address(request))

    def address(self, request: Request) -> str:
        """The request's address as its sender knows it; the usual ones are put together once."""
        scope = request.scope
        key = (scope["scheme"], scope.get("server"), scope.get("root_path"), scope["path"], scope["query_string"], request.headers.get("host"))
        known = self._addresses.get(key)
        if known is None:
            query = f"?{request.url.query}" if request.url.query else ""
            known = f"{self.public_url}{request.url.path}{query}" if self.public_url else str(request.url)
            if len(self._addresses) >= 1024:
                self._addresses.clear()
            self._addresses[key] = known
        return known

    def _too_large(self) -> Refused:
        return Refused(f"the body is larger than {self.max_body_bytes:,} bytes; send it in parts", reason="too_large", status=413)

    def verified(self, delivery: Delivery) -> Delivery:
        """The delivery in the workspace whose secret signed it; Unauthorized where none did."""
        source, now = self.webhook(delivery.source), self.wall.now()
        refusal = Unauthorized(f"no secret is set for {delivery.source}", reason="wrong_signature")
        signed = ""
        for workspace, by_source in self.secrets.items():  # every workspace is tried: the time taken tells nothing
            if active := by_source.get(delivery.source):
                try:
                    source.verify(delivery, active, now)
                    signed = signed or workspace
                except Unauthorized as error:
                    refusal = error
                except (ValueError, UnicodeError, KeyError, TypeError):  # junk where a signature belongs is no signature
                    refusal = Unauthorized("the signature cannot be read", reason="wrong_signature")
        if not signed:
            raise refusal
        return Delivery(delivery.source, signed, delivery.body, delivery.headers, delivery.received_at, delivery.method, delivery.url)

    async def take(self, delivery: Delivery, route: str, keep: bool = True) -> Receipt:
        """Parses and makes durable; raises Refused for a body that holds nothing readable. Without `keep` rejections go nowhere: they are there already."""
        if keep:
            is_small = len(delivery.body) <= SMALL_IN_COLUMNS
            rows = self.rows(delivery, route) if is_small else await asyncio.to_thread(self.rows, delivery, route)
            if rows is not None and (receipt := await self.intake.accept_rows(delivery, rows)) is not None:
                return receipt
        if len(delivery.body) <= SMALL:
            items = list(self._items(delivery, route))
        else:
            items = await asyncio.to_thread(lambda: list(self._items(delivery, route)))
        if keep:
            return await self.intake.accept(delivery, items, route)
        refused = tuple(i for i in items if isinstance(i, Rejection))
        receipt = await self.intake.accept(delivery, [i for i in items if not isinstance(i, Rejection)], route)
        return Receipt(receipt.accepted, refused + receipt.rejections)

    def rows(self, delivery: Delivery, route: str) -> Rows | None:
        """What a usual delivery says, or None where it must be read with care."""
        source = self.known(delivery.source)
        if route == "reports":
            return usual.report(delivery, source.name) if delivery.media_type == "application/json" else None
        return source.rows(delivery) if delivery.source in self._columnar else None

    def _items(self, delivery: Delivery, route: str) -> Iterable[Item]:
        source = self.known(delivery.source)
        if route != "reports":
            return self.webhook(delivery.source).events(delivery)
        shapes = source.shapes if isinstance(source, Reporter) else ()
        return reading.events(delivery, source.name, shapes, Context(delivery.received_at, zones=time_zone))


def answer(receipt: Receipt, refuse_all: bool) -> Response:
    """202 with what became of it; 422 where nothing at all could be accepted and the sender is a program that can be mended."""
    if not receipt.rejections:
        return Response(ACCEPTED % receipt.accepted, 202, media_type="application/json")
    problems = [{"pointer": r.pointer, "reason": r.reason, "detail": r.detail} for r in receipt.rejections[:TOLD]]
    body = {"accepted": receipt.accepted, "quarantined": len(receipt.rejections), "problems": problems}
    if refuse_all and receipt.rejections and not receipt.accepted:
        first = receipt.rejections[0]
        return problem(422, first.reason, first.detail, pointer=first.pointer, **body)
    return JSONResponse(body, status_code=202)


def told(row: Quarantined) -> dict[str, Any]:
    at = datetime.fromtimestamp(row.received_at / 1_000_000, UTC).isoformat().replace("+00:00", "Z")
    return {
        "id": row.id, "source": row.source, "reason": row.reason, "detail": row.detail, "pointer": row.pointer, "received_at": at, "state": row.state,
        "delivery": row.delivery_id,
    }  # fmt: skip


def _media(request: Request, allowed: Sequence[str]) -> None:
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.lower().partition("charset=")[2].strip(' "')
    if kind.strip().lower() not in allowed:
        raise Refused(f"send one of {', '.join(allowed)}", reason="unsupported_media_type", status=415)
    if charset not in ("", "utf-8", "us-ascii"):
        raise Refused(f"the character set {charset[:20]!r} is not read: send UTF-8", reason="unsupported_media_type", status=415)

