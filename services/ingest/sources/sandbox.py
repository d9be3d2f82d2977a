"""sandbox: the practice ad platform that comes with Trimtab. It behaves like a real one and costs nothing.

Signed (Standard Webhooks) to `POST /v1/webhooks/sandbox`: `{"type": "report" | "entity", "account": "demo", "sent_at": ..., "rows": [...]}`. Each row names
one entity (`{"account": "demo", "campaign": "c1", "ad_group": "g1", "creative": "a1"}`, the deeper levels may be missing) and carries

* figures: `impressions` and `clicks` (whole numbers), `spend` (decimal text in `currency`), `conversions` and `revenue` by action type and attribution
  (`{"purchase": {"7d_click": 1}}`). With `interval` and `as_of` they are what the interval reads now, without them they are added;
* what the entity is: `name`, `status`, `daily_budget`, `label`, `objective`, `learning_phase`, `bid`, `targeting`.

Figures are reported for creatives only; levels above are sums of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.ingest.core import normalize, plain
from services.ingest.core.instant import rfc3339
from services.ingest.core.refused import Refused, at, step
from services.ingest.core.signature import sign_standard_webhooks, standard_webhooks
from services.ingest.core.source import Delivery, Example, Item
from services.kernel.entity import LEVELS
from services.kernel.event import Event, Snapshot, Value
from services.kernel.measure import count, count_measure, currency, measure, micros, money_measure

NUMBERS = ("daily_budget", "bid")
TEXTS = ("name", "status", "label", "objective", "learning_phase", "targeting")
MEMBERS = frozenset(
    ("id", "entity", "occurred_at", "interval", "as_of", "currency", "impressions", "clicks", "spend", "leads", "conversions", "revenue", *NUMBERS, *TEXTS)
)
KINDS = {"report": "report", "entity": "state"}


class Sandbox:
    name = "sandbox"

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: int) -> None:
        standard_webhooks(delivery, secrets, now)

    def sign(self, delivery: Delivery, secret: str, now: int) -> tuple[tuple[str, str], ...]:
        return sign_standard_webhooks(delivery, secret, now)

    def events(self, delivery: Delivery) -> Iterator[Item]:
        given = delivery.json()
        if not isinstance(given, Mapping) or not isinstance(given.get("rows"), list):
            raise Refused("a delivery of the sandbox is an object with rows", reason="bad_shape", pointer="/rows")
        kind = KINDS.get(str(given.get("type")))
        if kind is None:
            raise Refused(f"type {str(given.get('type'))[:40]!r} is neither report nor entity", reason="bad_kind", pointer="/type")
        return plain.each(given["rows"], "/rows", lambda row, pointer: _event(row, kind, delivery, pointer))

    example = Example(
        body=b'{"type": "report", "account": "demo", "sent_at": "2026-03-01T12:00:00Z", "rows": ['
        b'{"id": "r-17", "entity": {"account": "demo", "campaign": "c1", "ad_group": "g1", "creative": "a1"}, "occurred_at": "2026-03-01T11:59:59Z",'
        b' "interval": {"start": "2026-03-01T10:00:00Z", "end": "2026-03-01T12:00:00Z"}, "as_of": "2026-03-01T11:59:59Z", "currency": "EUR",'
        b' "impressions": 400, "clicks": 2, "spend": "1.25", "conversions": {"purchase": {"7d_click": 1}}, "revenue": {"purchase": {"7d_click": "49.90"}},'
        b' "name": "Summer_v3", "status": "active"},'
        b'{"id": "r-18", "entity": {"account": "demo", "campaign": "c1"}, "occurred_at": "2026-03-01T11:59:59Z", "daily_budget": "80.00"},'
        b'{"id": "r-19", "entity": {"account": "demo", "campaign": "c1"}, "occurred_at": "2026-03-01T11:59:59Z", "impressions": -4}]}',
        events=2,
        rejections=1,
    )


def _event(row: Any, kind: str, delivery: Delivery, pointer: str) -> Event:
    fields = normalize.members(row, MEMBERS, "a row", pointer)
    with at(pointer, "id"):
        ident = normalize.native_id(fields.get("id"))
    with at(pointer, "entity"):
        path = _path(fields.get("entity"))
    with at(pointer, "occurred_at"):
        occurred_at = normalize.not_ahead(rfc3339(fields.get("occurred_at")), delivery.horizon)
    snapshot = _snapshot(fields, path, delivery, pointer)
    with at(pointer):
        amounts, attributes = _amounts(fields, pointer), _attributes(fields, pointer)
        return normalize.checked(Event(ident, Sandbox.name, path, kind, occurred_at, amounts, attributes, snapshot), delivery.horizon)


def _path(given: Any) -> str:
    levels = normalize.members(given, frozenset(LEVELS[1:]), "entity")
    parts = [levels.get(level) for level in LEVELS[1:]]
    present = [part for part in parts if part is not None]
    if not present or parts[: len(present)] != present:
        raise Refused("an entity names its levels from account down, without a gap", reason="bad_entity")
    return normalize.path("/".join(["sandbox", *(normalize.part(p) for p in present)]))


def _snapshot(fields: Mapping[str, Any], path: str, delivery: Delivery, pointer: str) -> Snapshot | None:
    if "interval" not in fields:
        return None
    with at(pointer, "interval"):
        interval = normalize.members(fields["interval"], frozenset({"start", "end"}), "an interval", step(pointer, "interval"))
        start, end = rfc3339(interval.get("start")), rfc3339(interval.get("end"))
    with at(pointer, "as_of"):
        return normalize.snapshot(start, end, rfc3339(fields.get("as_of")), (path,))


def _amounts(fields: Mapping[str, Any], pointer: str) -> dict[str, int]:
    made: dict[str, int] = {}
    for name in ("impressions", "clicks", "leads"):
        if name in fields:
            with at(pointer, name):
                made[name] = count(fields[name])
    if "spend" in fields:
        made[money_measure("spend", _currency(fields, pointer))] = _micros(fields["spend"], step(pointer, "spend"))
    for base in ("conversions", "revenue"):
        for action, attribution, value, here in _by_action(fields, base, pointer):
            with at(here):
                if base == "revenue":
                    made[money_measure(base, _currency(fields, pointer), action, attribution)] = _micros(value, here)
                else:
                    made[count_measure(base, action, attribution)] = count(value)
    return made


def _by_action(fields: Mapping[str, Any], base: str, pointer: str) -> Iterator[tuple[str, str, Any, str]]:
    here = step(pointer, base)
    actions = fields.get(base, {})
    for action, windows in (actions if isinstance(actions, Mapping) else {"": None}).items():
        if not isinstance(windows, Mapping):
            raise Refused(f'{base} are written {{"purchase": {{"7d_click": 1}}}}', reason="bad_shape", pointer=here)
        for attribution, value in windows.items():
            with at(here, action):
                measure(f"{base}:{action}:{attribution}")
            yield action, attribution, value, step(step(here, action), attribution)


def _attributes(fields: Mapping[str, Any], pointer: str) -> dict[str, Value]:
    made: dict[str, Value] = {}
    for name in NUMBERS:
        if name in fields:
            made[name] = _micros(fields[name], step(pointer, name))
    for name in TEXTS:
        if name in fields:
            with at(pointer, name):
                value = fields[name]
                made[name] = normalize.attribute(value) if isinstance(value, bool) else normalize.text(value, name)
    return made


def _currency(fields: Mapping[str, Any], pointer: str) -> str:
    with at(pointer, "currency"):
        return currency(fields.get("currency"))


def _micros(value: Any, pointer: str) -> int:
    with at(pointer):
        return micros(value)


SOURCE = Sandbox()
