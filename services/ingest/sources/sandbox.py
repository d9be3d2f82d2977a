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

import msgspec
from msgspec import UNSET, UnsetType

from services.ingest.core import normalize, plain, usual
from services.ingest.core.instant import rfc3339
from services.ingest.core.refused import Refused, at, step
from services.ingest.core.signature import sign_standard_webhooks, standard_webhooks
from services.ingest.core.source import Delivery, Example, Item
from services.kernel.columns import Rows
from services.kernel.entity import LEVELS
from services.kernel.event import Event, Snapshot, Value
from services.kernel.ids import begun
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

    def rows(self, delivery: Delivery) -> Rows | None:
        return usual.attempt(delivery, lambda body: _columns(body, delivery.horizon))

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


# -- the usual delivery, by columns: figures of entities, without what is watched for changes -----------------------------


class _Entity(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    account: str
    campaign: str | UnsetType = UNSET
    ad_group: str | UnsetType = UNSET
    creative: str | UnsetType = UNSET


class _Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str
    entity: _Entity
    occurred_at: str
    currency: str | UnsetType = UNSET
    interval: usual.Interval | UnsetType = UNSET
    as_of: str | UnsetType = UNSET
    impressions: int | UnsetType = UNSET
    clicks: int | UnsetType = UNSET
    leads: int | UnsetType = UNSET
    spend: str | UnsetType = UNSET
    conversions: dict[str, dict[str, int]] = {}
    revenue: dict[str, dict[str, str]] = {}
    name: str | UnsetType = UNSET


class _Report(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    rows: list[_Row]
    account: str | UnsetType = UNSET
    sent_at: str | UnsetType = UNSET


_DECODER = msgspec.json.Decoder(_Report)


def _columns(body: bytes, horizon: int) -> Rows:
    given = _DECODER.decode(body)
    kind, n = KINDS.get(given.type, ""), len(given.rows)
    if not kind or not n:
        raise usual.Unusual
    strings = 3 + 2 * ((given.account is not UNSET) + (given.sent_at is not UNSET))
    paths, sizes, measures, amounts = list[str](), list[int](), list[str](), list[int]()
    sources, kinds, occurred = usual.of_one(Sandbox.name, n), usual.of_one(kind, n), usual.instants([row.occurred_at for row in given.rows], horizon)
    made = Rows([], paths, sources, kinds, occurred, sizes, measures, amounts)
    for row in given.rows:
        parts = [p for p in (row.entity.account, row.entity.campaign, row.entity.ad_group, row.entity.creative) if p is not UNSET]
        path = "/".join((Sandbox.name, *parts))
        if path.count("/") != len(parts) or (len(parts) < 4 and _has_a_gap(row.entity)):
            raise usual.Unusual
        paths.append(path)
        before = len(amounts)
        strings += 5 + 2 * len(parts) + _count_amounts(row, measures, amounts) + _count_rest(row, made)
        sizes.append(len(amounts) - before)
    usual.counted((body,), strings)
    if not min(sizes):
        raise usual.Unusual
    made.paths = usual.paths_of(paths)
    made.ids = usual.keys([row.id for row in given.rows], sources, (n,))
    _put_intervals(given.rows, paths, horizon, made)
    if not made.names:
        made.attributes_of = []
    return made


def _has_a_gap(entity: _Entity) -> bool:
    levels = (entity.campaign, entity.ad_group, entity.creative)
    return any(upper is UNSET and lower is not UNSET for upper, lower in zip(levels, levels[1:], strict=False))


def _count_amounts(row: _Row, measures: list[str], amounts: list[int]) -> int:
    """The row's amounts are added; how many strings of the body they are made of."""
    strings = 0
    for name, value in (("impressions", row.impressions), ("clicks", row.clicks), ("leads", row.leads)):
        if value is not UNSET:
            strings += 1
            measures.append(name)
            amounts.append(usual.count_of(value))
    if row.spend is not UNSET:
        strings += 2
        measures.append(usual.IN_CURRENCY["spend", _code(row)])
        amounts.append(usual.MICROS_OF[row.spend])
    for action, counts in row.conversions.items():
        strings += 1
        for attribution, number in counts.items():
            strings += 1
            measures.append(_counted("conversions", action, attribution))
            amounts.append(usual.count_of(number))
    for action, sums in row.revenue.items():
        strings += 1
        for attribution, written in sums.items():
            strings += 2
            measures.append(usual.IN_CURRENCY[_named("revenue", action, attribution), _code(row)])
            amounts.append(usual.MICROS_OF[written])
    return strings


def _count_rest(row: _Row, made: Rows) -> int:
    """The row's name is added; how many strings of the body it, the interval, the currency and the members of amounts are."""
    strings = 2 * ((row.currency is not UNSET) + (row.as_of is not UNSET) + (row.name is not UNSET))
    strings += bool(row.conversions) + bool(row.revenue) + 5 * (row.interval is not UNSET)
    made.attributes_of.append(int(row.name is not UNSET))
    if row.name is not UNSET:
        made.names.append("name")
        made.values.append(normalize.text(row.name, "name"))
    return strings


def _put_intervals(rows: Sequence[_Row], paths: Sequence[str], horizon: int, made: Rows) -> None:
    """The intervals are added, and zeros for rows without one; nothing where no row has one."""
    snapshots = [(i, (row.interval.start, row.interval.end), row.as_of) for i, row in enumerate(rows) if row.interval is not UNSET]
    if not snapshots:
        return
    if any(as_of is UNSET for _, _, as_of in snapshots):
        raise usual.Unusual
    n = len(rows)
    made.interval_start, made.interval_end, made.as_of, made.row_ids = [0] * n, [0] * n, [0] * n, [bytes(16)] * n
    spans = {texts: usual.span(texts) for texts in dict.fromkeys(texts for _, texts, _ in snapshots)}
    ids = usual.hashed(begun("row", Sandbox.name), [usual.PART[paths[i]] + spans[texts][2] for i, texts, _ in snapshots])
    instants = usual.instants([str(as_of) for _, _, as_of in snapshots], horizon)
    for (i, texts, _), as_of, row_id in zip(snapshots, map(int, instants), ids, strict=True):
        start, end, _ = spans[texts]
        if as_of <= max(start, 0):
            raise usual.Unusual
        made.interval_start[i], made.interval_end[i], made.as_of[i], made.row_ids[i] = start, end, as_of, row_id


def _code(row: _Row) -> str:
    if row.currency is UNSET:
        raise usual.Unusual
    return row.currency


def _named(base: str, action: str, attribution: str) -> str:
    if ":" in action or ":" in attribution or "@" in action or "@" in attribution:
        raise usual.Unusual
    return f"{base}:{action}:{attribution}"


def _counted(base: str, action: str, attribution: str) -> str:
    name = _named(base, action, attribution)
    if not usual.IS_COUNTED[name]:
        raise usual.Unusual
    return name


SOURCE = Sandbox()
