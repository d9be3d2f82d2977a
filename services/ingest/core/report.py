"""Report rows become snapshots, rows of histories become attributes. A Shape says what each column of a vendor's table means.

A source reports a measure at one declared level: the first level (with its breakdown) that is seen. Sums above it are roll-ups; rows of another level
would count the same click twice and are refused as `other_level`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from functools import lru_cache
from typing import Any

from services.ingest.core import cell, instant, normalize
from services.ingest.core.refused import Refused, at, step
from services.kernel.entity import LEVELS, level_of
from services.kernel.errors import RejectedInput
from services.kernel.event import Event, Value
from services.kernel.ids import digest
from services.kernel.measure import count, currency, measure, micros

WHOLE = frozenset({"impressions", "clicks", "page_views", "sessions"})
STATUS = {"enabled": "active", "active": "active", "on": "active", "paused": "paused", "off": "paused", "removed": "archived", "deleted": "archived"}
LARGEST = 300  # characters of a name with those of the objects around it
COLUMNS = 2000  # of one row
_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_WINDOW = re.compile(r"\d+d_(click|view|ev)")
_ID_IN_NAME = re.compile(r"[A-Za-z]+/\d+(?:/[A-Za-z]+/(?:\d+~)?(\d+))?", re.ASCII)  # customers/1/adGroups/2


@dataclass(frozen=True, slots=True)
class As:
    """What a column holds: a measure or an attribute by our name, in `units`, in `micros` of a unit, or as `text` or `status`.

    {action_type} in the name is the row's value of that column. An `optional` cell may be empty; any other empty cell refuses the row.
    """

    name: str
    unit: str = "units"
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of table. Columns are named as in its header; a row of JSON is first flattened to dotted snake_case names."""

    name: str  # meta_ads ad report
    source: str
    level: str  # of the entity that a row is about
    ids: Mapping[str, str]  # level -> column; what is not in the row is looked up among the histories read before
    measures: Mapping[str, As] = field(default_factory=dict)
    attributes: Mapping[str, As] = field(default_factory=dict)
    breakdown: tuple[str, ...] = ()  # columns that make several rows of one day
    day: str = ""  # the column of the local day; a history has none
    day_form: str = "%Y-%m-%d"
    last_day: str = ""  # the day that the interval ends with, where it is not the first
    at: str = ""  # the column of the instant a history row was written
    as_of: str = ""  # the column of the instant the report was read
    currency: str = ""  # column
    zone: str = ""  # column
    lists: Mapping[str, str] = field(default_factory=dict)  # column of a list of {action_type, value, 7d_click...} -> base measure
    constants: Mapping[str, str] = field(default_factory=dict)  # level, currency or time_zone -> the value of every row
    columns_also: tuple[str, ...] = ()  # by which the header is told from that of a similar table
    columns_not: tuple[str, ...] = ()  # of a similar table that splits the same figures further

    @property
    def columns(self) -> frozenset[str]:
        """Those a header must have to be of this shape."""
        needed = {*self.ids.values(), *(c for c, what in self.measures.items() if not what.optional), self.day, self.at}
        return frozenset(needed | set(self.columns_also)) - {""}


@dataclass(slots=True)
class Context:
    """What rows do not say themselves. It learns from rows that say more: whose child an id is, an account's currency and time zone."""

    received_at: int
    horizon: int = 0  # 0: received_at
    currency: str = ""
    account: str = ""
    zone: tzinfo = UTC
    zones: Callable[[str], tzinfo] | None = None  # looks a time zone's name up
    parents: dict[tuple[str, str, str], str] = field(default_factory=dict)  # (source, level, id) -> id one level up
    currencies: dict[tuple[str, str], str] = field(default_factory=dict)  # (source, account)
    time_zones: dict[tuple[str, str], tzinfo] = field(default_factory=dict)


def detect(header: Iterable[str], shapes: Iterable[Shape]) -> Shape | None:
    """The shape that needs the most columns of this header, or None where none fits."""
    present = frozenset(header)
    fitting = [s for s in shapes if s.columns <= present and present.isdisjoint(s.columns_not)]
    return max(fitting, key=lambda s: (len(s.columns), s.name), default=None)


@lru_cache(4096)
def _snake(name: str) -> str:
    """ad_group of adGroup."""
    return _CAPITAL.sub(lambda m: "_" + m.group(1).lower(), name)


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"adGroup": {"id": 1}} -> {"ad_group.id": 1}; lists stay as they are. Refuses more, or longer, names than any report has: they grow with their depth."""
    made: dict[str, Any] = {}
    for name, value in row.items():
        if len(prefix) + len(name) > LARGEST:
            raise Refused(f"the name {name[:40]!r}, with those of the objects around it, has more than {LARGEST:,} characters", reason="too_large")
        full = prefix + _snake(name)
        if isinstance(value, Mapping):
            made |= flat(value, full + ".")
        else:
            made[full] = value
        if len(made) > COLUMNS:
            raise Refused(f"an object of the report has more than {COLUMNS:,} members", reason="too_large")
    return made


def event(row: Mapping[str, Any], shape: Shape, context: Context, pointer: str = "") -> Event:
    """The row's Event; raises Refused pointing to the cell that is wrong."""
    platform = shape.constants.get("platform", shape.source)
    ids = _ids(row, shape, context, pointer)
    path = "/".join([platform, *ids])
    money, zone = _money(row, shape, context, ids[0]), _zone(row, shape, context, ids[0])
    attributes = _attributes(row, shape, pointer)
    horizon = context.horizon or context.received_at
    if not shape.day:
        with at(pointer, shape.at):
            written = _moment(row[shape.at], UTC)
        with at(pointer):
            said = tuple(f"{n}={v}" for n, v in sorted(attributes.items()))
            return normalize.checked(Event(digest("history", path, str(written), *said), shape.source, path, "history", written, {}, attributes), horizon)
    amounts = _amounts(row, shape, money, pointer) | _listed(row, shape, money, pointer)
    with at(pointer, shape.day):
        start, end = instant.day(str(row.get(shape.day) or ""), zone, shape.day_form)
        if shape.last_day and row.get(shape.last_day):
            end = instant.day(str(row[shape.last_day]), zone, shape.day_form)[1]
    as_of = context.received_at
    if shape.as_of and row.get(shape.as_of):
        with at(pointer, shape.as_of):
            as_of = _moment(row[shape.as_of], UTC)
    with at(pointer):
        names = sorted({*shape.breakdown, "action_type"})
        key = (path, *(f"{name}={normalize.text(str(row[name]), name)}" for name in names if row.get(name) not in (None, "")))
        taken = normalize.snapshot(start, end, as_of, key)
        ident = digest("report", *key, str(start), str(end), str(as_of))
        return normalize.checked(Event(ident, shape.source, path, "report", min(as_of, end - 1), amounts, attributes, taken), horizon)


def learn(row: Mapping[str, Any], shape: Shape, context: Context) -> None:
    """The context knows whose child this row's entity is, and its account's currency and time zone, as far as the row says so; never raises."""
    try:
        account = _ids(row, shape, context, "")[0]
        _money(row, shape, context, account)
        _zone(row, shape, context, account)
    except RejectedInput:
        return


class Levels:
    """The level and breakdown at which each (source, measure) is reported: the first one seen, unless it was declared before."""

    def __init__(self, declared: Mapping[tuple[str, str], str] | None = None) -> None:
        self.declared: dict[tuple[str, str], str] = dict(declared or {})
        self.news: dict[tuple[str, str], str] = {}

    def check(self, event: Event, pointer: str = "") -> None:
        """Refused `other_level` where one of its measures is reported elsewhere already; deltas are counted wherever they happen."""
        if event.snapshot is None:
            return
        names = sorted({cell.partition("=")[0] for cell in event.snapshot.row[1:]} - {"action_type"})
        label = level_of(event.path) + (f" by {', '.join(names)}" if names else "")
        for name in event.amounts:
            known = self.declared.get((event.source, name))
            if known is not None and known != label:
                text = f"{event.source} reports {name} per {known}; a row per {label} would count it twice"
                raise Refused(text, reason="other_level", pointer=pointer)
        for name in event.amounts:
            if (event.source, name) not in self.declared:
                self.declared[event.source, name] = self.news[event.source, name] = label


def _ids(row: Mapping[str, Any], shape: Shape, context: Context, pointer: str) -> list[str]:
    """The ids from account down to the shape's level; remembers whose child each is."""
    wanted = LEVELS[1 : LEVELS.index(shape.level) + 1]
    found: dict[str, str] = {}
    for level in wanted:
        column = shape.ids.get(level, "")
        value = row.get(column) if column else shape.constants.get(level)
        if value not in (None, ""):
            with at(pointer, column) if column else at(pointer):
                found[level] = normalize.part(_bare(value))
    if context.account:
        found.setdefault("account", context.account)
    for child, parent in zip(reversed(wanted), list(reversed(wanted))[1:], strict=False):
        if child not in found:
            continue
        key = (shape.source, child, found[child])
        if parent in found:
            context.parents[key] = found[parent]
        elif key in context.parents:
            found[parent] = context.parents[key]
    missing = [level for level in wanted if level not in found]
    if missing:
        about = f"{shape.level} {found[shape.level]}" if shape.level in found else "the row"
        text = f"the {missing[-1]} of {about} is not known: read the file that lists it first, or name it with --map {missing[-1]}=COLUMN"
        raise Refused(text, reason="no_entity", pointer=pointer)
    return [found[level] for level in wanted]


def _bare(value: Any) -> Any:
    """2 of customers/1/adGroups/2; any other value as it is."""
    match = _ID_IN_NAME.fullmatch(value) if isinstance(value, str) else None
    return match.group(1) or value if match else value


def _money(row: Mapping[str, Any], shape: Shape, context: Context, account: str) -> str:
    own = row.get(shape.currency) if shape.currency else shape.constants.get("currency")
    if own:
        context.currencies[shape.source, account] = currency(str(own).strip())
    return context.currencies.get((shape.source, account)) or context.currency


def _zone(row: Mapping[str, Any], shape: Shape, context: Context, account: str) -> tzinfo:
    own = row.get(shape.zone) if shape.zone else shape.constants.get("time_zone")
    if own and context.zones is not None:
        context.time_zones[shape.source, account] = context.zones(str(own))
    return context.time_zones.get((shape.source, account), context.zone)


def _amounts(row: Mapping[str, Any], shape: Shape, money: str, pointer: str) -> dict[str, int]:
    made: dict[str, int] = {}
    for column, what in shape.measures.items():
        with at(pointer, column):
            base = what.name.partition(":")[0]
            found = cell.number(row.get(column), whole=base in WHOLE)
            if found is None:
                if what.optional:
                    continue
                raise Refused("the cell is empty, and 0 would be a guess", reason="missing_value", pointer=step(pointer, column))
            name = what.name.format_map(row) if "{" in what.name else what.name
            full, amount = amount_of(name, found, what.unit, money)
            made[full] = made.get(full, 0) + amount
            if full.startswith("conversions:lead") and full.count(":") == 1:
                made["leads"] = amount
    return made


def amount_of(name: str, value: object, unit: str, money: str) -> tuple[str, int]:
    """(full measure, micro-units); money takes the account's currency, and is refused without one."""
    of = measure(name)
    if of.base not in ("spend", "revenue") and not of.currency:
        return str(of), count(value)
    if not of.currency:
        if not money:
            raise Refused("the report does not say its currency: name it with --map currency=EUR", reason="unknown_currency")
        of = measure(f"{name}@{money}")
    return str(of), micros(value, scale=0 if unit == "micros" else 6)


def _listed(row: Mapping[str, Any], shape: Shape, money: str, pointer: str) -> dict[str, int]:
    """Meta's lists: [{"action_type": "purchase", "value": "3", "7d_click": "2"}] -> conversions:purchase 3, conversions:purchase:7d_click 2."""
    made: dict[str, int] = {}
    for column, base in shape.lists.items():
        given = row.get(column) or []
        if not isinstance(given, list):
            raise Refused(f"{column} is a list of actions", reason="bad_shape", pointer=step(pointer, column))
        for i, item in enumerate(given):
            with at(pointer, column, i):
                if not isinstance(item, Mapping) or not isinstance(item.get("action_type"), str):
                    raise Refused("an action is an object with action_type and value", reason="bad_shape")
                for window, value in item.items():
                    if window == "value" or _WINDOW.fullmatch(window):
                        name = ":".join([base, item["action_type"], *([] if window == "value" else [window])])
                        full, amount = amount_of(name, cell.number(value), "units", money)
                        made[full] = amount
                        if full == "conversions:lead":
                            made["leads"] = amount
    return made


def _attributes(row: Mapping[str, Any], shape: Shape, pointer: str) -> dict[str, Value]:
    made: dict[str, Value] = {}
    for column, what in shape.attributes.items():
        value = row.get(column)
        if value in (None, ""):
            continue
        with at(pointer, column):
            if what.unit == "status":
                made[what.name] = STATUS.get(str(value).strip().lower(), str(value).strip().lower())
            elif what.unit == "text":
                made[what.name] = normalize.text(str(value), what.name)
            elif (found := cell.number(value)) is not None:
                made[what.name] = micros(found, scale=0 if what.unit == "micros" else 6)
    return made


def _moment(value: Any, zone: tzinfo) -> int:
    try:
        return instant.instant(value)
    except RejectedInput:
        if not isinstance(value, str):
            raise
        return instant.local(value, zone)
