"""The doors of ingest: events, signed webhooks, reports, and what waits in quarantine.

202 is said only when the log and the quarantine hold everything durably. A body is read up to a limit and for a limited time, a signature is checked over
the raw bytes before anything is parsed, and the workspace comes from the credential: the API key's, or that of the secret which signed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, tzinfo
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import ClientDisconnect
from starlette.types import Scope

import services.ingest.sources as sources_folder
from services.adapters.faultpoint import faultpoint
from services.adapters.http.auth import Auth
from services.adapters.http.front import Answer
from services.adapters.http.problem import from_error, from_unavailable, problem, request_id
from services.adapters.settings import Settings
from services.ingest.core import reading, usual
from services.ingest.core.refused import Refused
from services.ingest.core.report import Context
from services.ingest.core.source import Columnar, Delivery, Item, Rejection, Reporter, Webhook
from services.ingest.core.source import Together as ReadTogether
from services.ingest.core.usual import Read
from services.ingest.intake import Intake, Receipt, look_again
from services.ingest.quarantine import Quarantined
from services.ingest.room import MOST_BYTES, NOBODY, Place, Room
from services.ingest.sources.generic import MEDIA_TYPES
from services.ingest.together import Together
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
CAREFUL = 2  # large deliveries that are parsed with care at once
PATIENCE = 30.0  # seconds a sender has for its body
SMALL = 65_536  # bodies up to here are parsed in place
SMALL_IN_COLUMNS = 524_288  # and up to here where they are usual: it takes a few milliseconds
ACCEPTED = b'{"accepted":%d,"quarantined":0,"problems":[]}'
USUAL_TYPES = {t.encode(): (("content-type", t),) for t in ("application/json", "application/cloudevents-batch+json")}  # as a delivery's headers
REPORT_TYPES = ("application/json", "text/csv", "application/x-ndjson", "application/jsonl")


def all_sources() -> dict[str, Any]:
    """name -> source, of the folder and of the entry points `trimtab.source`."""
    return found(sources_folder, "source", "SOURCE")


def time_zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Refused(f"{name[:60]!r} is not a time zone such as Europe/Berlin", reason="unknown_time_zone") from None


def doors_of(settings: Settings, intake: Intake, auth: Auth, wall: Clock, registry: CollectorRegistry) -> tuple[APIRouter, Short]:
    """As `doors`, as the settings want them."""
    largest = settings.max_body_bytes
    room = Room(registry, most_bytes=max(MOST_BYTES, 4 * largest), rate=settings.rate)
    options: dict[str, Any] = {"max_body_bytes": largest, "known": auth.known, "linger_ms": settings.linger_ms, "room": room}
    return doors(intake, auth.principal, settings.secrets_by_workspace, wall, registry, **options)


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
    linger_ms: float = 2,
    room: Room | None = None,
) -> tuple[APIRouter, Short]:
    """(the routes, the short way that a usual delivery takes past the whole app, for `services.adapters.http.front`).

    POST /v1/events, /v1/webhooks/{source}, /v1/reports/{source}; GET /v1/quarantine, /v1/quarantine/{id}; POST /v1/quarantine/{id}/redrive.

    `wall` is the world's clock, for signatures; events are received by `intake.clock`, which may be simulated. `public_url` is scheme and host as senders
    know them, where a proxy stands in between. `known` tells whose an Authorization header is without asking anyone, or None.
    """
    room = room or Room(registry, most_bytes=max(MOST_BYTES, 4 * max_body_bytes))
    door = _Door(intake, secrets, wall, sources or all_sources(), max_body_bytes, public_url.rstrip("/"), patience, room)
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
        """What the work answers, counted."""
        status = "500"
        try:
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
        with door.room.enter(sender(who.workspace, who.name)) as place:
            delivery = await door.delivery(request, "generic", who.workspace, place)
            return answer(await door.take(delivery, "events"), refuse_all=True)

    async def webhook(source: str, request: Request) -> Response:
        delivery = door.verified(await door.delivery(request, door.webhook(source).name, "", None))
        with door.room.enter(sender(delivery.workspace, source), len(delivery.body)):
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
        with door.room.enter(sender(who.workspace, who.name)) as place:
            delivery = await door.delivery(request, source, who.workspace, place)
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

    return api, Short(door, known or (lambda _: None), count, linger_ms / 1000)


def sender(workspace: str, name: str) -> str:
    return f"{workspace}/{name}"


class Short:
    """The way of a usual delivery of a known sender that is here in one piece; any other goes the whole way.

    It takes nothing that the whole way would refuse, and says the same; it spares routing, middleware and validation, which cost more than the delivery.
    """

    def __init__(self, door: _Door, known: Known, count: Callable[[str, str], None], linger: float) -> None:
        self.door, self.known, self.count = door, known, count
        self.together = Together(door.intake, door.read_together, linger)
        self._ways = {"/v1/events": ("events", "generic")}
        self._ways |= {f"/v1/reports/{name}": ("reports", name) for name in door.sources}
        self._ways |= {f"/v1/webhooks/{name}": ("webhooks", name) for name in door.columnar}

    def wants(self, scope: Scope) -> bool:
        return scope["method"] == "POST" and scope["path"] in self._ways

    def begin(self, scope: Scope, body: bytes) -> Begun | None:
        """The delivery under way, or None where anything about the request wants a closer look."""
        door, given, (route, source) = self.door, dict(scope["headers"]), self._ways[scope["path"]]
        media = given.get(b"content-type")
        if media not in USUAL_TYPES or b"content-encoding" in given or len(body) > min(door.max_body_bytes, SMALL_IN_COLUMNS):
            return None
        if len(given) != len(scope["headers"]) or b"ce-specversion" in given:
            return None
        now = door.intake.clock.now()
        if route == "webhooks":
            if b"x-forwarded-proto" in given:  # the address as the sender knows it is put together on the whole way
                return None
            headers = tuple([(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]])
            try:
                delivery = door.verified(Delivery(source, "", body, headers, now, "POST", door.address(Request(scope))))
            except RejectedInput:
                return None
            name = source
        else:
            who = self.known(given.get(b"authorization", b"").decode("latin-1"))
            if who is None or not who.may(SOURCE):
                return None
            delivery, name = Delivery(source, who.workspace, body, USUAL_TYPES[media], now), who.name
        try:
            place = door.room.enter(sender(delivery.workspace, name), len(body))
        except Unavailable as error:
            return Begun(self, route, given, failed(error))
        begun = Begun(self, route, given, self.together.take(delivery, route))
        begun.done.add_done_callback(lambda _: place.leave())
        return begun


def failed(error: Exception) -> asyncio.Future[int | None]:
    done: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    done.set_exception(error)
    return done


class Begun:
    """A delivery on the short way."""

    __slots__ = ("short", "route", "given", "done")

    def __init__(self, short: Short, route: str, given: Mapping[bytes, bytes], done: asyncio.Future[int | None]) -> None:
        self.short, self.route, self.given, self.done = short, route, given, done

    def answer(self) -> Answer | None:
        """What is to be said once it is done; None where the whole way must say it, and nothing was done."""
        try:
            accepted = self.done.result()
        except asyncio.CancelledError:
            error: TrimtabError = Unavailable("the server stops; send it again", reason="stopping")
        except TrimtabError as raised:
            error = raised
        else:
            if accepted is None:
                return None
            self.short.count(self.route, "202")
            body = ACCEPTED % accepted
            return 202, body, [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json"), (b"x-request-id", request_id(self.given))]
        self.short.count(self.route, str(error.status))
        told = from_unavailable(error) if isinstance(error, Unavailable) else from_error(error)
        return told.status_code, bytes(told.body), [*told.raw_headers, (b"x-request-id", request_id(self.given))]

    def answered(self) -> None:
        faultpoint("ingest.answered")


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
        self, intake: Intake, secrets: Secrets, wall: Clock, sources: Mapping[str, Any], max_body_bytes: int, public_url: str, patience: float, room: Room
    ) -> None:
        self.intake, self.secrets, self.wall, self.sources = intake, secrets, wall, sources
        self.max_body_bytes, self.public_url, self.patience = max_body_bytes, public_url, patience
        self.room = room
        self._careful = ThreadPoolExecutor(CAREFUL, "ingest-careful")  # what is parsed there takes many times the room of its body
        self._webhooks = frozenset(name for name, one in sources.items() if isinstance(one, Webhook))  # asked once: it costs more than a look-up
        self.columnar = frozenset(name for name, one in sources.items() if isinstance(one, Columnar))
        self._together = frozenset(name for name, one in sources.items() if isinstance(one, ReadTogether))
        self._addresses: dict[tuple[Any, ...], str] = {}

    def known(self, source: str) -> Any:
        if source not in self.sources:
            raise NotFound(f"there is no source {source[:40]!r}; there are {', '.join(self.sources)}")
        return self.sources[source]

    def webhook(self, source: str) -> Webhook:
        one = self.known(source)
        if source not in self._webhooks:
            raise NotFound(f"{source} sends no webhooks; push its report rows to /v1/reports/{source}")
        return one  # type: ignore[no-any-return]

    async def delivery(self, request: Request, source: str, workspace: str, place: Place | None) -> Delivery:
        """The request, read whole; Refused 413, 408 or 415 before it costs more than its limits. Without a place, one is taken while the body comes."""
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused("send the body uncompressed", reason="unsupported_media_type", status=415)
        declared = request.headers.get("content-length", "")
        size = int(declared) if declared.isdigit() and len(declared) < 20 else -1
        if size > self.max_body_bytes:
            raise self._too_large()
        with ExitStack() as until_read:
            body = await self._body(request, size, place or (lambda: until_read.enter_context(self.room.enter(NOBODY))))
        headers = tuple([(n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in request.headers.raw])
        return Delivery(source, workspace, body, headers, self.intake.clock.now(), request.method, self.address(request))

    async def _body(self, request: Request, size: int, place: Place | Callable[[], Place]) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self.patience):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self.max_body_bytes:
                        raise self._too_large()
                    if isinstance(place, Place):
                        place.hold(len(chunk))
                    elif len(body) != size:
                        place = place()
                        place.hold(len(body))
        except TimeoutError:
            raise Refused(f"the body did not arrive within {self.patience:g} s", reason="slow_body", status=408) from None
        except ClientDisconnect:
            raise Refused("the sender went away", reason="malformed", status=400) from None
        return bytes(body)

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
            items = await asyncio.get_running_loop().run_in_executor(self._careful, lambda: list(self._items(delivery, route)))
        if keep:
            return await self.intake.accept(delivery, items, route)
        refused = tuple(i for i in items if isinstance(i, Rejection))
        receipt = await self.intake.accept(delivery, [i for i in items if not isinstance(i, Rejection)], route)
        return Receipt(receipt.accepted, refused + receipt.rejections)

    def rows(self, delivery: Delivery, route: str) -> Rows | None:
        """What a usual delivery says, or None where it must be read with care."""
        found = self.read_together((delivery,), route)
        return found[0] if found is not None else None

    def read_together(self, deliveries: Sequence[Delivery], route: str) -> Read | None:
        """The same of several of one source and workspace, with how many events each has; None where any of them must be read with care or by itself."""
        source = self.known(deliveries[0].source)
        if route == "reports":
            is_json = all(d.media_type == "application/json" for d in deliveries)
            return usual.reports(deliveries, source.name) if is_json else None
        if source.name in self._together:
            return source.rows_of(deliveries)  # type: ignore[no-any-return]
        if len(deliveries) > 1 or source.name not in self.columnar:
            return None
        rows = source.rows(deliveries[0])
        return (rows, [len(rows)]) if rows is not None else None

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
    body: dict[str, Any] = {"accepted": receipt.accepted, "quarantined": len(receipt.rejections), "problems": problems}
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

